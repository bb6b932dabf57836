"""Jobs as clients see them."""

from __future__ import annotations

from coordinator import pipeline
from coordinator.jobs import Job
from shared.messages import JobProgress, TaskProgress


def progress(job: Job) -> JobProgress:
    """One job with everything that is known at this moment, rounds under way included."""
    ledger = job.ledger
    tasks = [task if task.closed else pipeline.current(job, task) for task in ledger.tasks]
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
            )
            for task in tasks
        ],
        usage=ledger.usage if job.ended else pipeline.current_usage(job),
        waiting=job.waiting,
        error=ledger.error,
    )
