"""Which workers live, what is in flight, and therefore which queues are idle.

A queue is *idle* while the steps in flight on it (published, result not yet seen) are fewer than the slots of
its live workers. The coordinator counts; a passive declare and the workers' status are the cross-check.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from coordinator.jobs import StepRef
from coordinator.strategies import Ready
from shared.messages import ResourceProgress, Timing, WorkerStatus

WORKER_SILENT = 8.0
"""Seconds without a status after which a worker counts as gone (four times the usual interval)."""

LOST_AFTER = 3.0
"""Seconds after which the steps of a device without a worker go to another device."""

MISSING_AFTER = 15.0
"""Seconds after which a step that no queue and no worker has is taken for lost."""


@dataclass(slots=True)
class Flight:
    """A step that was published and whose result has not been seen."""

    ref: StepRef
    ready: Ready
    queue: str
    since: float
    missing_since: float | None = None


@dataclass(slots=True)
class Worker:
    """The last that was heard of a worker."""

    status: WorkerStatus
    seen: float


@dataclass(slots=True)
class Queue:
    """A stage queue, its workers and its flights."""

    name: str
    workers: dict[str, Worker] = field(default_factory=dict)
    flights: dict[str, Flight] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)
    """What its device serves; remembered while the device is lost."""
    ready: int = 0
    """Messages waiting in it at the last cross-check."""
    checked: float = 0.0
    empty_since: float | None = None
    """Since when it has had no worker."""
    first_seen: float = 0.0
    steps: int = 0
    busy: float = 0.0

    @property
    def slots(self) -> int:
        return sum(worker.status.slots for worker in self.workers.values())

    @property
    def free(self) -> int:
        return self.slots - max(len(self.flights), self.ready)


class Resources:
    """All stage queues."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self._by_step: dict[str, Queue] = {}

    def seen(self, status: WorkerStatus, now: float) -> bool:
        """A worker told how it is. Returns whether its queue is new."""
        new = status.queue not in self.queues
        queue = self.queues.setdefault(status.queue, Queue(status.queue, first_seen=now))
        if status.leaving:
            queue.workers.pop(status.worker, None)
        else:
            queue.workers[status.worker] = Worker(status, now)
            queue.targets = status.targets or queue.targets
        queue.empty_since = None if queue.workers else (queue.empty_since or now)
        return new

    def checked(self, name: str, ready: int, consumers: int, now: float) -> None:
        """The broker's view. Without a consumer the workers are gone, however recent their status."""
        queue = self.queues.get(name)
        if queue is None:
            return
        queue.checked = now
        # A step just published may still show as ready; only what exceeds the flights is foreign.
        queue.ready = ready if ready > len(queue.flights) else 0
        if consumers == 0:
            for worker in list(queue.workers.values()):
                if now - worker.seen > 1.0:
                    del queue.workers[worker.status.worker]
            if not queue.workers:
                queue.empty_since = queue.empty_since or now

    def expire(self, now: float) -> None:
        """Forget workers that have been silent for too long."""
        for queue in self.queues.values():
            for worker in list(queue.workers.values()):
                if now - worker.seen > WORKER_SILENT:
                    del queue.workers[worker.status.worker]
            if not queue.workers:
                queue.empty_since = queue.empty_since or now

    def start(self, flight: Flight) -> None:
        """A step was published."""
        queue = self.queues.setdefault(flight.queue, Queue(flight.queue, first_seen=flight.since))
        queue.flights[flight.ref.id] = flight
        self._by_step[flight.ref.id] = queue

    def end(self, step: str) -> Flight | None:
        """The result of a step was seen, or the step was given up."""
        queue = self._by_step.pop(step, None)
        return queue.flights.pop(step, None) if queue else None

    def account(self, timing: Timing) -> None:
        """Add the work of a step to its queue's total."""
        queue = self.queues.get(timing.resource)
        if queue is not None:
            queue.steps += 1
            queue.busy += max(timing.finished - timing.started, 0.0)

    def in_flight(self, step: str) -> bool:
        return step in self._by_step

    def drop_flights(self) -> None:
        """Forget what is in flight: the connection was lost, and with it the count."""
        self._by_step.clear()
        for queue in self.queues.values():
            queue.flights.clear()

    def running(self) -> dict[str, str]:
        """Steps that workers say they are doing, with the queue."""
        return {
            worker.status.step: queue.name
            for queue in self.queues.values()
            for worker in queue.workers.values()
            if worker.status.step is not None
        }

    def serving(self, need: str) -> list[Queue]:
        """The queues that can take a step for ``need``, whether or not they live."""
        if not need.startswith("profile:"):
            queue = self.queues.get(need)
            return [queue] if queue else []
        target = need.removeprefix("profile:")
        return [queue for queue in self.queues.values() if target in queue.targets]

    def idle(self, need: str) -> Queue | None:
        """An idle queue for ``need``, the emptiest first."""
        return max(
            (q for q in self.serving(need) if q.free > 0), key=lambda q: (q.free, q.name), default=None
        )

    def canonical(self, target: str) -> str | None:
        """The canonical form of ``target`` as a device announces it (its first), or ``None``."""
        for queue in self.queues.values():
            if target in queue.targets:
                return queue.targets[0]
        return None

    def missing(self, now: float) -> Iterator[Flight]:
        """Flights that neither the broker nor any worker has had for :data:`MISSING_AFTER` seconds."""
        for queue in self.queues.values():
            doing = {worker.status.step for worker in queue.workers.values()}
            for flight in list(queue.flights.values()):
                fresh = queue.workers and queue.checked > flight.since
                if flight.ref.id in doing or queue.ready or not fresh:
                    flight.missing_since = None
                elif flight.missing_since is None:
                    flight.missing_since = now
                elif now - flight.missing_since > MISSING_AFTER:
                    yield flight

    def progress(self, now: float) -> list[ResourceProgress]:
        """All resources as a client sees them."""
        return [
            ResourceProgress(
                queue=queue.name,
                slots=queue.slots,
                workers=sorted(queue.workers),
                targets=queue.targets,
                running=sorted(queue.flights),
                busy=queue.busy,
                utilisation=queue.busy / max((now - queue.first_seen) * max(queue.slots, 1), 1e-9),
            )
            for queue in sorted(self.queues.values(), key=lambda q: q.name)
        ]
