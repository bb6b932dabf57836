"""What a request can tell the engine."""

from __future__ import annotations

from msgspec import Struct

from tunemesh.shared.messages import Options
from tunemesh.stage_workers import options as given

NAME = "template"
DEFAULT = "surrogate"


class TemplateOptions(Struct, frozen=True, kw_only=True):
    """Attributes:
    search: how the knobs are searched, see :mod:`.searches`.
    """

    search: str = DEFAULT


def read(options: Options) -> TemplateOptions:
    """Check and read them.

    Raises:
        BadInput: one is unknown, or its value is bad.
    """
    from tunemesh.stage_workers.engines.template import searches

    known = given.read(NAME, options, TemplateOptions)
    searches.check(known.search)
    return known
