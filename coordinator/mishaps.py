"""What happens to steps on their way: workers die, results make no sense, steps vanish.

A step is done again, until that has happened too often: then the job fails with the cause.
"""

from __future__ import annotations

from tunemesh.coordinator.jobs import steps as job_steps
from tunemesh.coordinator.jobs.job import Job, StepRef
from tunemesh.coordinator.lifecycle import Lifecycle
from tunemesh.coordinator.state import State, Trouble

MOST_VICTIMS = 3
"""With so many workers lost during one step its job fails, before it takes every worker there is; and with so
many that gave senseless results of it, or so many such results where nobody else could do it."""

MOST_SENSELESS = 12
"""Senseless results of one step with which its job fails, whoever gave them."""

MOST_ATTEMPTS = 20
"""Times that a step is lost without a trace before its job fails. Each takes a quarter of a minute."""


class Mishaps:
    """Counts them, by step in flight."""

    def __init__(self, state: State, lifecycle: Lifecycle) -> None:
        self._state = state
        self._lifecycle = lifecycle

    def worker_lost(self, worker: str, step: str) -> None:
        """A worker fell silent while it did a step that is still in flight."""
        job, trouble = self._troubled(step)
        if job is None:
            return
        trouble.lost.add(worker)
        count = len(trouble.lost)
        self._state.log("warning", f"worker lost during {step} ({count})", job=job.id, worker=worker)
        if count >= MOST_VICTIMS:
            text = f"{count} workers were lost while they did it, the last one {worker}; see its log"
            self._lifecycle.finish(job, "failed", f"{job_steps.named(job, step)}: {text}")

    def worker_back(self, worker: str) -> None:
        """A worker that was silent speaks again: it was not lost."""
        for trouble in self._state.trouble.values():
            trouble.lost.discard(worker)

    def senseless(self, step: str, worker: str, why: str) -> None:
        """A worker gave a result for a step in flight that is no answer to it: it is done again, elsewhere
        if there is somebody else."""
        state = self._state
        job, trouble = self._troubled(step)
        flight = state.dispatcher.lost(step)
        state.look_again = True
        if job is None or flight is None:
            return
        trouble.liars.add(worker)
        trouble.senseless += 1
        state.dispatcher.avoid(step, flight.queue)
        alone = state.resources.workers_for(flight.ready.need) <= trouble.liars
        many = len(trouble.liars) >= MOST_VICTIMS or (alone and trouble.senseless >= MOST_VICTIMS)
        if many or trouble.senseless >= MOST_SENSELESS:
            text = f"{trouble.senseless} results made no sense, the last one of {worker}: {why}"
            self._lifecycle.finish(job, "failed", f"{job_steps.named(job, step)}: {text}")

    def vanished(self, step: str, queue: str) -> None:
        """A step in flight is neither in its queue nor with a worker, and there is no result."""
        state = self._state
        flight, attempts = state.dispatcher.lost(step), state.dispatcher.attempts(step)
        state.look_again = True
        job = state.jobs.get(StepRef.parse(step).job)
        if flight is None or job is None or job.ended:
            return
        if attempts >= MOST_ATTEMPTS:
            text = f"it was lost {attempts} times without a trace, the last time in {queue}; see dead-letter"
            self._lifecycle.finish(job, "failed", f"{job_steps.named(job, step)}: {text}")

    def _troubled(self, step: str) -> tuple[Job | None, Trouble]:
        job = self._state.jobs.get(StepRef.parse(step).job)
        if job is None or job.ended:
            return None, Trouble()
        return job, self._state.trouble.setdefault(step, Trouble())
