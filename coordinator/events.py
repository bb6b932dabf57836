"""The vocabulary of the core: what can happen, and what can be done about it.

``Core.handle(event, now)`` takes one event and returns instructions. All are frozen values, so a log of
events can be replayed and a test can compare whole lists.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.shared.messages import (
    Cancel,
    JobEvent,
    Query,
    Request,
    SetStrategy,
    Snapshot,
    Step,
    StepResult,
    WorkerStatus,
)

Handle = int
"""Names a held delivery. Given by the shell, never reused."""

TICK = 0.5
"""Seconds between two :class:`Tick`."""

CHECK = 2.0
"""Seconds between two :class:`QueueSeen` of a stage queue."""


# -- Events ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The coordinator is (again) connected, or has become the active one. Whatever was held was requeued and
    will arrive anew."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything that was requeued before :class:`Connected` has arrived again."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message was delivered and is held until an :class:`Acknowledge`."""

    handle: Handle
    message: Request | Cancel | Query | SetStrategy | StepResult | Ledger
    reply_to: str | None = None
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker told how it is."""

    status: WorkerStatus


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """The cross-check: what the broker shows of a stage queue."""

    queue: str
    ready: int
    consumers: int


@dataclass(frozen=True, slots=True)
class DispatchFailed:
    """A step could not be routed to its queue, or with a ``cause``, could not be made into a message."""

    step: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class SaveFailed:
    """The ledger of a job cannot be made into a message; ``cause`` says why."""

    job: str
    cause: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; sent every :data:`TICK` seconds."""


Event = Connected | CaughtUp | Arrived | WorkerSeen | QueueSeen | DispatchFailed | SaveFailed | Tick


# -- Instructions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Publish a step to a stage queue."""

    queue: str
    step: Step


@dataclass(frozen=True, slots=True)
class Save:
    """Publish a ledger revision to the coordinator's own queue. Its arrival there is the confirmation."""

    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Done with a held delivery."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Declare:
    """Create a stage queue for a worker that has announced itself."""

    queue: str


@dataclass(frozen=True, slots=True)
class Purge:
    """Empty the queue of a lost device: its steps go elsewhere."""

    queue: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell whoever listens to the job, or with ``reply_to``, only the one who asked."""

    event: JobEvent
    reply_to: str | None = None
    correlation_id: str | None = None
    """``None``: the job's id."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a query."""

    reply_to: str
    correlation_id: str | None
    snapshot: Snapshot


Instruction = Dispatch | Save | Acknowledge | Declare | Purge | Tell | Answer
