"""What was tried for a job, trial by trial, with the moment at which each was known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from tunemesh.shared.messages import Conditions, History, Outcome, Timing, Trial
from tunemesh.shared.text import clip

ERROR_KEPT = 300
"""Characters of the error of a trial: the last one of each task is kept whole."""


class Tried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One trial, in the order in which they were known. Latencies are seconds."""

    task: str
    """Whichever of its searches made it."""
    at: float
    """Unix time."""
    outcome: Outcome
    latency_s: float | None = None
    """Median of its repeats; ``None`` where it was not measured."""
    drift: float = 0.0
    """How much slower than usual the device was around the measurement: 0.1 is 10 %."""
    error: str = ""


def tried(job: str, histories: Iterable[History]) -> list[Tried]:
    """Trials of one job: not those that it took over from others."""
    found: list[Tried] = []
    for history in _own(job, histories):
        moments = _moments(timings(job, [history]), len(history.trials))
        # The searches of a task are called ``t00``, ``t00.template``, ``t00.template.1``.
        task = history.task.partition(".")[0]
        pairs = zip(history.trials, moments, strict=True)
        found += [_tried(task, trial, at) for trial, at in pairs]
    return sorted(found, key=lambda each: each.at)


def unlearned(search: str, trials: Iterable[Trial], moments: Iterable[float]) -> list[Tried]:
    """Trials of a search that are in no history yet, as no update has learned from them.

    Args:
        moments: when each was known: Unix time.
    """
    task = search.partition(".")[0]
    return [_tried(task, trial, at) for trial, at in zip(trials, moments, strict=True)]


def timings(job: str, histories: Iterable[History]) -> list[Timing]:
    """Steps of one job. What was known before was measured by steps of other jobs."""
    every = (timing for history in histories for timing in history.timings)
    return [timing for timing in every if timing.step.startswith(f"{job}/")]


def conditions(job: str, histories: Iterable[History]) -> list[Conditions]:
    """Those that a job measured under, each once."""
    found = {each.id: each for history in _own(job, histories) for each in history.conditions}
    return list(found.values())


def _own(job: str, histories: Iterable[History]) -> list[History]:
    return [history for history in histories if timings(job, [history])]


def _tried(task: str, trial: Trial, at: float) -> Tried:
    measured = trial.outcome == "measured" and bool(trial.latencies)
    return Tried(
        task=task,
        at=at,
        outcome=trial.outcome,
        latency_s=trial.latency if measured else None,
        drift=trial.drift,
        error=clip(trial.error.strip(), ERROR_KEPT),
    )


def _moments(timings: Sequence[Timing], count: int) -> list[float]:
    """When each of ``count`` trials was known. A history lists trials chunk by chunk, in the order in which
    it lists the builds of the chunks; where it has lost some, all were known when the last step had ended."""
    ended = {timing.step: timing.finished for timing in timings}
    moments: list[float] = []
    for timing in timings:
        if timing.stage == "build":
            profiled = timing.step.removesuffix("build") + "profile"
            moments += [ended.get(profiled, timing.finished)] * timing.size
    if len(moments) == count:
        return moments
    return [max(ended.values(), default=0.0)] * count
