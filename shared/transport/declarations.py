"""A link's declarations one at a time, for set-up code that has nothing else to do meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from tunemesh.shared.errors import BrokerUnavailable
from tunemesh.shared.transport.link import Link

LIMIT = 15.0
"""Seconds that the broker may take for one declaration."""


class Declarations:
    """A short-lived connection that declares. A context manager.

    Args:
        timeout: seconds that the broker may take to answer; ``None`` waits for ever, with a word in the log.

    Refusals come as ``PermissionError`` (403), ``LookupError`` (404) and ``ValueError`` (exists otherwise).
    """

    def __init__(self, url: str, name: str, timeout: float | None) -> None:
        self._link = Link(url, name, properties={"role": "setup"}, refusals=logging.DEBUG)
        self._timeout = timeout

    def __enter__(self) -> Declarations:
        self._link.start(self._timeout, patience=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()

    def declare_exchange(
        self, name: str, kind: str, arguments: Mapping[str, str | int | bool], durable: bool
    ) -> None:
        _wait(self._link.declare_exchange(name, kind, arguments, durable))

    def declare_queue(self, name: str, arguments: Mapping[str, str | int | bool], durable: bool) -> None:
        _wait(self._link.declare_queue(name, arguments, durable))

    def bind(self, queue: str, exchange: str, key: str) -> None:
        _wait(self._link.bind(queue, exchange, key))

    def exists_exchange(self, name: str) -> None:
        if not _wait(self._link.exchange_exists(name)):
            raise LookupError(name)

    def exists_queue(self, name: str) -> None:
        _wait(self._link.depth(name))


def _wait(answer: Future[Any]) -> Any:
    try:
        return answer.result(LIMIT)
    except TimeoutError:
        raise BrokerUnavailable(f"the broker did not answer within {LIMIT:.0f} s") from None
