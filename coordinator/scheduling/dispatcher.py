"""From due steps to published ones: what is ready, what is in flight, how often it was sent before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import msgspec

from tunemesh.coordinator.scheduling.needs import Need, Tally
from tunemesh.coordinator.scheduling.queues import Flight, Pool, Queue
from tunemesh.coordinator.scheduling.recent import Recent
from tunemesh.coordinator.scheduling.resources import Resources
from tunemesh.coordinator.scheduling.strategies import CLASSES, Ready, Strategy
from tunemesh.shared.messages import Class

TURNS_KEPT = 1024
"""Needs of which it is kept when they had their last turn. Those whose turn was longest ago are left out,
which changes nothing: they are first."""


ATTEMPTS_KEPT = 10_000
"""Steps that were lost of which it is kept how often."""


DEVICE_KIND = "profile:"

GOLD: frozenset[Class] = frozenset({"gold"})
UNTIL_FULL: frozenset[Class] = frozenset({"gold", "standard"})
SPARE: frozenset[Class] = frozenset({"spare"})


class Send(msgspec.Struct, frozen=True):
    """A step is to be published to a queue, and counts as in flight there from now on."""

    queue: str
    step: str
    """Its id."""
    job: str
    attempt: int
    """How often it was sent before."""


class Dispatcher:
    """The ready steps of all jobs, in the order of a strategy, and the resources they wait for. It is also
    the :class:`~coordinator.scheduling.strategies.Load` that strategies see.

    Args:
        reserved: share of the devices of each target that is kept for jobs of class gold.
    """

    def __init__(self, strategy: Strategy, resources: Resources, reserved: float = 0.0) -> None:
        self._reserved = reserved
        self.now = 0.0
        """When queues were filled last; see :class:`~coordinator.scheduling.strategies.Load`."""
        self.strategy = strategy
        self.resources = resources
        self._ready: dict[str, tuple[Ready, ...]] = {}
        """By step: as it is on each account that it may run on, its own job's first."""
        self._attempts: Recent[str, int] = Recent(ATTEMPTS_KEPT)
        self._avoided: Recent[str, frozenset[str]] = Recent(ATTEMPTS_KEPT)
        """By step: queues whose workers did not do it right."""
        self._apart: dict[str, Ready] = {}
        """Ready steps that may not go to every queue. The strategy does not know them."""
        self._urgent: dict[Need, dict[str, Ready]] = {}
        """Ready steps that go first, by need, the oldest first. The strategy does not know these, either."""
        self._orders = 0
        self._steps: dict[str, dict[str, None]] = {}
        """By job: its steps that are ready or in flight."""
        self._needs: dict[str, Tally] = {}
        """By job: what these steps need."""
        self._work = Tally()
        """Predicted seconds of all of them."""
        self._added: dict[str, Counter[Need]] = {}
        """By account: the needs of the steps that were added to the strategy and not taken."""
        self._waiting = Tally()
        """All of these."""
        self._turns: dict[Need, int] = {}
        """How many steps were sent when a need had its last turn, the latest last."""
        self._sent = 0

    # -- What strategies see --------------------------------------------------------------------------------

    def slots(self, need: Need) -> int:
        """See :class:`~coordinator.scheduling.strategies.Load`, also for the next three."""
        return self.resources.slots(need)

    def supply(self, need: Need) -> float:
        return self._work.seconds(need, self.resources.slots(need), self.resources.compete)

    def compete(self, one: Need, other: Need) -> bool:
        return self.resources.compete(one, other)

    def share_cores(self, one: Need, other: Need) -> bool:
        return self.resources.share_cores(one, other)

    def free(self, need: Need) -> int:
        """Of the slots for a need, those for which no step is ready or in flight."""
        return max(self.slots(need) - self._work.count(need, self.resources.compete), 0)

    @property
    def needs(self) -> list[Need]:
        """Needs of all steps that are ready or in flight."""
        return sorted(self._work)

    # -- Ready, started, ended ------------------------------------------------------------------------------

    def switch(self, strategy: Strategy) -> None:
        """Go on with another strategy."""
        self.strategy = strategy
        self._added, self._waiting = {}, Tally()
        for flight in self.resources.flights():
            strategy.started(flight.ready)
        self._urgent = {}
        for bids in sorted(self._ready.values(), key=lambda bids: _order(bids[0])):
            if bids[0].step not in self._apart:
                self._offer(bids)

    def has(self, step: str) -> bool:
        """Whether a step is ready or in flight."""
        return step in self._ready or self.resources.in_flight(step)

    def waiting(self, most: int, among: Collection[str] | None = None) -> dict[str, dict[str, int]]:
        """Steps that are due and were not sent, by kind of resource and by job: of each kind for so many jobs
        at most, those with most of them. With ``among`` only of these jobs."""
        found: dict[str, Counter[str]] = {}
        for bids in self._ready.values():
            if among is not None and bids[0].job not in among:
                continue
            found.setdefault(bids[0].need.kind, Counter())[bids[0].job] += 1
        return {kind: dict(jobs.most_common(most)) for kind, jobs in sorted(found.items())}

    def make_ready(self, ready: Ready, *lent: Ready) -> None:
        """A step is due. Nothing happens if it is ready or in flight already.

        Args:
            ready: the step on the account of its own job.
            lent: the same on accounts of others. It runs when the first of all has its turn, and is charged
                to that one.
        """
        if self.has(ready.step):
            return
        bids = tuple(map(self._numbered, (ready, *lent)))
        self._ready[ready.step] = bids
        self._count(bids[0], 1)
        if self._avoided.get(ready.step):
            self._apart[ready.step] = bids[0]
        else:
            self._offer(bids)

    def _offer(self, bids: tuple[Ready, ...]) -> None:
        """A step is to be sent before others, or when the strategy says so. A strategy that has one step at a
        time is not gone around."""
        first = bids[0]
        if first.urgent and self.strategy.overlaps:
            self._urgent.setdefault(first.need, {})[first.step] = first
            return
        for each in bids:
            self._add(each)

    def is_running(self, ready: Ready, queue: str, now: float) -> None:
        """A worker was found to be at this step already."""
        ready = self._numbered(ready)
        self._count(ready, 1)
        self.strategy.started(ready)
        self.resources.start(ready, queue, now)

    def fill(self, now: float) -> Iterator[Send]:
        """Steps for every idle queue, until all are busy or nothing is left for them."""
        self.now = now
        yield from self._fill_others(now)
        yield from self._fill_urgent(now)
        for need in sorted(self._waiting):
            while (queue := self._open_queue(need)) is not None:
                ready = self._take(queue)
                if ready is None:
                    break
                self._sent += 1
                self._turns.pop(ready.need, None)
                self._turns[ready.need] = self._sent
                if len(self._turns) > TURNS_KEPT:
                    del self._turns[next(iter(self._turns))]
                yield self._send(ready, queue, now)

    def _fill_others(self, now: float) -> Iterator[Send]:
        """The same for steps that avoid some queues, as long as another one serves them. They go first: there
        are few of them, and their jobs wait for them."""
        for ready in list(self._apart.values()):
            avoided = self._avoided.get(ready.step) or frozenset()
            live = [queue for queue in self.resources.live(ready.need) if queue.name not in avoided]
            free = [queue for queue in live if queue.free > 0 or not self.strategy.controlled]
            if not live:
                del self._apart[ready.step]
                self._add(ready)
            elif free:
                del self._apart[ready.step]
                queue = min(free, key=lambda queue: (len(queue.flights) / queue.slots, queue.name))
                yield self._send(ready, queue, now)

    def _fill_urgent(self, now: float) -> Iterator[Send]:
        """The same for steps that go first. They are charged to their jobs like others."""
        for need in list(self._urgent):
            while (steps := self._urgent.get(need)) and (queue := self._open_queue(need)) is not None:
                yield self._send(steps[next(iter(steps))], queue, now)

    def _send(self, ready: Ready, queue: Queue, now: float) -> Send:
        del self._ready[ready.step]
        self._drop_urgent(ready)
        self.strategy.started(ready)
        self.resources.start(ready, queue.name, now)
        return Send(queue.name, ready.step, ready.job, self.attempts(ready.step))

    def _open_queue(self, need: Need) -> Queue | None:
        return self.resources.idle(need) if self.strategy.controlled else self.resources.least_loaded(need)

    def _take(self, queue: Queue) -> Ready | None:
        """The step to start on a queue now. The needs that it serves take turns, so that none starves."""
        pool = queue.pool
        if pool is None:
            return None
        served = [need for kind in pool.kinds for need in self._waiting.of_kind(kind) if pool.serves(need)]
        for need in sorted(served, key=lambda need: (self._turns.get(need, 0), need)):
            for classes in self._may_have(pool, need):
                while (ready := self.strategy.take(need, self, queue.slowness, classes)) is not None:
                    self._taken(ready)
                    if any(each is ready for each in self._ready.get(ready.step, ())):
                        return ready
                    # Its result came after all, from a worker that was thought lost; or it runs on another
                    # account.
        return None

    def _may_have(self, pool: Pool, need: Need) -> list[frozenset[Class]]:
        """Whose step may go to a free queue of a pool, in this order. Of the devices of a target a share is
        kept for gold. A standard step is not sent to the last of them, a spare one only where it keeps nobody
        waiting."""
        if not self._reserved or not need.kind.startswith(DEVICE_KIND):
            return [CLASSES]
        # One device is for everybody.
        kept = min(int(self._reserved * pool.slots + 0.5), pool.slots - 1)
        order = [GOLD] if pool.at_work["gold"] < kept else []
        order.append(UNTIL_FULL if pool.at_work["standard"] < pool.slots - kept else GOLD)
        return [*order, SPARE]

    def ended(self, step: str, seconds: float) -> Flight | None:
        """The result of a step is here, after ``seconds`` of work: it is neither in flight nor ready any
        more."""
        self._unready(step)
        self._attempts.drop(step)
        self._avoided.drop(step)
        return self._land(step, seconds)

    def lost(self, step: str) -> Flight | None:
        """A step in flight will not come back; it may be made ready again, as a further attempt."""
        flight = self._land(step, None)
        if flight is not None:
            self._attempts.put(step, self.attempts(step) + 1)
        return flight

    def attempts(self, step: str) -> int:
        """How often a step was lost."""
        return self._attempts.get(step) or 0

    def avoid(self, step: str, queue: str) -> None:
        """The workers of a queue do not do a step right: others are to do it, if there are any."""
        self._avoided.put(step, (self._avoided.get(step) or frozenset()) | {queue})

    def forget(self, job: str) -> None:
        """The job has ended: its ready steps are dropped, those in flight run out. Steps of other jobs
        that could run on its account have theirs."""
        self.strategy.forget(job)
        for need, count in self._added.pop(job, Counter()).items():
            for _ in range(count):
                self._waiting.remove(need, 0.0)
        self.withdraw(job)

    def withdraw(self, job: str) -> None:
        """The job's ready steps are not due any more, or have to be made ready again."""
        for step in list(self._steps.get(job, ())):
            self._unready(step)

    def needs_of(self, job: str) -> list[Need]:
        """What the job's steps, ready or in flight, need."""
        return sorted(self._needs.get(job, ()))

    def running(self, job: str) -> list[str]:
        """The job's steps in flight."""
        return [step for step in self._steps.get(job, ()) if self.resources.in_flight(step)]

    def alone(self, job: str) -> bool:
        """Whether no other job has a step that is ready or in flight."""
        return len(self._steps) <= (job in self._steps)

    def others(self, job: str, need: Need) -> float:
        """Predicted seconds until the workers for a need have done what other jobs have for them."""
        own = self._needs.get(job)
        mine = own.seconds(need, self.slots(need), self.resources.compete) if own is not None else 0.0
        return max(self.supply(need) - mine, 0.0)

    def next_free(self, job: str, need: Need) -> float:
        """Predicted seconds until a worker for a need is free of the steps of other jobs, for who goes
        first."""
        queues = self.resources.live(need)
        if not queues or any(queue.free > 0 for queue in queues):
            return 0.0
        flights = [flight.ready for queue in queues for flight in queue.flights.values()]
        longest = max((ready.seconds for ready in flights if ready.job != job), default=0.0)
        return longest / self.slots(need)

    def _unready(self, step: str) -> None:
        bids = self._ready.pop(step, None)
        if bids is not None:
            self._apart.pop(step, None)
            self._drop_urgent(bids[0])
            self._count(bids[0], -1)

    def _drop_urgent(self, ready: Ready) -> None:
        steps = self._urgent.get(ready.need, {})
        if steps.pop(ready.step, None) is not None and not steps:
            del self._urgent[ready.need]

    def _land(self, step: str, seconds: float | None) -> Flight | None:
        flight = self.resources.end(step)
        if flight is not None:
            self._count(flight.ready, -1)
            self.strategy.ended(flight.ready, seconds)
        return flight

    def _add(self, ready: Ready) -> None:
        self._added.setdefault(ready.account, Counter())[ready.need] += 1
        self._waiting.add(ready.need, 0.0)
        self.strategy.add(ready)

    def _taken(self, ready: Ready) -> None:
        added = self._added[ready.account]
        added[ready.need] -= 1
        if not added[ready.need]:
            del added[ready.need]
            if not added:
                del self._added[ready.account]
        self._waiting.remove(ready.need, 0.0)

    def _count(self, ready: Ready, change: int) -> None:
        """Note that a step has come or gone."""
        steps = self._steps.setdefault(ready.job, {})
        needs = self._needs.setdefault(ready.job, Tally())
        if change > 0:
            self._work.add(ready.need, ready.seconds)
            needs.add(ready.need, ready.seconds)
            steps[ready.step] = None
            return
        self._work.remove(ready.need, ready.seconds)
        needs.remove(ready.need, ready.seconds)
        steps.pop(ready.step, None)
        if not steps:
            del self._steps[ready.job], self._needs[ready.job]

    def _numbered(self, ready: Ready) -> Ready:
        self._orders += 1
        return msgspec.structs.replace(ready, order=self._orders)


def _order(ready: Ready) -> int:
    return ready.order
