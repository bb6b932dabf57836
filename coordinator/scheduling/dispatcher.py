"""From due steps to published ones: what is ready, what is in flight, how often it was sent before."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

from tunemesh.coordinator.scheduling.resources import Flight, Queue, Resources
from tunemesh.coordinator.scheduling.strategies import Ready, Strategy


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """A step is to be published to a queue, and counts as in flight there from now on."""

    queue: str
    step: str
    """Its id."""
    job: str
    attempt: int
    """How often it was sent before."""


class Dispatcher:
    """The ready steps of all jobs, in the order of a strategy, and the resources they wait for. It is also
    the :class:`~coordinator.scheduling.strategies.Load` that strategies see."""

    def __init__(self, strategy: Strategy, resources: Resources) -> None:
        self.strategy = strategy
        self.resources = resources
        self._ready: dict[str, Ready] = {}
        self._attempts: dict[str, int] = {}
        self._orders = 0
        self._steps: dict[str, set[str]] = {}
        """By job: its steps that are ready or in flight."""
        self._needs: dict[str, Counter[str]] = {}
        """By job: how many of these steps have which need."""
        self._seconds: dict[str, float] = {}
        """By need: predicted seconds of all of them."""

    # -- What strategies see --------------------------------------------------------------------------------

    def slots(self, need: str) -> int:
        """See :class:`~coordinator.scheduling.strategies.Load`, also for the next two."""
        return self.resources.slots(need)

    def supply(self, need: str) -> float:
        return self._seconds.get(need, 0.0) / max(self.resources.slots(need), 1)

    def share_cores(self, one: str, other: str) -> bool:
        return self.resources.share_cores(one, other)

    @property
    def needs(self) -> list[str]:
        """All needs that there were."""
        return sorted(self._seconds)

    # -- Ready, started, ended ------------------------------------------------------------------------------

    def switch(self, strategy: Strategy) -> None:
        """Go on with another strategy."""
        self.strategy = strategy
        for flight in self.resources.flights():
            strategy.started(flight.ready)
        for ready in sorted(self._ready.values(), key=lambda ready: ready.order):
            strategy.add(ready)

    def has(self, step: str) -> bool:
        """Whether a step is ready or in flight."""
        return step in self._ready or self.resources.in_flight(step)

    def make_ready(self, ready: Ready) -> None:
        """A step is due. Nothing happens if it is ready or in flight already."""
        if self.has(ready.step):
            return
        ready = self._numbered(ready)
        self._ready[ready.step] = ready
        self._count(ready, 1)
        self.strategy.add(ready)

    def is_running(self, ready: Ready, queue: str, now: float) -> None:
        """A worker was found to be at this step already."""
        ready = self._numbered(ready)
        self._count(ready, 1)
        self.strategy.started(ready)
        self.resources.start(Flight(ready, queue, now))

    def fill(self, now: float) -> Iterator[Send]:
        """Steps for every idle queue, until all are busy or nothing is left for them."""
        for need in self.needs:
            while (queue := self._open_queue(need)) is not None:
                ready = self.strategy.take(need, self, queue.slowness)
                if ready is None:
                    break
                if self._ready.get(ready.step) is not ready:
                    continue  # its result came after all, from a worker that was thought lost
                del self._ready[ready.step]
                self.strategy.started(ready)
                self.resources.start(Flight(ready, queue.name, now))
                yield Send(queue.name, ready.step, ready.job, self._attempts.get(ready.step, 0))

    def _open_queue(self, need: str) -> Queue | None:
        return self.resources.idle(need) if self.strategy.controlled else self.resources.least_loaded(need)

    def ended(self, step: str, seconds: float) -> Flight | None:
        """The result of a step is here, after ``seconds`` of work: it is neither in flight nor ready any
        more."""
        ready = self._ready.pop(step, None)
        if ready is not None:
            self._count(ready, -1)
        self._attempts.pop(step, None)
        return self._land(step, seconds)

    def lost(self, step: str) -> Flight | None:
        """A step in flight will not come back; it may be made ready again, as a further attempt."""
        flight = self._land(step, None)
        if flight is not None:
            self._attempts[step] = self._attempts.get(step, 0) + 1
        return flight

    def forget(self, job: str) -> None:
        """The job has ended: its ready steps are dropped, those in flight run out."""
        self.strategy.forget(job)
        self.withdraw(job)

    def withdraw(self, job: str) -> None:
        """The job's ready steps are not due any more, or have to be made ready again."""
        for step in list(self._steps.get(job, ())):
            ready = self._ready.pop(step, None)
            if ready is not None:
                self._count(ready, -1)

    def needs_of(self, job: str) -> list[str]:
        """What the job's steps, ready or in flight, need."""
        return sorted(self._needs.get(job, ()))

    def _land(self, step: str, seconds: float | None) -> Flight | None:
        flight = self.resources.end(step)
        if flight is not None:
            self._count(flight.ready, -1)
            self.strategy.ended(flight.ready, seconds)
        return flight

    def _count(self, ready: Ready, change: int) -> None:
        """Note that a step has come or gone."""
        steps = self._steps.setdefault(ready.job, set())
        needs = self._needs.setdefault(ready.job, Counter())
        needs[ready.need] += change
        seconds = self._seconds.get(ready.need, 0.0) + change * ready.seconds
        self._seconds[ready.need] = max(seconds, 0.0)
        if change > 0:
            steps.add(ready.step)
            return
        steps.discard(ready.step)
        if not needs[ready.need]:
            del needs[ready.need]
        if not steps:
            del self._steps[ready.job], self._needs[ready.job]

    def _numbered(self, ready: Ready) -> Ready:
        self._orders += 1
        return dataclasses.replace(ready, order=self._orders)
