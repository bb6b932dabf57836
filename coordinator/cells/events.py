"""The vocabulary of the desk, beside that of :mod:`coordinator.events`."""

from __future__ import annotations

from msgspec import Struct

from tunemesh.coordinator.cells.messages import CellStatus, Handed, Placed
from tunemesh.coordinator.events import Arrived, CaughtUp, Connected, Garbled, Instruction, Tick
from tunemesh.coordinator.jobs.ledger import Handle
from tunemesh.shared.messages import Request, Snapshot

# -- What can happen ---------------------------------------------------------------------------------------


class PlaceSaved(Struct, frozen=True, tag=True):
    """A :class:`Placed` came back, and is held."""

    handle: Handle
    placed: Placed


class CellSeen(Struct, frozen=True, tag=True):
    """A cell told how it is."""

    status: CellStatus


class CellAnswered(Struct, frozen=True, tag=True):
    """A cell answered a query of the desk."""

    correlation_id: str
    snapshot: Snapshot


class NotHanded(Struct, frozen=True, tag=True):
    """The broker has no queue of that cell, or refuses a message for it."""

    hand: Hand


class Found(Struct, frozen=True, tag=True):
    """A job lies in the queue of a dead cell."""

    cell: str
    job: str
    request: Request | None
    """``None``: only results of it are there."""
    ended: bool = False
    """It is there to be asked about."""


class SearchEnded(Struct, frozen=True, tag=True):
    """The queue of a dead cell is not read any more: what was found there and not moved is there for its
    coordinator, should it come back."""

    cell: str
    complete: bool
    """All that is there was found."""


class Moved(Struct, frozen=True, tag=True):
    """All that was there of a job is in the queue of another cell."""

    job: str


DeskEvent = (
    Arrived
    | Garbled
    | CaughtUp
    | Connected
    | Tick
    | PlaceSaved
    | CellSeen
    | CellAnswered
    | NotHanded
    | Found
    | SearchEnded
    | Moved
)


# -- What can be done about it -------------------------------------------------------------------------------


class Place(Struct, frozen=True, tag=True):
    """Publish to the desk's own queue which cell has a job. Its arrival there is the confirmation."""

    placed: Placed


class Hand(Struct, frozen=True, tag=True):
    """Publish to the queue of a cell what a client has asked; when that is confirmed, settle it."""

    cell: str
    handed: Handed
    handle: Handle | None = None


class AskCell(Struct, frozen=True, tag=True):
    """Publish to the queue of a cell a query of the desk's own."""

    cell: str
    asked: Handed
    correlation_id: str


class TellForget(Struct, frozen=True, tag=True):
    """Publish to the queue of a cell that it is not to go on with a job."""

    cell: str
    job: str


class Search(Struct, frozen=True, tag=True):
    """Look which jobs are in the queue of a dead cell, if nobody reads it."""

    cell: str


class Move(Struct, frozen=True, tag=True):
    """Move all that was found of a job to another cell, or drop it where that is ``None``."""

    job: str
    source: str
    cell: str | None


DeskInstruction = Instruction | Place | Hand | AskCell | TellForget | Search | Move
