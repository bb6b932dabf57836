"""Messages of jobs whose coordinator is gone: collected by job, and sent to the queue of another cell.

RabbitMQ delivers the queue of a coordinator to one consumer at a time. So whoever reads it as the desk does
here has all of it, and a coordinator that comes back meanwhile waits until the desk has left. What is not
moved by then goes back to the queue.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from functools import partial

from tunemesh.broker_config import topology
from tunemesh.coordinator.cells.events import Found
from tunemesh.coordinator.cells.messages import Handed
from tunemesh.coordinator.jobs.ledger import Ledger, Marker
from tunemesh.coordinator.service.adopted import MOVED
from tunemesh.coordinator.service.held import HELD, PREFETCH
from tunemesh.coordinator.service.outbox import Outbox
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import Cancel, Message, Request, StepResult
from tunemesh.shared.transport.link import Delivery, Down, Link, Outgoing, Subscription, Up
from tunemesh.shared.transport.names import process_name

PATIENCE = 20.0
"""Seconds in which all that is there has to arrive; longer means that somebody else reads the queue."""

IDLE = 5.0
"""Seconds after which what could not be moved is left for later."""

Kept = tuple[Delivery, Ledger | StepResult | Handed]

log = logging.getLogger(__name__)


class Pile:
    """Messages by job.

    Args:
        cell: whose they are.
        settle: done with a delivery.
    """

    def __init__(self, cell: str, settle: Callable[[Delivery], None]) -> None:
        self._cell = cell
        self._settle = settle
        self._jobs: dict[str, list[Kept]] = {}
        self._moving = 0

    def __len__(self) -> int:
        """Jobs that are here, or on their way from here."""
        return len(self._jobs) + self._moving

    def add(self, delivery: Delivery, message: Message) -> str | None:
        """Keep a message, and say of which job it is; ``None``: nobody needs it, and it is settled."""
        job = ""
        match message:
            case Ledger(request=request):
                job = request.job
            case StepResult() if message.timing.stage != "learn":
                job = message.job
            case Handed(message=Request() | Cancel()):
                job = message.job
        if not job:
            # A strategy, or a lesson to be learned: the other cells have been told the same. Or a query.
            self._settle(delivery)
            return None
        assert isinstance(message, Ledger | StepResult | Handed)
        self._jobs.setdefault(job, []).append((delivery, message))
        return job

    def found(self) -> list[Found]:
        """All jobs."""
        return [self.found_of(job) for job in self._jobs]

    def found_of(self, job: str) -> Found:
        """What is known of one."""
        messages = [message for _, message in self._jobs.get(job, ())]
        ledgers = [each for each in messages if isinstance(each, Ledger)]
        newest = max(ledgers, key=lambda each: each.revision, default=None)
        asked = [each.message for each in messages if isinstance(each, Handed)]
        request = next((each for each in asked if isinstance(each, Request)), None)
        ended = newest is not None and newest.phase in topology.ENDS
        return Found(self._cell, job, newest.request if newest is not None else request, ended)

    def move(
        self,
        job: str,
        cell: str | None,
        outbox: Outbox,
        later: Callable[[Callable[[], object]], object],
        moved: Callable[[], object],
    ) -> None:
        """Send all of a job to another cell, and settle it when that has everything; or drop it. Nothing
        happens while it is on its way.

        Args:
            later: has something called in the thread of the owner.
            moved: called when it is settled. Where something is refused it is not, and all of it is here
                again.
        """
        kept = self._jobs.pop(job, None)
        if kept is None:
            return
        kept.sort(key=lambda each: _order(each[1]))
        if cell is None:
            for delivery, _ in kept:
                self._settle(delivery)
            moved()
            return
        self._moving += 1
        left = len(kept)
        refused = False

        def answered(good: bool) -> None:
            nonlocal left, refused
            left -= 1
            refused = refused or not good
            if left:
                return
            self._moving -= 1
            if refused:
                self._jobs[job] = kept + self._jobs.pop(job, [])
                return
            for delivery, _ in kept:
                self._settle(delivery)
            moved()

        for delivery, message in kept:
            good, bad = partial(answered, True), partial(answered, False)
            outbox.publish(_copy(delivery, message, cell), partial(later, good), partial(later, bad))


def _order(message: Ledger | StepResult | Handed) -> tuple[int, int]:
    """Results first, then the newest ledger, which makes the other cell start with all of it; then what was
    asked about the job."""
    if isinstance(message, Ledger):
        return 1, message.revision
    return (0, 0) if isinstance(message, StepResult) else (2, 0)


def _copy(delivery: Delivery, message: Ledger | StepResult | Handed, cell: str) -> Outgoing:
    moved = "" if isinstance(message, Handed) else MOVED
    return Outgoing(
        exchange=topology.LEDGER,
        key=topology.in_cell(topology.LEDGER_KEY, cell),
        body=delivery.body,
        message_id=f"{moved}{delivery.message_id.removeprefix(MOVED)}",
        type=message.type_name,
        headers=message.headers(),
        correlation_id=delivery.correlation_id,
    )


class Mover:
    """Reads the queue of a dead cell, over a connection of its own.

    Args:
        found: called with each job, once all that is there has arrived.
    """

    def __init__(self, url: str, cell: str, now: float, found: Callable[[Found], object]) -> None:
        self.cell = cell
        self._found = found
        self._since = self._moved_at = now
        self.complete = False
        """Whether all that is there has arrived."""
        self._marker = Marker(start=uuid.uuid4().hex)
        queue = topology.coordinator_queue(cell).name
        self._link = Link(
            url,
            process_name(f"desk for cell {cell}"),
            properties={"role": "coordinator", "cell": cell},
            subscriptions=[Subscription(queue, PREFETCH)],
        )
        self.pile = Pile(cell, self._link.ack)
        self._link.begin()

    def look(self, now: float) -> bool:
        """Take what has come. Returns whether there is still something to do."""
        while (event := self._link.next(0.0)) is not None:
            match event:
                case Up():
                    self._send_marker()
                case Down():
                    return False
                case Delivery():
                    self._take(event, now)
        if not self.complete:
            return now - self._since < PATIENCE
        return len(self.pile) > 0 and now - self._moved_at < IDLE

    def moved(self, now: float) -> None:
        """A job of it has been moved."""
        self._moved_at = now

    def close(self) -> None:
        """Leave. What is not settled goes back to the queue."""
        self._link.close()

    def _send_marker(self) -> None:
        key = topology.in_cell(topology.LEDGER_KEY, self.cell)
        body = codec.encode(self._marker)
        name, kind = self._marker.message_id(), self._marker.type_name
        self._link.publish(Outgoing(topology.LEDGER, key, body, name, kind, self._marker.headers()))

    def _take(self, delivery: Delivery, now: float) -> None:
        try:
            message: Message = codec.decode(delivery.body, *HELD)
        except BadMessage as error:
            log.warning("a message of cell %s cannot be read, and stays there: %s", self.cell, error)
            return
        if not isinstance(message, Marker):
            job = self.pile.add(delivery, message)
            if job is not None and self.complete:
                self._found(self.pile.found_of(job))
            return
        self._link.ack(delivery)
        if message == self._marker:
            self.complete, self._moved_at = True, now
            for each in self.pile.found():
                self._found(each)
