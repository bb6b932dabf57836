"""From due steps to published ones: what is ready, what is in flight, how often it was sent before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tunemesh.coordinator.events import Dispatch
from tunemesh.coordinator.jobs import forecast
from tunemesh.coordinator.jobs import steps as job_steps
from tunemesh.coordinator.jobs.job import Job, StepRef
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.resources import Flight, Queue, Resources
from tunemesh.coordinator.scheduling.strategies import Ready, Strategy


class Dispatcher:
    """The ready steps of all jobs, in the order of a strategy, and the resources they wait for. It is also
    the :class:`~coordinator.scheduling.strategies.Load` that strategies see."""

    def __init__(self, strategy: Strategy, resources: Resources, durations: Durations) -> None:
        self.strategy = strategy
        self.resources = resources
        self.durations = durations
        self._ready: dict[str, tuple[StepRef, Ready]] = {}
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
        for _, ready in sorted(self._ready.values(), key=lambda entry: entry[1].order):
            strategy.add(ready)

    def make_ready(self, job: Job, ref: StepRef) -> None:
        """A step is due. Nothing happens if it is ready or in flight already."""
        step = ref.id
        if step in self._ready or self.resources.in_flight(step):
            return
        ready = self._as_ready(job, ref, step)
        self._ready[step] = (ref, ready)
        self._count(ready, 1)
        self.strategy.add(ready)

    def is_running(self, job: Job, ref: StepRef, queue: str, now: float) -> None:
        """A worker was found to be at this step already."""
        ready = self._as_ready(job, ref, ref.id)
        self._count(ready, 1)
        self.strategy.started(ready)
        self.resources.start(Flight(ref, ready, queue, now))

    def fill(self, jobs: dict[str, Job], now: float) -> Iterator[Dispatch]:
        """Steps for every idle queue, until all are busy or nothing is left for them."""
        for need in self.needs:
            while (queue := self._open_queue(need)) is not None:
                ready = self.strategy.take(need, self, queue.slowness)
                if ready is None:
                    break
                entry = self._ready.get(ready.step)
                job = jobs.get(ready.job)
                if entry is None or job is None or entry[1] is not ready:
                    continue  # its result came after all, from a worker that was thought lost
                ref = entry[0]
                del self._ready[ready.step]
                step = job_steps.make_step(
                    job, ref, self._attempts.get(ready.step, 0), self._chunk_size(job, ref)
                )
                self.strategy.started(ready)
                self.resources.start(Flight(ref, ready, queue.name, now))
                yield Dispatch(queue.name, step)

    def _open_queue(self, need: str) -> Queue | None:
        return self.resources.idle(need) if self.strategy.controlled else self.resources.least_loaded(need)

    def ended(self, step: str, seconds: float) -> Flight | None:
        """The result of a step is here, after ``seconds`` of work: it is neither in flight nor ready any
        more."""
        entry = self._ready.pop(step, None)
        if entry is not None:
            self._count(entry[1], -1)
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
            entry = self._ready.pop(step, None)
            if entry is not None:
                self._count(entry[1], -1)

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

    def _as_ready(self, job: Job, ref: StepRef, step: str) -> Ready:
        self._orders += 1
        request = job.ledger.request
        return Ready(
            step=step,
            job=job.id,
            need=job_steps.need_of(job, ref.stage),
            job_order=job.order,
            order=self._orders,
            tenant=request.tenant,
            priority=request.priority,
            feeds=tuple(job_steps.need_of(job, stage) for stage in job_steps.FEEDS[ref.stage]),
            seconds=self.durations.seconds(ref.stage, _key(job, ref), _size(job, ref)),
            outlook=forecast.outlook(job, self.durations),
        )

    def _chunk_size(self, job: Job, ref: StepRef) -> int:
        settings = job.ledger.request.settings
        if not self.strategy.fits_chunks or ref.stage != "model-update":
            return settings.chunk
        return self.durations.chunk_size(_key(job, ref), settings.batch, settings.chunk)


def _key(job: Job, ref: StepRef) -> str:
    task = job.task_ledger(ref.task)
    return task.spec.key if task is not None else forecast.model_key(job)


def _size(job: Job, ref: StepRef) -> int:
    if ref.chunk < 0:
        return 1
    return len(job.round(ref.task, ref.round).candidates(ref.chunk))
