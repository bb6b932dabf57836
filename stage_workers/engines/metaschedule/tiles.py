"""Which tiles of a reduction's result fit the registers of a core.

While a tile is summed up, its elements stay in registers: so many rows of so many vectors. Each step of the
reduction loads one vector of weights for each vector of a row, and one number for each row; the more there
are, the more is computed for each load. Too many, and the compiler moves some to memory and back each time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from tunemesh.stage_workers.engines.metaschedule.factors import divisors

ENOUGH = 0.5
"""Part of the largest tile that there is: smaller ones are not tried."""
MOST_VECTORS = 8
"""Of a row."""
WEIGHT = 2
"""Of a load of weights, which come from a larger cache than the inputs, beside one of an input."""
FEW_LOADS = 0.8
"""Per multiply-add: so many the core can do beside its arithmetic."""
NEARLY = 1.25
"""Of the fewest loads that there are."""
HEIGHTS = 2
"""How many heights of tiles are tried where neighbours share inputs."""
WINDOW = 16
"""Most vectors of a tile where every element has inputs of its own, which should stay in registers, too."""


class Registers(Struct, frozen=True):
    """What holds vectors in a core.

    Attributes:
        count: how many there are.
        bits: of each.
    """

    count: int
    bits: int

    def lanes(self, extent: int, bits: int) -> int:
        """Elements of so many bits in the vectors that an axis is cut into; 0 where that does not work out.
        The axis may need vectors of half the width."""
        full = self.bits // bits
        return next((lanes for lanes in (full, full // 2) if lanes > 1 and extent % lanes == 0), 0)


class Tile(NamedTuple):
    """Part of a result: ``vectors`` side by side, in as many neighbours as one of ``rows``, on ``height``
    lines."""

    height: int
    rows: tuple[int, ...]
    vectors: int


def of_products(registers: Registers, rows: Mapping[int, Sequence[int]], vectors: int) -> list[Tile]:
    """Tiles in which each input serves all vectors side by side.

    Args:
        rows: how many a tile may have, by its height.
        vectors: in a row of the whole result.
    """
    found = []
    for width in (each for each in divisors(vectors) if each <= MOST_VECTORS):
        for height, counts in rows.items():
            for count in counts:
                if height * count * width + width + 1 < registers.count:
                    found.append((height, count, width))

    def loads(tile: tuple[int, int, int]) -> float:
        height, count, width = tile
        return 1 / width + WEIGHT / (height * count)

    least = min(map(loads, found), default=0.0)
    found = _large([tile for tile in found if loads(tile) <= max(FEW_LOADS, NEARLY * least)])
    flattest: dict[int, int] = {}
    for height, _, width in found:
        flattest[width] = min(flattest.get(width, height), height)
    return _grouped([tile for tile in found if tile[0] == flattest[tile[2]]])


def of_windows(rows: Mapping[int, Sequence[int]], vectors: int) -> list[Tile]:
    """Tiles in which every element has inputs of its own, as in a depthwise convolution or a pooling."""
    found = [
        (height, count, width)
        for width in divisors(vectors)
        if width <= 2
        for height, counts in rows.items()
        for count in counts
        if height * count * width <= WINDOW
    ]
    return _grouped(_large(found))


def row_tiles(extents: Sequence[int]) -> list[int]:
    """Numbers of rows, where the rows are numbered through along several axes, whose tiles begin and end
    alike on each: parts of the last axis, or so many times all of it."""
    last, total = extents[-1], math.prod(extents)
    return [count for count in divisors(total) if last % count == 0 or count % last == 0]


def _large(found: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    most = max(map(math.prod, found), default=0)
    return [tile for tile in found if math.prod(tile) >= ENOUGH * most]


def _grouped(found: Sequence[tuple[int, int, int]]) -> list[Tile]:
    groups: dict[tuple[int, int], list[int]] = {}
    for height, count, width in found:
        groups.setdefault((height, width), []).append(count)
    return [Tile(height, tuple(counts), width) for (height, width), counts in groups.items()]
