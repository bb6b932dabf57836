"""What one run leaves for plots: who worked when, and what was measured when. Times are seconds since the
first request of the run."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import AssembleDone, Confirmed, History, TaskRecords, Timing, Trial

FILE = "evidence.json"
TASK_STAGES = {"model-update": "update", "build": "build", "profile": "profile"}


class Bar(Struct, frozen=True, kw_only=True):
    """One step."""

    worker: str
    resource: str
    job: str
    stage: str
    started: float
    finished: float


class Measured(Struct, frozen=True, kw_only=True):
    """One measured candidate: known from ``at`` on."""

    at: float
    latency: float


class TaskCurve(Struct, frozen=True, kw_only=True):
    """What was measured of one task, in order of time. ``untuned`` is ``None`` if that was not measured."""

    job: str
    task: str
    weight: int
    untuned: float | None
    measured: list[Measured] = []


class Evidence(Struct, frozen=True, kw_only=True):
    """Of one run. ``slots`` counts the workers of each kind of resource."""

    makespan: float
    slots: dict[str, int]
    bars: list[Bar]
    curves: list[TaskCurve] = []


class TaskTrials(Struct, frozen=True, kw_only=True):
    """A task with all its trials, in the order in which they were tried."""

    job: str
    records: TaskRecords
    histories: list[History]

    @property
    def trials(self) -> list[Trial]:
        """Of all rounds."""
        return [trial for history in self.histories for trial in history.trials]

    def confirmed(self, trial: Trial) -> float | None:
        """The median latency with which it was confirmed, if it was."""
        return _confirmed(self.records.confirmed, trial.candidate.hash)

    def winner(self) -> Trial | None:
        """The measured trial of least median latency; what was confirmed counts over its first one."""
        measured = [trial for trial in self.trials if trial.outcome == "measured"]
        if self.records.confirmed:
            # Only these were compared on equal terms.
            measured = [trial for trial in measured if self.confirmed(trial) is not None] or measured
        return min(measured, key=lambda trial: self.confirmed(trial) or trial.latency, default=None)


def read_trials(store: ArtifactStore, job: str, assembled: AssembleDone) -> list[TaskTrials]:
    """Everything that was measured for a job, by task.

    Raises:
        ArtifactError: a part of it is missing or damaged in the store.
    """
    tasks = msgspec.msgpack.decode(store.get(assembled.records), type=list[TaskRecords])
    return [
        TaskTrials(
            job=job,
            records=records,
            histories=[msgspec.msgpack.decode(store.get(blob), type=History) for blob in records.history],
        )
        for records in tasks
    ]


def curve(task: TaskTrials, untuned: float | None, zero: float) -> TaskCurve:
    """When which latency was known, from the profile steps of the histories."""
    measured = []
    for history in task.histories:
        times = trial_times(history)
        measured += [
            Measured(at=at - zero, latency=trial.latency)
            for at, trial in zip(times, history.trials, strict=True)
            if trial.outcome == "measured"
        ]
    spec = task.records.task
    measured.sort(key=lambda each: each.at)
    return TaskCurve(job=task.job, task=spec.name, weight=spec.weight, untuned=untuned, measured=measured)


def trial_times(history: History) -> list[float]:
    """When each trial was known (Unix time).

    Trials come chunk by chunk, and a profile step says how many it dealt with. Where that does not add up,
    all count from the end of the history's last profile step.
    """
    steps = [timing for timing in history.timings if timing.stage == "profile"]
    steps.sort(key=lambda timing: _place(timing.step))
    times = [timing.finished for timing in steps for _ in range(timing.size)]
    if len(times) == len(history.trials):
        return times
    last = max((timing.finished for timing in steps or history.timings), default=0.0)
    return [last] * len(history.trials)


def bars(jobs: Iterable[tuple[str, Sequence[Timing]]], zero: float) -> list[Bar]:
    """All steps of all jobs in the order in which they started."""
    found = [
        Bar(
            worker=timing.worker,
            resource=timing.resource,
            job=job,
            stage=timing.stage,
            started=timing.started - zero,
            finished=timing.finished - zero,
        )
        for job, timings in jobs
        for timing in timings
    ]
    return sorted(found, key=lambda bar: bar.started)


def utilisation(evidence: Evidence) -> dict[str, float]:
    """Busy time over slots and :func:`span`, by kind of resource (``profile`` for all devices together)."""
    seconds = span(evidence)
    busy: dict[str, float] = defaultdict(float)
    for bar in evidence.bars:
        busy[kind_of(bar.resource)] += bar.finished - bar.started
    return {
        kind: busy[kind] / (seconds * slots) if seconds > 0 else 0.0 for kind, slots in evidence.slots.items()
    }


def span(evidence: Evidence) -> float:
    """Seconds from the start of the first step to the end of the last job: the makespan without the start of
    the workers, which may be ready long after the first request."""
    return evidence.makespan - min((bar.started for bar in evidence.bars), default=0.0)


def tuning_span(evidence: Evidence) -> float:
    """Seconds from the start of the first proposal to the end of the last step of any task: without import,
    assembly and validation."""
    own = [bar for bar in evidence.bars if bar.stage in TASK_STAGES]
    return max((bar.finished for bar in own), default=0.0) - min((bar.started for bar in own), default=0.0)


def stage_seconds(evidence: Evidence) -> dict[str, float]:
    """Seconds of work by stage of the tasks, under the names of :func:`kind_of`."""
    spent = dict.fromkeys(TASK_STAGES.values(), 0.0)
    for bar in evidence.bars:
        if bar.stage in TASK_STAGES:
            spent[TASK_STAGES[bar.stage]] += bar.finished - bar.started
    return spent


def kind_of(resource: str) -> str:
    """``build``, ``profile`` or ``update``: what a queue or a simulated resource is for."""
    for prefix, kind in (("build", "build"), ("profile", "profile"), ("model-update", "update")):
        if resource.startswith(prefix):
            return kind
    return resource


def save(evidence: Evidence, folder: Path) -> None:
    """Write it into a run's folder."""
    (folder / FILE).write_bytes(msgspec.json.encode(evidence))


def load(folder: Path) -> Evidence | None:
    """Of a run's folder; ``None`` when it is not there any more."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Evidence)
    except (OSError, msgspec.DecodeError):
        return None


def _confirmed(confirmed: Iterable[Confirmed], name: str) -> float | None:
    found = next((each for each in confirmed if each.hash == name and each.latencies), None)
    return statistics.median(found.latencies) if found is not None else None


def _place(step: str) -> tuple[int, int]:
    """Round and chunk of a step, from its id ``job/task/round/chunk/stage``."""
    parts = step.split("/")
    numbers = [int(part) if part.isdigit() else 0 for part in parts[2:4]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)
