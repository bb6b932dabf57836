"""Options that several commands share, but for those that describe a job: see ``job_options``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunemesh.broker_config.topology import CELL_PATTERN
from tunemesh.shared.errors import BadInput

if TYPE_CHECKING:
    from tunemesh.coordinator.jobs.limits import Limits as TenantLimits

Models = Annotated[
    list[Path],
    typer.Argument(
        help="ONNX or TFLite files, programs of torch.export.save, Relax or TIR as JSON, YAML for the mock"
        " engine; or YAML with a list of models."
    ),
]
Target = Annotated[
    str,
    typer.Option(
        help="A TVM target: native, a tag such as nvidia/nvidia-h100, or JSON. For the mock engine: mock."
    ),
]
Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        help="Who tunes, or is served: metaschedule, template, halide, or mock for experiments."
        " Several with commas between them, or given again: each searches the tasks that it takes, and the"
        " fastest kernel wins. [default: all that are served; of a worker those that come with Tunemesh]",
        show_default=False,
    ),
]
Strategy = Annotated[
    str,
    typer.Option(
        help="Who goes next: predictive, interleaved, fair:gold=3,free=1, sequential;"
        " for comparison only, uncontrolled."
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Of a mesh of its own: cpu:<cores> or cuda:<n>; by default the last core.")
]
Builders = Annotated[
    int | None, typer.Option(help="Build workers of its own mesh; by default as many as fit.")
]
LEAST_MEMORY, MOST_MEMORY = 0.1, 65536
"""GiB that a worker may give to what it runs in its sandbox."""


def _checked_memory(memory: float) -> float:
    if not LEAST_MEMORY <= memory <= MOST_MEMORY:
        raise BadInput(f"--memory must be {LEAST_MEMORY:g} to {MOST_MEMORY} GiB, not {memory:g}")
    return memory


Memory = Annotated[
    float,
    typer.Option(
        help="GiB that reading a model, building or measuring may take, in each worker.",
        callback=_checked_memory,
    ),
]


def _checked_cell(cell: str) -> str:
    if cell and not re.fullmatch(CELL_PATTERN, cell):
        raise BadInput(f"--cell {cell!r} is no name of a cell: those are lower-case letters, digits and -")
    return cell


Cell = Annotated[
    str,
    typer.Option(
        help="The cell that it belongs to, where a mesh has several coordinators.",
        callback=_checked_cell,
        show_default="a mesh without cells",
    ),
]
Journal = Annotated[
    Path | None,
    typer.Option(help="A file for all that the coordinator is told and answers.", show_default="none"),
]
Broker = Annotated[
    str | None,
    typer.Option(
        help="amqp(s)://user:password@host:port/vhost of a running mesh; by default TUNEMESH_BROKER_URL, else"
        " that of tunemesh up."
    ),
]
Artifacts = Annotated[
    str | None,
    typer.Option(
        help="Its artifact store: a folder or an fsspec URL; by default TUNEMESH_ARTIFACTS, else that of"
        " tunemesh up."
    ),
]
LogLevel = Annotated[
    str | None,
    typer.Option(help="debug, info, warning or error; by default TUNEMESH_LOG_LEVEL, else info."),
]
MetricsPort = Annotated[
    str | None,
    typer.Option(
        metavar="[HOST:]PORT",
        help="Show metrics to Prometheus there; without HOST on this machine alone. By default nowhere.",
    ),
]
LogFormat = Annotated[
    str | None,
    typer.Option(help="text, or json: an object per line; by default TUNEMESH_LOG_FORMAT, else text."),
]
Peers = Annotated[
    list[str] | None,
    typer.Option(
        "--peer",
        help="Who a result is compared with: onnxruntime, openvino, openvino-bf16, inductor. Several with"
        " commas between them, or given again. [default: all that are installed, but for openvino-bf16]",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are there already.")]
Html = Annotated[
    bool,
    typer.Option(
        "--html/--no-html",
        envvar="TUNEMESH_HTML",
        help="Write a page for people, report.html, beside each report.json.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogsAsJson = Annotated[
    bool, typer.Option("--json", help="Log an object per line: short for --log-format json.")
]
OneLine = Annotated[bool, typer.Option("--json", help="Print JSON, on one line, once it runs.")]

Prices = Annotated[
    list[str] | None,
    typer.Option(
        "--price",
        help="QUEUE=PRICE per hour that a worker is busy, for one queue or a kind: profile-gpu-0=2.5,"
        " build-cpu=0.05; may be given again.",
        show_default="no prices",
    ),
]

Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help="[TENANT:]NAME=NUMBER, or none: what every tenant may have, or one: jobs at a time, jobs"
        " waiting, trials, model-mb and step-s of a job, requests and queries a second; may be given again.",
        show_default="waiting=1000, requests=10, queries=20",
    ),
]

Reserved = Annotated[
    float,
    typer.Option(
        "--reserve",
        min=0.0,
        max=1.0,
        help="Share of the devices of each target that is kept for jobs of class gold: 0.25 is one of"
        " four, and a single device is for everybody. A spare job then has a device only where nobody else"
        " waits for it.",
    ),
]


LEARN_AFTER = 5000
LearnAfter = Annotated[
    int,
    typer.Option(
        min=0,
        help="New trials after which workers learn from the records, while the mesh has nothing else to do;"
        " 0: only when somebody asks.",
    ),
]

RETENTION = "90"
Retention = Annotated[str, typer.Option(help="Days for which the results of jobs are kept; none: for ever.")]


def retention_of(given: str) -> float | None:
    """Days, from an option; ``None`` for ever.

    Raises:
        BadInput: it is no number of days.
    """
    if given == "none":
        return None
    try:
        days = float(given.removesuffix("d"))
    except ValueError:
        days = math.nan
    if not 0 <= days <= 36_500:
        raise BadInput(f"--retention is a number of days, or none, not {given!r}")
    return days


def limits_of(given: Sequence[str] | None) -> dict[str, TenantLimits]:
    """Limits by tenant, from options; those of every tenant hold where a tenant has none of its own.

    Raises:
        BadInput: one is malformed.
    """
    # Most commands need nothing of this.
    import msgspec

    from tunemesh.coordinator.jobs.limits import EVERY
    from tunemesh.coordinator.jobs.limits import Limits as TenantLimits
    from tunemesh.shared.accounts import NAME_PATTERN

    names = {name.replace("_", "-"): name for name in TenantLimits.__struct_fields__}
    found: dict[str, dict[str, float | None]] = {}
    for text in given or ():
        tenant, colon, limit = text.rpartition(":")
        name, _, number = limit.partition("=")
        if name not in names or (colon and not re.fullmatch(NAME_PATTERN, tenant)):
            known = ", ".join(names)
            raise BadInput(f"--limit {text!r} should look like jobs=4 or acme:jobs=4; there are {known}")
        try:
            value = None if number == "none" else float(number)
            if value is not None and not value <= 1e9:
                raise ValueError(number)
            msgspec.convert({names[name]: value}, TenantLimits, strict=False)
        except (ValueError, msgspec.ValidationError):
            whole = "a whole number from 1" if name in ("jobs", "waiting", "trials") else "a number above 0"
            raise BadInput(f"--limit {text!r}: {name} is {whole}, or none") from None
        found.setdefault(tenant or EVERY, {})[names[name]] = value
    general = found.get(EVERY, {})
    return {
        tenant: msgspec.convert({**general, **own}, TenantLimits, strict=False)
        for tenant, own in found.items()
    }


def prices_of(given: Sequence[str] | None) -> dict[str, float]:
    """Prices by queue, from options.

    Raises:
        BadInput: one is malformed.
    """
    found: dict[str, float] = {}
    for text in given or ():
        name, _, value = text.partition("=")
        try:
            price = float(value)
        except ValueError:
            price = math.nan
        if not re.fullmatch(r"[a-z][a-z0-9.+-]{0,99}", name) or not 0 <= price <= 1e9:
            raise BadInput(f"--price {text!r} should look like profile-gpu-0=2.5")
        found[name] = price
    return found
