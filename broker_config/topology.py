"""Exchanges, queues and bindings of Tunemesh: the one place where their names are written.

Where a message goes::

    client       -> tunemesh.clients  (topic:  request|cancel|query.<tenant>) -> requests.<tenant>; of tenants
                    that have none yet, by way of tunemesh.newcomers -> requests
    client       -> tunemesh.clients  (topic:  history.<tenant>)  -> questions (workers with a database)
    operator     -> tunemesh.clients  (topic:  strategy, learn)   -> coordinator
    worker       -> tunemesh.answers  (topic:  answer.<key>)      -> <user>.<number>
    worker       -> tunemesh.results  (topic:  result.<stage>)         -> coordinator
    coordinator  -> tunemesh.ledger   (direct: ledger)                 -> coordinator
    coordinator  -> tunemesh.steps    (direct: name of the queue) -> model-update, build-cpu, profile-<device>
                                                                     (for further engines: see below)
    worker       -> tunemesh.status   (fanout)    -> coordinator.<id>, monitor.<id>
    coordinator  -> tunemesh.events   (topic:  job.<tenant>.<id>.<kind>) -> <user>.<number>, monitor.<id>;
                                                         ends of jobs -> history (workers with a database)
    coordinator  -> tunemesh.steps    (direct: history), a census      -> history
    anyone's undecodable message -> tunemesh.dead (fanout)             -> dead-letter

Every tenant has a queue for what its clients ask, which the coordinator makes when it hears of the tenant:
the broker then deals out the queues in turn, a few messages of each, and who floods one fills no other. A
client's routing key names its tenant, and its rights let it use no other key.

A mesh may have several *cells*: sets of workers with a coordinator of their own. What belongs to a cell ``b``
has its name in front: queues ``cell.b.coordinator``, ``cell.b.build-cpu``, ``cell.b.profile-<device>``, and
keys (:func:`in_cell`). Its coordinator makes them. A desk then stands where the coordinator of a mesh without
cells does, and hands on to one of them what clients ask::

    desk         -> tunemesh.ledger   (direct: cell.b.ledger)          -> cell.b.coordinator
    worker       -> tunemesh.results  (topic:  cell.b.result.<stage>)  -> cell.b.coordinator
    worker       -> tunemesh.results  (topic:  cell.b.status)          -> coordinator.<id>
    coordinator  -> tunemesh.ledger   (direct: cells)                  -> coordinator.<id> of each desk

Consumers of one queue are the same to RabbitMQ, so all workers of a queue serve the same engines. Those of
``model-update`` and ``build-cpu`` serve the engines that come with Tunemesh; workers that serve others, or
not all of them, have a queue that names theirs, as ``build-cpu.toy``: see :func:`work_queue`.

All queues are durable, and of one type: classic on a single node, quorum on a cluster, where each has copies
on three nodes. Whoever sets the broker up chooses (:func:`~broker_config.definitions.definitions`); the
coordinator sees which it is, and declares what it adds as the same. Measured on RabbitMQ 3.10.8 (one node, a
core of a two-core VM, bodies of 20 KB, persistent, confirmed; 3,000 (classic) or 1,500 (quorum) deliveries
held unacknowledged on ``coordinator`` meanwhile):

===================================================  =====================  =======================
what                                                 classic                quorum
===================================================  =====================  =======================
publish, consume, reply, consume: median (p95)       2.1 ms (4.7 ms)        2.2 ms (2.7 ms)
idle gap between steps, one in flight: median (p95)  2.5 ms (3.3 ms)        3.4 ms (4.5 ms)
worker busy with steps of 50 ms                      94.9 %                 93.1 %
ready after SIGKILL, all confirmed messages there    3.8 s, 3,200 of 3,200  3.8 s, 1,700 of 1,700
next consumer has all held deliveries                3,000 in 0.4 s         1,500 in 0.1 s
unacknowledged deliveries with unlimited prefetch    unlimited              stops at 2,000
the same with a prefetch of 65,535                   65,535                 65,535
===================================================  =====================  =======================

What a quorum queue needs that a classic one does not:

- A prefetch: "no limit" it reads as 2,000 (also in 4.x, rabbitmq-server issue 14485), and the coordinator,
  which holds what waits, would go deaf.
- No limit of deliveries (:data:`NO_LIMIT`): what 20 dead coordinators have held would be dropped from 4.0 on,
  and a step whose workers were killed as often. Whether a step is given up is for the coordinator to say.
- Copies of what is held for long: it keeps a log of all that came after (``coordinator.service.held``).
- A single active consumer for a device, since it does not listen to one that says it is the only one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from tunemesh.shared.accounts import NO_TENANT, Account, tenant_key
from tunemesh.shared.messages import Stage

VHOST = "tunemesh"

CLIENTS = "tunemesh.clients"
NEWCOMERS = "tunemesh.newcomers"
"""What clients send whose tenants have no queue yet."""
RESULTS = "tunemesh.results"
LEDGER = "tunemesh.ledger"
STEPS = "tunemesh.steps"
STATUS = "tunemesh.status"
EVENTS = "tunemesh.events"
ANSWERS = "tunemesh.answers"
DEAD = "tunemesh.dead"

REQUEST, CANCEL, QUERY, QUESTION = "request", "cancel", "query", "history"
"""What clients ask: the first part of a routing key, see :func:`client_key`."""
STRATEGY_KEY = "strategy"
LEARN_KEY = "learn"
HISTORY_KEY = "history"
"""Of what the coordinator tells those who keep the ends of jobs."""
LEDGER_KEY = "ledger"
CELLS_KEY = "cells"
"""Of what coordinators of cells say of them."""

COORDINATOR = "coordinator"
REQUESTS = "requests"
"""What clients ask whose tenants have no queue of their own, or who belong to none."""
BUILD_CPU = "build-cpu"
MODEL_UPDATE = "model-update"
DEAD_LETTER = "dead-letter"
HISTORY = "history"
"""Ends of jobs, until a worker with a database has written them down."""
QUESTIONS = "questions"
"""About jobs that have ended, for workers with a database."""

CELL_PATTERN = r"[a-z][a-z0-9-]{0,30}"
"""Of the name of a cell."""

OWN_QUEUE_DIGITS = 3
"""Hexadecimal digits behind the name of a user in the names of its queues. So few, since that limits how many
queues a user can declare, and nothing else in a broker does: 4,096."""
DEVICE_QUEUE_PATTERN = r"profile-[a-z0-9][a-z0-9-]{0,62}"
_ENGINE = r"[a-z][a-z0-9-]{0,39}"
ENGINE_QUEUE_PATTERN = rf"(model-update|build-cpu)\.{_ENGINE}(\+{_ENGINE}){{0,4}}"
"""Queues of workers that serve other engines than those that come with Tunemesh."""
STAGE_QUEUE_PATTERN = rf"(model-update|build-cpu|{ENGINE_QUEUE_PATTERN}|{DEVICE_QUEUE_PATTERN})"
"""The same names as :data:`shared.messages.QueueName`, without the anchors."""

ENDS = ("done", "failed", "cancelled")
"""Kinds of events with which a job ends that was accepted."""

MOCK = "mock"
"""The engine that every worker serves."""
OWN_ENGINES = frozenset({"metaschedule", "template", MOCK})
"""Those that come with Tunemesh."""

MAX_MESSAGE_BYTES = 1024 * 1024
"""Largest body that a node takes. Properties and headers (the envelope) come on top and are not counted."""
CONSUMER_TIMEOUT = 4 * 3600.0
"""Seconds that a delivery may stay unacknowledged on our own nodes. A step of 8 candidates that take
600 s each stays below 4 h with its baseline, which still frees what a hanging worker holds; the rare one that
does not comes again, and is answered from what the worker remembers."""
HISTORY_MESSAGES = 10_000
HISTORY_BYTES = 256 * 1024 * 1024
"""Of ends of jobs that nobody has written down, on a mesh whose workers have no database: the oldest go."""
QUESTION_SECONDS = 30
QUESTION_MESSAGES = 1_000
DEAD_LETTERS = 1000
DEAD_LETTER_BYTES = 128 * 1024 * 1024
DEAD_LETTER_SECONDS = 7 * 24 * 3600
OWN_QUEUE_MESSAGES = 10_000
OWN_QUEUE_BYTES = 64 * 1024 * 1024
OWN_QUEUE_SECONDS = 600
"""After which a queue of a user that nobody reads is gone, where it was not exclusive."""
REQUESTS_MESSAGES = 10_000
REQUESTS_BYTES = 256 * 1024 * 1024
"""Of what one tenant asks, until a coordinator reads it; more is refused."""

Argument = str | int | bool

QueueType = Literal["classic", "quorum"]
QUEUE_TYPES: tuple[QueueType, ...] = get_args(QueueType)

NO_LIMIT = 2**31 - 1
"""Deliveries after which a quorum queue drops a message: 4.x says 20 where it is not told otherwise, and 3.x
does not take a word for none."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: Literal["direct", "topic", "fanout"]
    arguments: Mapping[str, Argument] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue with the optional arguments that it is declared with, whatever its type."""

    name: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    exclusive: bool = False
    """It has one consumer at a time, which says so. Quorum queues do not listen to that: those have a single
    active one."""

    def declared(self, kind: QueueType) -> dict[str, Argument]:
        """All arguments of the queue as one of this type."""
        if kind == "classic":
            return {"x-queue-type": kind, **self.arguments}
        alone = {"x-single-active-consumer": True} if self.exclusive else {}
        return {"x-queue-type": kind, "x-delivery-limit": NO_LIMIT, **alone, **self.arguments}


@dataclass(frozen=True, slots=True)
class Binding:
    """Messages with ``key`` go from ``exchange`` to ``queue``; fanout exchanges ignore the key."""

    exchange: str
    queue: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits for all queues whose name matches ``pattern``."""

    name: str
    pattern: str
    definition: Mapping[str, Argument]


_ASKED: Mapping[str, Argument] = {
    "x-max-length": REQUESTS_MESSAGES,
    "x-max-length-bytes": REQUESTS_BYTES,
    "x-overflow": "reject-publish",
}
_WORKING: Mapping[str, Argument] = {"x-dead-letter-exchange": DEAD}


def in_cell(name: str, cell: str) -> str:
    """How the broker calls a queue, or a key, of a cell: ``cell.b.build-cpu``. The only cell of a mesh
    without cells, whose name is empty, calls everything by its plain name."""
    return f"cell.{cell}.{name}" if cell else name


def stage_queue(name: str, cell: str = "") -> Queue:
    """The queue of one resource: ``model-update``, ``build-cpu`` (both perhaps with engines: see
    :func:`work_queue`) or ``profile-<device>``.

    Raises:
        ValueError: the name is none of these.
    """
    if not re.fullmatch(STAGE_QUEUE_PATTERN, name):
        raise ValueError(f"{name!r} is not the name of a stage queue ({STAGE_QUEUE_PATTERN})")
    return Queue(in_cell(name, cell), _WORKING, exclusive=name.startswith("profile-"))


def stage_binding(name: str, cell: str = "") -> Binding:
    """How steps reach :func:`stage_queue`: the routing key is the name of the queue."""
    queue = stage_queue(name, cell).name
    return Binding(STEPS, queue, queue)


def device_queue(device: str) -> str:
    """Name of the queue of a device: ``gpu-0`` has ``profile-gpu-0``.

    Raises:
        ValueError: the device's name is not made of lower-case letters, digits and hyphens.
    """
    return stage_queue(f"profile-{device}").name


def is_own_queue(account: Account, name: str) -> bool:
    """Whether a queue of this name is one of those that a client or operator may declare for itself, and so
    whether answers to it may go there.

    Whoever sends a message names the queue for its answer, and the coordinator publishes it through the
    default exchange, which reaches every queue. A right cannot say which: the broker looks at routing keys of
    topic exchanges only.
    """
    return re.fullmatch(own_queue_pattern(account), name) is not None


def own_queue_pattern(account: Account) -> str:
    """Of the names of a user's own queues: ``client.acme.ann.1f0``, for example."""
    return rf"{re.escape(account.own_queues)}\.[0-9a-f]{{{OWN_QUEUE_DIGITS}}}"


def work_queue(resource: str, engines: Collection[str]) -> str:
    """Name of the queue that a worker takes its steps from.

    Workers that serve exactly :data:`OWN_ENGINES` share the queue of their resource. Others have one that
    names their engines: ``build-cpu.toy``, ``build-cpu.metaschedule+toy``. :data:`MOCK`, which every worker
    serves, is named only where it is the only one: ``model-update.mock``. For what measures it is the same
    which engine made a kernel: a device always has one queue.

    Args:
        resource: ``model-update``, ``build-cpu`` or ``profile-<device>``.
        engines: those that the worker serves.

    Raises:
        ValueError: there is no such resource, a name is not that of an engine, or there are more than five.
    """
    served = {*engines, MOCK}
    if resource in (MODEL_UPDATE, BUILD_CPU) and served != OWN_ENGINES:
        resource = f"{resource}.{'+'.join(sorted(served - {MOCK}) or [MOCK])}"
    return stage_queue(resource).name


def result_key(stage: Stage, cell: str = "") -> str:
    """Routing key of a result on :data:`RESULTS`."""
    return in_cell(f"result.{stage}", cell)


def status_route(cell: str = "") -> tuple[str, str]:
    """Exchange and routing key of what workers say of themselves. Of those of a cell only its coordinator
    hears: with many cells it would otherwise do little but listen to the workers of others."""
    return (RESULTS, in_cell("status", cell)) if cell else (STATUS, "")


def coordinator_queue(cell: str = "") -> Queue:
    """The queue of the coordinator of a cell."""
    return Queue(in_cell(COORDINATOR, cell), {"x-single-active-consumer": True})


def coordinator_bindings(cell: str) -> tuple[Binding, ...]:
    """What reaches :func:`coordinator_queue`, where there are cells."""
    queue = coordinator_queue(cell).name
    return (
        Binding(RESULTS, queue, in_cell("result.#", cell)),
        Binding(LEDGER, queue, in_cell(LEDGER_KEY, cell)),
    )


def event_key(tenant: str, job: str, kind: str) -> str:
    """Routing key of an event on :data:`EVENTS`: ``job.<tenant>.<id>.<kind>``, with ``-`` for a job of no
    tenant. ``*`` as ``kind`` gives the binding key for one job, and as ``tenant`` too, for those who may
    follow the jobs of all."""
    return f"job.{tenant_key(tenant)}.{job}.{kind}"


def client_key(kind: str, tenant: str) -> str:
    """Routing key on :data:`CLIENTS` of what a user of a tenant asks."""
    return f"{kind}.{tenant_key(tenant)}"


def tenant_in(key: str) -> str | None:
    """For whom something was asked, by its :func:`client_key`, which the broker lets nobody else use;
    ``None``: it is an operator's."""
    kind, _, tenant = key.partition(".")
    if kind not in (REQUEST, CANCEL, QUERY):
        return None
    return "" if tenant == NO_TENANT else tenant


def requests_queue(tenant: str) -> Queue:
    """The queue of what users of a tenant ask: ``requests.acme``."""
    return Queue(f"{REQUESTS}.{tenant}", _ASKED)


def requests_bindings(tenant: str) -> tuple[Binding, ...]:
    """How that reaches :func:`requests_queue`."""
    queue = requests_queue(tenant).name
    return tuple(Binding(CLIENTS, queue, client_key(kind, tenant)) for kind in (REQUEST, CANCEL, QUERY))


def answer_key(key: str) -> str:
    """Routing key of an answer on :data:`ANSWERS`, to whoever has drawn ``key``."""
    return f"answer.{key}"


EXCHANGES = (
    Exchange(CLIENTS, "topic", {"alternate-exchange": NEWCOMERS}),
    Exchange(NEWCOMERS, "fanout"),
    Exchange(RESULTS, "topic"),
    Exchange(LEDGER, "direct"),
    Exchange(STEPS, "direct"),
    Exchange(STATUS, "fanout"),
    Exchange(EVENTS, "topic"),
    Exchange(ANSWERS, "topic"),
    Exchange(DEAD, "fanout"),
)

QUEUES = (
    # Without dead-letter exchanges: all that the broker itself would put there are expired queries, which
    # interest nobody. Bad messages are put there by the coordinator, with the reason.
    coordinator_queue(),
    Queue(REQUESTS, _ASKED),
    stage_queue(MODEL_UPDATE),
    stage_queue(BUILD_CPU),
    Queue(
        HISTORY,
        {
            "x-max-length": HISTORY_MESSAGES,
            "x-max-length-bytes": HISTORY_BYTES,
        },
    ),
    Queue(QUESTIONS, {"x-message-ttl": QUESTION_SECONDS * 1000}),
    Queue(
        DEAD_LETTER,
        {
            "x-max-length": DEAD_LETTERS,
            "x-max-length-bytes": DEAD_LETTER_BYTES,
            "x-message-ttl": DEAD_LETTER_SECONDS * 1000,
        },
    ),
)
"""Queues that always exist; those of devices and of further engines come with their workers."""

BINDINGS = (
    Binding(NEWCOMERS, REQUESTS),
    Binding(CLIENTS, COORDINATOR, STRATEGY_KEY),
    Binding(CLIENTS, COORDINATOR, LEARN_KEY),
    Binding(CLIENTS, QUESTIONS, f"{QUESTION}.*"),
    *(Binding(EVENTS, HISTORY, event_key("*", "*", kind)) for kind in ENDS),
    Binding(STEPS, HISTORY, HISTORY_KEY),
    Binding(RESULTS, COORDINATOR, "result.#"),
    Binding(LEDGER, COORDINATOR, LEDGER_KEY),
    stage_binding(MODEL_UPDATE),
    stage_binding(BUILD_CPU),
    Binding(DEAD, DEAD_LETTER),
)

POLICIES = (
    # A client or monitor that stops reading must not fill the broker; the oldest news goes first.
    Policy(
        "own-queues",
        r"^(client|operator|coordinator|monitor)\.",
        {
            "max-length": OWN_QUEUE_MESSAGES,
            "max-length-bytes": OWN_QUEUE_BYTES,
            "expires": OWN_QUEUE_SECONDS * 1000,
            "overflow": "drop-head",
        },
    ),
    Policy("questions", rf"^{QUESTIONS}$", {"max-length": QUESTION_MESSAGES, "overflow": "drop-head"}),
)
