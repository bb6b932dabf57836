"""Keeps the scarcest resource from running dry and finishes jobs early, by predicted durations.

No tail at the end, no dry resource, early results, in this order: see ``docs/scheduling.md`` for the rules.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection

from tunemesh.coordinator.scheduling.heap import ChangingHeap
from tunemesh.coordinator.scheduling.needs import Need, Tally
from tunemesh.coordinator.scheduling.strategies import CLASSES, Forecast, Load, Ready
from tunemesh.shared.messages import Class

TAIL = 2.0
"""The end has begun when all that remains takes less than so many times the longest path of a job."""

STEPS_AHEAD = 2.0
"""A resource is about to run dry when its supply lasts less than so many steps that would refill it."""


SCARCE = 0.9
"""A resource is looked after by those that feed it when its remaining work lasts this share of theirs."""


class _Lane:
    """The ready steps with one need and of one class that feed the same resources."""

    def __init__(self, feeds: tuple[Need, ...]) -> None:
        self.feeds = feeds
        self.steps: dict[str, list[tuple[int, Ready]]] = {}
        self.shortest: ChangingHeap[str] = ChangingHeap()
        self.longest: ChangingHeap[str] = ChangingHeap()
        """Jobs: that with the least remaining work first, and that with the longest path first."""

    @property
    def next_seconds(self) -> float:
        """Predicted duration of the step that comes next."""
        return self.steps[self.shortest.first()][0][1].seconds

    def add(self, step: Ready) -> None:
        if step.account not in self.steps:
            self.steps[step.account] = []
            self.rank(step.account, step.job_order, step.forecast)
        heapq.heappush(self.steps[step.account], (step.order, step))

    def rank(self, job: str, order: int, forecast: Forecast) -> None:
        if job in self.steps:
            self.shortest.put(job, (forecast.total, order))
            self.longest.put(job, (-forecast.path, order))

    def pop(self, job: str) -> Ready:
        _, step = heapq.heappop(self.steps[job])
        if not self.steps[job]:
            self.drop(job)
        return step

    def drop(self, job: str) -> None:
        self.steps.pop(job, None)
        self.shortest.remove(job)
        self.longest.remove(job)


class Predictive:
    """Lanes by need; O(log n) per decision, times the number of kinds of resources."""

    name = "predictive"
    controlled = True
    overlaps = True
    fits_chunks = True

    def __init__(self) -> None:
        self._lanes: dict[Need, dict[tuple[tuple[Need, ...], Class], _Lane]] = {}
        self._forecasts: dict[str, Forecast] = {}
        self._work = Tally()
        self._flying: Counter[tuple[Need, tuple[Need, ...]]] = Counter()

    def add(self, step: Ready) -> None:
        self._expect(step.account, step.job_order, step.forecast)
        lanes = self._lanes.setdefault(step.need, {})
        key = step.feeds, step.class_
        lane = lanes.get(key) or lanes.setdefault(key, _Lane(step.feeds))
        lane.add(step)

    def take(
        self, need: Need, load: Load, slowness: float, classes: Collection[Class] = CLASSES
    ) -> Ready | None:
        known = self._lanes.get(need, {})
        lanes = [lane for (_, class_), lane in known.items() if class_ in classes and lane.steps]
        if not lanes or self._updates_wait(need, lanes, load):
            return None
        lane, job = self._choose(need, lanes, load)
        # A slow queue stays idle when the others would do all that is ready before it did this one step.
        seconds = lane.steps[job][0][1].seconds
        others = any(count for (busy, _), count in self._flying.items() if busy == need)
        return None if others and seconds * slowness > load.supply(need) + seconds else lane.pop(job)

    def started(self, step: Ready) -> None:
        self._flying[step.need, step.feeds] += 1

    def ended(self, step: Ready, seconds: float | None) -> None:
        self._flying[step.need, step.feeds] -= 1
        if not self._flying[step.need, step.feeds]:
            del self._flying[step.need, step.feeds]

    def forget(self, job: str) -> None:
        self._expect(job, 0, Forecast())
        self._forecasts.pop(job, None)
        for need, lanes in list(self._lanes.items()):
            for key, lane in list(lanes.items()):
                lane.drop(job)
                if not lane.steps:
                    del lanes[key]
            if not lanes:
                del self._lanes[need]

    def _expect(self, job: str, order: int, forecast: Forecast) -> None:
        """Note what is now predicted of a job, and what remains of all together."""
        before = self._forecasts.get(job)
        if before is forecast:
            return
        self._forecasts[job] = forecast
        for need, seconds in before.work.items() if before is not None else ():
            self._work.remove(need, seconds)
        for need, seconds in forecast.work.items():
            self._work.add(need, seconds)
        for lanes in self._lanes.values():
            for lane in lanes.values():
                lane.rank(job, order, forecast)

    def _choose(self, need: Need, lanes: list[_Lane], load: Load) -> tuple[_Lane, str]:
        lane = min(lanes, key=lambda each: each.longest.key(each.longest.first()))
        job = lane.longest.first()
        if TAIL * self._forecasts[job].path >= max(self._lasts(each, load) for each in [need, *self._work]):
            return lane, job
        dry = [self._runs_dry(need, lane, load) for lane in lanes]
        lanes = [lane for lane, lasts in zip(lanes, dry, strict=True) if lasts == max(dry)]
        lane = min(lanes, key=lambda each: each.shortest.key(each.shortest.first()))
        return lane, lane.shortest.first()

    def _lasts(self, need: Need, load: Load) -> float:
        """Seconds for which all remaining work of all jobs keeps the workers for the need busy."""
        return self._work.seconds(need, load.slots(need), load.compete)

    def _runs_dry(self, need: Need, lane: _Lane, load: Load) -> float:
        """How long the scarcest resource lasts that the lane feeds, scarce and soon idle, or 0."""
        soon = STEPS_AHEAD * lane.next_seconds
        dry = (self._lasts(fed, load) for fed in lane.feeds if load.supply(fed) < soon)
        return max((lasts for lasts in dry if lasts > SCARCE * self._lasts(need, load)), default=0.0)

    def _updates_wait(self, need: Need, lanes: list[_Lane], load: Load) -> bool:
        """Whether these steps, which feed builds, should leave the cores to builds for a hungry device."""
        for lane in lanes:
            build = lane.feeds[0] if lane.feeds else need
            if build == need or not load.share_cores(need, build):
                continue
            others = [
                n for n in self._lanes if n.kind == build.kind and (n == build or load.compete(build, n))
            ]
            if any(self._hungry(other, need, lane.next_seconds, load) for other in others):
                return True
        return False

    def _hungry(self, build: Need, update: Need, soon: float, load: Load) -> bool:
        """Whether a build is ready or running that feeds a device which runs dry ``soon``."""
        for (feeds, _), builds in self._lanes[build].items():
            building = builds.steps or self._flying[build, feeds]
            to_device = feeds and update.kind not in {fed.kind for fed in feeds}
            if building and to_device and load.supply(feeds[0]) < soon:
                return True
        return False
