"""The knobs of schedules."""

from __future__ import annotations

from collections.abc import Sequence

from tunemesh.stage_workers.engines.halide.roles import Roles
from tunemesh.stage_workers.engines.halide.scheduling import (
    AHEAD,
    BAND,
    INLINE,
    LINE,
    ROOT,
    TILE,
    Plan,
    loads,
    shape_of,
)
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.space import Knob, Space, tiles_worth

LANES = (1, 2, 4, 8, 16)
WIDTHS = 2
"""How many of them are a choice: the widest ones that fit."""
VECTORS = (1, 2, 3, 4)
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 28)
LINES = (1, 2, 3, 4)
UNROLL = (1, 2, 3, 4, 5, 7, 8, 16)
BLOCKS = (0, 2, 4, 8, 16, 32)
LATENCY = 4.0
"""Cycles after which a sum can be added to again; two vectors are added in one cycle, and two loaded."""
FROM_CACHE = 0.25
"""Cycles that each number or vector takes once more, since not all are in the first cache."""
WORTH = 0.6
"""Of what the best tile promises, others must to be a choice."""
COPIED = 0.8
"""What a kernel keeps of its promise that copies a factor for each tile, or reads a weight in another order
than its own."""


def space_of(operator: Operator, roles: Roles, machine: Machine) -> Space:
    """What may be chosen of a schedule."""
    extents = [axis.extent for axis in operator.axes]
    columns = extents[roles.lane]
    fitting = [lanes for lanes in LANES if lanes <= min(machine.lanes, columns)]
    along = [extents[axis] for axis in roles.rows]
    counts = [[1], [1]]
    for number, (values, extent) in enumerate(zip((ROWS, LINES), along, strict=False)):
        counts[number] = [value for value in values if value <= extent]
    tile: tuple[Knob, ...] = (
        Knob("lanes", tuple(fitting[-WIDTHS:])),
        Knob("vectors", VECTORS),
        Knob("rows", tuple(counts[0])),
        Knob("lines", tuple(counts[1])),
    )

    def efficiency(values: Sequence[int]) -> float:
        """Of what the core can do; 0 where the registers do not hold it."""
        lanes, vectors, rows, lines = values
        sums = vectors * rows * lines
        if sums + vectors + 1 > machine.registers or lanes * vectors > columns:
            return 0.0
        lengths = {roles.lane: lanes * vectors, **dict(zip(roles.rows, (rows, lines), strict=False))}
        share = 1.0
        for axis, length in lengths.items():
            share *= extents[axis] / (-(-extents[axis] // length) * length)
        loaded = loads(operator, roles, lengths, lanes)
        cycles = max(sums / 2, loaded / 2, LATENCY) + FROM_CACHE * loaded
        return share * lanes / machine.lanes * sums / 2 / cycles

    tile, worth = tiles_worth(tile, efficiency, WORTH)
    inner = {extents[axis] for axis in (*roles.summed[:1], *roles.summed[1:2])}
    unroll = tuple(value for value in UNROLL if any(extent % value == 0 for extent in inner))
    several = len(roles.summed) > 1
    knobs = (
        *tile,
        Knob("unroll", unroll),
        Knob("kernel", (0, 1) if several else (0,)),
        Knob("depth_first", (1, 0) if several else (1,)),
        Knob("columns_block", BLOCKS),
        Knob("rows_block", BLOCKS if roles.rows else (0,)),
        Knob("rows_first", (0, 1) if roles.rows else (0,)),
        *(
            Knob(f"factor{number}", (INLINE, TILE, BAND, LINE, ROOT, AHEAD))
            for number in range(len(roles.factors))
        ),
    )

    def valid(values: Sequence[int]) -> bool:
        return tuple(values[:4]) in worth and not Plan(operator, roles, shape_of(values)).objection()

    def promise(values: Sequence[int]) -> float:
        expected = efficiency(values[:4])
        for factor, place in zip(roles.factors, shape_of(values).places, strict=True):
            ordered = place == AHEAD or not factor.operand.weight
            expected *= 1.0 if ordered and place != TILE else COPIED
        return expected

    return Space(knobs, valid, promise)
