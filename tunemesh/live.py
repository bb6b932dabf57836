"""The view of running jobs in a terminal, and its plain twin for logs and pipes."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live

from tunemesh.following import Watcher
from tunemesh.shared.messages import FINAL_KINDS, JobEvent, JobProgress, ResourceProgress
from tunemesh.status_tables import estimate, failures, jobs_table, left, progress_bars, resources_table
from tunemesh.tables import latency, seconds
from tunemesh.terminal import plain, print_json, say

PLAIN_EVERY = 10.0
"""Seconds between two lines of one job when the output is no terminal."""


class JsonLines(Watcher):
    """Prints every event as a JSON object on a line of its own. A context manager."""

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def event(self, event: JobEvent) -> None:
        """Print it: what happened when, and how the job stands."""
        said = {"job": event.job, "kind": event.kind, "at": event.at, "text": event.text}
        print_json({**said, "progress": event.progress}, indent=0)


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
            say(self._console, text)
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
            jobs = list(self._jobs.values())
            parts: list[RenderableType] = [
                jobs_table(jobs, now),
                progress_bars(jobs),
                resources_table(self._resources),
            ]
            shown = Group(plain(self._note, "dim"), *(parts if self._jobs else []))
            self._live.update(shown, refresh=True)

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
            parts.append(" ".join(event.text.split()))
        say(self._console, ", ".join(parts))
