"""Jobs as clients see them."""

from __future__ import annotations

import statistics

from coordinator import folding
from coordinator.jobs import Job
from shared.messages import JobProgress, TaskLedger, TaskProgress


def progress(job: Job) -> JobProgress:
    """One job with everything that is known at this moment, rounds under way included."""
    ledger = job.ledger
    tasks = [task if task.closed else folding.current(job, task) for task in ledger.tasks]
    return JobProgress(
        job=job.id,
        name=ledger.request.name,
        phase=ledger.phase,
        target=ledger.request.target,
        trials=sum(task.trials for task in tasks),
        budget=ledger.request.trials,
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
            )
            for task in tasks
        ],
        usage=ledger.usage if job.ended else folding.current_usage(job),
        tenant=ledger.request.tenant,
        priority=ledger.request.priority,
        timings=ledger.timings if job.ended else [],
        waiting=job.waiting,
        error=ledger.error,
    )


def _spread(task: TaskLedger) -> float | None:
    """That of the best candidate, where the best were confirmed."""
    best = min(task.confirmed, key=lambda each: statistics.median(each.latencies), default=None)
    if best is None:
        return None
    return (max(best.latencies) - min(best.latencies)) / statistics.median(best.latencies)
