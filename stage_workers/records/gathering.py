"""From what the mesh says of trials to rows."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence

from tunemesh.shared.messages import (
    Conditions,
    Confirmed,
    History,
    Origin,
    TaskRecords,
    TaskSpec,
    Trial,
    ValidateDone,
)
from tunemesh.stage_workers.records import rows


def operator_of(name: str) -> str:
    """A task's name without what only numbers it: ``fused_conv2d1_add2`` is ``fused_conv2d_add``."""
    return re.sub(r"(?<=[A-Za-z])\d+(?=_|$)", "", name)


def of_job(origin: Origin) -> rows.Job:
    """The row of a job."""
    return rows.Job(
        id=rows.job_id(origin.job, origin.accepted),
        job=origin.job,
        accepted=origin.accepted,
        tenant=_text(origin.tenant),
        model=_text(origin.model),
        source="",
        visibility=origin.visibility,
    )


def of_task(task: TaskSpec, target: str, workload: bytes) -> list[rows.Row]:
    """The rows of a task.

    Args:
        target: canonical form.
        workload: what ``task.workload`` is the address of.
    """
    return [
        rows.Task(key=task.key, name=task.name, operator=operator_of(task.name), target=target),
        rows.Workload(id=workload_id(task), task=task.key, data=workload),
    ]


def workload_id(task: TaskSpec) -> str:
    """The id of the row of a task's workload."""
    return task.workload.sha256[:32]


def of_records(records: TaskRecords, histories: Sequence[History], origin: Origin) -> list[rows.Row]:
    """The rows of everything that was measured of a task.

    Args:
        histories: those of ``records``.
        origin: the job that ``records`` are of; histories and trials may be of an earlier one.
    """
    task = records.task
    found = [row for history in histories for row in of_history(task, history)]
    if records.trials:
        format_ = histories[-1].format if histories else 1
        whose = records.origin or origin
        found += [of_job(whose), *of_trials(task, records.trials, whose, format_, whose.accepted)]
    found += of_confirmed(task, records.confirmed, histories)
    first = next((each.origin for each in histories if each.origin is not None), origin)
    if records.untuned is not None:
        # Where it goes on from what another job has left, the task was searched for this one.
        origins = [each.origin for each in histories if each.origin is not None and each.trials]
        tuned = {(each.job, each.accepted) for each in origins}
        whose = origin if (origin.job, origin.accepted) in tuned else first
        found.append(of_baseline(task, records.untuned, whose))
    return found


def of_conditions(conditions: Iterable[Conditions]) -> list[rows.Row]:
    """The rows of conditions."""
    return [
        rows.Conditions(
            id=each.id,
            device=each.device,
            versions=each.versions,
            cache_flush=each.cache_flush,
            reference=each.reference,
        )
        for each in conditions
    ]


def of_history(task: TaskSpec, history: History) -> list[rows.Row]:
    """The rows of what one update has learned from; none where it is not known for which job."""
    origin = history.origin
    if origin is None or task.engine is None:
        return []
    at = max((timing.finished for timing in history.timings), default=origin.accepted)
    return [
        of_job(origin),
        *of_conditions(history.conditions),
        *of_trials(task, history.trials, origin, history.format, at),
    ]


def of_trials(
    task: TaskSpec, trials: Iterable[Trial], origin: Origin, format_: int, at: float
) -> Iterator[rows.Trial]:
    """The rows of trials of a task."""
    job = rows.job_id(origin.job, origin.accepted)
    engine = str(task.engine)
    for trial in trials:
        measured = math.isfinite(trial.latency)
        yield rows.Trial(
            id=rows.trial_id(task.key, engine, format_, trial.candidate.hash, job),
            task=task.key,
            job=job,
            engine=engine,
            format=format_,
            hash=trial.candidate.hash,
            workload=workload_id(task),
            schedule=trial.candidate.schedule,
            outcome=trial.outcome,
            latency=trial.latency if measured else None,
            latencies=trial.latencies,
            drift=trial.drift,
            attempts=trial.attempts,
            cut_short=trial.cut_short,
            error=_text(trial.error),
            conditions=trial.conditions,
            at=at,
        )


def of_confirmed(
    task: TaskSpec, confirmed: Sequence[Confirmed], histories: Sequence[History]
) -> list[rows.Row]:
    """The rows of those that were confirmed at the end of a task, whose trials are in ``histories``."""
    tried = {
        trial.candidate.hash: (history.origin, history.format)
        for history in histories
        for trial in history.trials
        if history.origin is not None
    }
    found: list[rows.Row] = []
    for each in confirmed:
        origin, format_ = tried.get(each.hash, (None, 0))
        if origin is None or not each.latencies:
            continue
        job = rows.job_id(origin.job, origin.accepted)
        trial = rows.trial_id(task.key, str(task.engine), format_, each.hash, job)
        found.append(
            rows.Confirmation(
                id=rows.made_id("confirmation", trial),
                trial=trial,
                task=task.key,
                latency=statistics.median(each.latencies),
                latencies=each.latencies,
                conditions=each.conditions,
                at=origin.accepted,
            )
        )
    return found


def of_baseline(task: TaskSpec, untuned: float, origin: Origin) -> rows.Row:
    """The row of how long a task takes without tuning, in seconds."""
    job = rows.job_id(origin.job, origin.accepted)
    return rows.Baseline(
        id=rows.made_id("baseline", task.key, job),
        task=task.key,
        job=job,
        latency=untuned,
        at=origin.accepted,
    )


def of_result(origin: Origin, target: str, done: ValidateDone, conditions: Conditions) -> list[rows.Row]:
    """The rows of a whole model."""
    job = of_job(origin)
    return [
        job,
        *of_conditions([conditions]),
        rows.Result(
            id=rows.made_id("result", job.id),
            job=job.id,
            target=target,
            latency_before=done.latency_before,
            latency_after=done.latency_after,
            equal=done.equal,
            wrong=_text(done.wrong),
            drift=done.drift,
            conditions=conditions.id,
            at=origin.accepted,
        ),
    ]


def _text(text: str) -> str:
    """PostgreSQL takes no NUL."""
    return text.replace("\0", "")
