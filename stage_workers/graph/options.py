"""What a request can tell the graph."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from tunemesh.shared.messages import Options
from tunemesh.stage_workers import options as given


class GraphOptions(Struct, frozen=True, kw_only=True):
    """How a model is optimised before its tasks are taken out of it.

    Attributes:
        convolutions: what becomes of convolutions on a CPU: ``winograd`` computes those of 3x3 by Winograd's
            algorithm where that is faster, and the whole model with channels last then; ``as-given`` leaves
            them.
    """

    convolutions: Literal["winograd", "as-given"] = "winograd"


def read(options: Options) -> GraphOptions:
    """Check and read them.

    Raises:
        BadInput: one is unknown, or its value is bad.
    """
    return given.read(given.GRAPH, options, GraphOptions)
