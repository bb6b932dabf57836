"""How long a candidate may take to build, from how long its siblings took.

A tenth of the candidates take a third to a half of all build time: LLVM labours over what their schedules
unroll. Those that the search finds good take longer than the others, too, so patience must not be short. Of
the candidates of six kernels (two seeds, 96 each) six times the median gave up 3 %, none a winner, and
saved a tenth of the build time; four times the median gave up 7 %, once with the winner, and saved 15 %.

That is CPU time, which a build that waits for what never comes does not use: such a one is given up by the
clock, much later, for other things may have the core.

Pure. What it knows is lost with its worker, which then is patient until it has seen a few builds.
"""

from __future__ import annotations

import statistics
from collections import deque

from cachetools import LRUCache

FACTOR = 6.0
"""Times the median of a task's builds that one of them may take."""
LEAST = 0.5
"""Seconds that any build may take: less is not worth a new sandbox."""
CLOCK = 4.0
"""Times the limit of CPU time that a build may take on the clock."""
LEAST_CLOCK = 10.0
"""Seconds on the clock that any build may take."""
ENOUGH_CLOCK = 2
"""Builds that must be known before one is given up by the clock: sooner than by CPU time, as one that hangs
keeps its worker from all others for as long as it may."""
ENOUGH = 4
"""Builds that must be known before any is given up."""
BUILDS_KEPT = 64
TASKS_KEPT = 64


class Patience:
    """What is known of the builds of some tasks."""

    def __init__(self) -> None:
        self._took: LRUCache[str, deque[float]] = LRUCache(TASKS_KEPT)

    def limit(self, task: str) -> float | None:
        """Seconds of CPU time for the next build of ``task``, by what others took on the clock;
        ``None`` while too little is known."""
        took = self._took.get(task, ())
        return max(FACTOR * statistics.median(took), LEAST) if len(took) >= ENOUGH else None

    def clock(self, task: str, most: float) -> float:
        """Seconds on the clock for the next build of ``task``, and no more than ``most``."""
        took = self._took.get(task, ())
        if len(took) < ENOUGH_CLOCK:
            return most
        return min(most, max(CLOCK * FACTOR * statistics.median(took), LEAST_CLOCK))

    def took(self, task: str, seconds: float) -> None:
        """Note a build, or for how long it was tried."""
        self._took.setdefault(task, deque(maxlen=BUILDS_KEPT)).append(seconds)
