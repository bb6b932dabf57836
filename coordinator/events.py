"""The vocabulary of the core: what can happen, and what can be done about it.

``Core.handle(event, now)`` takes one event and returns instructions. All are frozen values that can be
written down: so a log of events can be replayed (:mod:`coordinator.journal`), and a test can compare whole
lists.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from tunemesh.coordinator.jobs.ledger import Handle, Ledger
from tunemesh.shared.messages import (
    Cancel,
    Census,
    JobEvent,
    Learn,
    Query,
    Request,
    SetStrategy,
    Snapshot,
    Step,
    StepResult,
    WorkerStatus,
)

TICK = 0.5
"""Seconds between two :class:`Tick`."""

CHECK = 2.0
"""Seconds between two :class:`QueueSeen` of a stage queue."""

Level = Literal["debug", "info", "warning", "error"]


# -- Events ------------------------------------------------------------------------------------------------


class Connected(Struct, frozen=True, tag=True):
    """The coordinator is (again) connected, or has become the active one. Whatever was held was requeued and
    will arrive anew."""

    wall: float
    """What the clock on the wall shows, in seconds since the Unix epoch. Until the next connection all
    instants that people are told follow from it and from ``now``, which never jumps."""
    seed: str = ""
    """Drawn at random: the secrets of jobs follow from it."""


class CaughtUp(Struct, frozen=True, tag=True):
    """Everything that was requeued before :class:`Connected` has arrived again."""


class Arrived(Struct, frozen=True, tag=True):
    """A message was delivered and is held until an :class:`Acknowledge` or :class:`PutAside`."""

    handle: Handle
    message: Request | Cancel | Query | SetStrategy | Learn | StepResult | Ledger
    reply_to: str | None = None
    correlation_id: str | None = None
    user: str = ""
    """Who sent it, as the broker verified it; empty where it did not."""
    tenant: str | None = None
    """The only tenant for which the sender may speak, empty for none: it is a client. ``None``: it is an
    operator, who may speak for any, or one of the mesh's own."""


class Garbled(Struct, frozen=True, tag=True):
    """A message of a client was delivered that cannot be read, and is held until a :class:`PutAside`."""

    handle: Handle
    reason: str
    tenant: str | None = None
    """See :class:`Arrived`."""


class WorkerSeen(Struct, frozen=True, tag=True):
    """A worker told how it is."""

    status: WorkerStatus


class QueueSeen(Struct, frozen=True, tag=True):
    """The cross-check: what the broker shows of a stage queue."""

    queue: str
    ready: int
    consumers: int


class QueueMissing(Struct, frozen=True, tag=True):
    """The cross-check again: a stage queue is not there; ``cause`` says why."""

    queue: str
    cause: str
    refused: bool = False
    """It cannot be declared either."""


class Unreadable(Struct, frozen=True, tag=True):
    """The result of a step could not even be decoded, and was dead-lettered."""

    step: str
    reason: str
    nonce: str = ""
    """What it gave for that of the step."""


class DispatchFailed(Struct, frozen=True, tag=True):
    """A step could not be routed to its queue, or with a ``cause``, could not be made into a message."""

    step: str
    cause: str = ""


class SaveFailed(Struct, frozen=True, tag=True):
    """The ledger of a job cannot be made into a message; ``cause`` says why."""

    job: str
    cause: str


class Tick(Struct, frozen=True, tag=True):
    """Time passed; sent every :data:`TICK` seconds."""


Event = (
    Connected
    | CaughtUp
    | Arrived
    | Garbled
    | WorkerSeen
    | QueueSeen
    | QueueMissing
    | Unreadable
    | DispatchFailed
    | SaveFailed
    | Tick
)


# -- Instructions ------------------------------------------------------------------------------------------


class Dispatch(Struct, frozen=True, tag=True):
    """Publish a step to a stage queue."""

    queue: str
    step: Step


class Save(Struct, frozen=True, tag=True):
    """Publish a ledger revision to the coordinator's own queue. Its arrival there is the confirmation."""

    ledger: Ledger


class Acknowledge(Struct, frozen=True, tag=True):
    """Done with a held delivery."""

    handle: Handle


class PutAside(Struct, frozen=True, tag=True):
    """Dead-letter a held delivery: it makes no sense."""

    handle: Handle
    reason: str


class Declare(Struct, frozen=True, tag=True):
    """Create a stage queue for a worker that has announced itself."""

    queue: str


class Purge(Struct, frozen=True, tag=True):
    """Empty the queue of a lost device: its steps go elsewhere."""

    queue: str


class Tell(Struct, frozen=True, tag=True):
    """Tell whoever listens to the job, or with ``reply_to``, only the one who asked."""

    event: JobEvent
    reply_to: str | None = None
    correlation_id: str | None = None
    """``None``: the job's id."""


class Answer(Struct, frozen=True, tag=True):
    """Answer a query."""

    reply_to: str
    correlation_id: str | None
    snapshot: Snapshot


class Count(Struct, frozen=True, tag=True):
    """Tell those who keep the history which artifacts are still needed."""

    census: Census


class Log(Struct, frozen=True, tag=True):
    """Write to the coordinator's log what has happened, and to whom."""

    level: Level
    text: str
    job: str = ""
    step: str = ""
    worker: str = ""


Instruction = Dispatch | Save | Acknowledge | PutAside | Declare | Purge | Tell | Answer | Count | Log
