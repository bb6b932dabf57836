"""What time alone brings about: workers that fall silent, steps that are lost, jobs that wait in vain,
news."""

from __future__ import annotations

from tunemesh.coordinator.events import Acknowledge, Purge
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.lifecycle import Decider
from tunemesh.coordinator.state import Desk

LOST_AFTER = 3.0
"""Seconds after which the steps of a device without a worker go to another device."""

NO_DEVICE_AFTER = 60.0
"""Seconds after which a job whose target no device has ever served fails. One that was served once waits for
the device to come back."""

TELL_EVERY = 1.0
"""Seconds between two progress events of a job, at least."""

TELLS_PER_SECOND = 100
"""Progress events of all jobs together, about."""

KEEP_FINISHED = 24 * 3600.0
"""Seconds for which finished jobs can be asked about."""

LOOK_EVERY = 1.0
"""Seconds between two looks at the workers."""


class Watch:
    """Looks after workers and jobs on every tick."""

    def __init__(self, desk: Desk, decider: Decider) -> None:
        self._desk = desk
        self._decider = decider
        self._looked = -1e9

    def tick(self) -> None:
        """Time has passed."""
        desk = self._desk
        if not 0 <= desk.now - self._looked < LOOK_EVERY:
            self._looked = desk.now
            for flight in list(desk.resources.missing(desk.now)):
                self.give_up(flight.ready.step)
            self._leave_lost_devices()
        if desk.look_again:
            desk.look_again = False
            for job in list(desk.jobs.values()):
                self._decider.go_on(job)
        desk.active = sum(not job.ended for job in desk.jobs.values())
        dead = {need for need in desk.dispatcher.needs if not desk.resources.slots(need)}
        tell_every = max(TELL_EVERY, desk.active / TELLS_PER_SECOND)
        for job in list(desk.jobs.values()):
            if job.ended:
                self._forget_old(job)
            else:
                self._watch(job, dead, tell_every)

    def give_up(self, step: str) -> None:
        """A step in flight was lost: it will be sent again."""
        if self._desk.dispatcher.lost(step) is not None:
            self._desk.look_again = True

    def _leave_lost_devices(self) -> None:
        """Steps on a device without a worker go to another device of the same target, if there is one.
        Otherwise they stay in its queue until it is back."""
        desk = self._desk
        for queue in list(desk.resources.queues.values()):
            lost = queue.empty_since is not None and desk.now - queue.empty_since > LOST_AFTER
            if not lost or not queue.flights:
                continue
            if desk.resources.slots(next(iter(queue.flights.values())).ready.need):
                desk.out.append(Purge(queue.name))
                for step in list(queue.flights):
                    self.give_up(step)

    def _forget_old(self, job: Job) -> None:
        desk = self._desk
        if job.ledger.finished is not None and desk.now - job.ledger.finished > KEEP_FINISHED:
            if job.handle is not None:
                desk.out.append(Acknowledge(job.handle))
            del desk.jobs[job.id]

    def _watch(self, job: Job, dead: set[str], tell_every: float) -> None:
        """Tell how a job is doing; end it if it waits in vain."""
        desk = self._desk
        if job.ledger.phase == "importing" and job.waiting_since is not None:
            self._decider.go_on(job)
            since = job.waiting_since
            # With the first revision after acceptance the target was served.
            if since is not None and not job.ledger.revision and desk.now - since > NO_DEVICE_AFTER:
                served = sorted({q.targets[0] for q in desk.resources.queues.values() if q.targets})
                text = (
                    f"{job.waiting}; devices here serve: {', '.join(served) or 'none, there is no device'}."
                    " Start one: tunemesh worker profile-NAME --device D --target T"
                )
                self._decider.finish(job, "failed", text)
                return
        elif dead or job.waiting:
            reason = self._why_waiting(job, dead)
            if reason != job.waiting:
                job.waiting, job.changed = reason, True
        if job.changed and desk.now - job.told >= tell_every:
            desk.tell(job, "progress", job.waiting)

    def _why_waiting(self, job: Job, dead: set[str]) -> str:
        """The queues that the job needs and that have no worker."""
        needs = [need for need in self._desk.dispatcher.needs_of(job.id) if need in dead]
        return f"waiting for a worker for {', '.join(needs)}" if needs else ""
