"""Sums of products: which axis of an operator is what, how the loops are cut, and what is valid.

A tile of the result stays in registers: some rows times some vectors of neighbours. Each step of the sum
loads the vectors of one factor (*moving*), and multiplies them with one number for each row of the other
(*still*). Around it are loops over the rows and the vectors in blocks, and over the sum in pieces, which the
caches hold. What is left at the ends is a smaller tile, whose code is there once more. :mod:`.tiles` and
:mod:`.loops` write that down in C.

All rows of a tile lie at equal distances, in one line: of an image, a line of its pixels. What a tile would
read before or behind a line that is padded is copied before, with the zeros; lines outside of the image are
left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunemesh.stage_workers.engines.template.operators import FLOAT, Form, Operand, Operator, Window

STACK = 2**14
"""Floats that a kernel may keep on the stack, beside registers: a thread may have little of it."""


@dataclass(frozen=True)
class Roles:
    """Which axis of an operator is what.

    Attributes:
        lane: neighbours in the output and in the moving factor.
        rows: axes that only the still factor has. The rows of a tile lie along the last one; the others
            number the lines.
        outer: other axes of the result: loops around all else.
        depth: axes of the sum that are gone along inside, as if they were one; none: there is but one step.
        taps: other axes of the sum, as of a convolution's kernel.
        still: the factor that gives single numbers.
        moving: the factor that gives vectors.
    """

    lane: int
    rows: tuple[int, ...]
    outer: tuple[int, ...]
    depth: tuple[int, ...]
    taps: tuple[int, ...]
    still: Operand
    moving: Operand


@dataclass(frozen=True)
class Shape:
    """How the loops are cut.

    Attributes:
        lanes: of a vector.
        vectors: of a tile.
        rows: of a tile.
        unroll: steps of the sum that stand one after the other.
        depth: steps of the sum at a time; 0 for all.
        columns_block: tiles in a block along the vectors; 0 for all.
        rows_block: and along the rows.
        rows_first: whether the loop over the rows of a block is the inner one.
        pack_moving: whether the moving factor is put in the order in which it is read: a weight before,
            other factors tile by tile.
        pack_still: whether the other one is, which must be a weight.
    """

    lanes: int
    vectors: int
    rows: int
    unroll: int = 1
    depth: int = 0
    columns_block: int = 0
    rows_block: int = 0
    rows_first: bool = True
    pack_moving: bool = False
    pack_still: bool = False


class Contraction:
    """The numbers of one kernel."""

    def __init__(self, operator: Operator, roles: Roles, shape: Shape) -> None:
        self.operator = operator
        self.roles = roles
        self.shape = shape
        self.extents = [axis.extent for axis in operator.axes]
        self.columns = self.extents[roles.lane]
        self.rows = math.prod(self.extents[axis] for axis in roles.rows)
        self.line = self.extents[roles.rows[-1]] if roles.rows else 1
        """Rows of a line."""
        self.in_line = -(-self.line // shape.rows)
        """Tiles of a line."""
        self.tiles = self.rows // self.line * self.in_line
        self.depth = math.prod(self.extents[axis] for axis in roles.depth)
        self.taps = math.prod(self.extents[axis] for axis in roles.taps)
        self.piece = min(shape.depth or self.depth, self.depth)
        """Steps along the depth at a time."""
        self.width = shape.lanes * shape.vectors
        self.whole = self.piece == self.depth
        self.scratch = shape.pack_moving and not roles.moving.weight
        self.packed = shape.pack_moving and roles.moving.weight

    # -- What is valid ---------------------------------------------------------------------------------------

    def objection(self) -> str:
        """Why this shape makes no kernel; empty where it does."""
        shape, roles = self.shape, self.roles
        if shape.rows > self.line:
            return "a tile has more rows than there are"
        if self.width >= self.columns + shape.lanes and shape.vectors > 1:
            return "a tile has more vectors than there are"
        if not shape.pack_moving:
            if (
                roles.moving.blocks
                or roles.moving.form.strides[roles.lane] != 1
                or not self.is_chain(roles.moving.form)
            ):
                return "the moving factor must be packed"
            if self.width > self.columns:
                return "a tile is wider than the result"
            if self.columns % self.width and not self.whole:
                return "tiles overlap, and would be added twice"
        if not self.whole and (self.operator.dot or self.operator.dtype != FLOAT):
            return "sums that are not complete are no results"
        if shape.pack_still and not roles.still.weight:
            return "only weights are packed"
        if shape.pack_still and (roles.still.windows or len(roles.rows) > 1):
            return "a factor with gaps is not packed"
        if roles.moving.windows and not self.scratch:
            return "what is padded must be packed"
        if self.scratch and (not shape.rows_first or self.taps * self.piece * self.width > STACK):
            return "the tile that is packed is too large"
        if roles.still.beyond and not self.segment:
            return "what is around a factor must lie in lines"
        if self.segment and self.reach(shape.rows, self.piece) > STACK:
            return "a tile reads too long a piece of a line"
        if shape.unroll > 1 and self.piece % shape.unroll:
            return "unrolled steps do not fit"
        if shape.columns_block * self.width >= self.columns or shape.rows_block >= self.tiles:
            return "a block is all there is"
        if shape.depth >= self.depth:
            return "a piece is all there is"
        return ""

    @property
    def packs(self) -> list[int]:
        """Numbers of the weights that are packed."""
        packed = [self.roles.moving.parameter] if self.packed else []
        return sorted({*packed, *([self.roles.still.parameter] if self.shape.pack_still else [])})

    # -- Tiles -----------------------------------------------------------------------------------------------

    @property
    def heights(self) -> list[int]:
        """Rows of the tiles that there are."""
        rest = self.line % self.shape.rows
        return [self.shape.rows, rest] if rest else [self.shape.rows]

    @property
    def widths(self) -> list[int]:
        """Columns of the tiles that there are: in a narrower one not all lanes of the last vector count."""
        rest = self.columns % self.width
        if not rest or not self.shape.pack_moving:
            return [self.width]
        return [self.width, rest] if self.columns > self.width else [rest]

    def padded(self, columns: int) -> int:
        """Columns of a packed tile."""
        return -(-columns // self.shape.lanes) * self.shape.lanes

    def is_usual(self, rows: int, columns: int) -> bool:
        """Whether a tile is no smaller one at an end."""
        return (rows, columns) == (self.shape.rows, self.widths[0])

    # -- Factors ---------------------------------------------------------------------------------------------

    def is_chain(self, form: Form) -> bool:
        """Whether steps along the depth are equally long."""
        return is_chain(self.operator, self.roles.depth, form)

    def step(self, form: Form) -> int:
        """From one step along the depth to the next."""
        return form.strides[self.roles.depth[-1]] if self.roles.depth else 0

    def next_row(self, form: Form) -> int:
        """From one row of a tile to the next."""
        return form.strides[self.roles.rows[-1]] if self.roles.rows else 0

    @property
    def segment(self) -> Window | None:
        """The padded dimension of the still factor that a tile goes along."""
        return segment_of(self.roles)

    def reach(self, rows: int, steps: int) -> int:
        """Elements of a line from the first one that a tile reads to the last one."""
        form = self.roles.still.form
        return (rows - 1) * self.next_row(form) + (steps - 1) * self.step(form) + 1

    def outer_of(self, operand: Operand) -> list[int]:
        """The loops around that a factor depends on."""
        return [axis for axis in self.roles.outer if operand.form.uses(axis)]

    @property
    def panel_elements(self) -> int:
        """Of the moving factor when it is packed, at one place of the loops around."""
        rest = self.columns % self.width
        return (self.columns - rest + self.padded(rest)) * self.taps * self.depth


def is_chain(operator: Operator, axes: Sequence[int], form: Form) -> bool:
    """Whether an element is as far from the next along these axes wherever it is."""
    return all(
        form.strides[outer] == form.strides[inner] * operator.axes[inner].extent
        for outer, inner in itertools.pairwise(axes)
    )


def segment_of(roles: Roles) -> Window | None:
    """The padded dimension of the still factor that its rows or its depth go along."""
    along = [*roles.rows[-1:], *roles.depth]
    return next((w for w in roles.still.windows if any(map(w.form.uses, along))), None)


def padding_objection(roles: Roles) -> str:
    """Why what is padded of the still factor cannot be read a piece of a line at a time; empty if it can."""
    along = [*roles.rows[-1:], *roles.depth]
    found = [window for window in roles.still.windows if any(map(window.form.uses, along))]
    if len(found) > 1:
        return "its rows go along several dimensions that are padded"
    return (
        "its padding does not lie in lines"
        if any(w.place.of(along) != roles.still.form.of(along) for w in found)
        else ""
    )


def roles_of(operator: Operator) -> Roles | str:
    """Which axis is what, with all axes of the sum as taps; or why there is no way to say so."""
    lanes = [axis for axis, stride in enumerate(operator.output.strides) if stride == 1]
    if len(lanes) != 1:
        return "its results do not lie side by side"
    (lane,) = lanes
    owners = [each for each in operator.factors if each.form.uses(lane)]
    if operator.right is None:
        return "it multiplies nothing"
    if len(owners) != 1:
        return "both factors have an element of their own for each result"
    (moving,) = owners
    still = operator.right if moving is operator.left else operator.left
    summed = [axis for axis, each in enumerate(operator.axes) if each.reduced]
    spatial = [axis for axis, each in enumerate(operator.axes) if not each.reduced and axis != lane]
    rows = [axis for axis in spatial if still.form.uses(axis) and not moving.form.uses(axis)]
    outer = [axis for axis in spatial if axis not in rows]
    loads = [step.form for step in operator.epilogue if step.kind == "load"]
    if any(form.strides[lane] not in (0, 1) for form in loads):
        return "what follows reads a tensor in another order"
    return Roles(
        lane=lane, rows=tuple(rows), outer=tuple(outer), depth=(), taps=tuple(summed), still=still,
        moving=moving,
    )  # fmt: skip
