"""The knobs of all templates that compute a tile in registers."""

from __future__ import annotations

from collections.abc import Sequence

from tunemesh.stage_workers.engines.template.contraction import Contraction, Roles, Shape
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.space import Knob, Space

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 28)
VECTORS = (1, 2, 3, 4)
UNROLL = (1, 2, 4, 8)
DEPTHS = (0, 32, 64, 128, 256, 512)
BLOCKS = (0, 1, 2, 4, 8, 16, 32)
LANES = (4, 8, 16)
IN_ORDER = 1.5
"""How much more a kernel promises that reads a weight in order."""


def up_to(values: Sequence[int], limit: int) -> tuple[int, ...]:
    """Those that are no larger; the first one where all are."""
    return tuple(value for value in values if value <= limit) or tuple(values[:1])


def space(operator: Operator, roles: Roles, machine: Machine) -> Space:
    """What may be chosen of a kernel with these roles."""
    plain = Contraction(operator, roles, Shape(1, 1, 1))

    still_fits = roles.still.weight and not roles.still.windows and len(roles.rows) <= 1
    knobs = (
        Knob("lanes", up_to(LANES, machine.lanes)),
        Knob("vectors", VECTORS),
        Knob("rows", up_to(ROWS, plain.rows)),
        Knob("unroll", up_to(UNROLL, plain.depth)),
        Knob("depth", tuple(value for value in DEPTHS if value < plain.depth)),
        Knob("columns_block", BLOCKS),
        Knob("rows_block", BLOCKS),
        Knob("rows_first", (0, 1)),
        Knob("pack_moving", (0, 1)),
        Knob("pack_still", (0, 1) if still_fits else (0,)),
    )

    def valid(values: Sequence[int]) -> bool:
        shape = shape_of(values)
        used = shape.rows * shape.vectors + shape.vectors + (shape.vectors > 1)
        return used <= machine.registers and not Contraction(operator, roles, shape).objection()

    def promise(values: Sequence[int]) -> float:
        """Multiplications for each load, less those that are for nothing at the ends. A weight that is packed
        is read in order."""
        shape = shape_of(values)
        width = shape.lanes * shape.vectors
        used = plain.columns / (-(-plain.columns // width) * width)
        used *= plain.rows / (-(-plain.rows // shape.rows) * shape.rows)
        if shape.pack_moving and roles.moving.weight:
            used *= IN_ORDER
        return used * shape.lanes * shape.rows * shape.vectors / (shape.rows + shape.vectors)

    return Space(knobs, valid, promise)


def shape_of(values: Sequence[int]) -> Shape:
    """The shape that values of the knobs say."""
    lanes, vectors, rows, unroll, depth, columns, high, rows_first, moving, still = values
    return Shape(
        lanes=lanes, vectors=vectors, rows=rows, unroll=unroll, depth=depth, columns_block=columns,
        rows_block=high, rows_first=bool(rows_first), pack_moving=bool(moving), pack_still=bool(still),
    )  # fmt: skip
