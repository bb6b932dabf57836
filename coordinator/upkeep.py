"""What time alone brings about: workers that fall silent, steps that are lost, jobs that wait in vain,
news."""

from __future__ import annotations

from tunemesh.coordinator import counting
from tunemesh.coordinator.events import Acknowledge, Count, Declare, Purge
from tunemesh.coordinator.jobs import limits, measured
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.lifecycle import Lifecycle
from tunemesh.coordinator.mishaps import Mishaps
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.state import State

NO_DEVICE_AFTER = 60.0
"""Seconds after which a job whose target no device has ever served fails. One that was served once waits for
the device to come back."""

TELL_EVERY = 1.0
"""Seconds between two progress events of a job, at least."""

TELLS_PER_SECOND = 100
"""Progress events of all jobs together, about."""

DELIVER_EVERY = 60.0
"""Seconds between two events that tell where everything lies that was measured since, at least; of tasks that
are closed it is told at once."""

KEEP_FINISHED = 24 * 3600.0
"""Seconds for which finished jobs can be asked about."""

MOST_FINISHED = 5_000
"""Finished jobs that can be asked about. Their ledgers are held, too."""

COUNT_EVERY = 600.0
"""Seconds between two messages that say which artifacts are needed."""

LOOK_EVERY = 1.0
"""Seconds between two looks at the workers."""


class Upkeep:
    """Looks after workers and jobs on every tick."""

    def __init__(self, state: State, lifecycle: Lifecycle, mishaps: Mishaps) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._mishaps = mishaps
        self._looked = -1e9

    def workers(self) -> None:
        """Time has passed: some may have fallen silent."""
        state = self._state
        state.resources.expire(state.now)
        for lost in state.resources.take_lost():
            state.log("warning", f"worker lost from {lost.queue}", worker=lost.worker)
            if lost.step is not None and state.resources.in_flight(lost.step):
                job = lost.step.partition("/")[0]
                self._lifecycle.guarded(job, self._mishaps.worker_lost, lost.worker, lost.step)

    def queue_missing(self, queue: str, cause: str, refused: bool) -> None:
        """A stage queue is not there: what was in it is lost, and it is declared again. Said once."""
        state = self._state
        if refused or queue not in state.missing:
            if state.missing.get(queue) != cause:
                state.log("warning", f"queue {queue} is not there: {cause}")
            state.missing[queue] = cause
        if refused:
            return
        state.resources.deleted(queue, state.now)
        doing = state.resources.running()
        for flight in list(state.resources.flights()):
            if flight.queue == queue and flight.ready.step not in doing:
                self.give_up(flight.ready.step)
        state.out.append(Declare(queue))

    def jobs(self) -> None:
        """Time has passed: send again what is lost, end what waits in vain, tell news."""
        state, guarded = self._state, self._lifecycle.guarded
        if not 0 <= state.now - self._looked < LOOK_EVERY:
            self._looked = state.now
            for flight in list(state.resources.missing(state.now)):
                state.log("warning", f"lost in {flight.queue}: to be sent again", step=flight.ready.step)
                guarded(flight.ready.job, self._mishaps.vanished, flight.ready.step, flight.queue)
            guarded(None, self._leave_lost_devices)
        for job in list(state.jobs.values()):
            if not job.ended and job.ledger.request.level.has_goal:
                guarded(job.id, self._watch_level, job)
        guarded(None, self._lifecycle.let_begin)
        guarded(None, self._lifecycle.let_in)
        if state.look_again:
            state.look_again = False
            for job in list(state.jobs.values()):
                guarded(job.id, self._lifecycle.go_on, job)
        state.active = sum(not job.ended for job in state.jobs.values())
        dead = {need for need in state.dispatcher.needs if not state.resources.slots(need)}
        tell_every = max(TELL_EVERY, state.active / TELLS_PER_SECOND)
        all_wait = bool(dead or state.outside)
        for job in list(state.jobs.values()):
            if job.ended:
                continue
            news = job.changed and state.now - job.told >= tell_every
            if all_wait or news or job.waiting or job.ledger.phase == "importing":
                guarded(job.id, self._watch, job, dead, tell_every)
            guarded(job.id, self._deliver, job, tell_every)
        guarded(None, self._forget_old)
        guarded(None, self._count)

    def _deliver(self, job: Job, tell_every: float) -> None:
        """Tell where that lies which was measured for a job that goes on. A client can ask for what it
        missed; a successor tells all of it again."""
        now = self._state.now
        waited = now - job.delivered_at
        often = DELIVER_EVERY * tell_every / TELL_EVERY
        if job.ended or waited < tell_every or (waited < often and not measured.has_closed(job)):
            return
        job.delivered_at = now
        if records := measured.deliver(job):
            self._state.tell(job, "progress", job.waiting, records)

    def give_up(self, step: str) -> None:
        """A step in flight was lost: it will be sent again."""
        if self._state.dispatcher.lost(step) is not None:
            self._state.look_again = True

    def _watch_level(self, job: Job) -> None:
        """Time has passed: a deadline may be near."""
        before = job.ledger.revision
        self._lifecycle.watch_level(job)
        if job.ledger.revision > before:
            self._lifecycle.go_on(job)

    def _leave_lost_devices(self) -> None:
        """Steps on a device without a worker go to another device of the same target, if there is one.
        Otherwise they stay in its queue until it is back. The same for other queues."""
        state = self._state
        for queue in state.resources.deserted(state.now):
            state.log("warning", f"{queue.name} has no worker: its steps go to another queue")
            state.out.append(Purge(queue.name))
            for step in list(queue.flights):
                self.give_up(step)

    def _forget_old(self) -> None:
        """Ended jobs can be asked about for a while, and not too many of them."""
        state = self._state
        ended = [job for job in state.jobs.values() if job.ended and job.saved >= job.ledger.revision]
        for job in ended:
            if job.ended_since is None:
                job.ended_since = state.now
        ended.sort(key=lambda job: job.ended_since or 0.0)
        surplus = len(ended) - MOST_FINISHED
        for number, job in enumerate(ended):
            if number >= surplus and state.now - (job.ended_since or 0.0) <= KEEP_FINISHED:
                break
            if job.handle is not None:
                state.out.append(Acknowledge(job.handle))
            del state.jobs[job.id]
            state.sharing.forget(job.id)
        began = min((job.ledger.accepted for job in state.jobs.values() if not job.ended), default=None)
        for job in ended:
            if began is None or (job.ledger.finished or 0.0) < began:
                state.sharing.forget(job.id)

    def _count(self) -> None:
        """Tell those who keep the history which artifacts are needed, every now and then."""
        state = self._state
        if state.counted_at is None:
            state.counted_at = state.now
        elif state.now - state.counted_at >= COUNT_EVERY:
            state.counted_at = state.now
            state.out.append(Count(counting.census(state)))

    def _watch(self, job: Job, dead: set[Need], tell_every: float) -> None:
        """Tell how a job is doing; end it if it waits in vain."""
        state = self._state
        undecided = job.waiting_since is not None or not job.ledger.request.engines
        if job.id in state.queued:
            self._wait_for_turn(job)
        elif job.ledger.phase == "importing" and undecided:
            self._lifecycle.go_on(job)
            since = job.waiting_since
            # With the first revision after acceptance the target was served.
            if since is not None and not job.ledger.revision and state.now - since > NO_DEVICE_AFTER:
                served = state.resources.served_targets()
                text = (
                    f"{job.waiting}; devices here serve: {', '.join(served) or 'none, there is no device'}."
                    " Start one: tunemesh worker profile-NAME --device D --target T"
                )
                self._lifecycle.finish(job, "failed", text)
                return
        elif dead or job.waiting or state.outside or job.waits:
            reason = self._why_waiting(job, dead)
            if reason != job.waiting:
                job.waiting, job.changed = reason, True
                state.log("info", reason or "goes on", job=job.id)
        if job.changed and state.now - job.told >= tell_every:
            state.tell(job, "progress", job.waiting)

    def _wait_for_turn(self, job: Job) -> None:
        tenant = job.ledger.request.tenant
        most = limits.limits_of(self._state.limits, tenant).jobs
        reason = f"waiting for another job of {limits.whose(tenant)} to end: {most} are worked on at once"
        if reason != job.waiting:
            job.waiting, job.changed = reason, True

    def _why_waiting(self, job: Job, dead: set[Need]) -> str:
        """What the job needs and nobody does: where workers are missing, and where an engine is."""
        state = self._state
        if job.id in state.outside:
            before = list(state.outside).index(job.id)
            return (
                f"waiting for other jobs to end: the coordinator cannot hold more at once ({before} before)"
            )
        missing, texts, faults = [], [], list[str]()
        for need in state.dispatcher.needs_of(job.id):
            if need not in dead:
                continue
            served = state.resources.served_engines(need.kind)
            if broken := state.resources.faults(need.kind):
                faults += broken
                continue
            if not served:
                missing.append(need.kind)
                continue
            engines = f"engine{'s' * (len(need.engines) > 1)} {', '.join(need.engines)}"
            texts.append(f"a worker that serves {engines} on {need.kind}; served there: {', '.join(served)}")
        if missing:
            texts.insert(0, f"a worker for {', '.join(dict.fromkeys(missing))}")
        if faults:
            texts.append(f"a device that works: {' | '.join(dict.fromkeys(faults))}")
        if job.waits and not state.dispatcher.needs_of(job.id):
            count = len(job.waits)
            return f"another job tunes {count} of its tasks: it takes over what that finds"
        if not texts:
            return ""
        gone = [f"; queue {queue} is not there: {cause}" for queue, cause in sorted(state.missing.items())]
        return f"waiting for {'; and for '.join(texts)}{''.join(gone)}"
