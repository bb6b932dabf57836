"""The pure core: ``handle(event, now) -> [instruction]``. It routes events to those that deal with them.

Rules, in prose:

1. **Nothing is kept.** Whatever the core knows comes from deliveries that it holds. On :class:`Connected` it
   forgets everything, and rebuilds it from what is delivered again.
2. **Decide, save, act.** Every decision that must not be taken twice (accepting a job, granting trials to a
   task, moving to the next phase) is a new ledger revision: see :mod:`coordinator.lifecycle`.
3. **Steps are derived, not remembered.** ``jobs.steps.open_steps`` says which steps are due; those that are
   neither in flight nor ready become ready. So losing a step is mended by looking again.
4. **Duplicates are dropped.** Ids are deterministic; a second result is acknowledged and ignored.
5. **Settling.** After connecting, the core waits until the requeued messages and the status of the workers
   have come in before it takes any decision.
6. **Nothing that arrives stops it.** What makes no sense is set aside with the reason. What still goes wrong
   while one message is handled fails one job: see :meth:`coordinator.lifecycle.Lifecycle.guarded`.

No clock, no chance, no IO: ``now`` is an argument, in seconds of a clock that never jumps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tunemesh.broker_config.topology import BUILD_CPU, MODEL_UPDATE
from tunemesh.coordinator.events import (
    Arrived,
    CaughtUp,
    Connected,
    Declare,
    DispatchFailed,
    Event,
    Garbled,
    Instruction,
    QueueMissing,
    QueueSeen,
    SaveFailed,
    Tick,
    Unreadable,
    WorkerSeen,
)
from tunemesh.coordinator.gate import Gate
from tunemesh.coordinator.jobs import steps
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.coordinator.jobs.limits import Limits
from tunemesh.coordinator.lessons import Lessons, is_lesson
from tunemesh.coordinator.lifecycle import Lifecycle
from tunemesh.coordinator.mishaps import Mishaps
from tunemesh.coordinator.requests import Requests
from tunemesh.coordinator.results import Results
from tunemesh.coordinator.scheduling import strategies
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.resources import Resources
from tunemesh.coordinator.state import State
from tunemesh.coordinator.upkeep import Upkeep
from tunemesh.shared.messages import Learn, Query, SetStrategy, StepResult, WorkerStatus

SETTLE = 5.0
"""Seconds to wait for workers' status after connecting, when there are jobs to recover."""

TOLD_AGAIN = 100
"""Ended jobs of which it is told again, after a restart, how they ended."""

SETTLE_EMPTY = 0.3
"""Seconds to wait after connecting when no job was delivered."""


class Core:
    """All decisions of the coordinator.

    Args:
        strategy: its name, as :func:`~coordinator.scheduling.strategies.by_name` takes it. A
            :class:`SetStrategy` that is held by the broker overrides it.
        prices: of queues, see :mod:`coordinator.jobs.prices`.
        reserved: see :class:`~coordinator.scheduling.dispatcher.Dispatcher`.
        learn_after: see :class:`~coordinator.lessons.Lessons`.
        limits: of tenants, see :mod:`coordinator.jobs.limits`.
        make: makes a strategy from its name.

    Raises:
        BadInput: there is no such strategy.
    """

    def __init__(
        self,
        strategy: str,
        make: Callable[[str], strategies.Strategy] = strategies.by_name,
        prices: Mapping[str, float] | None = None,
        reserved: float = 0.0,
        learn_after: int = 0,
        limits: Mapping[str, Limits] | None = None,
    ) -> None:
        make(strategy)
        self._prices = prices or {}
        self._reserved = reserved
        self._learn_after = learn_after
        self._limits = limits or {}
        self._first_strategy = strategy
        self._make_strategy = make
        self._resources = Resources()
        self._settling_since: float | None = None
        self._forget()

    @property
    def jobs(self) -> dict[str, Job]:
        """By id; for views and tests."""
        return self._state.jobs

    @property
    def resources(self) -> Resources:
        """For views and tests."""
        return self._resources

    @property
    def state(self) -> State:
        """For views and tests."""
        return self._state

    @property
    def settled(self) -> bool:
        """Whether it takes decisions: not before all that was there has come again."""
        return self._settling_since is None

    @property
    def strategy(self) -> str:
        """The name of the strategy at work."""
        return self._state.dispatcher.strategy.name

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event at time ``now`` and say what to do."""
        self._state.now = now
        handle = event.handle if isinstance(event, Arrived) else None
        self._lifecycle.guarded(_job_of(event), self._route, event, handle=handle)
        if self._settling_since is None:
            self._wake()
            self._lifecycle.guarded(None, self._dispatch)
        out, self._state.out = self._state.out, []
        return out

    def _route(self, event: Event) -> None:
        state = self._state
        match event:
            case Arrived() if self._settling_since is not None:
                self._settle(event)
            case Arrived():
                self._arrived(event)
            case Garbled():
                self._gate.garbled(event)
            case WorkerSeen(status):
                self._worker_seen(status)
            case QueueSeen(queue, ready, consumers):
                if state.missing.pop(queue, None) is not None:
                    state.log("info", f"queue {queue} is there again")
                self._resources.checked(queue, ready, consumers, state.now)
            case QueueMissing(queue, cause, refused):
                self._upkeep.queue_missing(queue, cause, refused)
            case Unreadable(step, reason, nonce):
                if self._resources.in_flight(step) and self._results.holds(step, nonce):
                    self._mishaps.senseless(step, "a worker", reason)
            case Tick():
                self._tick()
            case DispatchFailed(step, cause):
                self._dispatch_failed(step, cause)
            case SaveFailed(job_id, cause):
                self._save_failed(job_id, cause)
            case CaughtUp():
                self._caught_up = True
            case Connected(wall, seed):
                self._forget()
                self._state.seed = seed
                self._state.now = self._settling_since = state.now
                self._state.epoch = wall - state.now

    def _wake(self) -> None:
        """Let jobs look again that may have waited for what came about, until nothing follows from it."""
        awake = self._state.awake
        while awake:
            job = self.jobs.get(next(iter(awake)))
            del awake[next(iter(awake))]
            if job is not None:
                self._lifecycle.guarded(job.id, self._lifecycle.go_on, job)

    def _dispatch(self) -> None:
        """Send what idle queues can take. A step that cannot be made fails its job."""
        state = self._state
        for send in state.dispatcher.fill(state.now):
            self._lifecycle.guarded(send.job, self._lifecycle.send, send)

    # -- Starting afresh ------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._resources.drop_flights()
        dispatcher = Dispatcher(self._make_strategy(self._first_strategy), self._resources, self._reserved)
        self._state = State(self._resources, Durations(), dispatcher, self._prices, self._limits)
        self._gate = Gate(self._state)
        self._lifecycle = Lifecycle(self._state)
        self._mishaps = Mishaps(self._state, self._lifecycle)
        self._upkeep = Upkeep(self._state, self._lifecycle, self._mishaps)
        self._requests = Requests(self._state, self._lifecycle, self._gate, self._make_strategy)
        self._lessons = Lessons(self._state, self._learn_after)
        self._results = Results(self._state, self._lifecycle, self._mishaps)
        self._settling_since = None
        self._caught_up = False
        self._stash: list[Arrived] = []

    def _settle(self, event: Arrived) -> None:
        """Collect what is delivered again; ledgers first of all."""
        if isinstance(event.message, Ledger):
            self._requests.ledger(event.handle, event.message)
        else:
            self._stash.append(event)

    def _settled(self) -> bool:
        assert self._settling_since is not None
        waited = self._state.now - self._settling_since
        return self._caught_up and waited >= (
            SETTLE if any(not job.ended for job in self.jobs.values()) else SETTLE_EMPTY
        )

    def _recover(self) -> None:
        """Rebuild the picture from what was delivered again, then go on."""
        stash, self._stash = self._stash, []
        results = [event for event in stash if isinstance(event.message, StepResult) and not is_lesson(event)]
        self._results.recover(results)
        self._settling_since = None
        # Before any job goes on: whether jobs share tasks depends on the strategy.
        for event in stash:
            if isinstance(event.message, SetStrategy):
                self._lifecycle.guarded(None, self._arrived, event, handle=event.handle)
        # Those first for which something is held: there is room for them in any case.
        for job in sorted(self._requests.in_order(), key=lambda job: not any(job.held())):
            self._lifecycle.guarded(job.id, self._results.resume, job)
        for event in stash:
            if is_lesson(event) or not isinstance(event.message, StepResult | SetStrategy):
                self._lifecycle.guarded(_job_of(event), self._arrived, event, handle=event.handle)
        self._tell_ends()
        if self.jobs:
            active = sum(not job.ended for job in self.jobs.values())
            self._state.log("info", f"recovered {len(self.jobs)} jobs, of which {active} go on")

    def _tell_ends(self) -> None:
        """Tell again how the latest jobs ended: a predecessor may have died just before it told, and the
        history has to have all of them. Who was told before does not mind."""
        ended = [job for job in self.jobs.values() if job.ended and job.saved >= job.ledger.revision]
        ended.sort(key=lambda job: job.ledger.finished or 0.0, reverse=True)
        for job in ended[:TOLD_AGAIN]:
            kind = job.ledger.phase
            if kind in ("done", "failed", "cancelled"):
                self._lifecycle.guarded(job.id, self._state.tell, job, kind, job.ledger.error)

    # -- What arrives ---------------------------------------------------------------------------------------

    def _arrived(self, event: Arrived) -> None:
        match event.message:
            case StepResult() as result if is_lesson(event):
                self._lessons.done(event.handle, result)
            case Learn() as wanted if event.tenant is None:
                self._lessons.asked(event, wanted)
            case StepResult() as result:
                job = self._results.take(event.handle, result)
                if job is not None:
                    self._lifecycle.go_on_after(job, result)
            case Ledger() as ledger:
                job = self._requests.ledger(event.handle, ledger)
                if job is not None:
                    for task in job.ledger.tasks:
                        self._lifecycle.drop_spent(job, task)
                    self._lifecycle.go_on(job)
            case _:
                self._requests.arrived(event)

    # -- Workers and time -----------------------------------------------------------------------------------

    def _worker_seen(self, status: WorkerStatus) -> None:
        state = self._state
        if why := status.problem():
            state.log("warning", f"ignored a status: {why}", worker=status.worker)
            return
        self._mishaps.worker_back(status.worker)
        known = self._resources.knows(status.worker, status.queue)
        before = self._resources.fault_of(status.worker, status.queue)
        new = self._resources.seen(status, state.now)
        if status.fault != before and not status.leaving:
            text = f"takes no steps: {status.fault}" if status.fault else "works again"
            state.log("warning" if status.fault else "info", f"{status.queue} {text}", worker=status.worker)
        if status.leaving:
            state.log("info", f"worker has left {status.queue}", worker=status.worker)
        elif not known:
            state.log("info", f"worker seen on {status.queue}", worker=status.worker)
        if new:
            # The others are always there.
            if status.queue not in (BUILD_CPU, MODEL_UPDATE):
                state.out.append(Declare(status.queue))
            if self._settling_since is None:
                for job in list(self.jobs.values()):
                    if job.ledger.phase == "importing":
                        self._lifecycle.guarded(job.id, self._lifecycle.go_on, job)

    def _dispatch_failed(self, step: str, cause: str) -> None:
        state = self._state
        flight = state.dispatcher.lost(step)
        if flight is None:
            return
        state.look_again = True
        job = self.jobs.get(flight.ready.job)
        if cause and job is not None and not job.ended:
            self._lifecycle.finish(job, "failed", f"{steps.named(job, step)}: {cause}")
        else:
            state.log("warning", f"{flight.queue} takes no steps: it is not there", step=step)

    def _save_failed(self, job_id: str, cause: str) -> None:
        job = self.jobs.get(job_id)
        if job is None or job.saved >= job.ledger.revision:
            return
        if job.bare:
            self._lifecycle.give_up(job, cause)
            return
        if job.ended:
            job.revert()  # its last revision never came into the world
        self._lifecycle.fail_bare(job, cause)

    def _tick(self) -> None:
        self._lifecycle.guarded(None, self._upkeep.workers)
        self._lifecycle.guarded(None, self._gate.tick)
        if self._settling_since is not None:
            if not self._settled():
                return
            self._lifecycle.guarded(None, self._recover)
        self._upkeep.jobs()
        self._lifecycle.guarded(None, self._lessons.look)


def _job_of(event: Event) -> str | None:
    """The job that an event is about."""
    match event:
        case Arrived(message=Ledger(request=request)):
            return request.job
        case Arrived(message=Query() | SetStrategy() | Learn()):
            return None
        case Arrived(message=message):
            return getattr(message, "job", None)
        case DispatchFailed(step) | Unreadable(step):
            return step.partition("/")[0]
        case SaveFailed(job):
            return job
    return None
