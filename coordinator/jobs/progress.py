"""Jobs as clients see them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from tunemesh.coordinator.jobs import measured, prices, rounds, searches
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.shared.messages import (
    AssembleDone,
    JobProgress,
    Request,
    SearchProgress,
    Taken,
    TaskProgress,
    TaskRecords,
    Terms,
)

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


def listed(jobs: Iterable[Job], resources: int, skip: int = 0) -> list[JobProgress]:
    """All jobs, or as many as fit beside so many resources: those under way first, then the newest, without
    the first ``skip`` of them. Without what only matters to whoever asks for one job: timings, usage, and
    what went wrong with a candidate."""
    chosen: list[Job] = []
    room = max(LISTED - RESOURCE * resources, LEAST)
    for job in sorted(jobs, key=lambda job: (job.ended, -job.ledger.accepted))[skip:]:
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
        tasks=[_task(each) for each in searches.by_task(tasks)],
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
        note=ledger.note,
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


def _task(found: Sequence[TaskLedger]) -> TaskProgress:
    """A task, of all its searches."""
    first, ahead = found[0], searches.ahead(found)
    outcomes: Counter[str] = Counter()
    for each in found:
        outcomes.update(each.outcomes)
    open_ = any(not each.closed and not each.ended for each in found)
    return TaskProgress(
        id=first.spec.id,
        name=first.spec.name,
        weight=first.spec.weight,
        operations=first.spec.operations,
        trials=sum(each.trials for each in found),
        outcomes=dict(outcomes),
        untuned=searches.untuned(found),
        best=ahead.best if ahead is not None else None,
        engine=ahead.spec.engine if ahead is not None else None,
        searches=[_search(each, ahead) for each in searches.by_engine(found)],
        last_error=next((each.last_error for each in found if each.last_error), ""),
        spread=_spread(ahead) if ahead is not None else None,
        confirmed=sum(len(each.confirmed) for each in found),
        remeasured=sum(each.remeasured for each in found),
        drift=max(each.drift for each in found),
        rounds_ahead=sum(each.rounds_ahead for each in found),
        ended="" if open_ else (ahead or first).ended,
        taken=_taken(found),
    )


def _search(regions: Sequence[TaskLedger], leader: TaskLedger | None) -> SearchProgress:
    """What an engine has found of a task, in all regions that it searches. The ``leader`` is the search of
    the task that is ahead."""
    first, ahead = regions[0], searches.ahead(regions)
    other = leader is not None and leader.spec.engine != first.spec.engine
    open_ = any(not each.ended for each in regions)
    return SearchProgress(
        engine=str(first.spec.engine),
        regions=len(regions),
        trials=sum(each.trials for each in regions),
        best=ahead.best if ahead is not None else None,
        confirmed=sum(len(each.confirmed) for each in regions),
        behind=searches.behind(leader, regions) if leader is not None and other else None,
        ended="" if open_ else (ahead or first).ended,
    )


def _taken(found: Sequence[TaskLedger]) -> Taken | None:
    """What other jobs have found of a task, with its searches together."""
    taken = [each.taken for each in found if each.taken is not None]
    if len(taken) < 2:
        return taken[0] if taken else None
    return Taken(
        job=taken[0].job,
        trials=sum(each.trials for each in taken),
        rounds=sum(each.rounds for each in taken),
        seconds=sum(each.seconds for each in taken),
        closed=all(each.closed for each in taken),
    )


def _spread(task: TaskLedger) -> float | None:
    """That of the best candidate, where the best were confirmed."""
    best = min(task.confirmed, key=lambda each: statistics.median(each.latencies), default=None)
    if best is None:
        return None
    return (max(best.latencies) - min(best.latencies)) / statistics.median(best.latencies)
