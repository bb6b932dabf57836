"""What a person gets at the end: files in a folder, and a report in numbers.

The schema of ``report.json`` is described in ``docs/report.md``. Latencies and durations are seconds.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from tunemesh.shared.errors import BadInput, TunemeshError
from tunemesh.shared.messages import (
    AssembleDone,
    Conditions,
    History,
    JobProgress,
    Judgement,
    OutputCheck,
    Quote,
    Standing,
    Taken,
    TaskProgress,
    Terms,
    Timing,
    ValidateDone,
)
from tunemesh.stage_workers.graph.signatures import Signatures
from tunemesh.tried import Tried, conditions, timings, tried

REPORT_VERSION = 1


class SearchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine has found of a task."""

    engine: str
    regions: int = 1
    """Of the task's space that it searched side by side: more than one where the job was split."""
    trials: int
    best_s: float | None
    """The latency of its fastest kernel; ``None``: nothing of it could be measured."""
    confirmed: int
    """Kernels that were measured again at the end: those that could be the fastest of the task."""
    behind: float | None = None
    """How many times as long its fastest kernel takes as the winner's, where both took turns at the end: the
    median over the turns."""
    ended: str
    """Why it got no more trials."""


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """One task of the model."""

    id: str
    name: str
    weight: int
    trials: int
    outcomes: dict[str, int]
    operations: float = 0.0
    """On floats, of one run, as its definition has them; 0 where that is not known."""
    untuned_s: float | None
    best_s: float | None
    last_error: str
    spread: float | None
    confirmed: int
    remeasured: int
    drift: float
    rounds_ahead: int
    ended: str
    """Why it got no more trials."""
    taken: Taken | None = None
    """What another job found of it at the same time. Its trials are not among ``trials``."""
    engine: str | None = None
    """Whose kernel is in the result; ``None``: that of the untuned model."""
    ahead: float | None = None
    """How many times as long the fastest kernel of the next engine takes: in turns with the winner's, or by
    their latencies where none was near enough for that. ``None`` where no other one has found any."""
    searches: list[SearchReport] = []
    """One for each engine that takes the task."""
    way: str = ""
    """How its kernel in the result computes it, where there are several ways: ``direct``, or
    ``Winograd, tiles of 4x4``."""

    @property
    def took_turns(self) -> bool:
        """Whether :attr:`ahead` is by turns."""
        return any(each.behind is not None for each in self.searches)


class ResourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the job used of one resource; ``utilisation`` is busy time over the job's wall time."""

    steps: int
    busy_s: float
    utilisation: float


class VariantReport(msgspec.Struct, frozen=True, kw_only=True):
    """One set of shapes of several that the model was tuned for."""

    shapes: dict[str, tuple[int, ...]]
    """By the name of the input."""
    latency_before_s: float
    latency_after_s: float
    speedup: float


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The result beside something else that runs the model, on the same cores, taking turns."""

    peer: str
    """Its name, as options have it."""
    title: str
    """Its name for people."""
    version: str = ""
    shapes: dict[str, tuple[int, ...]]
    """Of the inputs, by name."""
    tuned_s: float
    latency_s: float | None = None
    """Median over the turns, like ``tuned_s``; ``None`` where it could not run the model."""
    ratio: float | None = None
    """Tuned over the peer's: the median of the ratios within a turn. Below 1 the tuned model is faster."""
    difference: float | None = None
    """The largest absolute one between their outputs."""
    largest: float | None = None
    """The largest absolute value in the peer's outputs."""
    error: str = ""
    """Why it could not run the model."""


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``report.json`` for any job, also one that has no results."""

    version: int = REPORT_VERSION
    job: str
    name: str
    target: str
    trials: int
    budget: int
    stopped: bool
    error: str = ""
    """What failed; empty where the job is done."""
    accepted: float = 0.0
    """Unix time."""
    wall_s: float
    terms: Terms | None = None
    """How it was asked for."""
    quote: Quote | None = None
    """What it was expected to take."""
    cost: float | None = None
    """What it cost, where the mesh has prices."""
    standing: Standing | None = None
    """What came of its service level, where that asks for something."""
    tasks: list[TaskReport]
    resources: dict[str, ResourceReport]
    timeline: list[Timing]
    """Every step of the job, in the order in which they started."""
    tried: list[Tried] = []
    """Every trial of the job, in the order in which they were known."""
    conditions: list[Conditions] = []
    """What its latencies depend on: the device, and the versions of what builds and measures."""


class Report(JobReport, frozen=True, kw_only=True):
    """The content of ``report.json`` for a job that is done."""

    latency_before_s: float
    """Of one run with each set of shapes, like the next two."""
    latency_after_s: float
    rejected_s: float | None
    speedup: float
    largest_difference: float
    outputs: list[OutputCheck]
    """The tuned model beside the untuned one."""
    judged: list[Judgement]
    """The tuned model beside the framework that the model comes from, for each set of shapes."""
    notes: list[str]
    """What was not done with the model and why, one sentence each."""
    drift: float
    variants: list[VariantReport]
    """The sets of shapes, where there are several."""
    compared: list[Compared] = []
    """What else runs the model, for each set of shapes; empty where nobody asked."""
    device_flops: float | None = None
    """Operations on floats per second that the device can do at most, in single precision; ``None`` where
    nobody has measured that: whoever compares does."""


def make_report(
    progress: JobProgress,
    validated: ValidateDone,
    signatures: Signatures,
    measured: Sequence[History],
    assembled: AssembleDone,
) -> Report:
    """Put together what the coordinator and the workers reported."""
    return Report(
        **_of_any(progress, measured, assembled.ways),
        latency_before_s=validated.latency_before,
        latency_after_s=validated.latency_after,
        rejected_s=validated.rejected,
        speedup=validated.latency_before / max(validated.latency_after, 1e-12),
        largest_difference=validated.largest_difference,
        outputs=validated.outputs,
        judged=validated.judged,
        notes=[*filter(None, [progress.note]), *assembled.notes],
        drift=validated.drift,
        variants=_variants(validated, signatures),
    )


def make_job_report(progress: JobProgress, measured: Sequence[History]) -> JobReport:
    """The same for a job without results."""
    return JobReport(**_of_any(progress, measured))


def _of_any(
    progress: JobProgress, measured: Sequence[History], ways: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """The fields of a :class:`JobReport`.

    Args:
        measured: all that was measured for it.
        ways: how tasks are computed, by their ids.
    """
    wall = max((progress.finished or progress.accepted) - progress.accepted, 1e-9)
    return {
        "job": progress.job,
        "name": progress.name,
        "target": progress.target,
        "trials": progress.trials,
        "budget": progress.budget,
        "stopped": progress.stopped,
        "error": progress.error,
        "accepted": progress.accepted,
        "wall_s": wall,
        "terms": progress.terms,
        "quote": progress.quote,
        "cost": progress.cost,
        "standing": progress.standing,
        "tasks": [
            TaskReport(
                id=task.id,
                name=task.name,
                weight=task.weight,
                operations=task.operations,
                trials=task.trials,
                outcomes=task.outcomes,
                untuned_s=task.untuned,
                best_s=task.best,
                last_error=task.last_error,
                spread=task.spread,
                confirmed=task.confirmed,
                remeasured=task.remeasured,
                drift=task.drift,
                rounds_ahead=task.rounds_ahead,
                ended=task.ended,
                taken=task.taken,
                engine=_winner(task),
                ahead=_ahead(task),
                searches=[
                    SearchReport(
                        engine=each.engine,
                        regions=each.regions,
                        trials=each.trials,
                        best_s=each.best,
                        confirmed=each.confirmed,
                        behind=each.behind,
                        ended=each.ended,
                    )
                    for each in task.searches
                ],
                way=ways.get(task.id, ""),
            )
            for task in progress.tasks
        ],
        "resources": {
            queue: ResourceReport(steps=use.steps, busy_s=use.busy, utilisation=use.busy / wall)
            for queue, use in sorted(progress.usage.items())
        },
        "timeline": sorted(
            [*progress.timings, *timings(progress.job, measured)], key=lambda timing: timing.started
        ),
        "tried": tried(progress.job, measured),
        "conditions": conditions(progress.job, measured),
    }


def won(report: JobReport) -> dict[str, list[TaskReport]]:
    """The tasks by the engine whose kernel the model has; by ``untuned`` those that no engine made faster."""
    found: dict[str, list[TaskReport]] = {}
    for task in report.tasks:
        found.setdefault(task.engine or "untuned", []).append(task)
    return found


def _winner(task: TaskProgress) -> str | None:
    """The engine whose kernel of a task is faster than all others, the untuned one too."""
    slower = task.untuned is not None and task.best is not None and task.best >= task.untuned
    return None if slower else task.engine


def _ahead(task: TaskProgress) -> float | None:
    """By how much the engine that is ahead is. What was near it took turns with it at the end."""
    if behind := [each.behind for each in task.searches if each.behind is not None]:
        return min(behind)
    others = [each.best for each in task.searches if each.engine != task.engine and each.best is not None]
    return min(others) / task.best if others and task.best else None


def read_report(folder: Path) -> Report:
    """The report of a result.

    Raises:
        BadInput: the folder holds none, or one of another version.
    """
    found = read_any(folder)
    if not isinstance(found, Report):
        raise BadInput(f"{folder} holds no result: the job failed: {found.error}")
    return found


def read_any(folder: Path) -> JobReport:
    """The report of a result, or of a job that has none.

    Raises:
        BadInput: as for :func:`read_report`, but for that.
    """
    path = folder / "report.json"
    try:
        text = path.read_bytes()
        any_job = msgspec.json.decode(text, type=JobReport)
        return any_job if any_job.error else msgspec.json.decode(text, type=Report)
    except OSError as error:
        raise BadInput(f"{folder} holds no result: cannot read {path}: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is no report of this version: {error}") from None


def check_empty(folder: Path) -> None:
    """Raises:
    BadInput: the folder holds a result already, which would be lost.
    """
    # What a job without a result has left may be replaced by what comes of the next.
    if (folder / "model.so").is_file():
        raise BadInput(f"{folder} holds a result already: give another --out, or --overwrite")


def _variants(validated: ValidateDone, signatures: Signatures) -> list[VariantReport]:
    found = []
    for signature, latency in zip(signatures.variants, validated.variants, strict=False):
        # Where the tuned model was rejected, the result is the untuned one.
        after = latency.after if validated.rejected is None else latency.before
        found.append(
            VariantReport(
                shapes=signature.shapes,
                latency_before_s=latency.before,
                latency_after_s=after,
                speedup=latency.before / max(after, 1e-12),
            )
        )
    return found


def write_file(path: Path, data: bytes) -> None:
    """Write whole or not at all.

    Raises:
        TunemeshError: it cannot be written, with the cause.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise TunemeshError(f"cannot write {path}: {error.strerror or error}") from None
