"""Where clients ask: one queue for newcomers, and one for each tenant, made when the coordinator hears of it.

The broker deals out the queues in turn, a few messages of each at a time. So a tenant that floods its queue
keeps no other waiting, and what it asks beyond that stays with the broker, which refuses it when the queue is
full.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future

from tunemesh.broker_config import topology
from tunemesh.coordinator.jobs.ledger import MOST_TENANTS, Handle, Tenants
from tunemesh.coordinator.service.held import HeldDeliveries
from tunemesh.coordinator.service.outbox import Outbox
from tunemesh.shared.errors import LinkDown
from tunemesh.shared.transport.link import Link, Subscription, Up

log = logging.getLogger(__name__)

ASKED_AT_ONCE = 16
"""Messages of one queue that the coordinator has and has not dealt with."""


class Desks:
    """Reads what clients ask, as long as the coordinator is the active one. Which tenants have a queue is in
    messages of the coordinator to itself: :class:`Tenants`."""

    def __init__(self, link: Link, outbox: Outbox, held: HeldDeliveries) -> None:
        self._link = link
        self._outbox = outbox
        self._held = held
        self._up: Up | None = None
        self._open = False
        self._known: set[str] = set()
        """Tenants whose queue is made, or is being made."""
        self._named: set[str] = set()
        """Those that a message of ours names, be it on its way."""
        self._handles: list[Handle] = []

    def connected(self, up: Up) -> None:
        """The connection is another one: all of it comes again."""
        self._up, self._open = up, False
        self._known.clear()
        self._named.clear()
        self._handles.clear()

    def open(self) -> None:
        """The coordinator is the active one."""
        if not self._open and self._up is not None:
            self._open = True
            self._read(topology.REQUESTS)

    def heard_of(self, tenant: str) -> None:
        """A client of a tenant has asked for something."""
        if not tenant or tenant in self._named or len(self._named) >= MOST_TENANTS:
            return
        self._named.add(tenant)
        self._outbox.to_itself(Tenants(names=sorted(self._named)))

    def remembered(self, handle: Handle, tenants: Tenants) -> None:
        """What a coordinator has noted comes back: these have a queue."""
        new = [name for name in tenants.names if name not in self._known]
        self._known.update(new)
        self._handles.append(handle)
        if self._known <= set(tenants.names):
            for older in self._handles[:-1]:
                self._held.release(older)
            del self._handles[:-1]
        elif not self._known <= self._named:
            # Two coordinators have noted different ones.
            self._outbox.to_itself(Tenants(names=sorted(self._known | self._named)[:MOST_TENANTS]))
        self._named.update(self._known)
        for name in new:
            self._make(name)

    def _make(self, tenant: str) -> None:
        queue = topology.requests_queue(tenant)
        made = [self._link.declare_queue(queue.name, queue.declared(self._outbox.kind))]
        made += [
            self._link.bind(each.queue, each.exchange, each.key)
            for each in topology.requests_bindings(tenant)
        ]

        def done(last: Future[None]) -> None:
            errors = [each.exception() for each in made]
            error = next((each for each in errors if each is not None), None)
            if error is None:
                self._read(queue.name)
            elif not isinstance(error, LinkDown):
                log.warning("tenant %s gets no queue of its own: %s", tenant, error)

        made[-1].add_done_callback(done)

    def _read(self, queue: str) -> None:
        if self._up is not None:
            self._link.consume(self._up, Subscription(queue, prefetch=ASKED_AT_ONCE))
