"""The deliveries that the core holds: settled by handle, and published anew where they are held for long."""

from __future__ import annotations

import itertools
import logging
import traceback
import uuid
from dataclasses import dataclass
from functools import partial

from tunemesh.broker_config import topology
from tunemesh.coordinator.cells.messages import Forget, Handed, Placed
from tunemesh.coordinator.jobs.ledger import Handle, Ledger, Marker, Tenants
from tunemesh.coordinator.service.outbox import Outbox
from tunemesh.shared.accounts import account_of
from tunemesh.shared.messages import Learn, Message, SetStrategy, StepResult
from tunemesh.shared.transport.link import Delivery, Outgoing

log = logging.getLogger(__name__)

PREFETCH = 65_535
"""Deliveries that the coordinator can hold: the most that AMQP knows. It stops beginning new work long before
(``lifecycle.MOST_HELD``), since what it could not be given would never be answered."""

HELD: tuple[type[Message], ...] = (
    Ledger, StepResult, SetStrategy, Learn, Tenants, Marker, Handed, Forget, Placed,
)  # fmt: skip
"""What a coordinator sends to itself, or has from the desk or from workers: what its queue may hold."""

REFRESH = 600.0
"""Seconds after which a held delivery is published anew. Brokers close the channel of a consumer that holds
one for 30 minutes."""

LOG = 64 * 1024 * 1024
"""Bytes that a node may keep on disk for what it still has to remember. A quorum queue keeps all that came
after the oldest message that is held: 20 KB pass with every step."""

PART = 4
"""How much of what passes may be copies: a fourth. So the log has at most four times what is held."""

AT_ONCE = 8 * 1024 * 1024
"""Bytes that are published anew at a time."""


@dataclass(slots=True)
class _Held:
    delivery: Delivery
    kind: str
    since: float
    passed: int
    """Bytes that had come before."""
    refreshing: bool = False


class HeldDeliveries:
    """By handle. ``now`` is in seconds of a clock that never jumps.

    Args:
        user: as which the coordinator is logged in.
    """

    def __init__(self, outbox: Outbox, user: str) -> None:
        self._outbox = outbox
        self._user = user
        self._handles = itertools.count(1)
        self._held: dict[Handle, _Held] = {}
        self._copies: dict[str, Handle] = {}
        """By message id: copies on their way."""
        self._passed = 0
        """Bytes that came."""

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        """The connection is another one: all of it comes again."""
        self._held.clear()
        self._copies.clear()

    def hold(self, delivery: Delivery, kind: str, now: float) -> Handle:
        """Keep a delivery until it is settled. ``kind`` is the type of its message."""
        handle = next(self._handles)
        self._take(handle, delivery, kind, now)
        return handle

    def about(self, job: str) -> list[Delivery]:
        """All that is held of a job: its ledger, and results of its steps, name it."""
        return [held.delivery for held in self._held.values() if held.delivery.correlation_id == job]

    def forget(self, delivery: Delivery) -> None:
        """It is settled by somebody else."""
        for handle in [handle for handle, held in self._held.items() if held.delivery is delivery]:
            del self._held[handle]

    def release(self, handle: Handle) -> None:
        """Acknowledge a delivery, if it is held."""
        held = self._held.pop(handle, None)
        if held is not None:
            self._outbox.acknowledge(held.delivery)

    def put_aside(self, handle: Handle, reason: str) -> None:
        """Dead-letter a delivery, if it is held."""
        held = self._held.pop(handle, None)
        if held is None:
            return
        kind = "undecodable" if held.kind == "undecodable" else "senseless"
        try:
            self._outbox.put_aside(held.delivery, reason, kind, answers_to(held.delivery, self._user))
        except Exception:  # it cannot even be sent, and must not come again, and again
            log.error("a message is dropped: %s", traceback.format_exc())
            self._outbox.acknowledge(held.delivery)

    def refresh(self, now: float) -> None:
        """Publish anew what has been held for long, so that no consumer timeout strikes; and where the broker
        keeps a log, what much has come after."""
        most: float = float("inf")
        if self._outbox.kind == "quorum":
            most = max(LOG, PART * sum(len(held.delivery.body) for held in self._held.values()))
        bytes_left = AT_ONCE
        for handle, held in self._held.items():
            if held.delivery.queue != self._outbox.own_queue:
                continue  # what clients ask is held for seconds, and comes again from where it was
            if held.refreshing or (now - held.since < REFRESH and self._passed - held.passed < most):
                continue
            if bytes_left < 0:
                return
            bytes_left -= len(held.delivery.body)
            held.refreshing = True
            name = uuid.uuid4().hex
            self._copies[name] = handle
            copy = Outgoing(
                exchange=topology.LEDGER,
                key=self._outbox.own_key,
                body=held.delivery.body,
                message_id=name,
                type=held.kind,
                headers={"copy": "held for long"},
                correlation_id=held.delivery.correlation_id,
            )
            self._outbox.publish(copy, failed=partial(self._not_refreshed, name, held))

    def takes(self, delivery: Delivery, now: float) -> bool:
        """Whether it is a copy of something held: from now on the copy is held instead. Where the first one
        is settled meanwhile, so is the copy."""
        if delivery.exchange != topology.LEDGER or delivery.message_id not in self._copies:
            return False
        handle = self._copies.pop(delivery.message_id)
        held = self._held.get(handle)
        self._outbox.acknowledge(delivery if held is None else held.delivery)
        if held is not None:
            self._take(handle, delivery, held.kind, now)
        return True

    def _take(self, handle: Handle, delivery: Delivery, kind: str, now: float) -> None:
        self._passed += len(delivery.body)
        self._held[handle] = _Held(delivery, kind, now, self._passed)

    def _not_refreshed(self, name: str, held: _Held) -> None:
        """To be tried again."""
        self._copies.pop(name, None)
        held.refreshing = False


def answers_to(delivery: Delivery, user: str) -> str | None:
    """The queue for answers, where a client may name it: the coordinator could publish into any.

    Args:
        user: as which the coordinator is logged in.
    """
    account, reply_to = account_of(delivery.user, user), delivery.reply_to
    if reply_to is None or (account is not None and topology.is_own_queue(account, reply_to)):
        return reply_to
    whose = f"no queue of {delivery.user[:100]}'s" if delivery.user else "nobody's that is known"
    log.warning("somebody asks for answers in %r, which is %s: not answered", reply_to[:300], whose)
    return None
