"""From due steps to published ones: what is ready, what is in flight, how often it was sent before."""

from __future__ import annotations

from collections.abc import Iterator

from coordinator import pipeline
from coordinator.events import Dispatch
from coordinator.jobs import Job, StepRef
from coordinator.resources import Flight, Resources
from coordinator.strategies import Ready, Strategy


class Dispatcher:
    """The ready steps of all jobs, in the order of a strategy, and the resources they wait for."""

    def __init__(self, strategy: Strategy, resources: Resources) -> None:
        self.strategy = strategy
        self.resources = resources
        self._ready: dict[str, tuple[StepRef, Ready]] = {}
        self._attempts: dict[str, int] = {}
        self._needs: set[str] = set()
        self._orders = 0

    def make_ready(self, job: Job, ref: StepRef) -> None:
        """A step is due. Nothing happens if it is ready or in flight already."""
        if ref.id in self._ready or self.resources.in_flight(ref.id):
            return
        ready = self._as_ready(job, ref)
        self._ready[ref.id] = (ref, ready)
        self._needs.add(ready.need)
        self.strategy.add(ready)

    def is_running(self, job: Job, ref: StepRef, queue: str, now: float) -> None:
        """A worker was found to be at this step already."""
        self.resources.start(Flight(ref, self._as_ready(job, ref), queue, now))

    def fill(self, jobs: dict[str, Job], now: float) -> Iterator[Dispatch]:
        """Steps for every idle queue, until all are busy or nothing is left for them."""
        for need in sorted(self._needs):
            while (queue := self.resources.idle(need)) is not None:
                ready = self.strategy.take(need)
                if ready is None:
                    break
                entry = self._ready.get(ready.step)
                job = jobs.get(ready.job)
                if entry is None or job is None or entry[1] is not ready:
                    # Its result came after all, from a worker that was thought lost.
                    self.strategy.done(ready)
                    continue
                del self._ready[ready.step]
                step = pipeline.make_step(job, entry[0], self._attempts.get(ready.step, 0))
                self.resources.start(Flight(entry[0], ready, queue.name, now))
                yield Dispatch(queue.name, step)

    def ended(self, step: str) -> Flight | None:
        """The result of a step is here: it is neither in flight nor ready any more."""
        self._ready.pop(step, None)
        self._attempts.pop(step, None)
        return self._land(step)

    def lost(self, step: str) -> Flight | None:
        """A step in flight will not come back; it may be made ready again, as a further attempt."""
        flight = self._land(step)
        if flight is not None:
            self._attempts[step] = self._attempts.get(step, 0) + 1
        return flight

    def forget(self, job: str) -> None:
        """The job has ended: its ready steps are dropped, those in flight run out."""
        self.strategy.forget(job)
        for step in [step for step, (ref, _) in self._ready.items() if ref.job == job]:
            del self._ready[step]

    def needs_of(self, job: str) -> set[str]:
        """What the job's steps, ready or in flight, need."""
        needs = {ready.need for ref, ready in self._ready.values() if ref.job == job}
        for queue in self.resources.queues.values():
            needs |= {flight.ready.need for flight in queue.flights.values() if flight.ref.job == job}
        return needs

    def _land(self, step: str) -> Flight | None:
        flight = self.resources.end(step)
        if flight is not None:
            self.strategy.done(flight.ready)
        return flight

    def _as_ready(self, job: Job, ref: StepRef) -> Ready:
        self._orders += 1
        return Ready(ref.id, job.id, pipeline.need_of(job, ref), job.order, self._orders)
