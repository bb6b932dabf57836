"""What the coordinator publishes, and what it does about messages that do not arrive."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from tunemesh.broker_config import topology
from tunemesh.coordinator.cells.messages import CellStatus
from tunemesh.coordinator.events import DispatchFailed, QueueMissing, SaveFailed, Unreadable
from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage, LinkDown
from tunemesh.shared.messages import Census, JobEvent, Message, Snapshot, Step
from tunemesh.shared.transport.letters import dead_letter
from tunemesh.shared.transport.link import Delivery, Link, Outgoing

log = logging.getLogger(__name__)

CENSUS_LIFE = 300.0
"""Seconds after which a later one has told which artifacts are needed."""

STATUS_LIFE = 10.0
"""Seconds after which a later status of the cell has come."""

LIFE = 60.0
"""Seconds after which nobody needs what was told to people."""


class Outbox:
    """Publishes over a link. What fails comes back as an event of the core, among those of the link."""

    def __init__(self, link: Link, cell: str = "") -> None:
        self.cell = cell
        """Whose coordinator it is, where a mesh has several."""
        self.own_queue = topology.coordinator_queue(cell).name
        self.own_key = topology.in_cell(topology.LEDGER_KEY, cell)
        """Of what goes there, on the exchange of ledgers."""
        self.epoch = 0
        """The connection over which to publish. What was decided about deliveries of one connection must not
        go out over the next: by then another coordinator may have them."""
        self._link = link
        self.kind: topology.QueueType = "classic"
        """Of the queues that it declares."""

    def dispatch(self, queue: str, step: Step) -> None:
        """Send a step to a stage queue."""
        try:
            place = topology.in_cell(queue, self.cell)
            self._send(step, topology.STEPS, place, correlation_id=step.job)
        except BadMessage as error:
            self._link.events.put(DispatchFailed(step.id, str(error)))

    def to_itself(self, message: Message, job: str | None = None) -> None:
        """Send a ledger or a marker to the coordinator's own queue."""
        try:
            self._send(message, topology.LEDGER, self.own_key, correlation_id=job)
        except BadMessage as error:
            if not isinstance(message, Ledger):
                raise
            self._link.events.put(SaveFailed(message.request.job, str(error)))

    def tell(self, event: JobEvent) -> None:
        """Tell whoever listens to the job. It may be lost, unless it is the end: that waits for the
        history."""
        tenant = event.progress.tenant if event.progress is not None else ""
        key = topology.event_key(tenant, event.job, event.kind)
        life = None if event.kind in topology.ENDS else LIFE
        self._tell(event, topology.EVENTS, key, event.job, life)

    def count(self, census: Census) -> None:
        """Tell those who keep the history which artifacts are needed. It may be lost."""
        self._send(census, topology.STEPS, topology.HISTORY_KEY, correlation_id=None, expires=CENSUS_LIFE)

    def report(self, status: CellStatus) -> None:
        """Tell the desk how the cell is. It may be lost."""
        self._send(status, topology.LEDGER, topology.CELLS_KEY, correlation_id=None, expires=STATUS_LIFE)

    def answer(self, message: JobEvent | Snapshot, reply_to: str, correlation_id: str | None) -> None:
        """Tell only the one who asked. It may be lost."""
        self._tell(message, "", reply_to, correlation_id)

    def acknowledge(self, delivery: Delivery) -> None:
        """Done with a delivery."""
        self._link.ack(delivery)

    def put_aside(self, delivery: Delivery, reason: str, kind: str, reply_to: str | None) -> None:
        """Dead-letter a message, with the reason, and tell a client that asked for answers."""
        log.warning("dead-lettered a message from %s: %s", delivery.exchange, reason)
        letter = dead_letter(delivery, topology.DEAD, reason, kind, codec.MAX_MESSAGE)
        # One that nobody takes is in the log, and must not be held for ever.
        self.publish(letter, lambda: self._link.ack(delivery), lambda: self._link.ack(delivery))
        if delivery.exchange == topology.RESULTS and kind == "undecodable":
            step, _, nonce = delivery.message_id.removesuffix("/result").rpartition("/")
            self._link.events.put(Unreadable(step, reason, nonce))
        if reply_to is not None:
            rejected = JobEvent(job="unknown", kind="rejected", at=time.time(), text=reason[:500])
            self.answer(rejected, reply_to, delivery.correlation_id)

    def declare(self, queue: str) -> None:
        """Create a stage queue."""
        wanted = topology.stage_queue(queue, self.cell)
        binding = topology.stage_binding(queue, self.cell)

        def refused(done: Future[None]) -> None:
            error = done.exception()
            if error is not None and not isinstance(error, LinkDown):
                cause = f"it cannot be declared: {error}"
                self._link.events.put(QueueMissing(queue, cause, refused=True))

        self._link.declare_queue(wanted.name, wanted.declared(self.kind)).add_done_callback(refused)
        self._link.bind(binding.queue, binding.exchange, binding.key).add_done_callback(refused)

    def purge(self, queue: str) -> None:
        """Empty a stage queue."""
        place = topology.in_cell(queue, self.cell)
        self._link.purge(place).add_done_callback(partial(_report, f"cannot purge {queue}"))

    def _tell(
        self,
        message: JobEvent | Snapshot,
        exchange: str,
        key: str,
        correlation_id: str | None,
        expires: float | None = LIFE,
    ) -> None:
        try:
            self._send(message, exchange, key, correlation_id=correlation_id, expires=expires)
        except BadMessage as error:
            log.warning("cannot send a %s: %s", message.type_name, error)
            if isinstance(message, Snapshot):
                refusal = JobEvent(job="unknown", kind="rejected", at=time.time(), text=f"no answer: {error}")
                self._send(refusal, exchange, key, correlation_id=correlation_id, expires=LIFE)

    def _send(
        self,
        message: Message,
        exchange: str,
        key: str,
        *,
        correlation_id: str | None,
        expires: float | None = None,
    ) -> None:
        outgoing = Outgoing(
            exchange=exchange,
            key=key,
            body=codec.encode(message),
            message_id=message.message_id(),
            type=message.type_name,
            headers=message.headers(),
            correlation_id=correlation_id,
            expires=expires,
            mandatory=expires is None,
        )
        step = message.id if isinstance(message, Step) else None
        self.publish(outgoing, failed=lambda: self._link.events.put(DispatchFailed(step)) if step else None)

    def publish(
        self,
        outgoing: Outgoing,
        done: Callable[[], object] | None = None,
        failed: Callable[[], object] | None = None,
    ) -> None:
        """Send a message. ``done`` is called when the broker has it, ``failed`` when it refuses it; neither
        when the connection is lost: everything held comes again then, and the core starts afresh."""

        def confirmed(future: Future[None]) -> None:
            error = future.exception()
            if error is None:
                if done is not None:
                    done()
                return
            if isinstance(error, LinkDown):
                return
            log.warning("%s %s: %s", outgoing.type, outgoing.message_id, error)
            if failed is not None:
                failed()

        self._link.publish(outgoing, self.epoch).add_done_callback(confirmed)


def _report(what: str, done: Future[None]) -> None:
    error = done.exception()
    if error is not None and not isinstance(error, LinkDown):
        log.warning("%s: %s", what, error)
