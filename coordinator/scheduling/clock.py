"""Time that passes evenly, read from a clock that may jump."""

from __future__ import annotations

LONGEST = 4.0
"""Seconds between two readings at most; a longer interval is a jump, or this process did not run. Half of
what a worker may be silent for, so that a jump takes no worker for dead."""


class Clock:
    """Seconds since the first reading. Only differences of readings count: one that goes back, or forward by
    more than :data:`LONGEST`, neither ages everything at once nor keeps it young for as long."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._passed = 0.0

    def read(self, now: float) -> float:
        """What has passed until ``now``, which is in seconds since whenever."""
        if self._last is not None:
            self._passed += min(max(now - self._last, 0.0), LONGEST)
        self._last = now
        return self._passed
