"""What desk and cells tell each other. Only coordinators, by their rights on the broker, may send any of
it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from tunemesh.broker_config.topology import CELL_PATTERN
from tunemesh.shared.messages import Cancel, Learn, Query, Request, SetStrategy
from tunemesh.shared.messages.basics import Count, Headers, JobId, Message, Name, Seconds

CellName = Annotated[str, Meta(pattern=rf"^({CELL_PATTERN})?\Z")]
"""Empty: the cell of a mesh without cells."""

MOST_SERVED = 1_000
"""Targets that a cell tells of."""


class Served(Struct, frozen=True, kw_only=True):
    """What a cell can do for jobs of one target, and how long it is busy without them."""

    targets: list[str]
    """All its names, the canonical one first."""
    engines: list[str]
    """Those that a job can have there."""
    devices: Count
    seconds: Seconds
    """Predicted, until all that the cell has for these devices, and for the workers beside them, is done."""
    pace: Seconds
    """What one more trial adds to that."""


class CellStatus(Message, frozen=True, kw_only=True, tag="cell-status"):
    """Sent every few seconds by the coordinator at work in a cell; not persistent."""

    cell: CellName
    jobs: Count
    """That have not ended."""
    served: Annotated[list[Served], Meta(max_length=MOST_SERVED)]
    """What it serves at this moment."""

    def message_id(self) -> str:
        return f"{self.cell}/status"

    def headers(self) -> Headers:
        return super().headers() | {"cell": self.cell, "jobs": self.jobs}


class Placed(Message, frozen=True, kw_only=True, tag="placed"):
    """Which cell has a job. The desk publishes it to its own queue *before* it hands the request on, and
    keeps the newest unacknowledged, so that a successor hands the same job on to the same cell."""

    job: JobId
    tenant: Annotated[str, Meta(max_length=64)] = ""
    """Whose it is."""
    cell: CellName
    move: Count = 0
    """How often it was given to another cell; of two the larger one holds."""
    source: CellName | None = None
    """The dead cell that had it before, as long as some of it may be there."""

    @property
    def order(self) -> tuple[int, bool]:
        """Of two that are about the same job the larger one holds."""
        return self.move, self.source is None

    def message_id(self) -> str:
        return f"{self.job}/placed/{self.move}/{'moved' if self.source is None else 'moving'}"

    def headers(self) -> Headers:
        return super().headers() | {"job": self.job, "cell": self.cell, "move": self.move}


class Forget(Message, frozen=True, kw_only=True, tag="forget"):
    """A cell that came back is not to go on with a job, of which another cell has everything."""

    job: JobId

    def message_id(self) -> str:
        return f"{self.job}/forget"

    def headers(self) -> Headers:
        return super().headers() | {"job": self.job}


class Handed(Message, frozen=True, kw_only=True, tag="handed"):
    """What a client has asked, handed on by the desk with what the broker said of the client."""

    message: Request | Cancel | Query | SetStrategy | Learn
    user: Name = ""
    """As the broker verified it."""
    tenant: Annotated[str, Meta(max_length=64)] | None = None
    """See :class:`~coordinator.events.Arrived`."""
    reply_to: Annotated[str, Meta(max_length=255)] | None = None
    """A queue of that user's own."""
    correlation_id: Annotated[str, Meta(max_length=255)] | None = None

    @property
    def job(self) -> str:
        """The one that it is about, or nothing."""
        return getattr(self.message, "job", None) or ""

    def message_id(self) -> str:
        return f"{self.message.message_id()}/handed"

    def headers(self) -> Headers:
        return super().headers() | {"asks": self.message.type_name, "job": self.job or "-"}
