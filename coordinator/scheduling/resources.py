"""Which workers live, what is in flight, and therefore which queues are idle.

A queue is *idle* while the steps in flight on it (published, result not yet seen) are fewer than the slots
of its live workers. The coordinator counts; a passive declare and the workers' status are the cross-check.
The idle queues of every need are kept in order, so that a thousand devices cost no more per step than one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tunemesh.coordinator.scheduling.heap import ChangingHeap
from tunemesh.coordinator.scheduling.strategies import Ready
from tunemesh.shared.messages import ResourceProgress, Timing, WorkerStatus

WORKER_SILENT = 8.0
"""Seconds without a status after which a worker counts as gone (four times the usual interval)."""

MISSING_AFTER = 15.0
"""Seconds after which a step that no queue and no worker has is taken for lost."""


@dataclass(slots=True)
class Flight:
    """A step that was published and whose result has not been seen."""

    ready: Ready
    queue: str
    since: float
    missing_since: float | None = None


@dataclass(slots=True)
class Worker:
    """The last that was heard of a worker."""

    status: WorkerStatus
    seen: float


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker that fell silent, and the step that it was doing."""

    worker: str
    queue: str
    step: str | None


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
    foreign: int = 0
    """Those of them that were more than the flights of that moment: somebody else's. A step that was just
    published still shows as waiting, and must not count once it is done."""
    checked: float = 0.0
    empty_since: float | None = None
    """Since when it has had no worker."""
    first_seen: float = 0.0
    steps: int = 0
    busy: float = 0.0
    slowness: float = 1.0
    """How many times as long as usual steps take on it."""
    slots: int = 0
    """Of its live workers."""

    @property
    def free(self) -> int:
        return self.slots - len(self.flights) - self.foreign

    @property
    def needs(self) -> list[str]:
        """What it can be asked for."""
        return [f"profile:{target}" for target in self.targets] or [self.name]


class Resources:
    """All stage queues."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self._by_step: dict[str, Queue] = {}
        self._idle: dict[str, ChangingHeap[str]] = {}
        self._slots: Counter[str] = Counter()
        self._shared: dict[tuple[str, str], bool] = {}
        self._lost: list[Lost] = []

    # -- What is seen ---------------------------------------------------------------------------------------

    def seen(self, status: WorkerStatus, now: float) -> bool:
        """A worker told how it is. Returns whether its queue is new."""
        new = status.queue not in self.queues
        queue = self.queues.setdefault(status.queue, Queue(status.queue, first_seen=now))
        if status.serves.targets and status.serves.targets != queue.targets:
            self._serve(queue, status.serves.targets)
        known = queue.workers.pop(status.worker, None)
        if not status.leaving:
            queue.workers[status.worker] = Worker(status, now)
        change = (0 if status.leaving else status.slots) - (known.status.slots if known is not None else 0)
        self._changed(queue, change, now)
        return new

    def checked(self, name: str, ready: int, consumers: int, now: float) -> None:
        """The broker's view. Without a consumer the workers are gone, however recent their status."""
        queue = self.queues.get(name)
        if queue is None:
            return
        queue.checked, queue.ready = now, ready
        queue.foreign = max(ready - len(queue.flights), 0)
        if consumers == 0:
            self._drop(queue, [w for w in queue.workers.values() if now - w.seen > 1.0], now)
        self._changed(queue, 0, now)

    def expire(self, now: float) -> None:
        """Forget workers that have been silent for too long."""
        for queue in self.queues.values():
            self._drop(queue, [w for w in queue.workers.values() if now - w.seen > WORKER_SILENT], now)

    def take_lost(self) -> list[Lost]:
        """The workers that were lost since this was last asked."""
        lost, self._lost = self._lost, []
        return lost

    def knows(self, worker: str, queue: str) -> bool:
        """Whether a worker of that queue is alive."""
        found = self.queues.get(queue)
        return found is not None and worker in found.workers

    def _drop(self, queue: Queue, gone: list[Worker], now: float) -> None:
        if not gone:
            return
        for worker in gone:
            del queue.workers[worker.status.worker]
            self._lost.append(Lost(worker.status.worker, queue.name, worker.status.step))
        self._changed(queue, -sum(worker.status.slots for worker in gone), now)

    def _serve(self, queue: Queue, targets: list[str]) -> None:
        """It serves other needs than before."""
        for need in queue.needs:
            self._slots[need] -= queue.slots
            self._idle.setdefault(need, ChangingHeap()).remove(queue.name)
        queue.targets = targets
        for need in queue.needs:
            self._slots[need] += queue.slots

    def _changed(self, queue: Queue, change: int, now: float) -> None:
        """It has ``change`` more slots than before."""
        queue.empty_since = None if queue.workers else (queue.empty_since or now)
        if change:
            queue.slots += change
            for need in queue.needs:
                self._slots[need] += change
            self._shared.clear()
        self._sort(queue)

    def _sort(self, queue: Queue) -> None:
        """Put it where it belongs among the idle ones: the fastest first, then the emptiest."""
        free = queue.free
        for need in queue.needs:
            heap = self._idle.setdefault(need, ChangingHeap())
            if free > 0:
                heap.put(queue.name, (round(queue.slowness, 2), -free, queue.name))
            else:
                heap.remove(queue.name)

    # -- What is in flight ----------------------------------------------------------------------------------

    def start(self, flight: Flight) -> None:
        """A step was published."""
        queue = self.queues.setdefault(flight.queue, Queue(flight.queue, first_seen=flight.since))
        queue.flights[flight.ready.step] = flight
        self._by_step[flight.ready.step] = queue
        self._sort(queue)

    def end(self, step: str) -> Flight | None:
        """The result of a step was seen, or the step was given up."""
        queue = self._by_step.pop(step, None)
        if queue is None:
            return None
        flight = queue.flights.pop(step, None)
        self._sort(queue)
        return flight

    def account(self, timing: Timing, slowness: float) -> None:
        """Add the work of a step to its queue's total."""
        queue = self.queues.get(timing.resource)
        if queue is not None:
            queue.steps += 1
            queue.busy += max(timing.finished - timing.started, 0.0)
            queue.slowness = slowness

    def in_flight(self, step: str) -> bool:
        return step in self._by_step

    def flights(self) -> Iterator[Flight]:
        """All steps in flight."""
        for queue in self.queues.values():
            yield from queue.flights.values()

    def drop_flights(self) -> None:
        """Forget what is in flight: the connection was lost, and with it the count."""
        self._by_step.clear()
        for queue in self.queues.values():
            queue.flights.clear()
            self._sort(queue)

    def running(self) -> dict[str, str]:
        """Steps that workers say they are doing, with the queue."""
        return {
            worker.status.step: queue.name
            for queue in self.queues.values()
            for worker in queue.workers.values()
            if worker.status.step is not None
        }

    def missing(self, now: float) -> Iterator[Flight]:
        """Flights that neither the broker nor any worker has had for :data:`MISSING_AFTER` seconds."""
        for queue in self.queues.values():
            if not queue.flights:
                continue
            doing = {worker.status.step for worker in queue.workers.values()}
            for flight in list(queue.flights.values()):
                fresh = queue.workers and queue.checked > flight.since
                if flight.ready.step in doing or queue.ready or not fresh:
                    flight.missing_since = None
                elif flight.missing_since is None:
                    flight.missing_since = now
                elif now - flight.missing_since > MISSING_AFTER:
                    yield flight

    # -- What is free ---------------------------------------------------------------------------------------

    def idle(self, need: str) -> Queue | None:
        """An idle queue for ``need``: the fastest, and of these the emptiest."""
        heap = self._idle.get(need)
        name = heap.least() if heap is not None else None
        return self.queues[name] if name is not None else None

    def least_loaded(self, need: str) -> Queue | None:
        """The live queue for ``need`` with the fewest flights per slot, idle or not."""
        live = [q for q in self.queues.values() if q.slots and need in q.needs]
        return min(live, key=lambda q: (len(q.flights) / q.slots, q.name), default=None)

    def slots(self, need: str) -> int:
        """Steps that the live workers for ``need`` can do at once."""
        return self._slots[need]

    def share_cores(self, one: str, other: str) -> bool:
        """Whether the workers for the two needs have fewer cores than slots together, on some host."""
        if (one, other) not in self._shared:
            self._shared[one, other] = self._find_shared(one, other)
        return self._shared[one, other]

    def _find_shared(self, one: str, other: str) -> bool:
        cores: dict[str, set[int]] = {}
        slots: dict[str, Counter[str]] = {}
        for queue in self.queues.values():
            for need in {one, other}.intersection(queue.needs):
                for worker in queue.workers.values():
                    status = worker.status
                    cores.setdefault(status.host, set()).update(status.cpus)
                    slots.setdefault(status.host, Counter())[need] += status.slots
        return any(
            len(used) == len({one, other}) and cores[host] and used.total() > len(cores[host])
            for host, used in slots.items()
        )

    def canonical(self, target: str) -> str | None:
        """The canonical form of ``target`` as a device announces it (its first), or ``None``."""
        for queue in self.queues.values():
            if target in queue.targets:
                return queue.targets[0]
        return None

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
                drift=max((w.status.drift for w in queue.workers.values()), default=0.0),
            )
            for queue in sorted(self.queues.values(), key=lambda q: q.name)
        ]
