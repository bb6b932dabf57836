"""Which workers live, what is in flight, and therefore which queues are idle.

A queue is *idle* while the steps in flight on it (published, result not yet seen) are fewer than the slots
of its live workers. The coordinator counts; a passive declare and the workers' status are the cross-check.
Queues that serve the same needs form a *pool*, whose idle queues are kept in order, so that a thousand
devices cost no more per step than one.

``now`` is in seconds everywhere, and only its differences count: see :mod:`coordinator.scheduling.clock`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tunemesh.coordinator.scheduling.clock import Clock
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.queues import Flight, Lost, Pool, Queue, Worker
from tunemesh.coordinator.scheduling.strategies import Ready
from tunemesh.shared.messages import Device, ResourceProgress, WorkerStatus

WORKER_SILENT = 8.0
"""Seconds without a status after which a worker counts as gone (four times the usual interval)."""

MISSING_AFTER = 15.0
"""Seconds after which a step that no queue and no worker has is taken for lost."""

LOST_AFTER = 3.0
"""Seconds after which the steps of a queue without a worker go to another queue."""

FORGET_AFTER = 600.0
"""Seconds after which a queue without workers and steps is forgotten."""

SLOWNESS_DIGITS = 2
"""Of the slowness by which queues are compared: less is noise."""

SHARED_KEPT = 256
"""Answers to :meth:`Resources.share_cores` that are kept."""


class Resources:
    """All stage queues."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self._clock = Clock()
        self._by_step: dict[str, Queue] = {}
        self._pools: dict[str, list[Pool]] = {}
        """By kind of resource."""
        self._shared: dict[tuple[Need, Need], bool] = {}
        self._lost: list[Lost] = []

    # -- What is seen ---------------------------------------------------------------------------------------

    def seen(self, status: WorkerStatus, now: float) -> bool:
        """A worker told how it is. Returns whether its queue is new."""
        time = self._clock.read(now)
        new = status.queue not in self.queues
        if new and status.leaving:
            return False
        queue = self._queue(status.queue, time)
        known = queue.workers.pop(status.worker, None)
        if not status.leaving:
            queue.workers[status.worker] = Worker(status, time)
        self._heard(queue, known.status if known else None, None if status.leaving else status, time)
        return new

    def checked(self, name: str, ready: int, consumers: int, now: float) -> None:
        """The broker's view. Without a consumer the workers are gone, however recent their status."""
        time = self._clock.read(now)
        queue = self.queues.get(name)
        if queue is None:
            return
        queue.checked, queue.ready = time, ready
        queue.foreign = max(ready - len(queue.flights), 0)
        if consumers == 0:
            # One whose device does not work says so, and consumes nothing.
            gone = [w for w in queue.workers.values() if time - w.seen > 1.0 and not w.status.fault]
            self._drop(queue, gone, time)
        self._sort(queue)

    def deleted(self, name: str, now: float) -> None:
        """A queue is not there any more. Its workers wait for it, and are lost to nobody."""
        time = self._clock.read(now)
        queue = self.queues.get(name)
        if queue is None:
            return
        queue.checked, queue.ready, queue.foreign = time, 0, 0
        for worker in list(queue.workers.values()):
            self._remove(queue, worker, time)
        self._sort(queue)

    def expire(self, now: float) -> None:
        """Forget workers that have been silent for too long, and queues that nothing is left of."""
        time = self._clock.read(now)
        for queue in list(self.queues.values()):
            self._drop(queue, [w for w in queue.workers.values() if time - w.seen > WORKER_SILENT], time)
            empty_since = queue.empty_since
            unused = not (queue.workers or queue.flights)
            if unused and empty_since is not None and time - empty_since > FORGET_AFTER:
                self._leave_pool(queue)
                del self.queues[queue.name]

    def take_lost(self) -> list[Lost]:
        """The workers that were lost since this was last asked."""
        lost, self._lost = self._lost, []
        return lost

    def fault_of(self, worker: str, queue: str) -> str:
        """Why the device of a worker did not work when it was heard of last; empty where it did."""
        found = self.queues.get(queue)
        known = found.workers.get(worker) if found is not None else None
        return known.status.fault if known is not None else ""

    def faults(self, kind: str) -> list[str]:
        """Why devices of a kind of resource do not work, each with its queue."""
        pools = self._pools.get(kind, ())
        queues = sorted((queue for pool in pools for queue in pool.queues.values()), key=lambda q: q.name)
        return [f"{queue.name}: {fault}" for queue in queues for fault in queue.faults]

    def knows(self, worker: str, queue: str) -> bool:
        """Whether a worker of that queue is alive."""
        found = self.queues.get(queue)
        return found is not None and worker in found.workers

    def _queue(self, name: str, time: float) -> Queue:
        """A queue, made if it is not there."""
        if name not in self.queues:
            self.queues[name] = Queue(name, first_seen=time, empty_since=time)
            self._join_pool(self.queues[name])
        return self.queues[name]

    def _drop(self, queue: Queue, gone: list[Worker], time: float) -> None:
        for worker in gone:
            self._lost.append(Lost(worker.status.worker, queue.name, worker.status.step))
            self._remove(queue, worker, time)

    def _remove(self, queue: Queue, worker: Worker, time: float) -> None:
        del queue.workers[worker.status.worker]
        self._heard(queue, worker.status, None, time)

    def _heard(
        self, queue: Queue, before: WorkerStatus | None, after: WorkerStatus | None, time: float
    ) -> None:
        """One of its workers came, changed or went."""
        if before is not None and after is not None and _same_for_us(before, after):
            return
        slots, served = queue.slots, queue.serves
        queue.heard(before, after)
        if queue.slots:
            queue.empty_since = None
        elif queue.empty_since is None:
            queue.empty_since = time
        if queue.pool is not None:
            queue.pool.slots += queue.slots - slots
        if queue.serves != served:
            self._leave_pool(queue)
            self._join_pool(queue)
        self._shared.clear()
        self._sort(queue)

    def _join_pool(self, queue: Queue) -> None:
        kinds, engines = queue.kinds, queue.engines
        for pool in self._pools.get(kinds[0], ()) if kinds else ():
            if (pool.kinds, pool.engines) == (kinds, engines):
                break
        else:
            pool = Pool(kinds, engines)
            for kind in kinds:
                self._pools.setdefault(kind, []).append(pool)
        pool.queues[queue.name] = queue
        pool.slots += queue.slots
        pool.at_work += queue.at_work
        queue.pool = pool
        self._sort(queue)

    def _leave_pool(self, queue: Queue) -> None:
        pool, queue.pool = queue.pool, None
        if pool is None:
            return
        del pool.queues[queue.name]
        pool.slots -= queue.slots
        pool.at_work -= queue.at_work
        pool.idle.remove(queue.name)
        if not pool.queues:
            for kind in pool.kinds:
                self._pools[kind].remove(pool)
                if not self._pools[kind]:
                    del self._pools[kind]

    def _sort(self, queue: Queue) -> None:
        """Put it where it belongs among the idle ones: the fastest first, then the emptiest."""
        if queue.pool is None:
            return
        if queue.free > 0:
            queue.pool.idle.put(queue.name, (round(queue.slowness, SLOWNESS_DIGITS), -queue.free, queue.name))
        else:
            queue.pool.idle.remove(queue.name)

    # -- What is in flight ----------------------------------------------------------------------------------

    def start(self, ready: Ready, name: str, now: float) -> None:
        """A step was published to a queue."""
        time = self._clock.read(now)
        queue = self._queue(name, time)
        if queue.pool is not None:
            queue.pool.at_work[ready.class_] += 1
        queue.flights[ready.step] = Flight(ready, name, time)
        self._by_step[ready.step] = queue
        self._sort(queue)

    def end(self, step: str) -> Flight | None:
        """The result of a step was seen, or the step was given up."""
        queue = self._by_step.pop(step, None)
        if queue is None:
            return None
        flight = queue.flights.pop(step, None)
        if flight is not None and queue.pool is not None:
            queue.pool.at_work[flight.ready.class_] -= 1
        self._sort(queue)
        return flight

    def elapsed(self, flight: Flight, now: float) -> float:
        """Seconds since a step was published."""
        return self._clock.read(now) - flight.since

    def account(self, name: str, seconds: float, slowness: float, now: float) -> None:
        """Add the work of a step that has ended to that of its queue. ``slowness``: as it is known now."""
        queue = self.queues.get(name)
        if queue is not None:
            queue.worked(seconds, self._clock.read(now))
            moved = round(queue.slowness, SLOWNESS_DIGITS) != round(slowness, SLOWNESS_DIGITS)
            queue.slowness = slowness
            if moved:
                self._sort(queue)

    def in_flight(self, step: str) -> bool:
        return step in self._by_step

    def queue_of(self, step: str) -> str | None:
        """The queue on which a step is in flight."""
        queue = self._by_step.get(step)
        return queue.name if queue is not None else None

    def flights(self) -> Iterator[Flight]:
        """All steps in flight."""
        for queue in self.queues.values():
            yield from queue.flights.values()

    def drop_flights(self) -> None:
        """Forget what is in flight: the connection was lost, and with it the count."""
        self._by_step.clear()
        for queue in self.queues.values():
            if queue.pool is not None:
                queue.pool.at_work -= queue.at_work
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
        time = self._clock.read(now)
        for queue in self.queues.values():
            if not queue.flights:
                continue
            doing = {worker.status.step for worker in queue.workers.values()}
            for flight in list(queue.flights.values()):
                fresh = queue.workers and queue.checked > flight.since
                if flight.ready.step in doing or queue.ready or not fresh:
                    flight.missing_since = None
                elif flight.missing_since is None:
                    flight.missing_since = time
                elif time - flight.missing_since > MISSING_AFTER:
                    yield flight

    def deserted(self, now: float) -> list[Queue]:
        """Queues with steps in flight but no worker for :data:`LOST_AFTER` seconds, where others could do
        some of these steps. Where none could, they stay until a worker is back."""
        time = self._clock.read(now)
        return [
            queue
            for queue in self.queues.values()
            if queue.flights
            and queue.empty_since is not None
            and time - queue.empty_since > LOST_AFTER
            and any(self.slots(flight.ready.need) for flight in queue.flights.values())
        ]

    # -- What is free ---------------------------------------------------------------------------------------

    def idle(self, need: Need) -> Queue | None:
        """An idle queue for ``need``: the fastest, and of these the emptiest."""
        best: tuple[float, int, str] | None = None
        for pool in self._pools.get(need.kind, ()):
            name = pool.idle.least() if pool.serves(need) else None
            if name is not None and (best is None or pool.idle.key(name) < best):
                best = pool.idle.key(name)
        return self.queues[best[2]] if best is not None else None

    def least_loaded(self, need: Need) -> Queue | None:
        """The live queue for ``need`` with the fewest flights per slot, idle or not."""
        return min(self.live(need), key=lambda q: (len(q.flights) / q.slots, q.name), default=None)

    def live(self, need: Need) -> list[Queue]:
        """The queues for ``need`` that have workers."""
        return [q for pool in self._pools_for(need) for q in pool.queues.values() if q.slots]

    def workers_for(self, need: Need) -> set[str]:
        """The live workers for ``need``."""
        return {worker for queue in self.live(need) for worker in queue.workers}

    def slots(self, need: Need) -> int:
        """Steps that the live workers for ``need`` can do at once."""
        slots = 0
        for pool in self._pools.get(need.kind, ()):
            if pool.serves(need):
                slots += pool.slots
        return slots

    def compete(self, one: Need, other: Need) -> bool:
        """Whether some live worker serves both needs."""
        return any(pool.slots and pool.serves(other) for pool in self._pools_for(one))

    def served_engines(self, kind: str) -> list[str]:
        """Engines that the live workers of a kind of resource serve, in alphabetical order."""
        return sorted({engine for pool in self._pools.get(kind, ()) if pool.slots for engine in pool.engines})

    def common_engines(self, one: str, other: str) -> list[str]:
        """Engines that a model can be given to, in alphabetical order: served by workers of one kind of
        resource, all by the same ones, and each of them by some of the ``other`` kind. Of several such sets
        the one with most engines, and of these the one that most workers serve."""
        others = set(self.served_engines(other))
        pools = [(pool.engines & others, pool.slots) for pool in self._pools.get(one, ()) if pool.slots]
        return max(
            (sorted(engines) for engines, _ in sorted(pools, key=lambda each: -each[1])), key=len, default=[]
        )

    def served_targets(self) -> list[str]:
        """Targets of all devices that are known, lost ones too, by their canonical names."""
        return sorted({queue.targets[0] for queue in self.queues.values() if queue.targets})

    def live_targets(self) -> list[tuple[list[str], int]]:
        """All names of each target that live devices serve, the canonical one first, and how many of these
        there are."""
        found: dict[str, tuple[dict[str, None], int]] = {}
        for queue in self.queues.values():
            if queue.targets and queue.slots:
                names, count = found.get(queue.targets[0], ({}, 0))
                names.update(dict.fromkeys(queue.targets))
                found[queue.targets[0]] = names, count + 1
        return [(list(names), count) for _, (names, count) in sorted(found.items())]

    def devices_of(self, target: str) -> list[Device]:
        """What the live devices of a target are, each kind once."""
        pools = self._pools.get(f"profile:{target}", ())
        queues = [queue for pool in pools for queue in pool.queues.values()]
        devices = [worker.status.serves.device for queue in queues for worker in queue.workers.values()]
        found = {(each.conditions.id, each.cache): each for each in devices if each is not None}
        return [found[name] for name in sorted(found)]

    def canonical(self, target: str) -> str | None:
        """The canonical form of ``target`` as a device announces it (its first), or ``None``."""
        for pool in self._pools.get(f"profile:{target}", ()):
            return pool.kinds[0].partition(":")[2]
        return None

    def share_cores(self, one: Need, other: Need) -> bool:
        """Whether the workers for the two needs have fewer cores than slots together, on some host."""
        if (one, other) not in self._shared:
            if len(self._shared) >= SHARED_KEPT:
                self._shared.clear()
            self._shared[one, other] = self._find_shared(one, other)
        return self._shared[one, other]

    def _find_shared(self, one: Need, other: Need) -> bool:
        cores: dict[str, set[int]] = {}
        slots: dict[str, Counter[Need]] = {}
        for need in {one, other}:
            for pool in self._pools_for(need):
                for queue in pool.queues.values():
                    for worker in queue.workers.values():
                        status = worker.status
                        cores.setdefault(status.host, set()).update(status.cpus)
                        slots.setdefault(status.host, Counter())[need] += status.slots
        return any(
            len(used) == len({one, other}) and cores[host] and used.total() > len(cores[host])
            for host, used in slots.items()
        )

    def _pools_for(self, need: Need) -> list[Pool]:
        return [pool for pool in self._pools.get(need.kind, ()) if pool.serves(need)]

    def progress(self, now: float) -> list[ResourceProgress]:
        """All resources as a client sees them."""
        time = self._clock.read(now)
        return [
            ResourceProgress(
                queue=queue.name,
                slots=queue.slots,
                workers=sorted(queue.workers),
                targets=queue.targets,
                engines=sorted(queue.engines),
                running=sorted(queue.flights),
                busy=queue.busy,
                utilisation=queue.utilisation(time),
                hosts=sorted({worker.status.host for worker in queue.workers.values()}),
                drift=max((w.status.drift for w in queue.workers.values()), default=0.0),
                cages=sorted({worker.status.cage for worker in queue.workers.values()} - {""}),
                faults=queue.faults,
            )
            for queue in sorted(self.queues.values(), key=lambda q: q.name)
        ]


def _same_for_us(one: WorkerStatus, other: WorkerStatus) -> bool:
    """Whether a worker can be given the same as before."""
    return (one.slots, one.serves, one.host, one.cpus) == (other.slots, other.serves, other.host, other.cpus)
