"""How long steps take: learned from the timings that results bring, and forgotten with the coordinator.

What is worth keeping, the pace of each task, travels in the ledger (``TaskLedger.pace``). A *pace* is
seconds per candidate for ``build`` and ``profile``, and seconds per step for all other stages. Tasks with
the same key (workload and target) share their paces, across jobs too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tunemesh.shared.messages import Stage, Timing

WEIGHT = 0.25
"""Of the newest duration in the moving averages: about the last seven count."""

GUESS = 1.0
"""Seconds that a step, or a candidate of it, is thought to take when nothing like it was ever seen."""

OVERHEAD = 0.005
"""Share of a step's duration that sending, awaiting and answering it may take."""

PER_CANDIDATE: frozenset[Stage] = frozenset({"build", "profile"})


class Durations:
    """Moving averages of durations, by task and stage, by stage, and the slowness of each queue."""

    def __init__(self) -> None:
        self._paces: dict[tuple[str, Stage], float] = {}
        self._stages: dict[Stage, float] = {}
        self._slowness: dict[Stage, dict[str, float]] = {}
        self._slowness_total: dict[Stage, float] = {}
        self._overhead = 0.0

    def learn(self, timing: Timing, key: str, elapsed: float | None = None) -> None:
        """Learn from one step.

        Args:
            timing: of its result.
            key: of its task; of its job for stages without one.
            elapsed: seconds from the dispatch to the result, if they are known.
        """
        seconds = max(timing.finished - timing.started, 0.0)
        if elapsed is not None and elapsed >= seconds:
            self._overhead += WEIGHT * (elapsed - seconds - self._overhead)
        parts = max(timing.size, 1) if timing.stage in PER_CANDIDATE else 1
        expected = self._paces.get((key, timing.stage))
        pace = seconds / parts / self._compare(timing, seconds / parts, expected)
        self._paces[key, timing.stage] = _moved(expected, pace)
        self._stages[timing.stage] = _moved(self._stages.get(timing.stage), pace)

    def _compare(self, timing: Timing, pace: float, expected: float | None) -> float:
        """Learn how slow the queue is, and return it: what a queue adds by being slow is not the task's."""
        queues = self._slowness.setdefault(timing.stage, {})
        total = self._slowness_total.get(timing.stage, 0.0)
        before = queues.get(timing.resource)
        now = 1.0 if before is None else before
        if expected:
            now = min(max(_moved(now, pace / expected), 0.01), 100.0)
        queues[timing.resource] = now
        self._slowness_total[timing.stage] = total + now - (before or 0.0)
        return self.slowness(timing.stage, timing.resource)

    def recall(self, key: str, pace: Mapping[Stage, float]) -> None:
        """Take over what a ledger says of a task, unless more is known by now."""
        for stage, seconds in pace.items():
            if (key, stage) not in self._paces:
                self._paces[key, stage] = seconds
                self._stages.setdefault(stage, seconds)

    def known(self, key: str) -> dict[Stage, float]:
        """The paces of a task, for its ledger."""
        stages: tuple[Stage, ...] = ("model-update", "build", "profile")
        return {stage: self._paces[key, stage] for stage in stages if (key, stage) in self._paces}

    def seconds(self, stage: Stage, key: str, size: int = 1) -> float:
        """Predicted duration of a step with ``size`` candidates on a queue of usual speed."""
        pace = self._paces.get((key, stage))
        if pace is None:
            pace = self._stages.get(stage, GUESS)
        return pace * size if stage in PER_CANDIDATE else pace

    def slowness(self, stage: Stage, queue: str) -> float:
        """How many times as long as on the mean of all queues steps of ``stage`` take on ``queue``."""
        queues = self._slowness.get(stage, {})
        if queue not in queues or len(queues) < 2:
            return 1.0
        return queues[queue] * len(queues) / self._slowness_total[stage]

    def chunk_size(self, key: str, batch: int, limit: int) -> int:
        """Candidates per chunk, so that a batch is soonest through build and profile.

        A batch of n candidates that take b seconds to build and p to profile each, cut into chunks of k
        with an overhead of o seconds each, takes about ``k (b + p) + n max(b, p) + (n / k) o``: the first
        chunk's build and the last one's profile are not overlapped, and every chunk is sent, awaited and
        answered. That is least at ``k = sqrt(n o / (b + p))``. When other work fills the gaps, latency does
        not matter but overhead does, so k is never so small that overhead takes more than :data:`OVERHEAD`
        of the longer stage.
        """
        build, profile = self.seconds("build", key), self.seconds("profile", key)
        if build + profile <= 0 or not self._overhead:
            return limit
        soonest = math.sqrt(batch * self._overhead / (build + profile))
        cheap = self._overhead / (OVERHEAD * max(build, profile))
        return max(1, min(limit, round(max(soonest, cheap))))


def _moved(average: float | None, value: float) -> float:
    return value if average is None else average + WEIGHT * (value - average)
