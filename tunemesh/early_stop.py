"""Ctrl-C, once: stop early and keep what was found. Twice: leave at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class EarlyStop:
    """A context manager for the main thread, in which the first SIGINT only sets :attr:`asked`; a second one
    does what SIGINT did before."""

    def __init__(self) -> None:
        self.asked = False
        self._before: object = None

    def __enter__(self) -> EarlyStop:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def _ask(self, _signum: int, _frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]
