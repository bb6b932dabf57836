"""What a request can tell the engine."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from tunemesh.shared.messages import Options
from tunemesh.stage_workers import options as given

FORMAT = 1
"""Of schedules: traces of TVM 0.27 as JSON, compressed."""
NAME = "metaschedule"
FORMAT = 1
"""Of schedules: traces of TVM 0.27 as JSON, compressed. And of priors: the features of that."""


class SearchOptions(Struct, frozen=True, kw_only=True):
    """How thoroughly a batch is searched for.

    Attributes:
        population: schedules that the cost model weighs at a time, per candidate that it proposes. ``None``:
            2 while fewer than 128 trials of the task are known, then 4.
        generations: times that the search lets them evolve before it proposes. ``None``: once, then twice,
            likewise.
        space: ``"own"``: tiles in registers, and MetaSchedule's. ``"metaschedule"``: nothing but what
            MetaSchedule draws, to compare with.
    """

    population: Annotated[int, Meta(ge=1, le=64)] | None = None
    generations: Annotated[int, Meta(ge=0, le=16)] | None = None
    space: Literal["own", "metaschedule"] = "own"


def read(options: Options) -> SearchOptions:
    """Check and read them.

    Raises:
        BadInput: one is unknown, or its value is bad.
    """
    return given.read(NAME, options, SearchOptions)
