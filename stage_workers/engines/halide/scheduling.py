"""Schedules: how the loops of a pipeline are cut, ordered and unrolled, and where factors are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tunemesh.stage_workers.engines.halide.roles import Factor, Roles, packed
from tunemesh.stage_workers.engines.template import epilogues
from tunemesh.stage_workers.engines.template.operators import Operator

INLINE, TILE, BAND, LINE, ROOT, AHEAD = range(6)
"""Where a factor is computed: where it is used; for each tile; for all tiles of the innermost loop; for a
line of tiles; before all else; or when the model is put together, which only weights can be."""
PARTLY_UNROLLED = 8
"""Steps of a kernel's axis up to which it may stand in a row as a whole."""


@dataclass(frozen=True)
class Shape:
    """Values of all knobs.

    Attributes:
        lanes: of a vector.
        vectors: of a tile.
        rows: of a tile along the first axis of the rows.
        lines: and along the second one.
        unroll: steps of the innermost axis of the sum that stand one after the other.
        kernel: whether a kernel's axis is unrolled around that.
        depth_first: whether the longest axis of the sum is the innermost one.
        columns_block: tiles in a block along the vectors; 0 for all.
        rows_block: and along the last axis of the rows.
        rows_first: whether the loops over rows are the inner ones.
        places: where each factor is computed.
    """

    lanes: int
    vectors: int
    rows: int
    lines: int
    unroll: int
    kernel: bool
    depth_first: bool
    columns_block: int
    rows_block: int
    rows_first: bool
    places: tuple[int, ...]


class Plan:
    """A schedule for an operator."""

    def __init__(self, operator: Operator, roles: Roles, shape: Shape) -> None:
        self.operator = operator
        self.shape = shape
        self.width = shape.lanes * shape.vectors
        self.summed = roles.summed if shape.depth_first else (*roles.summed[1:], *roles.summed[:1])
        self.roles = roles

    def extent(self, axis: int) -> int:
        return self.operator.axes[axis].extent

    @property
    def tile(self) -> dict[int, int]:
        """How far a tile goes along each axis of it."""
        return {
            self.roles.lane: self.width,
            **dict(zip(self.roles.rows, (self.shape.rows, self.shape.lines), strict=False)),
        }

    @cached_property
    def packed_roles(self) -> Roles:
        """The roles with weights in the order of this schedule."""
        factors = [
            packed(factor, self.operator, self.summed, self._block(factor)) if place == AHEAD else factor
            for factor, place in zip(self.roles.factors, self.shape.places, strict=True)
        ]
        return replace(self.roles, factors=tuple(factors))

    def _block(self, factor: Factor) -> int:
        """How many elements of a factor's first coordinate a tile takes."""
        axis = next((a for a, length in self.tile.items() if factor.coordinates[0].uses(a)), None)
        return 1 if axis is None else self.tile[axis]

    # -- What is valid ---------------------------------------------------------------------------------------

    def objection(self) -> str:
        """Why this is no schedule; empty where it is one."""
        shape, roles = self.shape, self.roles
        if any(length > self.extent(axis) for axis, length in self.tile.items()):
            return "a tile is larger than the result"
        if (shape.lines > 1 and len(roles.rows) < 2) or (shape.rows > 1 and not roles.rows):
            return "there are no such rows"
        if shape.columns_block * self.width >= self.extent(roles.lane):
            return "a block is all there is"
        if not roles.rows:
            if shape.rows_block or shape.rows_first:
                return "there are no rows"
        else:
            last = roles.rows[-1]
            if shape.rows_block * self.tile[last] >= self.extent(last):
                return "a block is all there is"
        if not self.summed:
            return "it sums nothing up"
        if self.extent(self.summed[0]) % shape.unroll:
            return "unrolled steps do not fit"
        if not shape.depth_first and len(roles.summed) < 2:
            return "the sum has one axis"
        if shape.kernel and (len(self.summed) < 2 or self.extent(self.summed[1]) > PARTLY_UNROLLED):
            return "there is no kernel to unroll"
        for factor, place in zip(roles.factors, shape.places, strict=True):
            if place == INLINE and factor.is_padded:
                return "what is padded is computed first"
            if place == AHEAD and not factor.may_be_packed:
                return "only weights are packed"
            if place in (ROOT, TILE, BAND) and factor.may_be_packed:
                return "a weight is packed ahead, which costs nothing"
            if (place == BAND and not roles.rows) or (place == LINE and len(roles.rows) < 2):
                return "there is no such loop"
        return ""

    # -- Halide ----------------------------------------------------------------------------------------------

    def apply(self, pipeline: Any) -> None:
        """Give the functions of a pipeline of :attr:`packed_roles` their schedule."""
        inner, band, line = self._cut(pipeline)
        self._sum(pipeline, inner)
        levels = {TILE: inner, BAND: band, LINE: line}
        for function, place in zip(pipeline.factors, self.shape.places, strict=True):
            if place in (INLINE, AHEAD):
                continue
            if place == ROOT:
                function.compute_root()
            else:
                function.compute_at(pipeline.output, levels[place])
            self._copy(function)

    def _cut(self, pipeline: Any) -> tuple[Any, Any, Any]:
        """Cut the loops of the output. Returns the variables at which a tile, all tiles of the innermost
        loops, and a line are computed."""
        import halide as hl

        shape, output, roles = self.shape, pipeline.output, self.roles
        around, inside, blocks = {}, {}, []
        for axis, length in self.tile.items():
            around[axis], inside[axis] = hl.Var(f"o{axis}"), hl.Var(f"i{axis}")
            # The last tile begins earlier, and computes some results once more.
            tail = hl.TailStrategy.ShiftInwards
            output.split(pipeline.places[axis], around[axis], inside[axis], length, tail)
        lane, rows = around[roles.lane], [around[axis] for axis in roles.rows]
        for axis, count in (
            *((a, shape.rows_block) for a in roles.rows[-1:]),
            (roles.lane, shape.columns_block),
        ):
            if count:
                block = hl.Var(f"b{axis}")
                output.split(around[axis], block, around[axis], count, hl.TailStrategy.GuardWithIf)
                blocks.append(block)
        loops = [*rows, lane] if shape.rows_first else [lane, *rows]
        vector = hl.Var("vector")
        output.split(inside[roles.lane], inside[roles.lane], vector, shape.lanes)
        output.reorder(
            vector, inside[roles.lane], *(inside[axis] for axis in roles.rows), *loops, *blocks,
            *(pipeline.places[axis] for axis in roles.outer),
        )  # fmt: skip
        output.vectorize(vector)
        if not epilogues.is_long(self.operator.epilogue):
            for variable in inside.values():
                output.unroll(variable)
        band = lane if shape.rows_first else rows[0] if rows else lane
        return loops[0], band, rows[-1] if rows else lane

    def _sum(self, pipeline: Any, inner: Any) -> None:
        """Compute the sums of a tile in registers."""
        import halide as hl

        total, shape, roles = pipeline.total, self.shape, self.roles
        lane, rows = pipeline.places[roles.lane], [pipeline.places[axis] for axis in roles.rows]
        total.compute_at(pipeline.output, inner)
        for stage in (total, total.update()):
            vector = hl.Var("vector")
            stage.split(lane, lane, vector, shape.lanes).vectorize(vector).unroll(lane)
            outer = [pipeline.places[axis] for axis in roles.outer]
            sums = []
            if stage is not total:
                variables = [pipeline.summed[axis] for axis in self.summed]
                if shape.kernel:
                    stage.unroll(variables[1])
                if shape.unroll > 1:
                    step = hl.RVar("step")
                    stage.split(variables[0], variables[0], step, shape.unroll).unroll(step)
                    sums.append(step)
                sums += variables
            stage.reorder(vector, lane, *rows, *sums, *outer)
            for row in rows:
                stage.unroll(row)

    def _copy(self, function: Any) -> None:
        """Compute a factor with vectors along its first coordinate."""
        import halide as hl

        function.vectorize(function.args()[0], self.shape.lanes, hl.TailStrategy.GuardWithIf)


def shape_of(values: Sequence[int]) -> Shape:
    """The shape that values of the knobs say."""
    lanes, vectors, rows, lines, unroll, kernel, depth_first, columns, high, rows_first, *places = values
    return Shape(
        lanes=lanes, vectors=vectors, rows=rows, lines=lines, unroll=unroll, kernel=bool(kernel),
        depth_first=bool(depth_first), columns_block=columns, rows_block=high, rows_first=bool(rows_first),
        places=tuple(places),
    )  # fmt: skip


def loads(operator: Operator, roles: Roles, tile: dict[int, int], lanes: int) -> int:
    """What a step of a tile's sum loads: vectors, or single numbers."""
    total = 0
    for factor in operator.factors:
        lengths = {**tile, roles.lane: tile[roles.lane] // lanes}
        total += math.prod(length for axis, length in lengths.items() if factor.form.uses(axis))
    return total
