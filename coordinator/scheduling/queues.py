"""A stage queue with its workers, and what its workers serve."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from tunemesh.coordinator.scheduling.heap import ChangingHeap
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.strategies import Ready
from tunemesh.shared.messages import Class, WorkerStatus

LATELY = 300.0
"""Seconds that count as lately."""

STRETCH = 10.0
"""Seconds whose work is counted together: less is not kept apart."""

DEVICE = "profile-"
"""How the names of devices' queues begin."""


@dataclass(slots=True)
class Flight:
    """A step that was published and whose result has not been seen. Moments are those of the resources' own
    clock."""

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


@dataclass(slots=True, eq=False)
class Pool:
    """Queues that serve the same needs."""

    kinds: tuple[str, ...]
    engines: frozenset[str]
    slots: int = 0
    """Of the live workers of all its queues."""
    queues: dict[str, Queue] = field(default_factory=dict)
    at_work: Counter[Class] = field(default_factory=Counter)
    """Steps in flight on all of them, by the class of who is charged."""
    idle: ChangingHeap[str] = field(default_factory=ChangingHeap)

    def serves(self, need: Need) -> bool:
        return need.kind in self.kinds and self.engines.issuperset(need.engines)


@dataclass(slots=True, eq=False)
class Queue:
    """A stage queue, its workers and its flights."""

    name: str
    first_seen: float
    empty_since: float | None
    """Since when it has had no worker that takes steps."""
    workers: dict[str, Worker] = field(default_factory=dict)
    flights: dict[str, Flight] = field(default_factory=dict)
    serves: tuple[str, ...] = ()
    """Engines that all its live workers serve; of a device the targets. Remembered while it has no worker."""
    ready: int = 0
    """Messages waiting in it at the last cross-check."""
    foreign: int = 0
    """Those of them that were more than the flights of that moment: somebody else's. A step that was just
    published still shows as waiting, and must not count once it is done."""
    checked: float = 0.0
    steps: int = 0
    busy: float = 0.0
    lately: deque[tuple[float, float]] = field(default_factory=deque)
    """Since when, and for how many seconds, it was busy, by stretches of :data:`STRETCH` seconds."""
    slowness: float = 1.0
    """How many times as long as usual steps take on it."""
    slots: int = 0
    """Of its live workers."""
    pool: Pool | None = None
    _announced: Counter[str] = field(default_factory=Counter)
    """How many of its live workers serve what."""

    @property
    def free(self) -> int:
        return self.slots - len(self.flights) - self.foreign

    @property
    def targets(self) -> list[str]:
        """What its device is, the canonical name first; none for queues without a device."""
        return list(self.serves) if self.name.startswith(DEVICE) else []

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of resource that it is: the queue of a device one for each name of its target."""
        if self.name.startswith(DEVICE):
            return tuple(f"profile:{target}" for target in self.serves)
        return (self.name.partition(".")[0],)

    @property
    def engines(self) -> frozenset[str]:
        """Those that it serves; none for devices, where it is the same which engine made a kernel."""
        return frozenset() if self.name.startswith(DEVICE) else frozenset(self.serves)

    @property
    def faults(self) -> list[str]:
        """Why its devices do not work."""
        return sorted({worker.status.fault for worker in self.workers.values()} - {""})

    @property
    def at_work(self) -> Counter[Class]:
        """Its flights by class."""
        return Counter(flight.ready.class_ for flight in self.flights.values())

    def worked(self, seconds: float, time: float) -> None:
        """A step of so many seconds has ended."""
        self.steps += 1
        self.busy += seconds
        if self.lately and time - self.lately[-1][0] < STRETCH:
            since, sofar = self.lately.pop()
            self.lately.append((since, sofar + seconds))
        else:
            self.lately.append((time, seconds))
        self._forget(time)

    def utilisation(self, time: float) -> float:
        """Share of the last :data:`LATELY` seconds, or of those since it is known, in which its workers were
        busy, steps in flight included."""
        self._forget(time)
        window = min(LATELY, time - self.first_seen)
        under_way = sum(min(time - flight.since, window) for flight in self.flights.values())
        worked = sum(seconds for _, seconds in self.lately) + under_way
        return min(worked / max(window * max(self.slots, 1), 1e-9), 1.0)

    def _forget(self, time: float) -> None:
        while self.lately and time - self.lately[0][0] > LATELY:
            self.lately.popleft()

    def heard(self, before: WorkerStatus | None, after: WorkerStatus | None) -> None:
        """One of its workers came, changed or went."""
        if before is not None:
            self.slots -= before.slots
            self._announced.subtract(self._offer(before))
        if after is not None:
            self.slots += after.slots
            self._announced.update(self._offer(after))
        self._announced = +self._announced
        if self.workers:
            # A step goes to any worker of a queue: what only some of them serve cannot be asked for.
            names = self._offer(after) if after is not None else self.serves
            by_all = [name for name in names if self._announced[name] == len(self.workers)]
            more = [name for name, count in self._announced.items() if count == len(self.workers)]
            self.serves = tuple(dict.fromkeys((*by_all, *more)))

    def _offer(self, status: WorkerStatus) -> tuple[str, ...]:
        serves = status.serves
        return tuple(dict.fromkeys(serves.targets if self.name.startswith(DEVICE) else serves.engines))
