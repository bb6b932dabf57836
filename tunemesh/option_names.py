"""The fields of a job's level and settings as people know them: what each is called on the command line, what
it may be, and how what was chosen is said again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.inspect import Field, FloatType, IntType, LiteralType, Metadata, NoneType, Type, UnionType

from tunemesh.shared.text import nearest

OTHER_NAMES = {"effort": "--level"}
"""Of fields, on the command line: people ask for a level, and a level has an effort."""

NONE = "none"
"""On the command line: the ``None`` of a setting that has another default."""


def option_name(field: str) -> str:
    """What a field is called on the command line."""
    return OTHER_NAMES.get(field) or "--" + field.strip("_").replace("_", "-")


def choices(kind: Type) -> list[str]:
    """The texts that a value may be; none where it is no choice."""
    found = [each for each in _kinds(kind) if isinstance(each, LiteralType)]
    return [str(value) for each in found for value in each.values]


def expected(field: Field) -> str:
    """What a value may be, in words: ``1 to 8``, ``a number above 0``, ``fast or exact``."""
    kinds = [each for each in _kinds(field.type) if not isinstance(each, NoneType)]
    # That nothing is given is said by giving nothing, unless it is no default.
    none = [NONE] if len(kinds) < len(_kinds(field.type)) and field.default is not None else []
    return " or ".join([*map(_expected, kinds), *none])


def _kinds(kind: Type) -> tuple[Type, ...]:
    if isinstance(kind, Metadata):
        return _kinds(kind.type)
    if isinstance(kind, UnionType):
        return tuple(each for one in kind.types for each in _kinds(one))
    return (kind,)


def _expected(kind: Type) -> str:
    match kind:
        case IntType() | FloatType():
            what = "a whole number" if isinstance(kind, IntType) else "a number"
            least, most = (kind.ge, kind.le)
            if least is not None and most is not None:
                return f"{least:,g} to {most:,.12g}"
            if kind.gt is not None:
                end = f" and up to {most:,.12g}" if most is not None else ""
                return f"{what} above {kind.gt:g}{end}"
            return f"{what} of at least {least:,g}" if least is not None else what
        case LiteralType():
            texts = [str(value) for value in kind.values]
            return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
    return "of the kind that its help tells"


def wrong(
    struct: type[msgspec.Struct], values: Mapping[str, Any], called: Callable[[str], str] = option_name
) -> str:
    """What is wrong with values of fields, in one line: ``--chunk must be 1 to 8, not 99``; nothing if they
    may be so.

    Args:
        values: by the name of the field; numbers may be texts.
        called: what a field is called where the values come from.
    """
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    types = {each.name: each.type for each in msgspec.structs.fields(struct)}
    for field in info.fields:
        if field.name not in values:
            continue
        value = values[field.name]
        try:
            msgspec.convert(value, types[field.name], strict=False)
        except msgspec.ValidationError as error:
            kind = _kinds(field.type)[0]
            if not isinstance(kind, IntType | FloatType | LiteralType):
                return f"bad {called(field.name)}: {error}"
            near = nearest(value, choices(field.type)) if isinstance(value, str) else ""
            shown = repr(value) if isinstance(value, str) else str(value)
            return f"{called(field.name)} must be {expected(field)}, not {shown}{near}"
    return ""


def arguments(chosen: msgspec.Struct, leave_out: Sequence[str] = ()) -> list[str]:
    """The options that make a struct of settings what it is, without those that say what holds anyway."""
    usual = {each.name: each.default for each in msgspec.structs.fields(chosen)}
    return [
        argument
        for name, value in msgspec.structs.asdict(chosen).items()
        if value != usual[name] and name not in leave_out and value != {}
        for argument in _said(name, value)
    ]


def _said(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for entry, given in value.items():
            # Shapes are lists of lists: one option for each.
            for each in given if name == "shapes" else [given]:
                yield from (option_name(name.removesuffix("s")), f"{entry}={','.join(map(_text, each))}")
    elif isinstance(value, bool):
        option = option_name(name)
        yield option if value else f"--no-{option.removeprefix('--')}"
    else:
        yield from (option_name(name), NONE if value is None else _text(value))


def _text(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
