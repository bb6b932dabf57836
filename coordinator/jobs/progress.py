"""Jobs as clients see them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import msgspec

from tunemesh.coordinator.jobs import measured, prices, rounds
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.shared.messages import AssembleDone, JobProgress, Request, TaskProgress, TaskRecords, Terms

LISTED = 2_000
"""Tasks in a list of all jobs, with 200 to 300 bytes each, so that it stays well below a message's limit."""

JOB, RESOURCE = 3, 2
"""Tasks that take as much space as a job without tasks, and as a resource beside the list."""

LEAST = 100
"""Tasks that there is place for whatever the number of resources."""

ERROR_LISTED = 200
"""Characters of a job's error in a list."""


def result(job: Job) -> AssembleDone | None:
    """What a job is to give: nothing before it is done, nor where its model was found to be wrong."""
    return job.ledger.assembled if job.ledger.phase == "done" else None


def kept(job: Job) -> list[TaskRecords]:
    """What was measured so far for a job that has no results, or not yet."""
    if job.ledger.phase == "done":
        return []
    return measured.records(job.ledger.tasks if job.ended else measured.at_the_end(job))


def listed(jobs: Iterable[Job], resources: int) -> list[JobProgress]:
    """All jobs, or as many as fit beside so many resources: those under way first, then the newest. Without
    what only matters to whoever asks for one job: timings, usage, and what went wrong with a candidate."""
    chosen: list[Job] = []
    room = max(LISTED - RESOURCE * resources, LEAST)
    for job in sorted(jobs, key=lambda job: (job.ended, -job.ledger.accepted)):
        room -= JOB + len(job.ledger.tasks)
        if room < 0:
            break
        chosen.append(job)
    return [_short(progress(job)) for job in sorted(chosen, key=lambda job: job.order)]


def _short(whole: JobProgress) -> JobProgress:
    tasks = [msgspec.structs.replace(task, last_error="") for task in whole.tasks]
    error = whole.error[:ERROR_LISTED]
    return msgspec.structs.replace(whole, tasks=tasks, usage={}, timings=[], terms=None, error=error)


def progress(job: Job) -> JobProgress:
    """One job with everything that is known at this moment, rounds under way included."""
    ledger = job.ledger
    tasks = [task if task.closed else rounds.current(job, task) for task in ledger.tasks]
    usage = ledger.usage if job.ended else rounds.current_usage(job)
    return JobProgress(
        job=job.id,
        name=ledger.request.name,
        phase=ledger.phase,
        target=ledger.request.target,
        trials=sum(task.trials for task in tasks),
        budget=ledger.request.level.trials,
        accepted=ledger.accepted,
        finished=ledger.finished,
        tasks=[
            TaskProgress(
                id=task.spec.id,
                name=task.spec.name,
                weight=task.spec.weight,
                trials=task.trials,
                outcomes=task.outcomes,
                untuned=task.untuned,
                best=task.best,
                last_error=task.last_error,
                spread=_spread(task),
                confirmed=len(task.confirmed),
                remeasured=task.remeasured,
                drift=task.drift,
                rounds_ahead=task.rounds_ahead,
                ended=task.ended,
                taken=task.taken,
            )
            for task in tasks
        ],
        usage=usage,
        cost=prices.of_usage(usage, job.prices),
        quote=ledger.quote,
        standing=ledger.standing,
        tenant=ledger.request.tenant,
        visibility=ledger.request.visibility,
        priority=ledger.request.priority,
        stopped=ledger.stopped,
        terms=_terms(ledger.request) if job.ended else None,
        timings=ledger.timings if job.ended else [],
        waiting=job.waiting,
        error=ledger.error,
        asked_by=ledger.asked_by,
        cancelled=ledger.cancelled,
    )


def _terms(request: Request) -> Terms:
    return Terms(
        engines=request.engines,
        options=request.options,
        seed=request.seed,
        level=request.level,
        settings=request.settings,
    )


def _spread(task: TaskLedger) -> float | None:
    """That of the best candidate, where the best were confirmed."""
    best = min(task.confirmed, key=lambda each: statistics.median(each.latencies), default=None)
    if best is None:
        return None
    return (max(best.latencies) - min(best.latencies)) / statistics.median(best.latencies)
