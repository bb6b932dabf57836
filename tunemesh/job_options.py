"""The options that describe a job. ``tune`` and ``submit`` have them all, and have them from here.

Those of the settings are made from the fields of :class:`~shared.messages.Settings`: what is added there is
an option of both commands, with its help text, and an argument of the Python interface.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from msgspec import Struct
from msgspec.inspect import BoolType, DictType, Field, FloatType, IntType, LiteralType, NoneType, StrType

from tunemesh import options
from tunemesh.checks import check_engine_name, usual_target
from tunemesh.option_names import NONE, choices, option_name, wrong
from tunemesh.shared import files
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Level, Options, Settings, Visibility
from tunemesh.tuning import Plan, trials_of

AUTO = "auto"
"""The number of trials that the model needs."""

JOB = "job"
"""The parameter of a command in whose place the options come."""

Trials = Annotated[
    str, typer.Option(metavar="N|auto", help="Candidates to try per model; auto: as many as pay.")
]
Seed = Annotated[int, typer.Option(help="Same seed, same device results: same proposals.")]
Told = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help="COMPONENT.NAME=VALUE for an engine or graph, such as metaschedule.population=4 or"
        " graph.layout=given; may be given again.",
        show_default="none",
    ),
]
Tenant = Annotated[
    str,
    typer.Option(help="On whose account, for operators to say. Strategy fair gives each tenant its share."),
]
Visible = Annotated[
    Visibility,
    typer.Option(
        help="Who may use what is measured: the tenant, or all. Without a tenant it is for all in any case."
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option(
        help="An npz file with an array for each input, as numpy.savez writes it: what the model is compared"
        " and measured with, in place of random values.",
        show_default="random values",
    ),
]
Priority = Annotated[int, typer.Option(help="1 to 100: share among the tenant's jobs under strategy fair.")]


def describes_job(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the options that describe a job in place of its parameter ``job``, a
    :class:`~tunemesh.tuning.Plan` of what they say."""
    own = dict(inspect.signature(command, eval_str=True).parameters)
    common = [
        each
        for each in inspect.signature(make_plan, eval_str=True).parameters.values()
        if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    given_by = {each.name for each in (*common, *setting_parameters())}
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        parameters += [*common, *setting_parameters()] if name == JOB else [parameter]

    @functools.wraps(command)
    def with_job(**given: Any) -> None:
        job = make_plan(**{name: given.pop(name) for name in given_by})
        command(**given, job=job)

    keyword_only = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    with_job.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    with_job.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_job


def make_plan(
    target: options.Target = "native",
    trials: Trials = AUTO,
    seed: Seed = 0,
    engine: options.Engines = None,
    option: Told = None,
    tenant: Tenant = "",
    visibility: Visible = "tenant",
    priority: Priority = 10,
    inputs: Inputs = None,
    **settings: Any,
) -> Plan:
    """A plan of what the options say.

    Raises:
        BadInput: a value is malformed or out of range.
    """
    engines = engine_names(engine)
    return Plan(
        target=usual_target(target, engines),
        level=make_level(trials, settings),
        out=Path(),
        engines=engines,
        options=parse_options(option or []),
        seed=seed,
        tenant=tenant,
        visibility=visibility,
        priority=priority,
        samples=files.read(inputs, "the inputs") if inputs is not None else None,
        settings=make_settings(settings),
    )


def make_level(trials: str, given: Mapping[str, Any]) -> Level:
    """The service level that options ask for.

    Raises:
        BadInput: a value is out of range or malformed.
    """
    count: int | None = None
    if trials != AUTO:
        try:
            count = int(trials)
        except ValueError:
            raise BadInput(f"--trials is a number or {AUTO}, not {trials!r}") from None
    return _made(Level, _values(Level, given) | {"trials": trials_of(count)})


def engine_names(given: Sequence[str] | None) -> tuple[str, ...]:
    """Engines from options, each of which may name several with commas between them; none where no option
    was given: all that are served.

    Raises:
        BadInput: an option names none, or what cannot be a name.
    """
    if given is None:
        return ()
    names = [name.strip() for text in given for name in text.split(",")]
    return tuple(dict.fromkeys(map(check_engine_name, names)))


def parse_options(texts: Sequence[str]) -> dict[str, Options]:
    """Options of engines and the graph, by component. A value is a JSON scalar where it reads as one, else
    text.

    Raises:
        BadInput: one is malformed.
    """
    found: dict[str, Options] = {}
    for text in texts:
        match = re.fullmatch(r"([a-z][a-z0-9-]{0,39})\.([A-Za-z_][A-Za-z0-9_-]*)=(.*)", text, re.DOTALL)
        if match is None:
            raise BadInput(f"--option {text!r} should look like metaschedule.population=4")
        component, name, value = match.groups()
        found.setdefault(component, {})[name] = _scalar(value)
    return found


def _scalar(text: str) -> bool | int | float | str:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    scalar = isinstance(value, bool | float | str) or (isinstance(value, int) and abs(value) < 2**63)
    return value if scalar else text


def make_settings(given: Mapping[str, Any]) -> Settings:
    """Settings from options; what was not given (``None``) keeps its default.

    Raises:
        BadInput: a value is out of range or malformed.
    """
    return _made(Settings, _values(Settings, given))


_Made = TypeVar("_Made", Level, Settings)


def _made(struct: type[_Made], values: Mapping[str, Any]) -> _Made:
    """A struct of values by the names of its fields; numbers may be texts.

    Raises:
        BadInput: one is malformed or out of range.
    """
    if why := wrong(struct, values):
        raise BadInput(why)
    encoded = {each.name: each.encode_name for each in msgspec.structs.fields(struct)}
    return msgspec.convert({encoded[name]: value for name, value in values.items()}, struct, strict=False)


def _values(struct: type[Struct], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of the fields of a struct."""
    return {
        field.name: _value(field, given[field.name])
        for field in _fields(struct)
        if given.get(field.name) is not None
    }


# -- From a field to an option ------------------------------------------------------------------------------


def setting_parameters() -> Iterator[inspect.Parameter]:
    """A parameter for the command line per field of :class:`~shared.messages.Level`, but for the trials, and
    of :class:`~shared.messages.Settings`; all are ``None`` unless given."""
    for field in (*_fields(Level), *_fields(Settings)):
        if field.name in ("trials", "quote_only"):
            continue
        described = typer.Option(
            *_declaration(field),
            help=_help(field),
            show_default=False,
            metavar=_metavar(field),
            autocompletion=_completion(choices(field.type)),
        )
        annotation = Annotated[_type(field), described]  # type: ignore[valid-type]
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
        )


def _fields(struct: type[Struct]) -> Sequence[Field]:
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    return info.fields


def _kinds(field: Field) -> tuple[msgspec.inspect.Type, ...]:
    """The types that a value may have."""
    kind = getattr(field.type, "type", field.type)
    return tuple(getattr(kind, "types", (kind,)))


def _map(field: Field) -> bool:
    return isinstance(_kinds(field)[0], DictType)


def _speaks_of_none(field: Field) -> bool:
    """Whether ``None`` is a value that has to be said, since it is not the default."""
    return field.default is not None and any(isinstance(kind, NoneType) for kind in _kinds(field))


def _declaration(field: Field) -> tuple[str, ...]:
    # A map is given entry by entry.
    name = option_name(field.name.removesuffix("s") if _map(field) else field.name)
    return (f"{name}/--no-{name.removeprefix('--')}",) if _type(field) == bool | None else (name,)


def _type(field: Field) -> Any:
    """What typer is to make of the text: a type that has ``None`` for what is not given."""
    kinds = [kind for kind in _kinds(field) if not isinstance(kind, NoneType)]
    if _map(field):
        return list[str] | None
    if not any(isinstance(kind, BoolType | IntType | FloatType | StrType | LiteralType) for kind in kinds):
        raise TypeError(f"a setting of this type cannot become an option: {field.name}")
    # Numbers are texts here: what is wrong with one is said in the same words wherever it comes from.
    return bool | None if any(isinstance(kind, BoolType) for kind in kinds) else str | None


def _completion(known: Sequence[str]) -> Callable[[str], list[str]]:
    """What completes one of these texts in a shell."""

    def complete(incomplete: str) -> list[str]:
        return [each for each in known if each.startswith(incomplete)]

    return complete


def _metavar(field: Field) -> str | None:
    """What may be given, in the help text; ``None`` where its type says it."""
    if known := choices(field.type):
        return "|".join(known)
    number = next((kind for kind in _kinds(field) if isinstance(kind, IntType | FloatType)), None)
    return ("N" if isinstance(number, IntType) else "NUMBER") if number is not None else None


def _help(field: Field) -> str:
    """The description, and what holds where nothing is said."""
    text = str((getattr(field.type, "extra_json_schema", None) or {}).get("description", ""))
    if isinstance(field.default, bool):
        return f"{text} [default: {'yes' if field.default else 'no'}]"
    if field.default not in (None, msgspec.NODEFAULT):
        return f"{text} [default: {field.default}]"
    return text if "default" in text else f"{text} [default: {'none' if _map(field) else 'no limit'}]"


def _value(field: Field, given: Any) -> Any:
    """What the setting is to be, from what typer has made of the text."""
    if field.name == "ranges":
        return dict(map(_range, given))
    if _map(field):
        return _named_sizes(field, given)
    if not _speaks_of_none(field):
        return given
    return None if given == NONE else given


def _range(text: str) -> tuple[str, tuple[float, float]]:
    name, _, values = text.rpartition("=")
    try:
        least, above = map(float, values.split(","))
    except ValueError:
        name = ""
    if not name:
        raise BadInput(f"--range {text!r} should look like NAME=0,30000")
    return name, (least, above)


def _named_sizes(field: Field, given: Sequence[str]) -> dict[str, Any]:
    """What texts like ``NAME=1,3,224,224`` say, by name: a list of shapes, or a list of sizes."""
    of_shapes = field.name == "shapes"
    found: dict[str, list[Any]] = {}
    for text in given:
        name, sizes = _sizes(field, text)
        found.setdefault(name, []).extend([sizes] if of_shapes else sizes)
    return found


def _sizes(field: Field, text: str) -> tuple[str, list[int]]:
    name, equals, sizes = text.rpartition("=")
    try:
        shape = [int(size) for size in sizes.split(",")]
    except ValueError:
        shape = []
    if not equals or not name or not shape or min(shape) < 1:
        example = _help(field).partition(":")[0]
        raise BadInput(f"{option_name(field.name.removesuffix('s'))} {text!r} should look like {example}")
    return name, shape
