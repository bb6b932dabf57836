"""Measure so that the numbers can be trusted: watch the device, and measure again what was disturbed."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence

from tunemesh.shared.messages import Step
from tunemesh.stage_workers.devices.drift import THRESHOLD
from tunemesh.stage_workers.platforms.protocol import WAITED, ProfileOutcome
from tunemesh.stage_workers.stages.context import Context
from tunemesh.stage_workers.stages.device_test import reference

log = logging.getLogger(__name__)

FRESH = 0.1
"""Seconds for which a look at the reference counts for what comes next."""

WARM_UP = 0.4
"""Seconds for which a device that is slow before it measures is kept busy. Cores that have been idle may be
slow at first: on a virtual machine 16 % after 0.3 s without work, 3 % after 0.2 s with."""

CALM_LIMIT = 1.5
"""Seconds to wait for calm before measuring again, with the device busy all the time, for the same reason;
less where measuring again takes less."""

GROUP = 2.0
"""Seconds of measuring between two looks, about."""

SPREAD = 0.2
"""(Largest - smallest) / median of a candidate's repeats from which it is measured again at once. The slowest
third of them is left out: a few that were disturbed do not move the median."""

ATTEMPTS = 3
"""Times that a candidate is measured, at most."""

PAUSES = (0.2, 0.5)
"""Seconds to wait for calm before the second and the third attempt at what something else disturbed."""

LESS = 0.02
"""Drift by which the device must be calmer than it was for measuring again to be worth the time."""


def comparable(latencies: Sequence[float]) -> bool:
    """Whether there are any, all of them above 0 and finite: only then their median says something."""
    return bool(latencies) and all(math.isfinite(each) and each > 0 for each in latencies)


def spread(outcomes: Sequence[ProfileOutcome]) -> float:
    """The largest of (largest - smallest) / median among those that were measured."""
    return max((_spread(each.latencies, each) for each in _measured(outcomes)), default=0.0)


def _steady_spread(outcomes: Sequence[ProfileOutcome]) -> float:
    """:func:`spread` without the slowest third of the repeats."""
    return max((_spread(_fastest(each.latencies), each) for each in _measured(outcomes)), default=0.0)


def _measured(outcomes: Sequence[ProfileOutcome]) -> list[ProfileOutcome]:
    return [each for each in outcomes if each.outcome == "measured"]


def _fastest(latencies: Sequence[float]) -> Sequence[float]:
    """All but the slowest third."""
    return sorted(latencies)[: len(latencies) - len(latencies) // 3]


def _spread(latencies: Sequence[float], of: ProfileOutcome) -> float:
    return (max(latencies) - min(latencies)) / statistics.median(of.latencies)


class Measured:
    """What is measured in one go, one candidate or several that take turns: the best of its attempts.

    Args:
        measure: measures once; one outcome per candidate.
        matters: whether outcomes that a device measured with this drift should be measured again.
    """

    def __init__(
        self,
        measure: Callable[[], list[ProfileOutcome]],
        matters: Callable[[list[ProfileOutcome], float], bool] = lambda _outcomes, _drift: True,
    ) -> None:
        self._measure = measure
        self._matters = matters
        self._new: list[ProfileOutcome] | None = None
        self.outcomes: list[ProfileOutcome] = []
        self.drift = 0.0
        """Of the device around the attempt that is kept."""
        self.attempts = 0
        self.seconds = 0.0

    @property
    def cost(self) -> float:
        """Seconds that an attempt takes, by those there were."""
        return self.seconds / self.attempts

    @property
    def suspect(self) -> bool:
        """Whether it could be measured, and with a drift that may have made a difference."""
        measured = _measured(self.outcomes)
        return self.drift > THRESHOLD and bool(measured) and self._matters(measured, self.drift)

    @property
    def unsteady(self) -> bool:
        """Whether something had the core meanwhile, or the repeats of the newest attempt differ too much."""
        return self._new is not None and (_waited(self._new) > WAITED or _steady_spread(self._new) > SPREAD)

    def attempt(self) -> None:
        """Measure once; of several attempts between two looks at the device the steadiest counts."""
        began = time.monotonic()
        again = self._measure()
        self.attempts += 1
        self.seconds += time.monotonic() - began
        if self._new is None or _quality(again) < _quality(self._new):
            self._new = again

    def settle(self, drift: float) -> None:
        """The device had this drift around the newest attempt: keep that, or what is known."""
        if self._new is not None and (not self.outcomes or drift < self.drift):
            self.outcomes, self.drift = self._new, drift
        self._new = None


def _waited(outcomes: Sequence[ProfileOutcome]) -> float:
    return max((each.waited for each in _measured(outcomes)), default=0.0)


def _quality(outcomes: Sequence[ProfileOutcome]) -> tuple[float, float]:
    """The less the better."""
    return max(_waited(outcomes), WAITED), _steady_spread(outcomes)


class Watch:
    """Takes the measurements of one step, and looks at the reference kernel before, between and after
    them."""

    def __init__(self, step: Step, device: str, context: Context) -> None:
        self._step = step
        self._device = device
        self._sandbox = context.sandbox
        self._drift = context.drift

    def measure(self, candidates: Sequence[Measured]) -> None:
        """Measure all, in order; then again what was disturbed.

        Raises:
            DeviceFault: the device does not work, before them or after them.
        """
        group: list[Measured] = []
        for number, candidate in enumerate(candidates):
            if not group:
                before, began = self._before(), time.monotonic()
            group.append(candidate)
            self._attempt(candidate)
            if time.monotonic() - began > GROUP or number == len(candidates) - 1:
                drift = max(before, self._look())
                self._drift.earn(time.monotonic() - began)
                for each in group:
                    each.settle(drift)
                self._repair(group)
                group = []

    def _attempt(self, candidate: Measured) -> None:
        candidate.attempt()
        while candidate.unsteady and candidate.attempts < ATTEMPTS and self._drift.can_afford:
            began = time.monotonic()
            self._look(PAUSES[candidate.attempts - 1])
            candidate.attempt()
            self._drift.spend(time.monotonic() - began)

    def _repair(self, group: list[Measured]) -> None:
        """Measure again, in a calm moment, what was measured during a disturbance; not if that goes on."""
        for _ in range(ATTEMPTS - 1):
            suspects = [each for each in group if each.suspect]
            if not suspects or not self._drift.can_afford:
                return
            began = time.monotonic()
            slower = f"{100 * suspects[0].drift:.0f} % slower than usual"
            log.warning("%s: the device was %s; %d to measure again", self._step.id, slower, len(suspects))
            before = self._look(min(sum(each.cost for each in suspects), CALM_LIMIT))
            calmer = [each for each in suspects if before < each.drift - LESS]
            if calmer:
                for each in calmer:
                    each.attempt()
                drift = max(before, self._look())
                for each in calmer:
                    each.settle(drift)
            self._drift.spend(time.monotonic() - began)
            if not calmer:
                return

    def _before(self) -> float:
        """The drift when measuring begins."""
        fresh = time.monotonic() - self._drift.looked < FRESH
        return self._drift.now if fresh else self._look(WARM_UP)

    def _look(self, wait: float = 0.0) -> float:
        """The drift by the reference kernel. When that is slow it is measured once more, and again and again
        for ``wait`` seconds, until it is as fast as usual; the last measurement counts."""
        until = time.monotonic() + wait
        latencies = self._reference()
        while latencies and self._drift.suspicious(latencies):
            last = time.monotonic() >= until
            latencies = self._reference() or latencies
            if last:
                break
        return self._drift.seen(latencies, time.monotonic()) if latencies else 0.0

    def _reference(self) -> list[float]:
        return reference(self._sandbox, self._step.target, self._device)
