"""The view of running jobs in a terminal, and its plain twin for logs and pipes."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunemesh.shared.messages import FINAL_KINDS, JobEvent, JobProgress, ResourceProgress
from tunemesh.tuning import Watcher

PLAIN_EVERY = 10.0
"""Seconds between two lines of one job when the output is no terminal."""


def seconds(value: float | None) -> str:
    """A duration for people: ``12 s``, ``3 min 05 s``, ``1 h 02 min``."""
    if value is None:
        return "-"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def latency(value: float | None) -> str:
    """A latency for people, from seconds."""
    if value is None:
        return "-"
    if value < 1e-3:
        return f"{value * 1e6:.1f} us"
    return f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"


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


def left(progress: JobProgress, now: float) -> float | None:
    """Seconds that the remaining trials take at the rate so far."""
    if progress.trials < 1 or progress.finished is not None or progress.stopped:
        return None
    return (now - progress.accepted) / progress.trials * (progress.budget - progress.trials)


def jobs_table(jobs: list[JobProgress], now: float) -> Table:
    """One row per job."""
    table = Table(title="jobs", title_justify="left", expand=True)
    for name in ("job", "phase", "tasks", "trials", "best / untuned", "speed-up", "failed", "time", "left"):
        table.add_column(name, overflow="fold")
    for job in jobs:
        before, after = estimate(job)
        measured = sum(task.best is not None for task in job.tasks)
        table.add_row(
            job.job,
            f"{job.phase}, stopping" if job.stopped and job.phase == "tuning" else job.phase,
            f"{measured}/{len(job.tasks)}" if job.tasks else "-",
            f"{job.trials}/{job.budget}",
            f"{latency(after)} / {latency(before)}",
            f"{before / after:.1f}x" if before and after else "-",
            failures(job),
            seconds((job.finished or now) - job.accepted),
            seconds(left(job, now)),
        )
        if job.waiting or job.error:
            table.add_row("", Text(job.error or job.waiting, style="red" if job.error else "yellow"))
    return table


def tasks_table(job: JobProgress) -> Table:
    """One row per task of a job."""
    table = Table(title=f"tasks of {job.job}", title_justify="left", expand=True)
    for name in ("task", "name", "weight", "trials", "best", "untuned", "outcomes"):
        table.add_column(name, overflow="fold")
    for task in job.tasks:
        outcomes = ", ".join(f"{n} {kind}" for kind, n in sorted(task.outcomes.items()))
        row = (
            task.id,
            task.name,
            str(task.weight),
            str(task.trials),
            latency(task.best),
            latency(task.untuned),
        )
        table.add_row(*row, outcomes)
        if task.last_error:
            table.add_row("", Text(task.last_error.splitlines()[-1][:200], style="yellow"))
    return table


def resources_table(resources: list[ResourceProgress]) -> Table:
    """One row per stage queue."""
    table = Table(title="resources", title_justify="left", expand=True)
    for name in ("queue", "workers", "doing", "utilisation"):
        table.add_column(name, overflow="fold")
    for resource in resources:
        table.add_row(
            resource.queue,
            str(len(resource.workers)),
            ", ".join(resource.running) or "idle",
            f"{min(resource.utilisation, 1.0):.0%}",
        )
    return table


class LiveView(Watcher):
    """Shows events as they come. A context manager.

    Args:
        console: where to; a table that renews itself on a terminal, lines elsewhere.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._jobs: dict[str, JobProgress] = {}
        self._resources: list[ResourceProgress] = []
        self._note = ""
        self._last_line: dict[str, tuple[str, float]] = {}
        self._live = (
            Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
        )

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self.refresh()
            self._live.__exit__(kind, error, trace)

    def note(self, text: str) -> None:
        """One line on what is going on, before there are jobs to show."""
        if self._live is None:
            self._console.print(text, highlight=False)
        self._note = text
        self.refresh()

    def event(self, event: JobEvent) -> None:
        """Take in an event."""
        if event.progress is not None:
            self._jobs[event.job] = event.progress
        if event.resources:
            self._resources = event.resources
        if self._live is None:
            self._line(event)
        self.refresh()

    def refresh(self) -> None:
        """Draw again."""
        if self._live is not None:
            now = time.time()
            parts = [jobs_table(list(self._jobs.values()), now), resources_table(self._resources)]
            self._live.update(
                Group(Text(self._note, style="dim"), *(parts if self._jobs else [])), refresh=True
            )

    def _line(self, event: JobEvent) -> None:
        progress = event.progress
        phase = progress.phase if progress else event.kind
        known, printed = self._last_line.get(event.job, ("", 0.0))
        final = event.kind in FINAL_KINDS
        if phase == known and not final and time.monotonic() - printed < PLAIN_EVERY:
            return
        self._last_line[event.job] = (phase, time.monotonic())
        parts = [f"{event.job}: {phase}"]
        if progress and progress.tasks:
            before, after = estimate(progress)
            parts.append(f"{progress.trials}/{progress.budget} trials")
            if before and after:
                parts.append(f"tasks {latency(before)} -> {latency(after)} ({before / after:.1f}x)")
            if (failed := failures(progress)) != "-":
                parts.append(failed)
            if not final and (rest := left(progress, time.time())) is not None:
                parts.append(f"{seconds(rest)} left")
        if event.text:
            parts.append(event.text)
        self._console.print(", ".join(parts), highlight=False, soft_wrap=True)
