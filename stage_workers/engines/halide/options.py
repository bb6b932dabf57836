"""What a request can tell the engine."""

from __future__ import annotations

from msgspec import Struct

from tunemesh.shared.messages import Options
from tunemesh.stage_workers import options as given
from tunemesh.stage_workers.engines.template.options import DEFAULT

NAME = "halide"


class HalideOptions(Struct, frozen=True, kw_only=True):
    """Attributes:
    search: how the knobs are searched, as of the template engine.
    autoschedulers: whether the schedules of Halide's autoschedulers are among the first candidates.
    """

    search: str = DEFAULT
    autoschedulers: bool = True


def read(options: Options) -> HalideOptions:
    """Check and read them.

    Raises:
        BadInput: one is unknown, or its value is bad.
    """
    from tunemesh.stage_workers.engines.template import searches

    known = given.read(NAME, options, HalideOptions)
    searches.check(known.search)
    return known
