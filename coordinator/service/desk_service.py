"""The loop of a desk: what clients ask in, events to its core, its instructions out.

It reads the queue ``coordinator``, where the coordinator of a mesh without cells would be, as single active
consumer: a second desk stands by. So there is never more than one at work, nor one beside a coordinator
without a cell.

Longer than other files: all of it is one loop, and belongs to one thread.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import FrameType

import msgspec

from tunemesh.broker_config import topology
from tunemesh.broker_config.declare import ensure_topology
from tunemesh.coordinator.cells.desk import GIVE_UP_AFTER, Desk
from tunemesh.coordinator.cells.events import (
    AskCell,
    CellAnswered,
    CellSeen,
    DeskEvent,
    DeskInstruction,
    Found,
    Hand,
    Move,
    Moved,
    NotHanded,
    Place,
    PlaceSaved,
    Search,
    SearchEnded,
    TellForget,
)
from tunemesh.coordinator.cells.messages import CellStatus, Forget, Handed, Placed
from tunemesh.coordinator.events import (
    TICK,
    Acknowledge,
    Answer,
    Arrived,
    CaughtUp,
    Connected,
    Count,
    Garbled,
    Log,
    PutAside,
    Tell,
    Tick,
)
from tunemesh.coordinator.jobs.ledger import Marker, Tenants
from tunemesh.coordinator.jobs.limits import Limits
from tunemesh.coordinator.service.desks import Desks
from tunemesh.coordinator.service.held import HELD, PREFETCH, HeldDeliveries, answers_to
from tunemesh.coordinator.service.moving import Mover, Pile
from tunemesh.coordinator.service.outbox import Outbox
from tunemesh.coordinator.service.service import (
    ACCEPTED,
    LEVELS,
    STATUS_PREFETCH,
    Leave,
    declared,
    no_account,
)
from tunemesh.shared import codec
from tunemesh.shared.accounts import account_of
from tunemesh.shared.alive import Alive
from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import (
    Cancel,
    JobEvent,
    Learn,
    Message,
    Query,
    Request,
    SetStrategy,
    Snapshot,
)
from tunemesh.shared.transport.link import Delivery, Down, Link, Outgoing, QueueDepth, Subscription, Up
from tunemesh.shared.transport.names import process_name

log = logging.getLogger(__name__)

CELLS_QUEUE = "coordinator.cells"
ANSWERS_QUEUE = "coordinator.answers"

QUERY_LIFE = 60.0
"""Seconds after which nobody waits for an answer."""


@dataclass(frozen=True, slots=True)
class _Then:
    """What the broker has confirmed, or refused: the rest is for the desk's own thread."""

    action: Callable[[], object]


class DeskService:
    """A desk on a broker.

    Args:
        url: broker URL of a user with the role *coordinator* (or more).
        limits: of tenants; by default what every tenant has.
        give_up_after: seconds without a coordinator after which the jobs of a cell go to others.
    """

    def __init__(
        self, url: str, limits: Mapping[str, Limits] | None = None, give_up_after: float = GIVE_UP_AFTER
    ) -> None:
        self._url = url
        self._desk = Desk(limits, give_up_after)
        self._link = Link(
            url,
            process_name("desk"),
            properties={"role": "coordinator", "host": socket.gethostname(), "pid": os.getpid()},
            subscriptions=[
                Subscription(CELLS_QUEUE, STATUS_PREFETCH, bindings=((topology.LEDGER, topology.CELLS_KEY),)),
                Subscription(ANSWERS_QUEUE, STATUS_PREFETCH, bindings=()),
                Subscription(topology.COORDINATOR, PREFETCH),
            ],
        )
        self._outbox = Outbox(self._link)
        self._held = HeldDeliveries(self._outbox, self._link.user)
        self._desks = Desks(self._link, self._outbox, self._held)
        self._marker = Marker(start="")
        self._active = False
        self._pile = Pile("", self._link.ack)
        self._complete = False
        """Whether all that a coordinator without a cell has left is in the pile."""
        self._mover: Mover | None = None
        self._next_tick = 0.0
        self._alive = Alive()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit code.

        Raises:
            BrokerRefused: the broker refuses this user, or has other things under our names.
        """
        self.connect()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._signalled)
        log.info("desk is up")
        while self.turn():
            pass
        self.leave()
        log.info("desk has left; everything it held is back in its queue")
        return 0

    def connect(self) -> None:
        """Wait for the broker, and for what has to be there."""
        self._outbox.kind = declared(self._url, "desk set-up", ensure_topology)
        self._link.start(timeout=None)

    def turn(self) -> bool:
        """Deal with the next event, and with what is due. Returns whether to go on: not when asked to
        leave."""
        event = self._link.next(TICK / 5)
        if isinstance(event, Leave):
            return False
        self.take(event)
        now = time.monotonic()
        if self._mover is not None and not self._mover.look(now):
            self._leave_mover()
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._alive.beat()
            self.take(Tick())
            self._held.refresh(now)
        return True

    def leave(self) -> None:
        """Give everything back."""
        if self._mover is not None:
            self._mover.close()
        self._link.close()

    def take(self, event: object) -> None:
        """Deal with an event of the link, or a :class:`Tick`. Whatever it is, the desk goes on."""
        try:
            match event:
                case Up() as up:
                    self._connected(up)
                case Down(reason):
                    log.warning("connection lost: %s", reason)
                case Delivery():
                    self._guarded(event)
                case Tick() | NotHanded() | Found() | Moved() | SearchEnded():
                    self._give(event)
                case Search(cell):
                    self._begin_mover(cell)
                case _Then(action):
                    action()
        except Exception:
            log.error("a defect of the desk: %s", traceback.format_exc())

    def _connected(self, up: Up) -> None:
        self._outbox.epoch, self._active, self._complete = up.epoch, False, False
        self._leave_mover()
        self._held.clear()
        self._pile = Pile("", self._link.ack)
        self._desks.connected(up)
        self._begin()

    def _begin(self) -> None:
        """Start afresh. When the marker comes back, everything that was waiting is here."""
        self._give(Connected(wall=time.time()))
        self._marker = Marker(start=uuid.uuid4().hex)
        self._outbox.to_itself(self._marker)

    def _signalled(self, _signum: int, _frame: FrameType | None) -> None:
        self._link.events.put(Leave())

    # -- In -------------------------------------------------------------------------------------------------

    def _guarded(self, delivery: Delivery) -> None:
        """Deal with a delivery. One that cannot be dealt with must not come again, and again."""
        try:
            self._delivered(delivery)
        except Exception as error:
            log.error("a defect of the desk: %s", traceback.format_exc())
            self._held.forget(delivery)
            self._put_aside(delivery, f"a defect of the desk: {type(error).__name__}: {error}")

    def _delivered(self, delivery: Delivery) -> None:
        if delivery.queue in (CELLS_QUEUE, ANSWERS_QUEUE):
            self._link.ack(delivery)
            self._heard(delivery)
            return
        if not self._active:
            # Until now another desk may have been the active one. It then took the marker.
            self._active = True
            self._begin()
            self._desks.open()
        if self._held.takes(delivery, time.monotonic()):
            return
        if delivery.exchange == topology.CLIENTS:
            self._asked(delivery)
        else:
            self._own(delivery)

    def _heard(self, delivery: Delivery) -> None:
        """What a cell says of itself, or has answered."""
        try:
            message = codec.decode(delivery.body, CellStatus, Snapshot, JobEvent)
        except BadMessage as error:
            log.warning("ignored what a cell says: %s", error)
            return
        if isinstance(message, CellStatus):
            self._give(CellSeen(message))
        elif isinstance(message, Snapshot) and delivery.correlation_id:
            self._give(CellAnswered(delivery.correlation_id, message))

    def _asked(self, delivery: Delivery) -> None:
        account, now = account_of(delivery.user, self._link.user), time.monotonic()
        if account is None or not account.may_ask:
            tenant = topology.tenant_in(delivery.key)
            reason = no_account(delivery.user)
            self._give(Garbled(self._held.hold(delivery, "undecodable", now), reason, tenant))
            return
        tenant = account.bound_to
        if tenant is not None:
            self._desks.heard_of(tenant)
        try:
            message: Message = codec.decode(delivery.body, *ACCEPTED[topology.CLIENTS])
        except BadMessage as error:
            self._give(Garbled(self._held.hold(delivery, "undecodable", now), str(error), tenant))
            return
        assert isinstance(message, Request | Cancel | Query | SetStrategy | Learn)
        handle = self._held.hold(delivery, message.type_name, now)
        answers = answers_to(delivery, self._link.user)
        self._give(Arrived(handle, message, answers, delivery.correlation_id, delivery.user, tenant))

    def _own(self, delivery: Delivery) -> None:
        """A message of the desk to itself, or what a coordinator without a cell has left."""
        try:
            message: Message = codec.decode(delivery.body, *HELD)
        except BadMessage as error:
            self._put_aside(delivery, str(error))
            return
        match message:
            case Marker():
                self._link.ack(delivery)
                if message == self._marker:
                    self._complete = True
                    self._give(CaughtUp())
                    for each in self._pile.found():
                        self._give(each)
                    self._give(SearchEnded("", complete=True))
            case Placed():
                self._give(PlaceSaved(self._hold(delivery, message), message))
            case Tenants():
                self._desks.remembered(self._hold(delivery, message), message)
            case _:
                job = self._pile.add(delivery, message)
                if job is not None and self._complete:
                    self._give(self._pile.found_of(job))

    def _hold(self, delivery: Delivery, message: Message) -> int:
        return self._held.hold(delivery, message.type_name, time.monotonic())

    def _put_aside(self, delivery: Delivery, reason: str) -> None:
        self._outbox.put_aside(delivery, reason, "undecodable", answers_to(delivery, self._link.user))

    # -- Out ------------------------------------------------------------------------------------------------

    def _give(self, event: DeskEvent) -> None:
        for instruction in self._desk.handle(event, time.monotonic()):
            try:
                self._do(instruction)
            except Exception:
                log.error("a defect of the desk: %s", traceback.format_exc())

    def _do(self, instruction: DeskInstruction) -> None:
        outbox = self._outbox
        match instruction:
            case Place(placed):
                outbox.to_itself(placed, placed.job)
            case Hand():
                self._hand(instruction)
            case AskCell(cell, asked, correlation_id):
                reply_to = self._link.own_queue(ANSWERS_QUEUE)
                query = msgspec.structs.replace(asked, reply_to=reply_to, correlation_id=correlation_id)
                outbox.publish(_to_cell(cell, query, correlation_id))
            case TellForget(cell, job):
                outbox.publish(_to_cell(cell, Forget(job=job), job))
            case Search(cell):
                queue = topology.coordinator_queue(cell).name
                self._link.depth(queue).add_done_callback(partial(self._looked, cell))
            case Move(job, source, cell):
                self._move(job, source, cell)
            case Acknowledge(handle):
                self._held.release(handle)
            case PutAside(handle, reason):
                self._held.put_aside(handle, reason)
            case Count(census):
                outbox.count(census)
            case Tell(event, str(reply_to), correlation_id):
                outbox.answer(event, reply_to, correlation_id or event.job)
            case Answer(reply_to, correlation_id, snapshot):
                outbox.answer(snapshot, reply_to, correlation_id)
            case Log(level, text, job):
                log.log(LEVELS[level], "%s: %s", job or "mesh", text, extra={"job": job})

    def _hand(self, hand: Hand) -> None:
        handle = hand.handle
        try:
            outgoing = _to_cell(hand.cell, hand.handed, hand.handed.correlation_id)
        except BadMessage as error:
            if handle is not None:
                self._held.put_aside(handle, str(error))
            return
        self._outbox.publish(
            outgoing,
            partial(self._later, partial(self._held.release, handle)) if handle is not None else None,
            partial(self._link.events.put, NotHanded(hand)),
        )

    def _later(self, action: Callable[[], object]) -> None:
        self._link.events.put(_Then(action))

    def _move(self, job: str, source: str, cell: str | None) -> None:
        pile = self._pile_of(source)
        if pile is not None:
            pile.move(job, cell, self._outbox, self._later, partial(self._moved, job, source, pile))

    def _moved(self, job: str, source: str, pile: Pile) -> None:
        # What was moved over an earlier connection is found once more.
        if self._pile_of(source) is pile:
            if self._mover is not None:
                self._mover.moved(time.monotonic())
            self._give(Moved(job))

    def _pile_of(self, source: str) -> Pile | None:
        if not source:
            return self._pile
        return self._mover.pile if self._mover is not None and self._mover.cell == source else None

    # -- Dead cells -----------------------------------------------------------------------------------------

    def _looked(self, cell: str, depth: Future[QueueDepth]) -> None:
        error = depth.exception()
        if error is not None:
            nothing = isinstance(error, LookupError)  # somebody has deleted the queue
            self._link.events.put(SearchEnded(cell, complete=nothing))
        elif depth.result().ready and not depth.result().consumers:
            self._link.events.put(Search(cell))
        else:
            # With a consumer that says nothing it is for that to do something.
            self._link.events.put(SearchEnded(cell, complete=not depth.result().consumers))

    def _begin_mover(self, cell: str) -> None:
        if self._mover is None and self._active:
            log.warning("cell %s has no coordinator: looking which of its jobs others can have", cell)
            self._mover = Mover(self._url, cell, time.monotonic(), self._link.events.put)

    def _leave_mover(self) -> None:
        if self._mover is not None:
            mover, self._mover = self._mover, None
            mover.close()
            self._give(SearchEnded(mover.cell, mover.complete))


def _to_cell(cell: str, message: Handed | Forget, correlation_id: str | None) -> Outgoing:
    asks = isinstance(message, Handed) and isinstance(message.message, Query)
    return Outgoing(
        exchange=topology.LEDGER,
        key=topology.in_cell(topology.LEDGER_KEY, cell),
        body=codec.encode(message),
        message_id=message.message_id(),
        type=message.type_name,
        headers=message.headers(),
        correlation_id=correlation_id,
        expires=QUERY_LIFE if asks else None,
        mandatory=not asks,
    )
