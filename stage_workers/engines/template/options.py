"""What a request can tell the engine."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from tunemesh.shared.messages import Options
from tunemesh.stage_workers import options as given

NAME = "template"

SearchName = Literal[
    "random", "roulette", "three-parents", "hill-climb", "annealing", "reinforce", "surrogate", "portfolio"
]


class TemplateOptions(Struct, frozen=True, kw_only=True):
    """Attributes:
    search: how the knobs are searched, see :mod:`.searches`.
    """

    search: SearchName = "surrogate"


def read(options: Options) -> TemplateOptions:
    """Check and read them.

    Raises:
        BadInput: one is unknown, or its value is bad.
    """
    return given.read(NAME, options, TemplateOptions)
