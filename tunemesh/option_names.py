"""What the fields of a job's level and settings are called on the command line, and how what was chosen is
said there again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

OTHER_NAMES = {"effort": "--level"}
"""Of fields, on the command line: people ask for a level, and a level has an effort."""

NONE = "none"
"""On the command line: the ``None`` of a setting that has another default."""


def option_name(field: str) -> str:
    """What a field is called on the command line."""
    return OTHER_NAMES.get(field) or "--" + field.strip("_").replace("_", "-")


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
