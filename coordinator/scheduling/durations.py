"""How long steps take: learned from the timings that results bring, and forgotten with the coordinator.

What is worth keeping, the pace of each task, travels in the ledger (``TaskLedger.pace``). A *pace* is
seconds per candidate for ``build`` and ``profile``, beside what a step takes by itself, and seconds per step
for all other stages. Tasks with the same key (workload and target) share their paces, across jobs too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tunemesh.coordinator.scheduling.chunks import Cost
from tunemesh.coordinator.scheduling.recent import Recent
from tunemesh.shared.messages import Stage, Timing

WEIGHT = 0.25
"""Of the newest duration in the moving averages: about the last seven count."""

GUESS = 1.0
"""Seconds that a step, or a candidate of it, is thought to take when nothing like it was ever seen."""

FADING = 0.98
"""What is left of the longest candidate that was seen, relative to its task's pace, after each further
step."""

MOST_TIMES = 100.0
"""As many times as long as others a candidate may be thought to take."""

CLOSING = 0.1
"""Of the time of another update one takes that closes a task, where none was seen: of 23 jobs on one core it
was 0.003 to 0.2."""

OF_ONE = 0.03
"""Of the newest of what is done once at the end of a task or job."""

LONGEST_STEP = 24 * 3600.0
"""Seconds; what took longer by the clocks of its worker is taken for a clock that jumped."""

PACES_KEPT = 30_000
"""Paces of tasks and stages that are kept, some 10,000 tasks; those not used for longest go first."""

QUEUES_KEPT = 4_000
"""Queues whose slowness is kept, for each stage."""

PER_CANDIDATE: frozenset[Stage] = frozenset({"build", "profile"})


def seconds_of(timing: Timing) -> float:
    """How long a step took, by the clock of its worker: neither negative nor beyond all measure, even where
    that clock jumped."""
    return _sane(timing.finished - timing.started)


class _Slowness:
    """How many times as long as on others steps of one stage take on each queue."""

    def __init__(self) -> None:
        self._queues: Recent[str, float] = Recent(QUEUES_KEPT)
        self._total = 0.0

    def learn(self, queue: str, ratio: float | None) -> None:
        """``ratio``: by how much a step took longer than expected, if anything was expected."""
        before = self._queues.get(queue)
        now = 1.0 if before is None else before
        if ratio is not None:
            now = min(max(_moved(now, ratio), 0.01), 100.0)
        dropped = self._queues.put(queue, now)
        self._total += now - (before or 0.0) - (dropped or 0.0)

    def of(self, queue: str) -> float:
        """Compared with the mean of all queues."""
        own = self._queues.get(queue)
        count = len(self._queues)
        # The total of many additions is not exact; none of its parts is below 0.01.
        return own * count / max(self._total, 0.01 * count) if own is not None and count > 1 else 1.0


class Durations:
    """Moving averages of durations, by task and stage, by stage, and the slowness of each queue."""

    def __init__(self) -> None:
        self._paces: Recent[tuple[str, Stage], float] = Recent(PACES_KEPT)
        self._stages: dict[Stage, float] = {}
        self._slowness: dict[Stage, _Slowness] = {}
        self._fixed: dict[Stage, float] = {}
        self._longest: dict[Stage, float] = {}
        self._closing: float | None = None
        self._confirmed: float | None = None
        self._again: dict[Stage, tuple[int, float, float]] = {}
        self._overhead = 0.0

    def learn(
        self, timing: Timing, key: str, elapsed: float | None = None, each: Sequence[float] = ()
    ) -> None:
        """Learn from one step.

        Args:
            timing: of its result.
            key: of its task; of its job for stages without one.
            elapsed: seconds from the dispatch to the result, if they are known.
            each: seconds of each of its candidates, if it did nothing but these; what is left is what a step
                takes by itself.
        """
        seconds = seconds_of(timing)
        if elapsed is not None and (elapsed := _sane(elapsed)) >= seconds:
            self._overhead += WEIGHT * (elapsed - seconds - self._overhead)
        parts = max(timing.size, 1) if timing.stage in PER_CANDIDATE else 1
        fixed = seconds - min(sum(map(_sane, each)), seconds) if each else 0.0
        if each:
            self._fixed[timing.stage] = _moved(self._fixed.get(timing.stage), fixed)
        expected = self._paces.get((key, timing.stage))
        slowness = self._slowness.setdefault(timing.stage, _Slowness())
        slowness.learn(timing.resource, (seconds - fixed) / parts / expected if expected else None)
        # What a queue adds by being slow is not the task's.
        pace = (seconds - fixed) / parts / slowness.of(timing.resource)
        self._paces.put((key, timing.stage), _moved(expected, pace))
        self._stages[timing.stage] = _moved(self._stages.get(timing.stage), pace)
        if each and pace > 0:
            seen = min(max(map(_sane, each)) / max(expected or pace, pace), MOST_TIMES)
            self._longest[timing.stage] = max(seen, FADING * self._longest.get(timing.stage, 1.0), 1.0)

    def learn_closing(self, timing: Timing, named: int) -> None:
        """Learn from a ``model-update`` that closed a task: it proposed nothing new, and named so many
        candidates to be confirmed."""
        self._closing = _moved(self._closing, seconds_of(timing))
        self._confirmed = _moved(self._confirmed, float(named))

    def learn_again(self, stage: Stage, seconds: float, reckoned: float) -> None:
        """Learn from something that is done once, and is reckoned by :mod:`coordinator.jobs.rest` to take so
        long: a candidate that is confirmed was built or measured, or the whole model put together or run."""
        count, took, thought = self._again.get(stage, (0, 0.0, 0.0))
        # The sums of all that was seen, until there is much of it. The mean of single ratios would be too
        # large: what was thought of a task may be far too little.
        left = 1 - max(1 / (count + 1), OF_ONE)
        self._again[stage] = (
            count + 1,
            left * took + (1 - left) * _sane(seconds),
            left * thought + (1 - left) * max(_sane(reckoned), 1e-6),
        )

    def recall(self, key: str, pace: Mapping[Stage, float]) -> None:
        """Take over what a ledger says of a task, unless more is known by now."""
        for stage, seconds in pace.items():
            if self._paces.get((key, stage)) is None:
                self._paces.put((key, stage), _sane(seconds))
                self._stages.setdefault(stage, _sane(seconds))

    def known(self, key: str) -> dict[Stage, float]:
        """The paces of a task, for its ledger."""
        stages: tuple[Stage, ...] = ("model-update", "build", "profile")
        paces = ((stage, self._paces.get((key, stage))) for stage in stages)
        return {stage: pace for stage, pace in paces if pace is not None}

    def seconds(self, stage: Stage, key: str, size: int = 1) -> float:
        """Predicted duration of a step with ``size`` candidates on a queue of usual speed."""
        pace = self._pace(stage, key)
        return pace * size + self._fixed.get(stage, 0.0) if stage in PER_CANDIDATE else pace

    def _pace(self, stage: Stage, key: str) -> float:
        pace = self._paces.get((key, stage))
        return self._stages.get(stage, GUESS) if pace is None else pace

    def longest(self, stage: Stage) -> float:
        """As many times as long as others one candidate may take, by the longest that were seen of late."""
        return self._longest.get(stage, 1.0)

    def closing(self, key: str) -> float:
        """Predicted duration of the ``model-update`` that closes a task. Until one was seen, a part of
        another one: it learns, and searches for nothing."""
        return self._closing if self._closing is not None else CLOSING * self.seconds("model-update", key)

    @property
    def confirmed(self) -> float | None:
        """Candidates of a search that are confirmed, in the mean; ``None`` where none was closed."""
        return self._confirmed

    def again(self, stage: Stage) -> float | None:
        """As many times as long as reckoned as that takes; ``None`` where none was seen."""
        count, took, thought = self._again.get(stage, (0, 0.0, 0.0))
        return took / thought if count else None

    def seen(self, stage: Stage, key: str | None = None) -> bool:
        """Whether any step of a stage was; with ``key`` one of that task or job."""
        return stage in self._stages if key is None else self._paces.get((key, stage)) is not None

    def usual(self, stage: Stage) -> float | None:
        """Seconds of a stage, or of a candidate of it, over all tasks or jobs; ``None`` where none was
        seen."""
        return self._stages.get(stage)

    def slowness(self, stage: Stage, queue: str) -> float:
        """How many times as long as on the mean of all queues steps of ``stage`` take on ``queue``."""
        known = self._slowness.get(stage)
        return known.of(queue) if known is not None else 1.0

    def cost(self, stage: Stage, key: str) -> Cost | None:
        """What steps and candidates of a stage take; ``None`` where none was seen."""
        if not self.seen(stage):
            return None
        return Cost(self._overhead + self._fixed.get(stage, 0.0), self._pace(stage, key))


def _sane(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_STEP) if math.isfinite(seconds) else 0.0


def _moved(average: float | None, value: float) -> float:
    return value if average is None else average + WEIGHT * (value - average)
