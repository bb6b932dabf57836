"""Token buckets: how often somebody may do something."""

from __future__ import annotations


class Bucket:
    """So many tokens a second, and no more than ``most`` at once. Taking counts also where it came too early,
    up to ``most`` of them: each of those has to wait longer than the one before.

    Args:
        rate: tokens a second, above 0.
        most: that are kept while nobody takes any.
    """

    def __init__(self, rate: float, most: float) -> None:
        self._rate = rate
        self._most = most
        self._tokens = most
        self._at: float | None = None
        self.counted = True
        """Whether what was taken last counts: its place is kept, and it need not be taken again."""

    def take(self, now: float) -> float:
        """Take one at ``now``, in seconds of a clock that never jumps. Returns for how many seconds it is not
        there yet; 0: it was."""
        if self._at is not None:
            self._tokens = min(self._tokens + (now - self._at) * self._rate, self._most)
        self._at = now
        self.counted = self._tokens - 1 >= -self._most
        self._tokens = max(self._tokens - 1, -self._most)
        return max(-self._tokens / self._rate, 0.0)
