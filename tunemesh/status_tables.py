"""What runs at this moment as tables: jobs, their tasks, and the resources of the mesh."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.progress_bar import ProgressBar
from rich.table import Table

from tunemesh.shared.messages import OTHERS, JobProgress, ResourceProgress
from tunemesh.shared.messages.progress import CellProgress
from tunemesh.shared.text import clip, one_line
from tunemesh.tables import latency, seconds, target_text
from tunemesh.terminal import Column, Fitted, plain


def estimate(progress: JobProgress) -> tuple[float | None, float | None]:
    """Summed latency of all tasks before and now, in seconds, each task by its weight; ``None`` before all
    have been measured. What the whole model takes is measured at the end."""
    if not progress.tasks or any(task.untuned is None for task in progress.tasks):
        return None, None
    before = sum(task.weight * (task.untuned or 0.0) for task in progress.tasks)
    now = sum(
        task.weight * min(task.untuned or 0.0, task.best if task.best is not None else float("inf"))
        for task in progress.tasks
    )
    return before, now


def failures(progress: JobProgress) -> str:
    """Failed trials by kind, most frequent first."""
    counts: dict[str, int] = {}
    for task in progress.tasks:
        for outcome, count in task.outcomes.items():
            if outcome != "measured":
                counts[outcome] = counts.get(outcome, 0) + count
    return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items(), key=lambda item: -item[1])) or "-"


SOON = 16
"""Trials from which a job's own pace counts as much as what was expected of it."""


def left(progress: JobProgress, now: float) -> float | None:
    """Seconds that the remaining trials are expected to take: at first as the quote says, and the more were
    made the more at the pace so far. The first ones are no measure: they waited for the import."""
    remaining = progress.budget - progress.trials
    if progress.trials < 1 or remaining < 1 or progress.finished is not None or progress.stopped:
        return None
    pace = (now - progress.accepted) / progress.trials
    trust = progress.trials / (progress.trials + SOON)
    quote = progress.quote
    if quote is not None and quote.trials:
        return remaining * (trust * pace + (1 - trust) * quote.seconds / quote.trials)
    return remaining * pace if progress.trials >= SOON else None


JOB_COLUMNS = (
    Column("job", 0),
    Column("model", 9),
    Column("tenant", 6),
    Column("priority", 7),
    Column("phase", 1),
    Column("tasks", 8),
    Column("trials", 1),
    Column("best / untuned", 5),
    Column("speed-up", 2),
    Column("failed", 4),
    Column("time", 4),
    Column("left", 3),
    Column("finished", 5),
    Column("target", 10),
)
USUAL_PRIORITY = 10


def jobs_table(jobs: Sequence[JobProgress], now: float) -> Fitted:
    """One row per job, and a line below where there is something to say."""
    rows, notes = [], []
    for job in jobs:
        before, after = estimate(job)
        measured = sum(task.best is not None for task in job.tasks)
        rows.append(
            [
                job.job,
                job.name,
                job.tenant,
                str(job.priority) if job.priority != USUAL_PRIORITY else "",
                f"{job.phase}, stopping" if job.stopped and job.phase == "tuning" else job.phase,
                f"{measured}/{len(job.tasks)}" if job.tasks else "-",
                f"{job.trials}/{job.budget or 'auto'}",
                f"{latency(after)} / {latency(before)}" if before else "-",
                f"{before / after:.1f}x" if before and after else "-",
                failures(job),
                seconds((job.finished or now) - job.accepted),
                seconds(left(job, now)),
                _clock(job.finished, now),
                target_text(job.target),
            ]
        )
        for text in filter(None, (job.error or job.waiting, job.note)):
            notes.append(plain(f"{job.job}: {one_line(text)}", "red" if text == job.error else "yellow"))
    return Fitted("jobs", JOB_COLUMNS, rows, notes)


def _clock(at: float | None, now: float) -> str:
    """A moment: today's hour, or the day."""
    if at is None:
        return "-"
    return datetime.fromtimestamp(at).strftime("%H:%M" if now - at < DAY else "%Y-%m-%d")


DAY = 20 * 3600.0
"""Seconds for which an hour says which day it was."""

BARS = 8
"""Jobs that have a bar: with more of them the table says enough."""


def progress_bars(jobs: Sequence[JobProgress]) -> Table:
    """A bar for each job that has not ended: of its trials while it is tuned; one that only moves while its
    model is imported, put together or validated."""
    made = Table.grid(padding=(0, 1))
    made.add_column(no_wrap=True, ratio=1)
    made.add_column(width=24)
    made.add_column(no_wrap=True)
    for job in [each for each in jobs if each.finished is None][:BARS]:
        tuning = job.phase == "tuning" and job.budget > 0
        bar = ProgressBar(
            total=job.budget if tuning else None,
            completed=job.trials if tuning else 0,
            pulse=not tuning,
            width=24,
        )
        said = f"{min(job.trials / job.budget, 1):.0%}" if tuning else job.phase
        made.add_row(plain(job.job), bar, plain(said))
    return made


TASK_COLUMNS = (
    Column("task", 0),
    Column("name", 3),
    Column("runs", 5),
    Column("trials", 1),
    Column("best", 1),
    Column("by", 2),
    Column("untuned", 2),
    Column("drift", 6),
    Column("outcomes", 4),
)


def tasks_table(job: JobProgress) -> Fitted:
    """One row per task of a job, and a line below where a trial has failed."""
    rows, notes = [], []
    for task in job.tasks:
        outcomes = ", ".join(f"{n} {kind}" for kind, n in sorted(task.outcomes.items()))
        drift = f"{task.drift:+.0%}" if task.drift else ""
        best, untuned = latency(task.best), latency(task.untuned)
        trials = str(task.trials)
        if len(task.searches) > 1:
            trials += f" ({', '.join(f'{each.engine} {each.trials}' for each in task.searches)})"
        by = task.engine or "-"
        rows.append([task.id, task.name, str(task.weight), trials, best, by, untuned, drift, outcomes])
        if task.last_error.strip():
            last = task.last_error.strip().splitlines()[-1]
            notes.append(plain(f"{task.id}: {clip(one_line(last), 200)}", "yellow"))
    return Fitted(f"tasks of {job.job}", TASK_COLUMNS, rows, notes)


RESOURCE_COLUMNS = (
    Column("queue", 0),
    Column("workers", 4),
    Column("busy", 1),
    Column("doing", 1),
    Column("waiting", 2),
    Column("drift", 3),
    Column("serves", 6),
    Column("host", 5),
    Column("cage", 7),
)
NAMED = 3
"""Steps, jobs and machines that are named in a cell."""


def resources_table(
    resources: Sequence[ResourceProgress], waiting: Mapping[str, Mapping[str, int]] | None = None
) -> Fitted:
    """One row per stage queue: what it does, and who waits for it or for one like it.

    Args:
        waiting: as a snapshot has it.
    """
    rows = []
    for resource in resources:
        device = bool(resource.targets)
        waits = waiting_for(resource, waiting or {})
        rows.append(
            [
                resource.queue,
                str(len(resource.workers)),
                f"{resource.utilisation:.0%}",
                _some([step_text(step) for step in resource.running])
                or ("broken" if resource.faults else "idle"),
                f"{sum(waits.values())}: {_some([job for job, _ in waits.most_common()])}" if waits else "-",
                f"{resource.drift:+.0%}" if device else "",
                target_text(resource.targets[0]) if device else _some(resource.engines),
                _some(resource.hosts),
                _some(sorted({cage.partition(",")[0] for cage in resource.cages})),
            ]
        )
    notes = [
        plain(f"{resource.queue}: {one_line(fault)}", "yellow")
        for resource in resources
        for fault in resource.faults
    ]
    return Fitted("resources, busy in the last 5 minutes", RESOURCE_COLUMNS, rows, notes)


CELL_COLUMNS = (Column("cell", 0), Column("jobs", 1), Column("coordinator", 2))


def cells_table(cells: Sequence[CellProgress]) -> Fitted:
    """One row per cell of a mesh that has several."""
    rows = [
        [
            each.cell,
            str(each.jobs),
            "at work" if each.silent is None else f"none for {seconds(each.silent)}",
        ]
        for each in cells
    ]
    return Fitted("cells", CELL_COLUMNS, rows)


def waiting_for(resource: ResourceProgress, waiting: Mapping[str, Mapping[str, int]]) -> Counter[str]:
    """Jobs that wait for a resource, or for one like it, by how many of their steps do.

    Args:
        waiting: as a snapshot has it.
    """
    cell, slash, queue = resource.queue.rpartition("/")
    waits: Counter[str] = Counter()
    kinds = [f"profile:{name}" for name in resource.targets] or [queue.partition(".")[0]]
    for kind in (f"{cell}{slash}{kind}" for kind in kinds):
        waits.update(waiting.get(kind, {}))
    return waits


def _some(texts: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def step_text(step: str) -> str:
    """``job/t03/2/1/build`` as ``job t03 build``."""
    if step == OTHERS:
        return "of another tenant"
    job, task, *_, stage = step.split("/") if step.count("/") > 1 else (step, "-", "")
    return " ".join(part for part in (job, task, stage) if part not in ("", "-"))
