"""The knobs of all templates that compute a tile in registers."""

from __future__ import annotations

from collections.abc import Sequence

from tunemesh.stage_workers.engines.template.contraction import Contraction, Roles, Shape
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import FLOAT, Operator
from tunemesh.stage_workers.engines.template.space import Knob, Space, tiles_worth

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 28)
VECTORS = (1, 2, 3, 4)
UNROLL = (1, 2, 4, 8)
DEPTHS = (0, 32, 64, 128, 256, 512)
BLOCKS = (0, 1, 2, 4, 8, 16, 32)
LANES = (4, 8, 16)
LATENCY = 4.0
"""Cycles after which a sum can be added to again; two vectors are added in one cycle, and two loaded."""
OF_DOTS = 6.0
"""The same of instructions that add several products."""
FROM_CACHE = 0.25
"""Cycles that each number or vector takes once more, since not all are in the first cache."""
CALL = 20.0
"""Cycles that a tile takes beside its sum."""
IN_ORDER = 1.5
"""How much more a kernel promises that reads a weight in order."""
WORTH = 0.6
"""Of what the best tile promises, others must to be a choice."""


def up_to(values: Sequence[int], limit: int) -> tuple[int, ...]:
    """Those that are no larger; the first one where all are."""
    return tuple(value for value in values if value <= limit) or tuple(values[:1])


def space(operator: Operator, roles: Roles, machine: Machine) -> Space:
    """What may be chosen of a kernel with these roles."""
    plain = Contraction(operator, roles, Shape(1, 1, 1))
    latency = LATENCY if operator.dot is None else OF_DOTS

    still_fits = roles.still.weight and not roles.still.windows and len(roles.rows) <= 1

    def cycles(rows: int, vectors: int) -> float:
        """For a step of the sum."""
        loads = rows + vectors
        return max(rows * vectors / 2, loads / 2, latency) + FROM_CACHE * loads

    def efficiency(tile: Sequence[int]) -> float:
        """Of what the core can do; 0 where the registers do not hold it."""
        lanes, vectors, rows = tile
        if rows * vectors + vectors + (vectors > 1) > machine.registers:
            return 0.0
        width = lanes * vectors
        share = plain.columns / (-(-plain.columns // width) * width)
        share *= plain.line / (-(-plain.line // rows) * rows)
        return share * lanes / machine.lanes * rows * vectors / 2 / cycles(rows, vectors)

    tile: tuple[Knob, ...] = (
        Knob("lanes", up_to(LANES, machine.lanes)),
        Knob("vectors", VECTORS),
        Knob("rows", up_to(ROWS, plain.line)),
    )
    tile, worth = tiles_worth(tile, efficiency, WORTH)
    depths = DEPTHS if operator.dot is None and operator.dtype == FLOAT else (0,)
    knobs = (
        *tile,
        Knob("unroll", up_to(UNROLL, plain.depth)),
        Knob("depth", tuple(value for value in depths if value < plain.depth)),
        Knob("columns_block", BLOCKS),
        Knob("rows_block", BLOCKS),
        Knob("rows_first", (0, 1)),
        Knob("pack_moving", (0, 1)),
        Knob("pack_still", (0, 1) if still_fits else (0,)),
    )

    def valid(values: Sequence[int]) -> bool:
        return tuple(values[:3]) in worth and not Contraction(operator, roles, shape_of(values)).objection()

    def promise(values: Sequence[int]) -> float:
        shape = shape_of(values)
        kernel = Contraction(operator, roles, shape)
        # Sums that are not complete are written and read again.
        moved = 0 if kernel.whole else 2 * shape.rows * shape.vectors
        busy = kernel.piece * kernel.taps * cycles(shape.rows, shape.vectors)
        in_order = shape.pack_moving and roles.moving.weight
        return efficiency(values[:3]) * busy / (busy + CALL + moved) * (IN_ORDER if in_order else 1.0)

    return Space(knobs, valid, promise)


def shape_of(values: Sequence[int]) -> Shape:
    """The shape that values of the knobs say."""
    lanes, vectors, rows, unroll, depth, columns, high, rows_first, moving, still = values
    return Shape(
        lanes=lanes, vectors=vectors, rows=rows, unroll=unroll, depth=depth, columns_block=columns,
        rows_block=high, rows_first=bool(rows_first), pack_moving=bool(moving), pack_still=bool(still),
    )  # fmt: skip
