"""What clients ask for: jobs, their end, how things are, another strategy. And what was decided for jobs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tunemesh.coordinator import counting
from tunemesh.coordinator.events import Acknowledge, Answer, Arrived, Save
from tunemesh.coordinator.gate import Gate
from tunemesh.coordinator.jobs import levels, nonces, progress
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.jobs.ledger import Handle, Ledger
from tunemesh.coordinator.lifecycle import Lifecycle
from tunemesh.coordinator.scheduling.strategies import Strategy
from tunemesh.coordinator.state import State
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import (
    Blob,
    Cancel,
    Cancelled,
    EventKind,
    Learn,
    Query,
    Request,
    SetStrategy,
    Snapshot,
)
from tunemesh.shared.messages.levels import AUTO
from tunemesh.shared.messages.progress import MOST_WAITING

USER_LENGTH = 300
"""Characters of a user's name that are kept."""

AHEAD = 3600.0
"""Seconds by which the clock of whoever sets a strategy may be ahead."""


class Requests:
    """Deals with all that clients send, and with ledgers that come back.

    Args:
        make: makes a strategy from its name.
    """

    def __init__(
        self, state: State, lifecycle: Lifecycle, gate: Gate, make: Callable[[str], Strategy]
    ) -> None:
        self._state = state
        self._gate = gate
        self._lifecycle = lifecycle
        self._make_strategy = make
        self._orders = 0
        self._set_strategy: tuple[SetStrategy, Handle] | None = None

    def arrived(self, event: Arrived) -> None:
        """A message of a client."""
        if self._gate.refuses(event):
            return
        match event.message:
            case SetStrategy() | Learn() if event.tenant is not None:
                what = "the strategy" if isinstance(event.message, SetStrategy) else "when to learn"
                text = f"{what} is for operators to say, and {event.user} is none"
                self._state.out.append(Acknowledge(event.handle))
                self._state.refuse(event, "unknown", text)
            case Request() as request:
                self._request(event, request)
            case Cancel() as cancel:
                self._cancel(event, cancel)
            case Query(census=True) if event.tenant is not None:
                self._state.out.append(Acknowledge(event.handle))
                text = f"what all jobs need is for operators to ask, and {event.user} is none"
                self._state.refuse(event, "unknown", text)
            case Query(job=job_id, census=census, skip=skip):
                self._state.out.append(Acknowledge(event.handle))
                self._answer(event, job_id, census, skip)
            case SetStrategy() as wanted:
                self._strategy(event, wanted)

    def ledger(self, handle: Handle, ledger: Ledger) -> Job | None:
        """A revision came back: it is safe to act on it. Returns its job, or ``None`` when a newer one is
        known."""
        out = self._state.out
        job = self._state.jobs.get(ledger.request.job)
        if job is None:
            job = self._add_job(ledger)
        if ledger.revision <= job.saved:
            out.append(Acknowledge(handle))
            return None
        if job.handle is not None:
            out.append(Acknowledge(job.handle))
        job.handle, job.saved = handle, ledger.revision
        if ledger.revision > job.ledger.revision:
            job.become(ledger)
        self._state.sharing.note(job)
        out.extend(Acknowledge(source) for revision, source in job.releases if revision <= job.saved)
        job.releases = [r for r in job.releases if r[0] > job.saved]
        return job

    def in_order(self) -> list[Job]:
        """All jobs, numbered anew in the order in which they were accepted, by whichever coordinator."""
        jobs = sorted(self._state.jobs.values(), key=lambda job: (job.ledger.accepted, job.id))
        for number, job in enumerate(jobs, start=1):
            job.order = number
        self._orders = len(jobs)
        return jobs

    def _add_job(self, ledger: Ledger) -> Job:
        self._orders += 1
        job = Job(ledger, self._orders, self._state.prices)
        self._state.jobs[job.id] = job
        if (took := levels.ending(ledger)) is not None:
            self._state.endings.append(took)
        return job

    def _request(self, event: Arrived, request: Request) -> None:
        state = self._state
        if event.tenant is not None:
            if request.tenant not in ("", event.tenant):
                whose = f"tenant {event.tenant}" if event.tenant else "no tenant"
                why = f"it names tenant {request.tenant}, and user {event.user} belongs to {whose}"
                self._reject(event, request.job, event.tenant, why)
                return
            request = msgspec.structs.replace(request, tenant=event.tenant)
        known = state.jobs.get(request.job)
        if known is not None:
            state.out.append(Acknowledge(event.handle))
            if _same(known.ledger.request, request):
                phase = known.ledger.phase
                kind: EventKind = phase if phase in ("done", "failed", "cancelled") else "accepted"
                state.tell(known, kind, known.ledger.error or f"job {request.job} is known already")
            else:
                self._state.refuse(event, request.job, f"job id {request.job!r} is taken; choose a new one")
            return
        records = [self._records_of(job_id, request) for job_id in request.known]
        why = request.problem()
        if not why and None in records:
            name = request.known[records.index(None)]
            why = f"it is to take what job {name} measured, which is not done, or not known here"
        if not why and event.tenant is not None:
            why = self._gate.why_not(request)
        if not why and request.level.cost is not None and not state.prices:
            why = "it names a cost, and this mesh has no prices; its coordinator takes them: --price"
        if why:
            self._reject(event, request.job, request.tenant, why)
            return
        ledger = Ledger(
            request=request,
            revision=0,
            phase="importing",
            accepted=state.instant,
            secret=nonces.secret_of(state.seed, request.job, state.instant),
            asked_by=event.user[:USER_LENGTH],
            known=[each for each in records if each is not None],
        )
        job = self._add_job(ledger)
        job.releases.append((0, event.handle))
        state.out.append(Save(ledger))
        text = f"{request.name or request.job}: {request.budget} for {request.target}"
        state.tell(job, "accepted", text)
        state.log("info", f"accepted: {text}", job=job.id)

    def _records_of(self, job_id: str, request: Request) -> Blob | None:
        """Where the measurements of a job lie that may serve ``request``: it is done, and of the same
        tenant."""
        job = self._state.jobs.get(job_id)
        if job is None or job.ledger.request.tenant != request.tenant or job.ledger.phase != "done":
            return None
        return job.ledger.assembled.records if job.ledger.assembled is not None else None

    def _reject(self, event: Arrived, job: str, tenant: str, why: str) -> None:
        """Not to accept a request, and to know why when somebody asks."""
        state = self._state
        state.out.append(Acknowledge(event.handle))
        self._state.refuse(event, job, why)
        state.remember_rejected(job, tenant, why)
        state.log("info", f"rejected: {why}", job=job)

    def _cancel(self, event: Arrived, cancel: Cancel) -> None:
        handle, job = event.handle, self._state.jobs.get(cancel.job)
        if job is not None and _is_anothers(job, event):
            self._state.out.append(Acknowledge(handle))
            self._state.refuse(event, job.id, f"job {job.id} belongs to another tenant")
            return
        if job is not None and job.ended and job.saved < job.ledger.revision:
            # Its end is on its way; if that is lost, a successor has to know of this.
            job.releases.append((job.ledger.revision, handle))
            return
        if job is None or job.ended or (cancel.keep and not self._lifecycle.can_stop(job)):
            self._state.out.append(Acknowledge(handle))
            return
        who = Cancelled(by=event.user[:USER_LENGTH], at=self._state.instant, keep=cancel.keep)
        first = job.ledger.cancelled or who
        if not cancel.keep:
            self._lifecycle.finish(job, "cancelled", "cancelled on request", cancelled=first)
        elif self._lifecycle.has_found(job):
            self._lifecycle.stop(job, cancelled=who)
        else:
            text = "cancelled on request, before anything was measured"
            self._lifecycle.finish(job, "cancelled", text, cancelled=first)
        job.releases.append((job.ledger.revision, handle))

    def _strategy(self, event: Arrived, wanted: SetStrategy) -> None:
        """Hold the newest, so that a successor is told too."""
        state = self._state
        held = self._set_strategy
        try:
            strategy = self._make_strategy(wanted.strategy)
            if wanted.at > state.instant + AHEAD:
                raise BadInput("its time lies in the future; it is in seconds since the epoch")
            if held is not None and held[0].at > wanted.at:
                raise BadInput(f"{held[0].strategy} was set later, by the clock of whoever set it")
        except BadInput as error:
            state.out.append(Acknowledge(event.handle))
            self._state.refuse(event, "unknown", str(error))
            return
        if held is not None:
            state.out.append(Acknowledge(held[1]))
        self._set_strategy = wanted, event.handle
        state.dispatcher.switch(strategy)
        self._lifecycle.count_rooms()
        state.look_again = True  # whether jobs share tasks may be another question now
        state.log("info", f"strategy {strategy.name}")
        self._answer(event, None)

    def _answer(self, event: Arrived, job_id: str | None, census: bool = False, skip: int = 0) -> None:
        if event.reply_to is None:
            return
        state, tenant = self._state, event.tenant
        resources = state.resources.progress(state.now)
        snapshot = Snapshot(
            strategy=state.dispatcher.strategy.name,
            jobs=[],
            resources=resources,
            waiting=state.dispatcher.waiting(MOST_WAITING),
        )
        jobs = list(state.jobs.values())
        if tenant is not None:
            jobs = [job for job in jobs if job.ledger.request.tenant == tenant]
            snapshot = msgspec.structs.replace(
                snapshot,
                # Its shares name the others.
                strategy=snapshot.strategy.partition(":")[0],
                resources=state.shown(resources, tenant),
                waiting=state.dispatcher.waiting(MOST_WAITING, {job.id for job in jobs}),
            )
        if census:
            snapshot = msgspec.structs.replace(snapshot, census=counting.census(state))
        elif job_id is None:
            listed = progress.listed(jobs, len(resources), skip)
            left_out = max(len(jobs) - skip - len(listed), 0)
            snapshot = msgspec.structs.replace(snapshot, jobs=listed, left_out=left_out)
        elif (job := state.jobs.get(job_id)) is None:
            snapshot = msgspec.structs.replace(snapshot, rejected=self._why_rejected(job_id, tenant))
        elif _is_anothers(job, event):
            snapshot = msgspec.structs.replace(snapshot, rejected=f"job {job.id} belongs to another tenant")
        else:
            snapshot = msgspec.structs.replace(
                snapshot,
                jobs=[progress.progress(job)],
                assembled=progress.result(job),
                validated=job.ledger.validated,
                measured=progress.kept(job),
            )
        state.out.append(Answer(event.reply_to, event.correlation_id, snapshot))

    def _why_rejected(self, job: str, tenant: str | None) -> str:
        """Why a request was rejected that a tenant has sent, or anybody."""
        rejected = self._state.rejected
        if tenant is not None:
            return rejected.get((job, tenant), "")
        return next((why for (named, _), why in reversed(rejected.items()) if named == job), "")


def _is_anothers(job: Job, event: Arrived) -> bool:
    """Whether a job is none of the sender's business."""
    return event.tenant is not None and event.tenant != job.ledger.request.tenant


def _same(known: Request, request: Request) -> bool:
    """Whether two requests are one. The target may have been made canonical meanwhile, and trials that were
    left to the model, and engines that were left to the mesh, may have been chosen."""
    same: dict[str, object] = {"target": request.target}
    if not request.engines:
        same["engines"] = []
    if request.level.trials == AUTO:
        patience = request.level.patience
        same["level"] = msgspec.structs.replace(known.level, trials=AUTO, patience=patience)
    return msgspec.structs.replace(known, **same) == request
