"""SIGTERM and SIGINT: how a worker is asked to leave."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from tunemesh.stage_workers.sandbox.sandbox import Abandoned

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """Turns the first signal into :attr:`asked`, and the second one, or ``grace`` seconds, into :attr:`now`.

    The handlers only set flags and fill a queue; a thread does what may take a lock. Until :attr:`wake` is
    set there is no loop to look at the flags: the first signal raises :class:`Abandoned` in the main thread.

    Args:
        grace: seconds between being asked to leave and having to.
    """

    def __init__(self, grace: float) -> None:
        self.asked = False
        """Finish the present step and leave."""
        self.now = False
        """Leave now."""
        self.wake: Callable[[], None] | None = None
        """Called in the signal handler to make the loop look at once."""
        self.abort: Callable[[], None] | None = None
        """Ends the step under way; called in another thread."""
        self._grace = grace
        self._signals: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._previous: dict[signal.Signals, Any] = {}
        self._watcher = threading.Thread(target=self._watch, name="shutdown", daemon=True)

    def __enter__(self) -> Shutdown:
        self._watcher.start()
        self._previous = {each: signal.signal(each, self._caught) for each in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)
        self._signals.put(False)
        self._watcher.join(1.0)

    def _caught(self, _number: int, _frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        self._signals.put(True)
        if self.wake is not None:
            self.wake()
        elif first:
            raise Abandoned

    def _watch(self) -> None:
        if not self._signals.get():
            return
        try:
            if not self._signals.get(timeout=self._grace):
                return
        except queue.Empty:
            pass
        self.now = True
        if self.abort is not None:
            self.abort()
