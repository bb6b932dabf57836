"""SIGTERM is how a service is asked to stop: doing so is its success. Ctrl-C stays an interruption."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def terminated(_signum: int, _frame: FrameType | None) -> None:
    """The handler of SIGTERM.

    Raises:
        Terminated: always.
    """
    raise Terminated


@contextlib.contextmanager
def until_terminated() -> Iterator[None]:
    """A decorator for commands that run until they are asked to stop. The whole command: the request may come
    while it still starts."""
    with contextlib.suppress(Terminated):
        yield
