"""How far jobs are, in a terminal or a notebook: for the Python interface."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tunemesh.following import Watcher
from tunemesh.shared.messages import JobEvent, JobProgress
from tunemesh.shared.text import one_line
from tunemesh.status_tables import estimate, left
from tunemesh.tables import latency, seconds

Callback = Callable[[JobProgress], object]
"""Told of a job whenever something has happened to it."""


def looked_at() -> bool:
    """Whether a person looks on: in a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class ProgressBar(Watcher):
    """A bar of trials for one job, and a function that is told of it. A context manager.

    Args:
        shown: whether there is a bar; by default where somebody looks on.
        callback: called in this thread; what it raises ends the waiting.
    """

    def __init__(self, shown: bool | None = None, callback: Callback | None = None) -> None:
        self._shown = looked_at() if shown is None else shown
        self._callback = callback
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        if self._shown:
            from tqdm import tqdm

            self._bar = tqdm(bar_format="{desc} {bar:24} {n_fmt}/{total_fmt} trials{postfix}", total=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def note(self, text: str) -> None:
        """Say it in place of the phase."""
        if self._bar is not None:
            self._bar.set_description_str(one_line(text)[:80])

    def event(self, event: JobEvent) -> None:
        """Draw how the job stands, and tell of it."""
        progress = event.progress
        if progress is None:
            return
        if self._bar is not None:
            self._draw(progress, event.at)
        if self._callback is not None:
            self._callback(progress)

    def _draw(self, progress: JobProgress, now: float) -> None:
        before, after = estimate(progress)
        said = [f"{latency(after)}, {before / after:.1f}x"] if before and after else []
        said += [f"{seconds(rest)} left"] if (rest := left(progress, now)) is not None else []
        self._bar.set_description_str(f"{progress.job}: {progress.phase}", refresh=False)
        self._bar.set_postfix_str(", ".join(said), refresh=False)
        self._bar.total, self._bar.n = progress.budget, progress.trials
        self._bar.refresh()
