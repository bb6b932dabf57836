"""Recorded durations of a real run, to draw from.

A trace is a JSON file (fields below). ``tunemesh record-trace`` makes one from the reports of finished
jobs. All times are seconds.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tunemesh.shared import files
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Timing

TRACE_VERSION = 1
SHIPPED = "recorded"
"""Name of the trace that comes with Tunemesh."""

Delay = Annotated[float, Meta(ge=0)]
Some = Annotated[list[Delay], Meta(min_length=1)]


class TraceTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task of a recorded job."""

    name: str
    weight: Annotated[int, Meta(ge=1)]
    update: Some
    """Seconds of every ``model-update`` that proposed a batch, by round."""
    closing: Delay = 0.0
    """Seconds of the last one, which only learned."""
    build: Some
    """Seconds per candidate, one entry per ``build`` step."""
    profile: Some
    """Seconds per candidate, one entry per ``profile`` step."""


class TraceJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One recorded job."""

    name: str
    import_: Annotated[float, Meta(ge=0)] = msgspec.field(name="import")
    assemble: Delay
    validate: Delay
    tasks: Annotated[list[TraceTask], Meta(min_length=1)]


class Trace(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a trace file."""

    version: Annotated[int, Meta(ge=1, le=TRACE_VERSION)] = TRACE_VERSION
    source: str
    """How and where it was recorded: command, machine, date."""
    jobs: Annotated[list[TraceJob], Meta(min_length=1)]


def load_trace(name: str | Path) -> Trace:
    """A trace by its path, or the shipped one by its name.

    Raises:
        BadInput: it cannot be read or is no trace; an empty one is none.
    """
    if str(name) == SHIPPED:
        return _shipped()
    try:
        return msgspec.json.decode(files.read(Path(name), "trace"), type=Trace)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{name} is no trace: {error}; make one with: tunemesh record-trace") from None


@functools.cache
def _shipped() -> Trace:
    data = (
        resources.files("tunemesh.coordinator.simulation").joinpath("traces", f"{SHIPPED}.json").read_bytes()
    )
    return msgspec.json.decode(data, type=Trace)


class _Task(Struct):
    id: str
    name: str
    weight: int


class _Report(Struct):
    """What of a ``report.json`` is needed."""

    name: str
    job: str
    tasks: list[_Task]
    timeline: list[Timing]


def record(paths: Sequence[Path], source: str) -> Trace:
    """A trace of the jobs whose ``report.json`` files are given. Tasks that were not tuned are left out.

    Raises:
        BadInput: a file is no report, or its job ran no rounds.
    """
    jobs = []
    for path in paths:
        try:
            report = msgspec.json.decode(files.read(path, "report"), type=_Report)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{path} is no report.json of a job: {error}") from None
        jobs.append(_job(path, report))
    return Trace(source=source, jobs=jobs)


def _job(path: Path, report: _Report) -> TraceJob:
    by_task: dict[tuple[str, str], list[Timing]] = defaultdict(list)
    for timing in sorted(report.timeline, key=lambda t: t.started):
        by_task[timing.step.split("/")[1], timing.stage].append(timing)

    def total(stage: str) -> float:
        return sum(_seconds(timing) for timing in by_task["-", stage])

    tasks = []
    for task in report.tasks:
        updates = [_seconds(timing) for timing in by_task[task.id, "model-update"]]
        build, profile = (
            [_seconds(t) / max(t.size, 1) for t in by_task[task.id, stage]] for stage in ("build", "profile")
        )
        if len(updates) > 1 and build and profile:
            tasks.append(
                TraceTask(
                    name=task.name,
                    weight=task.weight,
                    update=updates[:-1],
                    closing=updates[-1],
                    build=build,
                    profile=profile,
                )
            )
    if not tasks:
        raise BadInput(f"{path}: its job ran no rounds, so that there is nothing to record")
    return TraceJob(
        name=report.name,
        import_=total("import"),
        assemble=total("assemble"),
        validate=total("validate"),
        tasks=tasks,
    )


def _seconds(timing: Timing) -> float:
    return max(timing.finished - timing.started, 0.0)
