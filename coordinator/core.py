"""The pure core: ``handle(event, now) -> [instruction]``.

Rules, in prose:

1. **Nothing is kept.** Whatever the core knows comes from deliveries that it holds. On :class:`Connected` it
   forgets everything, and rebuilds it from what is delivered again.
2. **Decide, save, act.** Every decision that must not be taken twice (accepting a job, granting trials to a
   task, moving to the next phase) is a new ledger revision: see :mod:`coordinator.lifecycle`.
3. **Steps are derived, not remembered.** ``pipeline.open_steps`` says which steps are due; those that are
   neither in flight nor ready become ready. So losing a step is mended by looking again.
4. **Duplicates are dropped.** Ids are deterministic; a second result is acknowledged and ignored.
5. **Settling.** After connecting, the core waits until the requeued messages and the status of the workers
   have come in before it takes any decision.

No clock, no chance, no IO: ``now`` is an argument.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tunemesh.coordinator.events import (
    Acknowledge,
    Answer,
    Arrived,
    CaughtUp,
    Connected,
    Declare,
    DispatchFailed,
    Event,
    Handle,
    Instruction,
    QueueSeen,
    Save,
    SaveFailed,
    Tell,
    Tick,
    WorkerSeen,
)
from tunemesh.coordinator.jobs import forecast, progress, steps
from tunemesh.coordinator.jobs import rounds as job_rounds
from tunemesh.coordinator.jobs.job import Held, Job, StepRef
from tunemesh.coordinator.jobs.ledger import Ledger, TaskLedger
from tunemesh.coordinator.lifecycle import Decider
from tunemesh.coordinator.scheduling import strategies
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.resources import Resources
from tunemesh.coordinator.state import Desk
from tunemesh.coordinator.upkeep import Watch
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import (
    AssembleDone,
    BuildDone,
    Cancel,
    EventKind,
    Failure,
    ImportDone,
    JobEvent,
    ProfileDone,
    Query,
    Request,
    SetStrategy,
    Snapshot,
    StepResult,
    UpdateDone,
    ValidateDone,
    WorkerStatus,
    too_many_rounds,
)
from tunemesh.shared.messages.requests import INLINE_LIMIT

SETTLE = 5.0
"""Seconds to wait for workers' status after connecting, when there are jobs to recover."""

SETTLE_EMPTY = 0.3
"""Seconds to wait after connecting when no job was delivered."""

AHEAD = 3600.0
"""Seconds by which the clock of whoever sets a strategy may be ahead."""


class Core:
    """All decisions of the coordinator.

    Args:
        strategy: its name, as :func:`~coordinator.scheduling.strategies.by_name` takes it. A
            :class:`SetStrategy` that is held by the broker overrides it.
        make: makes a strategy from its name.

    Raises:
        BadInput: there is no such strategy.
    """

    def __init__(
        self, strategy: str, make: Callable[[str], strategies.Strategy] = strategies.by_name
    ) -> None:
        make(strategy)
        self._first_strategy = strategy
        self._make_strategy = make
        self._resources = Resources()
        self._settling_since: float | None = None
        self._forget()

    @property
    def jobs(self) -> dict[str, Job]:
        """By id; for views and tests."""
        return self._desk.jobs

    @property
    def resources(self) -> Resources:
        """For views and tests."""
        return self._resources

    @property
    def strategy(self) -> str:
        """The name of the strategy at work."""
        return self._desk.dispatcher.strategy.name

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event at time ``now`` (seconds since the epoch) and say what to do."""
        self._desk.now = now
        match event:
            case Arrived() if self._settling_since is not None:
                self._settle(event)
            case Arrived():
                self._arrived(event)
            case WorkerSeen(status):
                self._worker_seen(status)
            case QueueSeen(queue, ready, consumers):
                self._resources.checked(queue, ready, consumers, now)
            case Tick():
                self._tick()
            case DispatchFailed(step, cause):
                self._dispatch_failed(step, cause)
            case SaveFailed(job_id, cause):
                job = self.jobs.get(job_id)
                if job is not None and not job.ended:
                    self._decider.cannot_save(job, cause)
            case CaughtUp():
                self._caught_up = True
            case Connected():
                self._forget()
                self._desk.now = self._settling_since = now
        desk = self._desk
        if self._settling_since is None:
            desk.out.extend(self._decider.dispatch(send) for send in desk.dispatcher.fill(now))
        out, desk.out = desk.out, []
        return out

    # -- Starting afresh ------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._resources.drop_flights()
        durations = Durations()
        dispatcher = Dispatcher(self._make_strategy(self._first_strategy), self._resources)
        self._desk = Desk(self._resources, durations, dispatcher)
        self._decider = Decider(self._desk)
        self._watch = Watch(self._desk, self._decider)
        self._job_orders = 0
        self._settling_since = None
        self._caught_up = False
        self._stash: list[Arrived] = []
        self._set_strategy: tuple[SetStrategy, Handle] | None = None

    def _settle(self, event: Arrived) -> None:
        """Collect what is delivered again; ledgers first of all."""
        if isinstance(event.message, Ledger):
            self._ledger_arrived(event.handle, event.message)
        else:
            self._stash.append(event)

    def _settled(self) -> bool:
        assert self._settling_since is not None
        waited = self._desk.now - self._settling_since
        return self._caught_up and waited >= (
            SETTLE if any(not job.ended for job in self.jobs.values()) else SETTLE_EMPTY
        )

    def _recover(self) -> None:
        """Rebuild the picture from what was delivered again, then go on."""
        stash, self._stash = self._stash, []
        for job in self.jobs.values():
            for task in job.ledger.tasks:
                self._desk.durations.recall(task.spec.key, task.pace)
        results = [(e.handle, e.message) for e in stash if isinstance(e.message, StepResult)]
        # Proposals first: what has no proposal is of no use any more.
        for handle, message in sorted(
            results, key=lambda r: (not isinstance(r[1].result, UpdateDone), r[1].round)
        ):
            self._take_result(handle, message)
        self._settling_since = None
        running = self._resources.running()
        for job in list(self.jobs.values()):
            for task in job.ledger.tasks:
                self._decider.drop_spent(job, task)
            for ref in steps.open_steps(job):
                if ref.id in running:
                    ready = forecast.ready(job, ref, self._desk.durations)
                    self._desk.dispatcher.is_running(ready, running[ref.id], self._desk.now)
            self._decider.go_on(job)
        for event in stash:
            if not isinstance(event.message, StepResult):
                self._arrived(event)

    # -- What arrives ---------------------------------------------------------------------------------------

    def _arrived(self, event: Arrived) -> None:
        match event.message:
            case StepResult() as result:
                job = self._take_result(event.handle, result)
                if job is not None:
                    self._decider.go_on_after(job, result)
            case Ledger() as ledger:
                self._ledger_arrived(event.handle, ledger)
            case Request() as request:
                self._request_arrived(event, request)
            case Cancel() as cancel:
                self._cancel(event.handle, cancel)
            case Query(job=job_id):
                self._desk.out.append(Acknowledge(event.handle))
                self._answer(event, job_id)
            case SetStrategy() as wanted:
                self._strategy_arrived(event, wanted)

    def _request_arrived(self, event: Arrived, request: Request) -> None:
        out = self._desk.out
        known = self.jobs.get(request.job)
        if known is not None:
            out.append(Acknowledge(event.handle))
            if _same(known.ledger.request, request):
                phase = known.ledger.phase
                kind: EventKind = phase if phase in ("done", "failed", "cancelled") else "accepted"
                self._desk.tell(known, kind, known.ledger.error or f"job {request.job} is known already")
            else:
                self._refuse(event, request.job, f"job id {request.job!r} is taken; choose a new one")
            return
        if (why := _unfit(request)) is not None:
            out.append(Acknowledge(event.handle))
            self._refuse(event, request.job, why)
            return
        ledger = Ledger(request=request, revision=0, phase="importing", accepted=self._desk.now)
        job = self._add_job(ledger)
        job.releases.append((0, event.handle))
        out.append(Save(ledger))
        text = f"{request.name or request.job}: {request.trials} trials for {request.target}"
        self._desk.tell(job, "accepted", text)

    def _refuse(self, event: Arrived, job: str, text: str) -> None:
        """Only to the one who asked: other listeners may follow another job of this id."""
        if event.reply_to:
            rejected = JobEvent(job=job, kind="rejected", at=self._desk.now, text=text)
            correlation_id = event.correlation_id if job == "unknown" else job
            self._desk.out.append(Tell(rejected, event.reply_to, correlation_id))

    def _add_job(self, ledger: Ledger) -> Job:
        self._job_orders += 1
        job = Job(ledger=ledger, order=self._job_orders)
        self.jobs[job.id] = job
        return job

    def _ledger_arrived(self, handle: Handle, ledger: Ledger) -> None:
        out = self._desk.out
        job = self.jobs.get(ledger.request.job)
        if job is None:
            job = self._add_job(ledger)
        if ledger.revision <= job.saved:
            out.append(Acknowledge(handle))
            return
        if job.handle is not None:
            out.append(Acknowledge(job.handle))
        job.handle, job.saved = handle, ledger.revision
        if ledger.revision >= job.ledger.revision:
            job.ledger = ledger
        out.extend(Acknowledge(source) for revision, source in job.releases if revision <= job.saved)
        job.releases = [r for r in job.releases if r[0] > job.saved]
        if self._settling_since is None:
            for task in job.ledger.tasks:
                self._decider.drop_spent(job, task)
            self._decider.go_on(job)

    def _cancel(self, handle: Handle, cancel: Cancel) -> None:
        job = self.jobs.get(cancel.job)
        if job is None or job.ended or (cancel.keep and not self._decider.can_stop(job)):
            self._desk.out.append(Acknowledge(handle))
            return
        if not cancel.keep:
            self._decider.finish(job, "cancelled", "cancelled on request")
        elif any(job_rounds.current(job, task).best is not None for task in job.ledger.tasks):
            self._decider.stop(job)
        else:
            self._decider.finish(job, "cancelled", "cancelled on request, before anything was measured")
        job.releases.append((job.ledger.revision, handle))

    def _strategy_arrived(self, event: Arrived, wanted: SetStrategy) -> None:
        """Hold the newest, so that a successor is told too."""
        out = self._desk.out
        held = self._set_strategy
        try:
            strategy = self._make_strategy(wanted.strategy)
            if wanted.at > self._desk.now + AHEAD:
                raise BadInput("its time lies in the future; it is in seconds since the epoch")
            if held is not None and held[0].at > wanted.at:
                raise BadInput(f"{held[0].strategy} was set later, by the clock of whoever set it")
        except BadInput as error:
            out.append(Acknowledge(event.handle))
            self._refuse(event, "unknown", str(error))
            return
        if held is not None:
            out.append(Acknowledge(held[1]))
        self._set_strategy = wanted, event.handle
        self._desk.dispatcher.switch(strategy)
        self._answer(event, None)

    def _answer(self, event: Arrived, job_id: str | None) -> None:
        if event.reply_to is None:
            return
        resources = self._resources.progress(self._desk.now)
        snapshot = Snapshot(strategy=self.strategy, jobs=[], resources=resources)
        if job_id is None:
            listed = progress.listed(self.jobs.values(), len(resources))
            left_out = len(self.jobs) - len(listed)
            snapshot = msgspec.structs.replace(snapshot, jobs=listed, left_out=left_out)
        elif (job := self.jobs.get(job_id)) is not None:
            snapshot = msgspec.structs.replace(
                snapshot,
                jobs=[progress.progress(job)],
                assembled=progress.result(job),
                validated=job.ledger.validated,
            )
        self._desk.out.append(Answer(event.reply_to, event.correlation_id, snapshot))

    # -- Results --------------------------------------------------------------------------------------------

    def _take_result(self, handle: Handle, message: StepResult) -> Job | None:
        """Note a result. Returns its job, or ``None`` when the result is of no use any more."""
        job = self.jobs.get(message.job)
        timing = message.timing
        flight = self._desk.dispatcher.ended(timing.step, max(timing.finished - timing.started, 0.0))
        if job is not None and not isinstance(message.result, Failure):
            key = forecast.key_of(job, message.task)
            elapsed = self._desk.now - flight.since if flight is not None else None
            self._desk.durations.learn(timing, key, elapsed)
        if flight is not None:
            slowness = self._desk.durations.slowness(timing.stage, timing.resource)
            self._resources.account(timing, slowness)
        if job is None or job.ended or not self._note(job, Held(handle, message)):
            self._desk.out.append(Acknowledge(handle))
            return None
        job.changed = True
        return job

    def _note(self, job: Job, held: Held) -> bool:
        """Put a result in its place. Returns whether it is held; what is not is a duplicate or stale."""
        message, ledger = held.message, job.ledger
        match message.result:
            case UpdateDone() | BuildDone() | ProfileDone() if ledger.phase == "tuning":
                return self._note_round(job, held)
            case Failure(error=error):
                if not any(ref.id == message.timing.step for ref in steps.open_steps(job)):
                    return False
                place = "" if message.task == "-" else f" of {_task_name(job, message.task)}"
                self._decider.finish(job, "failed", f"{message.timing.stage}{place}: {error}", [held])
                return True
            case ImportDone(model=model, tasks=tasks) if ledger.phase == "importing" and not ledger.tasks:
                tasks_ = [TaskLedger(spec=spec) for spec in tasks]
                self._decider.revise(job, [held], phase="tuning", model=model, tasks=tasks_)
                return True
            case AssembleDone() as assembled if ledger.phase == "assembling":
                self._decider.revise(job, [held], phase="validating", assembled=assembled)
                return True
            case ValidateDone() as validated if ledger.phase == "validating":
                self._decider.validated(job, validated, held)
                return True
        return False

    def _note_round(self, job: Job, held: Held) -> bool:
        message = held.message
        task = job.task_ledger(message.task)
        if task is None or task.closed or message.round > task.round:
            return False
        kept = job.task(message.task)
        round_ = kept.rounds.get(message.round)
        if isinstance(message.result, UpdateDone):
            if round_ is None and message.round < task.round and self._settling_since is None:
                return False  # the update of a round that is spent
            kept.seen = None
            if not job.round(message.task, message.round).place(held):
                return False
            if self._settling_since is None:
                self._decider.drop_spent(job, task)
            return True
        if round_ is None or round_.update is None:
            return False  # its round is spent
        if message.chunk >= round_.chunk_count():
            return False  # left out when the job was stopped early
        kept.seen = None
        return round_.place(held)

    # -- Workers and time -----------------------------------------------------------------------------------

    def _worker_seen(self, status: WorkerStatus) -> None:
        new = self._resources.seen(status, self._desk.now)
        if new:
            self._desk.out.append(Declare(status.queue))
            if status.serves.targets and self._settling_since is None:
                for job in list(self.jobs.values()):
                    if job.ledger.phase == "importing":
                        self._decider.go_on(job)

    def _dispatch_failed(self, step: str, cause: str) -> None:
        flight = self._desk.dispatcher.lost(step)
        if flight is None:
            return
        self._desk.look_again = True
        job = self.jobs.get(flight.ready.job)
        if cause and job is not None and not job.ended:
            stage = StepRef.parse(step).stage
            self._decider.finish(job, "failed", f"{stage}: {cause}")

    def _tick(self) -> None:
        self._resources.expire(self._desk.now)
        if self._settling_since is not None:
            if not self._settled():
                return
            self._recover()
        self._watch.tick()


def _unfit(request: Request) -> str | None:
    """Why the job could not be kept in messages."""
    if len(request.model.data or b"") > INLINE_LIMIT:
        return f"a model over {INLINE_LIMIT:,} bytes goes through the artifact store"
    return too_many_rounds(request.trials, request.settings.batch)


def _same(known: Request, request: Request) -> bool:
    """Whether two requests are one. The target may have been made canonical meanwhile."""
    return msgspec.structs.replace(known, target=request.target) == request


def _task_name(job: Job, task: str) -> str:
    ledger = job.task_ledger(task)
    return f"{task} ({ledger.spec.name})" if ledger else task
