"""Options that several commands share, and how their text becomes a value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Settings

Models = Annotated[
    list[Path], typer.Argument(help="ONNX files, Relax or TIR as JSON; YAML for the mock engine.")
]
Target = Annotated[str, typer.Option(help="A TVM target: native, a tag such as nvidia/nvidia-h100, or JSON.")]
Trials = Annotated[int, typer.Option(help="Candidates to try per model.")]
Seed = Annotated[int, typer.Option(help="Same seed, same device results: same proposals.")]
Engine = Annotated[str, typer.Option(help="metaschedule, or mock for experiments without compilers.")]
Strategy = Annotated[
    str,
    typer.Option(
        help="Who goes next: predictive, interleaved, fair:gold=3,free=1, sequential;"
        " for comparison only, uncontrolled."
    ),
]
Tenant = Annotated[str, typer.Option(help="On whose account; strategy fair gives each tenant its share.")]
Priority = Annotated[int, typer.Option(help="1 to 100: share among the tenant's jobs under strategy fair.")]
Lookahead = Annotated[
    int | None, typer.Option(help="0: never propose before all of the last round is measured.")
]
Device = Annotated[
    str | None, typer.Option(help="Of a mesh of its own: cpu:<cores> or cuda:<n>; by default the last core.")
]
Builders = Annotated[
    int | None, typer.Option(help="Build workers of its own mesh; by default as many as fit.")
]
Broker = Annotated[
    str | None, typer.Option(help="amqp(s)://user:password@host:port/vhost of a running mesh.")
]
Artifacts = Annotated[str | None, typer.Option(help="Its artifact store: a folder or an fsspec URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Shapes = Annotated[list[str] | None, typer.Option("--shape", help="NAME=1,3,224,224 for a dynamic input.")]
Batch = Annotated[int | None, typer.Option(help="Candidates per round.")]
Chunk = Annotated[int | None, typer.Option(help="Candidates per build or profile step, at most 8.")]
Repeats = Annotated[int | None, typer.Option(help="Timed repeats of a candidate.")]
MinRepeat = Annotated[int | None, typer.Option("--min-repeat-ms", help="Duration of one repeat.")]
CutShort = Annotated[
    float | None,
    typer.Option(help="Stop measuring what is so many times slower than the best; 0: never."),
]
CacheFlush = Annotated[
    bool | None,
    typer.Option(help="Flush the CPU's caches before every run; by default if the model does not fit them."),
]
BuildTimeout = Annotated[float | None, typer.Option(help="Seconds per candidate.")]
ProfileTimeout = Annotated[float | None, typer.Option(help="Seconds per candidate.")]


def make_settings(
    *,
    shapes: list[str] | None,
    batch: int | None,
    chunk: int | None,
    repeats: int | None,
    min_repeat_ms: int | None,
    cut_short: float | None,
    cache_flush: bool | None,
    build_timeout: float | None,
    profile_timeout: float | None,
    lookahead: int | None,
) -> Settings:
    """Settings from options; what was not given keeps its default.

    Raises:
        BadInput: a value is out of range, or a shape is malformed.
    """
    given = {
        "batch": batch,
        "chunk": chunk,
        "repeats": repeats,
        "min_repeat_ms": min_repeat_ms,
        "cache_flush": cache_flush,
        "build_timeout": build_timeout,
        "profile_timeout": profile_timeout,
        "lookahead": lookahead,
        "shapes": dict(map(_shape, shapes or [])),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if cut_short is not None:
        given["cut_short"] = cut_short or None
    try:
        return msgspec.convert(given, Settings)
    except msgspec.ValidationError as error:
        raise BadInput(f"bad setting: {error}") from None


def check_trials(trials: int) -> int:
    """The number of trials.

    Raises:
        BadInput: it is not positive, or absurd.
    """
    if not 1 <= trials <= 1_000_000:
        raise BadInput(f"--trials must be between 1 and 1,000,000, not {trials}")
    return trials


def check_tenant(tenant: str, priority: int) -> None:
    """Raises:
    BadInput: not a tenant's name, or a priority out of range.
    """
    if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63})?", tenant):
        raise BadInput(f"--tenant must be letters, digits, - and _, at most 64, not {tenant!r}")
    if not 1 <= priority <= 100:
        raise BadInput(f"--priority must be between 1 and 100, not {priority}")


def _shape(text: str) -> tuple[str, list[int]]:
    name, equals, sizes = text.rpartition("=")
    try:
        shape = [int(size) for size in sizes.split(",")]
    except ValueError:
        shape = []
    if not equals or not name or not shape or min(shape) < 1:
        raise BadInput(f"--shape {text!r} should look like NAME=1,3,224,224")
    return name, shape
