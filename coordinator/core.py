"""The pure core: ``handle(event, now) -> [instruction]``.

Rules, in prose:

1. **Nothing is kept.** Whatever the core knows comes from deliveries that it holds. On :class:`Connected` it
   forgets everything, and rebuilds it from what is delivered again.
2. **Decide, save, act.** Every decision that must not be taken twice (accepting a job, granting trials to a
   task, moving to the next phase) is a new ledger revision. It is published to the coordinator's own queue,
   and only when that revision comes back are the steps that follow from it dispatched and the messages that
   led to it acknowledged. A crash in between leaves either the old ledger with all its sources or the new
   one.
3. **Steps are derived, not remembered.** ``pipeline.open_steps`` says which steps are due; those that are
   neither in flight nor ready become ready. So losing a step is mended by looking again.
4. **Duplicates are dropped.** Ids are deterministic; a second result is acknowledged and ignored.
5. **Settling.** After connecting, the core waits until the requeued messages and the status of the workers
   have come in before it takes any decision.

No clock, no chance, no IO: ``now`` is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from coordinator import pipeline, views
from coordinator.dispatching import Dispatcher
from coordinator.events import (
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
    Purge,
    QueueSeen,
    Save,
    SaveFailed,
    Tell,
    Tick,
    WorkerSeen,
)
from coordinator.jobs import Held, Job
from coordinator.resources import LOST_AFTER, Resources
from coordinator.strategies import Strategy
from shared.artifacts import INLINE_LIMIT
from shared.messages import (
    AssembleDone,
    BuildDone,
    Cancel,
    EventKind,
    Failure,
    ImportDone,
    JobEvent,
    Ledger,
    ProfileDone,
    Query,
    Request,
    Snapshot,
    StepResult,
    TaskLedger,
    UpdateDone,
    ValidateDone,
    WorkerStatus,
)

SETTLE = 5.0
"""Seconds to wait for workers' status after connecting, when there are jobs to recover."""

SETTLE_EMPTY = 0.3
"""Seconds to wait after connecting when no job was delivered."""

NO_DEVICE_AFTER = 60.0
"""Seconds after which a job whose target no device has ever served fails."""

TELL_EVERY = 0.5
"""Seconds between two progress events of a job."""

KEEP_FINISHED = 24 * 3600.0
"""Seconds for which finished jobs can be asked about."""


class Core:
    """All decisions of the coordinator.

    Args:
        strategy: makes the strategy; called again whenever the core starts afresh.
    """

    def __init__(self, strategy: Callable[[], Strategy]) -> None:
        self._make_strategy = strategy
        self._resources = Resources()
        self._now = 0.0
        self._out: list[Instruction] = []
        self._settling_since: float | None = None
        self._forget()

    @property
    def jobs(self) -> dict[str, Job]:
        """By id; for views and tests."""
        return self._jobs

    @property
    def resources(self) -> Resources:
        """For views and tests."""
        return self._resources

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event at time ``now`` (seconds, any origin that does not jump) and say what to do."""
        self._now = now
        match event:
            case Connected():
                self._forget()
                self._settling_since = now
            case CaughtUp():
                self._caught_up = True
            case WorkerSeen(status):
                self._worker_seen(status)
            case QueueSeen(queue, ready, consumers):
                self._resources.checked(queue, ready, consumers, now)
            case DispatchFailed(step, cause):
                self._dispatch_failed(step, cause)
            case SaveFailed(job, cause):
                self._save_failed(job, cause)
            case Arrived() if self._settling_since is not None:
                self._settle(event)
            case Arrived():
                self._arrived(event)
            case Tick():
                self._tick()
        if self._settling_since is None:
            self._out.extend(self._dispatcher.fill(self._jobs, now))
        out, self._out = self._out, []
        return out

    # -- Starting afresh ------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._resources.drop_flights()
        self._dispatcher = Dispatcher(self._make_strategy(), self._resources)
        self._jobs: dict[str, Job] = {}
        self._job_orders = 0
        self._settling_since = None
        self._caught_up = False
        self._stash: list[Arrived] = []
        self._look_again = False

    def _settle(self, event: Arrived) -> None:
        """Collect what is delivered again; ledgers first of all."""
        if isinstance(event.message, Ledger):
            self._ledger_arrived(event.handle, event.message)
        else:
            self._stash.append(event)

    def _settled(self) -> bool:
        assert self._settling_since is not None
        waited = self._now - self._settling_since
        return self._caught_up and waited >= (
            SETTLE if any(not job.ended for job in self._jobs.values()) else SETTLE_EMPTY
        )

    def _recover(self) -> None:
        """Rebuild the picture from what was delivered again, then go on."""
        stash, self._stash = self._stash, []
        results = [event for event in stash if isinstance(event.message, StepResult)]
        for event in sorted(
            results, key=lambda e: e.message.round if isinstance(e.message, StepResult) else 0
        ):
            assert isinstance(event.message, StepResult)
            self._take_result(event.handle, event.message)
        self._settling_since = None
        running = self._resources.running()
        for job in list(self._jobs.values()):
            for ref in pipeline.open_steps(job):
                if ref.id in running:
                    self._dispatcher.is_running(job, ref, running[ref.id], self._now)
            self._go_on(job)
        for event in stash:
            if not isinstance(event.message, StepResult):
                self._arrived(event)

    # -- What arrives ---------------------------------------------------------------------------------------

    def _arrived(self, event: Arrived) -> None:
        match event.message:
            case Request() as request:
                self._request_arrived(event, request)
            case Cancel(job=job_id):
                self._cancel(event.handle, job_id)
            case Query(job=job_id):
                self._query(event, job_id)
            case StepResult() as result:
                job = self._take_result(event.handle, result)
                if job is not None:
                    self._go_on(job, result.task)
            case Ledger() as ledger:
                self._ledger_arrived(event.handle, ledger)

    def _request_arrived(self, event: Arrived, request: Request) -> None:
        known = self._jobs.get(request.job)
        if known is not None:
            self._out.append(Acknowledge(event.handle))
            if _same(known.ledger.request, request):
                phase = known.ledger.phase
                kind: EventKind = phase if phase in ("done", "failed", "cancelled") else "accepted"
                self._tell(known, kind, known.ledger.error or f"job {request.job} is known already")
            else:
                self._refuse(event, request, f"job id {request.job!r} is taken; choose a new one")
            return
        if len(request.model.data or b"") > INLINE_LIMIT:
            self._out.append(Acknowledge(event.handle))
            self._refuse(
                event, request, f"a model over {INLINE_LIMIT:,} bytes goes through the artifact store"
            )
            return
        ledger = Ledger(request=request, revision=0, phase="importing", accepted=self._now)
        job = self._add_job(ledger)
        job.releases.append((0, event.handle))
        self._out.append(Save(ledger))
        self._tell(
            job, "accepted", f"{request.name or request.job}: {request.trials} trials for {request.target}"
        )

    def _refuse(self, event: Arrived, request: Request, text: str) -> None:
        """Only to the one who asked: other listeners may follow another job of this id."""
        if event.reply_to:
            rejected = JobEvent(job=request.job, kind="rejected", at=self._now, text=text)
            self._out.append(Tell(rejected, event.reply_to))

    def _add_job(self, ledger: Ledger) -> Job:
        self._job_orders += 1
        job = Job(ledger=ledger, order=self._job_orders)
        self._jobs[job.id] = job
        return job

    def _ledger_arrived(self, handle: Handle, ledger: Ledger) -> None:
        job = self._jobs.get(ledger.request.job)
        if job is None:
            job = self._add_job(ledger)
        if ledger.revision <= job.saved:
            self._out.append(Acknowledge(handle))
            return
        if job.handle is not None:
            self._out.append(Acknowledge(job.handle))
        job.handle, job.saved = handle, ledger.revision
        if ledger.revision >= job.ledger.revision:
            job.ledger = ledger
        for _, source in [r for r in job.releases if r[0] <= job.saved]:
            self._out.append(Acknowledge(source))
        job.releases = [r for r in job.releases if r[0] > job.saved]
        if self._settling_since is None:
            self._go_on(job)

    def _cancel(self, handle: Handle, job_id: str) -> None:
        self._out.append(Acknowledge(handle))
        job = self._jobs.get(job_id)
        if job is not None and not job.ended:
            self._finish(job, "cancelled", "cancelled on request")

    def _query(self, event: Arrived, job_id: str | None) -> None:
        self._out.append(Acknowledge(event.handle))
        if event.reply_to is None:
            return
        asked = [job for job in self._jobs.values() if job_id in (None, job.id)]
        only = asked[0].ledger if job_id is not None and asked else None
        snapshot = Snapshot(
            strategy=self._dispatcher.strategy.name,
            jobs=[views.progress(job) for job in asked],
            resources=self._resources.progress(self._now),
            assembled=only.assembled if only else None,
            validated=only.validated if only else None,
        )
        self._out.append(Answer(event.reply_to, event.correlation_id, snapshot))

    # -- Results --------------------------------------------------------------------------------------------

    def _take_result(self, handle: Handle, message: StepResult) -> Job | None:
        """Note a result. Returns its job, or ``None`` when the result is of no use any more."""
        if self._dispatcher.ended(message.timing.step) is not None:
            self._resources.account(message.timing)
        job = self._jobs.get(message.job)
        if job is None or job.ended or not self._note(job, Held(handle, message)):
            self._out.append(Acknowledge(handle))
            return None
        job.changed = True
        return job

    def _note(self, job: Job, held: Held) -> bool:
        """Put a result in its place. Returns whether it is held; what is not is a duplicate or stale."""
        message, ledger = held.message, job.ledger
        match message.result:
            case Failure(error=error):
                if not self._is_due(job, message):
                    return False
                place = "" if message.task == "-" else f" of {_task_name(job, message.task)}"
                self._finish(job, "failed", f"{message.timing.stage}{place}: {error}", [held])
                return True
            case ImportDone(model=model, tasks=tasks) if ledger.phase == "importing" and not ledger.tasks:
                tasks_ = [TaskLedger(spec=spec) for spec in tasks]
                self._revise(job, [held], phase="tuning", model=model, tasks=tasks_)
                return True
            case AssembleDone() as assembled if ledger.phase == "assembling":
                self._revise(job, [held], phase="validating", assembled=assembled)
                return True
            case ValidateDone() as validated if ledger.phase == "validating":
                self._validated(job, validated, held)
                return True
            case UpdateDone() | BuildDone() | ProfileDone() if ledger.phase == "tuning":
                return self._note_round(job, held)
        return False

    def _note_round(self, job: Job, held: Held) -> bool:
        message = held.message
        task = job.task_ledger(message.task)
        if task is None or task.closed or message.round not in (task.round, task.round - 1):
            return False
        now = job.task(message.task).rounds.get(task.round)
        if message.round < task.round and now is not None and now.update is not None:
            return False  # the round before was of use only as long as the present one was not proposed
        placed = job.task(message.task).round(message.round).place(held)
        if placed and isinstance(message.result, UpdateDone) and message.round == task.round:
            self._drop_round(job, message.task, message.round - 1)
        return placed

    def _drop_round(self, job: Job, task: str, number: int) -> None:
        """The next round has begun: what it was made from is no longer needed."""
        round_ = job.task(task).rounds.pop(number, None)
        if round_ is not None:
            self._release(round_.held())

    def _release(self, held: Iterable[Held]) -> None:
        self._out.extend(Acknowledge(each.handle) for each in held)

    # -- Decisions ------------------------------------------------------------------------------------------

    def _go_on(self, job: Job, only: str | None = None) -> None:
        """Decide what can be decided and make ready what is due; of task ``only``, if given, while tuning."""
        ledger = job.ledger
        if job.ended:
            return
        if ledger.phase == "importing" and not self._target_is_served(job):
            return
        if ledger.phase == "tuning":
            task = job.task_ledger(only) if only else None
            if task is None or pipeline.round_is_back(job, task):
                self._decide(job)
        task = job.task_ledger(only) if only and job.ledger.phase == "tuning" else None
        for ref in pipeline.task_steps(job, task) if task else pipeline.open_steps(job):
            if job.may_act(ref.task) and pipeline.can_make(job, ref):
                self._dispatcher.make_ready(job, ref)

    def _decide(self, job: Job) -> None:
        for task in job.ledger.tasks:
            round_ = job.task(task.spec.id).rounds.get(task.round)
            if task.closed or task.want or round_ is None or round_.update is None or round_.proposal is None:
                continue
            self._save(job, pipeline.close(job, task, round_.update.message, round_.proposal), task.spec.id)
            job.releases.append((job.ledger.revision, round_.update.handle))
            del job.tasks[task.spec.id]
        before = {task.spec.id: task for task in job.ledger.tasks}
        decided = pipeline.decide(job)
        if decided is None:
            return
        if decided.phase == "assembling" and (cause := _nothing_measured(decided)):
            self._finish(job, "failed", cause)
            return
        changed = [task.spec.id for task in decided.tasks if task != before[task.spec.id]]
        self._save(job, decided, *changed, "-")

    def _save(self, job: Job, ledger: Ledger, *concerns: str) -> None:
        """Publish a revision; what ``concerns`` names waits until it is back."""
        job.ledger = ledger
        job.changed = True
        job.decided.update(dict.fromkeys(concerns, ledger.revision))
        self._out.append(Save(ledger))

    def _revise(self, job: Job, sources: Iterable[Held], **changes: object) -> None:
        """A revision of the job as a whole, made from ``sources``."""
        sources = list(sources)
        usage = pipeline.add_usage(job.ledger.usage, (held.message.timing for held in sources))
        fields = {"revision": job.ledger.revision + 1, "usage": usage, **changes}
        ledger: Ledger = msgspec.structs.replace(job.ledger, **fields)
        self._save(job, ledger, "-")
        job.releases.extend((ledger.revision, held.handle) for held in sources)

    def _validated(self, job: Job, validated: ValidateDone, held: Held) -> None:
        if not validated.equal:
            text = (
                "the tuned model does not compute what the untuned one does:"
                f" largest difference {validated.largest_difference:.3g}"
            )
            self._finish(job, "failed", text, [held], validated)
            return
        gain = validated.latency_before / max(validated.latency_after, 1e-12)
        text = (
            f"{validated.latency_before * 1e3:.3f} ms -> {validated.latency_after * 1e3:.3f} ms ({gain:.1f}x)"
        )
        self._finish(job, "done", text, [held], validated)

    def _finish(
        self,
        job: Job,
        phase: Literal["done", "failed", "cancelled"],
        text: str,
        sources: Iterable[Held] = (),
        validated: ValidateDone | None = None,
    ) -> None:
        """The last revision of a job. Everything held for it is released once that is saved."""
        held = list(job.held())
        tasks = [task if task.closed else pipeline.current(job, task) for task in job.ledger.tasks]
        usage = pipeline.current_usage(job)
        job.ledger = msgspec.structs.replace(job.ledger, tasks=tasks, usage=usage)
        error = "" if phase == "done" else text
        self._revise(job, sources, phase=phase, error=error, finished=self._now, validated=validated)
        job.releases.extend((job.ledger.revision, each.handle) for each in held)
        job.tasks.clear()
        job.waiting = ""
        self._dispatcher.forget(job.id)
        self._tell(job, phase, text)

    # -- Steps ----------------------------------------------------------------------------------------------

    def _give_up(self, step: str) -> None:
        """A step in flight was lost: it will be sent again."""
        if self._dispatcher.lost(step) is not None:
            self._look_again = True

    def _save_failed(self, job_id: str, cause: str) -> None:
        job = self._jobs.get(job_id)
        if job is not None and not job.ended:
            # What made the ledger too large cannot be part of its last revision.
            job.ledger = msgspec.structs.replace(job.ledger, tasks=[], assembled=None)
            self._finish(job, "failed", cause)

    def _dispatch_failed(self, step: str, cause: str) -> None:
        flight = self._dispatcher.lost(step)
        if flight is None:
            return
        self._look_again = True
        job = self._jobs.get(flight.ref.job)
        if cause and job is not None and not job.ended:
            self._finish(job, "failed", f"{flight.ref.stage}: {cause}")

    # -- Workers and time -----------------------------------------------------------------------------------

    def _worker_seen(self, status: WorkerStatus) -> None:
        new = self._resources.seen(status, self._now)
        if new:
            self._out.append(Declare(status.queue))
            if status.targets and self._settling_since is None:
                for job in list(self._jobs.values()):
                    if job.ledger.phase == "importing":
                        self._go_on(job)

    def _target_is_served(self, job: Job) -> bool:
        """Whether a device is known for the job; takes over the canonical name of its target."""
        request = job.ledger.request
        canonical = self._resources.canonical(request.target)
        if canonical is None:
            job.waiting = f"no device serves target {request.target}"
            job.waiting_since = job.waiting_since or self._now
            return False
        job.waiting, job.waiting_since = "", None
        if canonical != request.target:
            self._revise(job, (), request=msgspec.structs.replace(request, target=canonical))
        return True

    def _tick(self) -> None:
        self._resources.expire(self._now)
        if self._settling_since is not None:
            if not self._settled():
                return
            self._recover()
        for flight in list(self._resources.missing(self._now)):
            self._give_up(flight.ref.id)
        self._leave_lost_devices()
        if self._look_again:
            self._look_again = False
            for job in list(self._jobs.values()):
                self._go_on(job)
        for job in list(self._jobs.values()):
            self._watch(job)

    def _leave_lost_devices(self) -> None:
        """Steps on a device without a worker go to another device of the same target, if there is one.
        Otherwise they stay in its queue until it is back."""
        for queue in list(self._resources.queues.values()):
            lost = queue.empty_since is not None and self._now - queue.empty_since > LOST_AFTER
            if not lost or not queue.flights:
                continue
            need = next(iter(queue.flights.values())).ready.need
            if any(other is not queue and other.workers for other in self._resources.serving(need)):
                self._out.append(Purge(queue.name))
                for step in list(queue.flights):
                    self._give_up(step)

    def _watch(self, job: Job) -> None:
        """Tell how a job is doing; end those that wait in vain; forget those that ended long ago."""
        if job.ended:
            if job.ledger.finished is not None and self._now - job.ledger.finished > KEEP_FINISHED:
                if job.handle is not None:
                    self._out.append(Acknowledge(job.handle))
                del self._jobs[job.id]
            return
        if job.ledger.phase == "importing" and job.waiting_since is not None:
            self._go_on(job)
            if job.waiting_since is not None and self._now - job.waiting_since > NO_DEVICE_AFTER:
                served = sorted({q.targets[0] for q in self._resources.queues.values() if q.targets})
                text = (
                    f"{job.waiting}; devices here serve: {', '.join(served) or 'none, there is no device'}."
                    " Start one: tunemesh worker profile-NAME --device D --target T"
                )
                self._finish(job, "failed", text)
                return
        elif (reason := self._why_waiting(job)) != job.waiting:
            job.waiting, job.changed = reason, True
        if job.changed and self._now - job.told >= TELL_EVERY:
            self._tell(job, "progress", job.waiting)

    def _why_waiting(self, job: Job) -> str:
        """The queues that the job needs and that have no worker."""
        needs = self._dispatcher.needs_of(job.id)
        dead = [n for n in sorted(needs) if not any(q.workers for q in self._resources.serving(n))]
        return f"waiting for a worker for {', '.join(dead)}" if dead else ""

    def _tell(self, job: Job, kind: EventKind, text: str) -> None:
        job.told, job.changed = self._now, False
        self._out.append(
            Tell(
                JobEvent(
                    job=job.id,
                    kind=kind,
                    at=self._now,
                    text=text,
                    progress=views.progress(job),
                    resources=self._resources.progress(self._now),
                    assembled=job.ledger.assembled if kind == "done" else None,
                    validated=job.ledger.validated,
                )
            )
        )

    def _is_due(self, job: Job, message: StepResult) -> bool:
        return any(ref.id == message.timing.step for ref in pipeline.open_steps(job))


def _same(known: Request, request: Request) -> bool:
    """Whether two requests are one. The target may have been made canonical meanwhile."""
    return msgspec.structs.replace(known, target=request.target) == request


def _task_name(job: Job, task: str) -> str:
    ledger = job.task_ledger(task)
    return f"{task} ({ledger.spec.name})" if ledger else task


def _nothing_measured(ledger: Ledger) -> str:
    """Why assembling makes no sense, or nothing."""
    tried = sum(task.trials for task in ledger.tasks)
    if not tried or any(task.best is not None for task in ledger.tasks):
        return ""
    errors = [task.last_error for task in ledger.tasks if task.last_error]
    last = errors[-1] if errors else "none reported"
    return f"none of {tried} trials could be measured; the last error: {last}"
