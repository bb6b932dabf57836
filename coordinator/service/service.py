"""The loop: deliveries in, events to the core, its instructions out.

The shell holds deliveries by handle and keeps no other state. It consumes from the coordinator's queue as
*single active consumer*: a second coordinator connects, waits, and takes over when the first is gone.

On a mesh with cells it is the coordinator of one: it hears workers of its cell alone, and of clients what the
desk hands on. Only names on the broker tell one cell from another, and they are known to the shell alone.

Longer than other files: all of it is one loop, and belongs to one thread.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tunemesh.broker_config import topology
from tunemesh.broker_config.declare import ensure_cell, ensure_topology
from tunemesh.coordinator.cells.load import loads
from tunemesh.coordinator.cells.messages import CellStatus, Forget, Handed, Placed
from tunemesh.coordinator.core import Core
from tunemesh.coordinator.events import (
    CHECK,
    TICK,
    Acknowledge,
    Answer,
    Arrived,
    CaughtUp,
    Connected,
    Count,
    Declare,
    Dispatch,
    DispatchFailed,
    Event,
    Garbled,
    Instruction,
    Log,
    Purge,
    PutAside,
    QueueMissing,
    QueueSeen,
    Save,
    SaveFailed,
    Tell,
    Tick,
    Unreadable,
    WorkerSeen,
)
from tunemesh.coordinator.jobs.ledger import Ledger, Marker, Tenants
from tunemesh.coordinator.jobs.limits import EVERY, Limits, without_rates
from tunemesh.coordinator.journal.records import Journal
from tunemesh.coordinator.service.adopted import Adopted
from tunemesh.coordinator.service.desks import Desks
from tunemesh.coordinator.service.held import HELD, PREFETCH, HeldDeliveries, answers_to
from tunemesh.coordinator.service.outbox import Outbox
from tunemesh.shared import codec
from tunemesh.shared.accounts import account_of
from tunemesh.shared.alive import Alive
from tunemesh.shared.errors import BadMessage, BrokerUnavailable, LinkDown
from tunemesh.shared.messages import (
    Cancel,
    Learn,
    Message,
    Query,
    Request,
    SetStrategy,
    StepResult,
    WorkerStatus,
)
from tunemesh.shared.retry import Retry
from tunemesh.shared.transport.declarations import Declarations
from tunemesh.shared.transport.link import Delivery, Down, Link, QueueDepth, Subscription, Up
from tunemesh.shared.transport.names import process_name

if TYPE_CHECKING:
    # Imported where it is asked for alone.
    from tunemesh.coordinator.service.metrics import Metrics
    from tunemesh.coordinator.service.traces import Traces

log = logging.getLogger(__name__)

STATUS_QUEUE = "coordinator.status"

LOOK = 2.0
"""Seconds between two looks at the state, for Prometheus and for the desk."""

AT_ONCE = 32
"""Events that are dealt with before what follows from them is sent: some milliseconds of work."""

GARBAGE = 20_000
"""Objects, more than were given back, after which Python looks for those that only refer to each other. By
default 700, which takes a twentieth of the coordinator's time for nothing."""

STATUS_PREFETCH = 1_000
"""Statuses on their way; they are answered at once."""

ACCEPTED: dict[str, tuple[type[Message], ...]] = {
    topology.CLIENTS: (Request, Cancel, Query, SetStrategy, Learn),
    topology.RESULTS: (StepResult,),
    topology.LEDGER: HELD,
}
"""Which messages may come through which exchange. Only the coordinator itself may write to the last."""


LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True, slots=True)
class Leave:
    """SIGTERM or SIGINT came."""


class Service:
    """A coordinator on a broker.

    Args:
        url: broker URL of a user with the role *coordinator* (or more).
        strategy: name of the strategy to start with, unless another one was set on this broker.
        journal: file in which all events and what follows from them are written down; none by default.
        prices: of queues, per hour; none by default.
        reserved: share of the devices of each target that is kept for jobs of class gold.
        learn_after: new trials after which workers learn from the records; 0: only when somebody asks.
        limits: of tenants; by default what every tenant has.
        metrics: what is told to Prometheus; by default nothing.
        traces: what is told to OpenTelemetry; by default nothing.
        cell: whose coordinator it is, where the mesh has several.

    Raises:
        BadInput: there is no such strategy, or the journal cannot be written.
    """

    def __init__(
        self,
        url: str,
        strategy: str = "interleaved",
        journal: Path | None = None,
        prices: Mapping[str, float] | None = None,
        reserved: float = 0.0,
        learn_after: int = 0,
        limits: Mapping[str, Limits] | None = None,
        metrics: Metrics | None = None,
        traces: Traces | None = None,
        cell: str = "",
    ) -> None:
        if cell:
            # How much is asked is for the desk to limit.
            limits = {name: without_rates(each) for name, each in {EVERY: Limits(), **(limits or {})}.items()}
        self._core = Core(strategy, prices=prices, reserved=reserved, learn_after=learn_after, limits=limits)
        self._journal = (
            Journal(
                journal, strategy, prices=prices, reserved=reserved, learn_after=learn_after, limits=limits
            )
            if journal is not None
            else None
        )
        self._name = process_name("coordinator")
        self._marker = Marker(start="")
        self._active = False
        self._link = Link(
            url,
            self._name,
            properties={
                "role": "coordinator",
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "strategy": strategy,
                "cell": cell or "-",
            },
            subscriptions=[
                Subscription(STATUS_QUEUE, STATUS_PREFETCH, bindings=(topology.status_route(cell),)),
                Subscription(topology.coordinator_queue(cell).name, PREFETCH),
            ],
        )
        self._alive = Alive()
        self._metrics = metrics
        self._traces = traces
        self._cell = cell
        self._next: dict[str, float] = {}
        """When what is due from time to time is due again."""
        self._desk_missed = False
        self._adopted = Adopted()
        self._deaf = False
        """Whether it is about to start afresh: what comes until then comes again."""
        self._outbox = Outbox(self._link, cell)
        self._held = HeldDeliveries(self._outbox, self._link.user)
        self._desks = Desks(self._link, self._outbox, self._held)
        self._url = url

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit code.

        A broker that is away, or that lacks a queue, is waited for, and the log says so.

        Raises:
            BrokerRefused: the broker refuses this user, or has other things under our names.
        """
        self.connect()
        gc.freeze()
        gc.set_threshold(GARBAGE, *gc.get_threshold()[1:])
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._signalled)
        log.info("coordinator is up")
        while self.take_those_there():
            self.look_around()
        self.leave()
        if self._journal is not None:
            self._journal.close()
        if self._traces is not None:
            self._traces.close()
        log.info("coordinator has left; everything it held is back in its queue")
        return 0

    def connect(self) -> None:
        """Wait for the broker, and for what has to be there."""
        self._set_up()
        self._link.start(timeout=None)

    def leave(self) -> None:
        """Give everything back."""
        self._link.close()

    def look_around(self) -> None:
        """Do what is due from time to time."""
        now = time.monotonic()
        if self._is_due("tick", TICK, now):
            self._alive.beat()
            self.take(Tick())
            self._held.refresh(now)
        if self._metrics is not None and self._is_due("look", LOOK, now):
            resources = self._core.resources.progress(now)
            self._metrics.look(self._core.jobs.values(), resources, len(self._held), self._active)
        if self._cell and self._is_due("report", LOOK, now):
            self._report()
        if self._is_due("check", CHECK, now):
            self._check_queues()

    def _is_due(self, what: str, every: float, now: float) -> bool:
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + every
        return True

    def take_those_there(self) -> bool:
        """Deal with the events of the link that are there, or with the next one; with none after a while.
        What follows from them is sent at once. Returns whether to go on: not when asked to leave."""
        event = self._link.next(TICK)
        with self._link.together():
            for number in range(AT_ONCE):
                if isinstance(event, Leave):
                    return False
                self.take(event)
                event = self._link.next(0.0) if number + 1 < AT_ONCE else None
                if event is None:
                    break
        return True

    def take(self, event: object) -> None:
        """Deal with an event of the link, or a :class:`Tick`. Whatever it is, the coordinator goes on."""
        match event:
            case Up(epoch) as up:
                self._outbox.epoch, self._active, self._deaf = epoch, False, False
                self._held.clear()
                self._adopted.connected()
                self._desks.connected(up)
                self._begin()
            case Down(reason):
                log.warning("connection lost: %s", reason)
            case Delivery():
                self._guarded(event)
            case QueueSeen() | QueueMissing() | Unreadable() | DispatchFailed() | SaveFailed() | Tick():
                self._give_guarded(event)

    def _report(self) -> None:
        """Tell the desk how the cell is, once it is at work."""
        if self._active and self._core.settled:
            state = self._core.state
            active = sum(not job.ended for job in self._core.jobs.values())
            self._outbox.report(CellStatus(cell=self._cell, jobs=active, served=loads(state)))

    def _set_up(self) -> None:
        def declare(declarations: Declarations) -> topology.QueueType:
            kind = ensure_topology(declarations)
            if self._cell:
                ensure_cell(declarations, self._cell, kind)
            return kind

        self._outbox.kind = declared(self._url, "coordinator set-up", declare)

    def _signalled(self, _signum: int, _frame: FrameType | None) -> None:
        self._link.events.put(Leave())

    # -- In -------------------------------------------------------------------------------------------------

    def _guarded(self, delivery: Delivery) -> None:
        """Deal with a delivery. One that cannot be dealt with must not come again, and again."""
        try:
            self._delivered(delivery)
        except Exception as error:
            log.error("a defect of the coordinator: %s", traceback.format_exc())
            self._held.forget(delivery)  # it is settled here, and must not be once more
            try:
                self._put_aside(delivery, f"a defect of the coordinator: {type(error).__name__}: {error}")
            except Exception:
                log.error("a message is dropped: %s", traceback.format_exc())
                self._link.ack(delivery)

    def _give_guarded(self, event: Event) -> None:
        """Give the core something that is no delivery. What goes wrong is logged; time brings it again."""
        try:
            self._give(event)
        except Exception:
            log.error("a defect of the coordinator: %s", traceback.format_exc())

    def _give(self, event: Event) -> None:
        now = time.monotonic()
        instructions: list[Instruction] = []
        try:
            instructions = self._core.handle(event, now)
        finally:
            if self._metrics is not None:
                self._metrics.decided(instructions)
            if self._traces is not None:
                self._traces.decided(instructions)
            if self._journal is not None:
                self._write_down(self._journal, now, event, instructions)
        self._apply(instructions)

    def _write_down(
        self, journal: Journal, now: float, event: Event, instructions: list[Instruction]
    ) -> None:
        try:
            journal.record(now, event, instructions)
        except OSError as error:
            log.error("the journal %s cannot be written and is given up: %s", journal.path, error.strerror)
            self._journal = None

    def _delivered(self, delivery: Delivery) -> None:
        if self._deaf:
            return
        if delivery.queue == STATUS_QUEUE:
            self._link.ack(delivery)
            try:
                status = codec.decode(delivery.body, WorkerStatus)
            except BadMessage as error:
                log.warning("ignored a status: %s", error)
            else:
                self._give(WorkerSeen(status))
            return
        if not self._active:
            # Until now another coordinator may have been the active one. It then took the marker.
            self._active = True
            self._begin()
            if not self._cell:
                self._desks.open()
        if self._metrics is not None:
            self._metrics.delivered(delivery.redelivered)
        if self._held.takes(delivery, time.monotonic()):
            return
        account = account_of(delivery.user, self._link.user)
        asked = delivery.exchange == topology.CLIENTS
        if asked and (account is None or not account.may_ask):
            self._garbled(delivery, no_account(delivery.user), topology.tenant_in(delivery.key))
            return
        tenant = account.bound_to if asked and account is not None else None
        if tenant is not None:
            self._desks.heard_of(tenant)
        try:
            message = codec.decode(delivery.body, *ACCEPTED.get(delivery.exchange, ()))
        except BadMessage as error:
            if asked:
                self._garbled(delivery, str(error), tenant)
                return
            self._put_aside(delivery, str(error))
            if delivery.exchange == topology.LEDGER and delivery.correlation_id:
                self._give(SaveFailed(delivery.correlation_id, f"its ledger cannot be read: {error}"))
            return
        if isinstance(message, Marker):
            self._link.ack(delivery)
            if message == self._marker:  # not that of an earlier connection, or of another coordinator
                for kept, result in self._adopted.caught_up():
                    self._arrived(kept, result)
                self._give(CaughtUp())
            return
        if isinstance(message, Forget):
            known = self._held.about(message.job)
            for each in (*known, *self._adopted.forget(message.job), delivery):
                self._link.ack(each)
            if known:
                self._start_over(f"job {message.job} is in another cell")
            return
        if self._adopted.takes(delivery, message, self._core.jobs):
            return
        if self._adopted.completes(delivery, message, self._core.jobs):
            self._start_over("it has got jobs of another cell")
            return
        self._arrived(delivery, message, tenant)

    def _start_over(self, why: str) -> None:
        """Start afresh, as after a lost connection: all that is held comes again."""
        log.info("starts afresh: %s", why)
        self._deaf = True
        self._link.start_over(why)

    def _arrived(self, delivery: Delivery, message: Message, tenant: str | None = None) -> None:
        """Hold a delivery, and give its message to whom it is for."""
        handle = self._held.hold(delivery, message.type_name, time.monotonic())
        if isinstance(message, Tenants):
            self._desks.remembered(handle, message)
            return
        if isinstance(message, Placed):
            text = "this mesh has cells, and clients are heard at its desk: start one, with tunemesh desk"
            if not self._desk_missed:
                log.warning("%s", text)
            self._desk_missed = True
            return
        if isinstance(message, Handed):
            asked = message
            given = asked.message, asked.reply_to, asked.correlation_id, asked.user, asked.tenant
            self._give(Arrived(handle, *given))
            return
        assert isinstance(message, Request | Cancel | Query | SetStrategy | Learn | StepResult | Ledger)
        if self._metrics is not None and isinstance(message, StepResult):
            self._metrics.answered(message)
        if self._traces is not None and isinstance(message, StepResult):
            self._traces.answered(message)
        answers = answers_to(delivery, self._link.user)
        event = Arrived(handle, message, answers, delivery.correlation_id, delivery.user, tenant)
        self._give(event)

    def _garbled(self, delivery: Delivery, reason: str, tenant: str | None) -> None:
        """Put aside what a client has sent, when the core says so."""
        self._give(Garbled(self._held.hold(delivery, "undecodable", time.monotonic()), reason, tenant))

    def _begin(self) -> None:
        """Start afresh. When the marker comes back, everything that was waiting is here."""
        self._give(Connected(wall=time.time(), seed=secrets.token_hex(32)))
        self._marker = Marker(start=uuid.uuid4().hex)
        self._outbox.to_itself(self._marker)

    def _put_aside(self, delivery: Delivery, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.put_aside()
        self._outbox.put_aside(delivery, reason, "undecodable", answers_to(delivery, self._link.user))

    def _check_queues(self) -> None:
        for name in list(self._core.resources.queues):
            place = topology.in_cell(name, self._cell)
            self._link.depth(place).add_done_callback(partial(self._checked, name))

    def _checked(self, name: str, depth: Future[QueueDepth]) -> None:
        error = depth.exception()
        if error is None:
            seen = depth.result()
            self._link.events.put(QueueSeen(name, seen.ready, seen.consumers))
        elif isinstance(error, LookupError):
            self._link.events.put(QueueMissing(name, "somebody has deleted it"))
        elif not isinstance(error, LinkDown):
            self._link.events.put(QueueMissing(name, f"the broker refuses to show it: {error}", refused=True))

    # -- Out ------------------------------------------------------------------------------------------------

    def _apply(self, instructions: list[Instruction]) -> None:
        """Do all of it: what the core has decided is half done otherwise."""
        for instruction in instructions:
            try:
                self._do(instruction)
            except Exception as error:
                log.error("a defect of the coordinator: %s", traceback.format_exc())
                cause = f"a defect of the coordinator: {type(error).__name__}: {error}"
                if isinstance(instruction, Save):
                    self._link.events.put(SaveFailed(instruction.ledger.request.job, cause))
                elif isinstance(instruction, Dispatch):
                    self._link.events.put(DispatchFailed(instruction.step.id, cause))

    def _do(self, instruction: Instruction) -> None:
        outbox = self._outbox
        match instruction:
            case Dispatch(queue, step):
                outbox.dispatch(queue, step)
            case Save(ledger):
                outbox.to_itself(ledger, ledger.request.job)
            case Acknowledge(handle):
                self._held.release(handle)
            case Declare(queue):
                outbox.declare(queue)
            case Purge(queue):
                outbox.purge(queue)
            case PutAside(handle, reason):
                if self._metrics is not None:
                    self._metrics.put_aside()
                self._held.put_aside(handle, reason)
            case Count(census):
                # What is needed by all cells the desk finds out.
                if not self._cell:
                    outbox.count(census)
            case Log(level, text, job, step, worker):
                named = next((name for name in (step, job, worker) if name), "mesh")
                fields = {"job": job, "step": step, "worker": worker}
                log.log(LEVELS[level], "%s: %s", named, text, extra=fields)
            case Tell(event, None):
                outbox.tell(event)
            case Tell(event, str(reply_to), correlation_id):
                outbox.answer(event, reply_to, correlation_id or event.job)
            case Answer(reply_to, correlation_id, snapshot):
                outbox.answer(snapshot, reply_to, correlation_id)


def declared(
    url: str, role: str, declare: Callable[[Declarations], topology.QueueType]
) -> topology.QueueType:
    """Declare what this user may, once the broker is there; else wait until somebody else has."""
    retry = Retry(log)
    while True:
        try:
            with Declarations(url, process_name(role), None) as declarations:
                return declare(declarations)
        except (BrokerUnavailable, LinkDown) as error:
            time.sleep(retry.failed(str(error)))


def no_account(user: str) -> str:
    """Why what a client sends is not taken."""
    if not user:
        return "it does not say who sends it: set its property user_id to the user that is logged in"
    return (
        f"user {user[:100]} has no role here: users are called client.TENANT.NAME or operator.NAME"
        " (tunemesh broker user add)"
    )
