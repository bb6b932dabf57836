"""Waiting for what is away: with growing pauses, for ever, and with a word in the log now and then."""

from __future__ import annotations

import logging
import random
import time

BACKOFF = (0.1, 0.2, *(0.5,) * 20, 1.0, 2.0, 4.0)
"""Seconds between two attempts; the last one repeats. A broker takes 5 to 11 s to start, and with longer
pauses those that wait for it come seconds late. Each is varied by a fifth, so that the processes of a mesh do
not try in step."""

SAY_AGAIN = 30.0
"""Seconds between two log lines about the same thing."""


class Retry:
    """The attempts at one thing.

    Args:
        log: where the owner logs.
        backoff: pauses in seconds; the last one repeats.
    """

    def __init__(self, log: logging.Logger, backoff: tuple[float, ...] = BACKOFF) -> None:
        self._log = log
        self._backoff = backoff
        self._failures = 0
        self._since = 0.0
        self._said = ""
        self._said_at = 0.0

    def failed(self, what: str, quiet: bool = False) -> float:
        """An attempt has failed: say ``what`` is wrong, at once and then every :data:`SAY_AGAIN` seconds.

        Args:
            quiet: say nothing; somebody else will.

        Returns:
            Seconds to wait before the next attempt.
        """
        now = time.monotonic()
        if not self._failures:
            self._since = now
        if quiet:
            pass
        elif not self._said:
            self._say("%s; trying again", what)
        elif now - self._said_at >= SAY_AGAIN:
            self._say("%s; still trying, for %.0f s now", what, now - self._since)
        pause = self._backoff[min(self._failures, len(self._backoff) - 1)]
        self._failures += 1
        return pause * random.uniform(0.8, 1.2)

    def succeeded(self, what: str) -> None:
        """An attempt has succeeded. Says ``what`` is right again, where it was said that it is not."""
        if self._said:
            self._log.info("%s, after %.0f s", what, time.monotonic() - self._since)
        self._failures = 0
        self._said = ""

    def _say(self, line: str, what: str, *numbers: float) -> None:
        self._said, self._said_at = what, time.monotonic()
        self._log.warning(line, what, *numbers)
