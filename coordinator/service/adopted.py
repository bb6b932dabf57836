"""Jobs that another cell had: their messages come one by one, and the core gets all of a job at once.

The desk sends what the dead coordinator held: first results, and the ledger last. A core that had the ledger
alone would begin the round anew, and one that had results alone would drop them. So results wait here,
unacknowledged, for their ledger. When that comes, the coordinator starts afresh, as after a lost connection,
and then has both.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.shared.messages import StepResult
from tunemesh.shared.transport.link import Delivery

MOVED = "moved/"
"""With which the id of such a message begins."""

Kept = tuple[Delivery, StepResult]


class Adopted:
    """What waits for its ledger."""

    def __init__(self) -> None:
        self._results: dict[str, list[Kept]] = {}
        self._ledgers: set[str] = set()
        self._starting = True

    def connected(self) -> None:
        """The connection is another one: all of it comes again."""
        self._results.clear()
        self._ledgers.clear()
        self._starting = True

    def takes(self, delivery: Delivery, message: object, known: Container[str]) -> bool:
        """Whether a message has to wait.

        Args:
            known: jobs that the core has.
        """
        if self._starting and isinstance(message, Ledger):
            self._ledgers.add(message.request.job)
        if not delivery.message_id.startswith(MOVED) or not isinstance(message, StepResult):
            return False
        if not self._starting and message.job in known:
            return False
        self._results.setdefault(message.job, []).append((delivery, message))
        return True

    def completes(self, delivery: Delivery, message: object, known: Container[str]) -> bool:
        """Whether a message is the last one of a job that another cell had."""
        if self._starting or not delivery.message_id.startswith(MOVED):
            return False
        return isinstance(message, Ledger) and message.request.job not in known

    def forget(self, job: str) -> list[Delivery]:
        """What waited for the ledger of a job, which does not come."""
        return [delivery for delivery, _ in self._results.pop(job, ())]

    def caught_up(self) -> Iterator[Kept]:
        """All that was there has arrived: results whose ledger is among it."""
        self._starting = False
        for job in list(self._results):
            if job in self._ledgers:
                yield from self._results.pop(job)
        self._ledgers.clear()
