"""How long a kernel by Winograd's algorithm takes, by counting what a core does."""

from __future__ import annotations

from dataclasses import dataclass

from tunemesh.stage_workers.graph import winograd
from tunemesh.stage_workers.graph.winograd_kernels import Knobs

LEAST_HELD = 8
"""Products in registers, at least: fewer do not hide how long one takes."""
LEVEL = 2**20
"""Bytes that a core finds near: of its second cache."""
NEARBY, BEYOND = 32.0, 8.0
"""Bytes a cycle from there, and from beyond."""
STEPS = 2.5
"""Cycles of one vector in a transform."""
BEGIN = 12
"""Cycles that a product in registers takes beside its terms."""


@dataclass(frozen=True)
class Work:
    """A convolution.

    Attributes:
        inputs: channels of the image.
        columns: channels of the result.
        tiles: of the result.
        group: channels of the image that are multiplied at once.
    """

    inputs: int
    columns: int
    tiles: int
    group: int = 1


def cycles(work: Work, knobs: Knobs, cores: int) -> float:
    """Of a kernel on so many cores."""
    planes, lanes = winograd.inputs_of(knobs.outputs) ** 2, knobs.lanes
    channels = work.inputs + work.columns
    blocks = -(-work.tiles // knobs.tiles)
    held = knobs.rows * knobs.vectors
    term = max(held / 2, (knobs.rows + knobs.vectors) / 2, LEAST_HELD / 2)
    pieces = blocks * planes * (knobs.tiles // knobs.rows) * -(-work.columns // knobs.columns)
    transforms = blocks * knobs.tiles * planes * channels / lanes * STEPS
    steps = work.inputs / work.group
    weights, between = 4 * planes * steps * work.columns, 4 * planes * knobs.tiles * (steps + work.columns)
    speed = NEARBY if weights + between <= LEVEL else BEYOND
    moved = blocks * (weights + between) / speed + weights / BEYOND
    # Of the weights or the tiles, whatever the inner loop reads, one part has to stay near.
    inner = steps * (knobs.rows if knobs.by_rows else knobs.columns) * 4
    multiplying = pieces * (steps * term + BEGIN + held) * (1.0 if inner <= LEVEL / 32 else 1.1)
    return (multiplying + transforms + moved) * -(-blocks // cores) / blocks
