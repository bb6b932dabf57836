"""Decide, save, act: every decision that must not be taken twice becomes a ledger revision first.

A revision is published to the coordinator's own queue, and only when it comes back are the steps that
follow from it dispatched and the messages that led to it acknowledged. A crash in between leaves either the
old ledger with all its sources or the new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from tunemesh.coordinator.events import Dispatch, Save
from tunemesh.coordinator.jobs import forecast, rounds, trials
from tunemesh.coordinator.jobs import steps as job_steps
from tunemesh.coordinator.jobs.job import Held, Job, StepRef
from tunemesh.coordinator.jobs.ledger import Ledger, TaskLedger
from tunemesh.coordinator.scheduling.dispatcher import Send
from tunemesh.coordinator.state import Desk
from tunemesh.shared.messages import StepResult, ValidateDone

SLOWER = 1.05
"""Times the latency of the untuned model from which the tuned one is rejected: less may be noise."""


class Decider:
    """Takes the decisions of all jobs."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def go_on(self, job: Job) -> None:
        """Decide what can be decided, and make ready what is due."""
        if job.ended:
            return
        if job.ledger.phase == "importing" and not self.target_is_served(job):
            return
        if job.ledger.phase == "tuning":
            self._decide(job)
        if job.ledger.phase == "tuning":
            self._look_ahead(job)
        self._make_ready(job, job_steps.open_steps(job))

    def go_on_after(self, job: Job, result: StepResult) -> None:
        """The same, where only ``result`` is new: as much as it can have changed."""
        task = job.task_ledger(result.task)
        if task is None or job.ledger.phase != "tuning":
            self.go_on(job)
            return
        if job_steps.is_back(job, task):
            self._decide(job)
        elif job.ledger.request.settings.lookahead:
            self._look_ahead(job)
        task = job.task_ledger(result.task)
        if task is not None and job.ledger.phase == "tuning":
            self._make_ready(job, job_steps.steps_after(job, task, result))

    def _make_ready(self, job: Job, steps: list[StepRef]) -> None:
        for ref in steps:
            known = self._desk.dispatcher.has(ref.id)
            if not known and job.may_act(ref.task) and job_steps.can_make(job, ref):
                self._desk.dispatcher.make_ready(forecast.ready(job, ref, self._desk.durations))

    def dispatch(self, send: Send) -> Dispatch:
        """The message for a step that a queue is free for."""
        desk, job, ref = self._desk, self._desk.jobs[send.job], StepRef.parse(send.step)
        fitting = desk.dispatcher.strategy.fits_chunks
        chunk_size = forecast.chunk_size(job, ref, desk.durations, fitting=fitting)
        return Dispatch(send.queue, job_steps.make_step(job, ref, send.attempt, chunk_size))

    def drop_spent(self, job: Job, task: TaskLedger) -> None:
        """Acknowledge the rounds that have given all they had."""
        kept = job.task(task.spec.id)
        if len(kept.rounds) > 1 and job.may_act(task.spec.id):
            for number in [n for n in kept.rounds if job_steps.is_spent(task, kept, n)]:
                self._desk.release(kept.rounds.pop(number).held())

    def revise(self, job: Job, sources: Iterable[Held], **changes: object) -> None:
        """A revision of the job as a whole, made from ``sources``."""
        sources = list(sources)
        timings = [held.message.timing for held in sources]
        fields = {
            "revision": job.ledger.revision + 1,
            "usage": rounds.add_usage(job.ledger.usage, timings),
            "timings": trials.kept_timings(job.ledger.timings, timings),
            **changes,
        }
        ledger: Ledger = msgspec.structs.replace(job.ledger, **fields)
        self._save(job, ledger, "-")
        job.releases.extend((ledger.revision, held.handle) for held in sources)

    def validated(self, job: Job, validated: ValidateDone, held: Held) -> None:
        """The last step of a job is done."""
        before, after = validated.latency_before, validated.latency_after
        if not validated.equal:
            text = (
                "the tuned model does not compute what the untuned one does:"
                f" largest difference {validated.largest_difference:.3g}"
            )
            self.finish(job, "failed", text, [held], validated)
            return
        text = f"{before * 1e3:.3f} ms -> {after * 1e3:.3f} ms ({before / max(after, 1e-12):.1f}x)"
        made = job.ledger.assembled
        # Few trials may not make up for what the graph optimisation changed for their sake.
        if after > SLOWER * before and made is not None:
            text = f"{before * 1e3:.3f} ms, untuned: tuned it would take {after * 1e3:.3f} ms"
            validated = msgspec.structs.replace(validated, latency_after=before, rejected=after)
            made = msgspec.structs.replace(made, tuned=made.untuned)
            job.ledger = msgspec.structs.replace(job.ledger, assembled=made)
        self.finish(job, "done", text, [held], validated)

    def finish(
        self,
        job: Job,
        phase: Literal["done", "failed", "cancelled"],
        text: str,
        sources: Iterable[Held] = (),
        validated: ValidateDone | None = None,
    ) -> None:
        """The last revision of a job. Everything held for it is released once that is saved."""
        held = list(job.held())
        tasks = [task if task.closed else rounds.current(job, task) for task in job.ledger.tasks]
        usage = rounds.current_usage(job)
        job.ledger = msgspec.structs.replace(job.ledger, tasks=tasks, usage=usage)
        error = "" if phase == "done" else text
        now = self._desk.now
        self.revise(job, sources, phase=phase, error=error, finished=now, validated=validated)
        job.releases.extend((job.ledger.revision, each.handle) for each in held)
        job.tasks.clear()
        job.waiting = ""
        self._desk.dispatcher.forget(job.id)
        self._desk.tell(job, phase, text)

    def can_stop(self, job: Job) -> bool:
        """Whether it is not too late to stop early: the model is not being assembled yet."""
        return job.ledger.phase in ("importing", "tuning") and not job.ledger.stopped

    def stop(self, job: Job) -> None:
        """Try nothing new, and finish the job with what was found: rounds end with the chunks that have been
        begun."""
        desk = self._desk
        flights = desk.resources.flights()
        running = {StepRef.parse(each.ready.step) for each in flights if each.ready.job == job.id}
        tasks = [trials.cut(job, task, running) for task in job.ledger.tasks]
        for task in tasks:
            for number, limit in task.limits.items():
                if (round_ := job.task(task.spec.id).rounds.get(number)) is not None:
                    round_.limit = limit
        stopped = msgspec.structs.replace(
            job.ledger, revision=job.ledger.revision + 1, stopped=True, tasks=tasks
        )
        self._save(job, stopped, *(task.spec.id for task in tasks), "-")
        desk.dispatcher.withdraw(job.id)
        desk.tell(job, "progress", "stopping early: what is under way is finished")

    def cannot_save(self, job: Job, cause: str) -> None:
        """The ledger of ``job`` is too large: what made it so cannot be part of its last revision."""
        job.ledger = msgspec.structs.replace(job.ledger, tasks=[], timings=[], assembled=None)
        self.finish(job, "failed", cause)

    def target_is_served(self, job: Job) -> bool:
        """Whether a device is known for the job; takes over the canonical name of its target. From that
        revision on it is known that there was one."""
        request = job.ledger.request
        canonical = self._desk.resources.canonical(request.target)
        if canonical is None:
            job.waiting = f"no device serves target {request.target}"
            job.waiting_since = job.waiting_since or self._desk.now
            return False
        job.waiting, job.waiting_since = "", None
        if canonical != request.target or not job.ledger.revision:
            self.revise(job, (), request=msgspec.structs.replace(request, target=canonical))
        return True

    def _decide(self, job: Job) -> None:
        for task in job.ledger.tasks:
            if task.closed or task.round < 0 or task.want or not job_steps.is_back(job, task):
                continue
            self._save(job, trials.close(job, task), task.spec.id)
            kept = job.tasks.pop(task.spec.id)
            job.releases.extend(
                (job.ledger.revision, held.handle) for each in kept.rounds.values() for held in each.held()
            )
        decided = trials.decide(job, self._desk.durations)
        if decided is None:
            return
        if decided.phase == "assembling" and (cause := _nothing_measured(decided)):
            self.finish(job, "failed", cause)
            return
        self._save_tasks(job, decided)

    def _look_ahead(self, job: Job) -> None:
        desk = self._desk
        if not desk.dispatcher.strategy.overlaps or desk.active != 1 or job.saved < job.ledger.revision:
            return
        build, device = job_steps.need_of(job, "build"), job_steps.need_of(job, "profile")
        decided = trials.look_ahead(
            job,
            desk.durations,
            device_slots=desk.resources.slots(device),
            build_slots=desk.resources.slots(build),
            shared=desk.resources.share_cores(build, job_steps.need_of(job, "model-update")),
        )
        if decided is not None:
            self._save_tasks(job, decided)

    def _save_tasks(self, job: Job, decided: Ledger) -> None:
        before = {task.spec.id: task for task in job.ledger.tasks}
        changed = [task.spec.id for task in decided.tasks if task != before[task.spec.id]]
        self._save(job, decided, *changed, "-")

    def _save(self, job: Job, ledger: Ledger, *concerns: str) -> None:
        """Publish a revision; what ``concerns`` names waits until it is back."""
        job.ledger = ledger
        job.changed = True
        job.decided.update(dict.fromkeys(concerns, ledger.revision))
        self._desk.out.append(Save(ledger))


def _nothing_measured(ledger: Ledger) -> str:
    """Why assembling makes no sense, or nothing."""
    tried = sum(task.trials for task in ledger.tasks)
    if not tried or any(task.best is not None for task in ledger.tasks):
        return ""
    errors = [task.last_error for task in ledger.tasks if task.last_error]
    last = errors[-1] if errors else "none reported"
    return f"none of {tried} trials could be measured; the last error: {last}"
