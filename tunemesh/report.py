"""What a person gets at the end: files in a folder, and a report in numbers.

The schema of ``report.json`` is described in ``docs/report.md``. Latencies and durations are seconds.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput, JobFailed, TunemeshError
from tunemesh.shared.messages import (
    AssembleDone,
    History,
    JobProgress,
    Judgement,
    OutputCheck,
    TaskRecords,
    Timing,
    ValidateDone,
)
from tunemesh.stage_workers.graph.models import Signatures, unpack_signatures

REPORT_VERSION = 1


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """One task of the model."""

    id: str
    name: str
    weight: int
    trials: int
    outcomes: dict[str, int]
    untuned_s: float | None
    best_s: float | None
    last_error: str
    spread: float | None
    confirmed: int
    remeasured: int
    drift: float
    rounds_ahead: int


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


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``report.json``."""

    version: int = REPORT_VERSION
    job: str
    name: str
    target: str
    trials: int
    budget: int
    stopped: bool
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
    wall_s: float
    variants: list[VariantReport]
    """The sets of shapes, where there are several."""
    compared: list[Compared] = []
    """What else runs the model, for each set of shapes; empty where nobody asked."""
    tasks: list[TaskReport]
    resources: dict[str, ResourceReport]
    timeline: list[Timing]
    """Every step of the job, in the order in which they started."""


def make_report(
    progress: JobProgress,
    validated: ValidateDone,
    signatures: Signatures,
    timeline: list[Timing],
    notes: list[str],
) -> Report:
    """Put together what the coordinator and the workers reported."""
    wall = max((progress.finished or progress.accepted) - progress.accepted, 1e-9)
    return Report(
        job=progress.job,
        name=progress.name,
        target=progress.target,
        trials=progress.trials,
        budget=progress.budget,
        stopped=progress.stopped,
        latency_before_s=validated.latency_before,
        latency_after_s=validated.latency_after,
        rejected_s=validated.rejected,
        speedup=validated.latency_before / max(validated.latency_after, 1e-12),
        largest_difference=validated.largest_difference,
        outputs=validated.outputs,
        judged=validated.judged,
        notes=notes,
        drift=validated.drift,
        wall_s=wall,
        variants=_variants(validated, signatures),
        tasks=[
            TaskReport(
                id=task.id,
                name=task.name,
                weight=task.weight,
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
            )
            for task in progress.tasks
        ],
        resources={
            queue: ResourceReport(steps=use.steps, busy_s=use.busy, utilisation=use.busy / wall)
            for queue, use in sorted(progress.usage.items())
        },
        timeline=sorted(timeline, key=lambda timing: timing.started),
    )


def read_report(folder: Path) -> Report:
    """The report of a result.

    Raises:
        BadInput: the folder holds none, or one of another version.
    """
    path = folder / "report.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise BadInput(f"{folder} holds no result: cannot read {path}: {error.strerror or error}") from None
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is no report of this version: {error}") from None


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


def save_results(
    store: ArtifactStore,
    progress: JobProgress,
    assembled: AssembleDone | None,
    validated: ValidateDone | None,
    folder: Path,
) -> Report:
    """Fetch the results of a finished job into ``folder`` (made if missing).

    Raises:
        JobFailed: the job has no results.
        ArtifactError: a result is missing or damaged in the store.
        TunemeshError: the folder cannot be written.
    """
    if assembled is None or validated is None:
        raise JobFailed(f"job {progress.job} has no results: {progress.error or progress.phase}")
    measured = [timing for history in histories(store, assembled) for timing in history.timings]
    # What was known before was measured by steps of other jobs.
    own = [timing for timing in measured if timing.step.startswith(f"{progress.job}/")]
    timeline = [*progress.timings, *own]
    signature = store.get(assembled.signature)
    report = make_report(progress, validated, unpack_signatures(signature), timeline, assembled.notes)
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    files = {name: store.get(blob) for name, blob in assembled.files.items()}
    files |= {
        "model.so": store.get(assembled.tuned),
        "signature.json": signature,
        "report.json": text,
    }
    for name, data in files.items():
        if Path(name).name != name:
            raise TunemeshError(
                f"the result of job {progress.job} has a file called {name!r}; it is not written"
            )
        write_file(folder / name, data)
    return report


def histories(store: ArtifactStore, assembled: AssembleDone) -> Iterator[History]:
    """Everything that was measured for a job.

    Raises:
        ArtifactError: a part of it is missing or damaged in the store.
    """
    for records in msgspec.msgpack.decode(store.get(assembled.records), type=list[TaskRecords]):
        for blob in records.history:
            yield msgspec.msgpack.decode(store.get(blob), type=History)


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
