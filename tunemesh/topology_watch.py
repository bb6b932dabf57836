"""Declares again what somebody has deleted on the broker of a local mesh. Its other processes may not."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future

from tunemesh.broker_config.topology import BINDINGS, EXCHANGES, QUEUES
from tunemesh.shared.transport.link import Down, Link, QueueDepth, Up

log = logging.getLogger(__name__)

INTERVAL = 5.0
"""Seconds between two looks."""


class TopologyWatch:
    """Looks at the queues that always exist. Call :meth:`look` every second or so: it never waits.

    Args:
        url: broker URL of an administrator.
    """

    def __init__(self, url: str) -> None:
        self._link = Link(url, "topology watch", properties={"role": "setup"})
        self._up = False
        self._due = 0.0
        self._asked: dict[str, Future[QueueDepth]] = {}

    def start(self) -> None:
        """Connect, in the background."""
        self._link.begin()

    def stop(self) -> None:
        """Disconnect."""
        self._link.close()

    def look(self) -> None:
        """Take the answers of the last look, act on them, and look again when it is time."""
        while (event := self._link.next(0.0)) is not None:
            self._up = isinstance(event, Up) or (self._up and not isinstance(event, Down))
        if self._asked and all(answer.done() for answer in self._asked.values()):
            asked, self._asked = self._asked, {}
            missing = [name for name, answer in asked.items() if isinstance(answer.exception(), LookupError)]
            if missing:
                log.warning(
                    "the broker has lost queue %s; declaring the topology again", ", ".join(sorted(missing))
                )
                self._declare()
        elif not self._asked and self._up and time.monotonic() >= self._due:
            self._due = time.monotonic() + INTERVAL
            self._asked = {queue.name: self._link.depth(queue.name) for queue in QUEUES}

    def _declare(self) -> None:
        """In this order, one after the other; the link logs what the broker refuses."""
        for exchange in EXCHANGES:
            self._link.declare_exchange(exchange.name, exchange.kind)
        for queue in QUEUES:
            self._link.declare_queue(queue.name, queue.declared("classic"))
        for binding in BINDINGS:
            self._link.bind(binding.queue, binding.exchange, binding.key)
