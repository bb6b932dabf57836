"""What may be refused on purpose: declare, bind, probe, purge.

The broker closes a channel with each refusal. So these run one at a time on a channel of their own: a refusal
is the answer to its own question, and disturbs nothing else.

All of it runs in the link's thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from pika.channel import Channel

from tunemesh.shared.errors import LinkDown
from tunemesh.shared.transport.refusals import refused_operation

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Operation:
    """One question to the broker, and its answer."""

    what: str
    """For the log: ``declare queue build-cpu``."""
    run: Callable[[Channel, Future[Any]], object]
    probe: bool = False
    """A refusal is an answer like any other; else it is logged, since the asker may not look."""
    answer: Future[Any] = field(default_factory=Future)


class Operations:
    """Those that wait, and the one that the broker is thinking about.

    Args:
        link: name of the owner, for the log.
        refusals: level at which refusals are logged.
    """

    def __init__(self, link: str, refusals: int = logging.WARNING) -> None:
        self._link = link
        self._refusals = refusals
        self._channel: Channel | None = None
        self._waiting: deque[Operation] = deque()
        self._running: Operation | None = None

    def use(self, channel: Channel) -> None:
        """Go on, on a fresh channel."""
        self._channel = channel
        self._next()

    def put(self, operation: Operation) -> None:
        """Do it in its turn."""
        self._waiting.append(operation)
        self._next()

    def channel_closed(self, reason: object) -> None:
        """The broker has closed the channel: that is the answer to the operation under way."""
        self._channel = None
        running = self._running
        if running is None:
            return
        error = refused_operation(reason)
        if not running.probe:
            text = "%s: the broker refuses to %s: %s"
            log.log(self._refusals, text, self._link, running.what, error)
        fail(running.answer, error)

    def fail_all(self, reason: str) -> None:
        """The connection is lost."""
        self._channel = None
        lost, self._waiting = list(self._waiting), deque()
        running, self._running = self._running, None
        for each in [*([running] if running is not None else []), *lost]:
            fail(each.answer, LinkDown(f"connection lost: {reason}"))

    def _next(self) -> None:
        if self._running is not None or not self._waiting:
            return
        if self._channel is None or not self._channel.is_open:
            return
        operation = self._waiting.popleft()
        self._running = operation
        operation.answer.add_done_callback(lambda _: self._done(operation))
        try:
            operation.run(self._channel, operation.answer)
        except Exception as error:  # a name that pika refuses, say: the next one may do
            log.warning("%s: cannot %s: %s", self._link, operation.what, error)
            fail(operation.answer, ValueError(str(error)))

    def _done(self, operation: Operation) -> None:
        if self._running is operation:
            self._running = None
            self._next()


def finish(future: Future[Any], value: Any) -> None:
    """Give ``future`` its value, unless it has ended."""
    if not future.done():
        future.set_result(value)


def fail(future: Future[Any], error: BaseException) -> None:
    """Give ``future`` an error, unless it has ended."""
    if not future.done():
        future.set_exception(error)
