"""Whether the device is as fast as usual, by a reference kernel that is measured again and again.

Pure: no clock, no engine. A *level* is the mean of the repeats of one measurement: a compiler that shares
the core gets it in slices of some milliseconds, so that single repeats may be untouched while their mean is
not.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

THRESHOLD = 0.05
"""Drift from which measurements are not trusted. Above the noise of an idle machine (levels differ by 1 to
2 %), below what a process on the same core does (30 % and more)."""

WINDOW = 40
"""Levels that are remembered. At one or two per second, a change that lasts longer than about half a minute
is the new normal: the machine has become slower, and measuring again would not help."""

USUAL_QUANTILE = 0.25
"""The usual level is so far from the fastest of the window: disturbances only slow down."""

EARNED = 1 / 3
"""Share of the time spent on measuring that may be spent on measuring again."""

AT_FIRST = 2.0
"""Seconds for measuring again that there are before any was earned: about one attempt."""

MOST_SAVED = 20.0
"""Seconds for measuring again that can be saved up."""


class Drift:
    """What is known of one device's speed."""

    def __init__(self) -> None:
        self._levels: deque[float] = deque(maxlen=WINDOW)
        self._now = 0.0
        self._saved = AT_FIRST
        self.looked = -math.inf
        """When the reference was measured last, by the caller's clock."""

    @property
    def now(self) -> float:
        """How much slower than usual the reference ran last: 0.1 is 10 %. Never below 0."""
        return self._now

    @property
    def usual(self) -> float:
        """How long the reference takes as a rule, in seconds; 0 before it was measured."""
        return self._usual() if self._levels else 0.0

    def suspicious(self, latencies: Sequence[float]) -> bool:
        """Whether a measurement should be taken once more before it is believed."""
        return bool(self._levels) and statistics.fmean(latencies) > self._usual() * (1 + THRESHOLD)

    def seen(self, latencies: Sequence[float], at: float) -> float:
        """Note a measurement of the reference, in seconds per repeat. Returns the drift."""
        self.looked = at
        level = statistics.fmean(latencies)
        self._levels.append(level)
        self._now = max(level / self._usual() - 1, 0.0)
        return self._now

    def earn(self, seconds: float) -> None:
        """Time was spent on measuring."""
        self._saved = min(self._saved + EARNED * seconds, MOST_SAVED)

    def spend(self, seconds: float) -> None:
        """Time was spent on measuring again."""
        self._saved -= seconds

    @property
    def can_afford(self) -> bool:
        """Whether there is time for measuring again. On a machine that is never calm there soon is not, so
        that the work goes on, with its drift in the results."""
        return self._saved > 0

    def _usual(self) -> float:
        ordered = sorted(self._levels)
        if len(ordered) < WINDOW // 2:
            return ordered[0]  # too few to tell what is usual from what is disturbed
        return ordered[int(USUAL_QUANTILE * (len(ordered) - 1))]
