"""Which axis of an operator is what to a schedule of Halide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunemesh.stage_workers.engines.template.operators import Form, Operand, Operator
from tunemesh.stage_workers.engines.template.stages import Unknown


@dataclass(frozen=True)
class Packed:
    """Where a coordinate goes in a weight that is packed ahead.

    Attributes:
        inner: elements from one to the next; of the same block, where there are blocks.
        block: how many of them lie together; 0 for all.
        outer: elements from one block to the next.
    """

    inner: int
    block: int = 0
    outer: int = 0


@dataclass(frozen=True)
class Factor:
    """One factor, as a function of coordinates. Those that have vectors come first.

    Attributes:
        operand: what is read.
        coordinates: dimensions that are padded, and axes.
        strides: of these in the operand.
        lengths: of those that are padded: from 0 on there is something to read; 0 for axes.
        extents: of those that are axes; 0 for what is padded.
        offset: of the first element.
        packing: of a weight that is packed ahead; empty where it is not.
    """

    operand: Operand
    coordinates: tuple[Form, ...]
    strides: tuple[int, ...]
    lengths: tuple[int, ...]
    extents: tuple[int, ...]
    offset: int
    packing: tuple[Packed, ...] = ()

    @property
    def is_padded(self) -> bool:
        return any(self.lengths)

    @property
    def may_be_packed(self) -> bool:
        """Whether it can be put into another order ahead: it is a weight, and all of it is read."""
        return self.operand.weight and not self.is_padded and math.prod(self.extents) == self.operand.size


@dataclass(frozen=True)
class Roles:
    """Attributes:
    spatial: axes of the result as they lie in memory, the closest first, which are the vectors'.
    rows: axes that a tile goes along beside that one, at most two: of what reads fewer elements so.
    outer: the others.
    summed: axes of the sum, the innermost first: the longest one, then those of a kernel.
    factors: of the operator.
    """

    spatial: tuple[int, ...]
    rows: tuple[int, ...]
    outer: tuple[int, ...]
    summed: tuple[int, ...]
    factors: tuple[Factor, ...]

    @property
    def lane(self) -> int:
        return self.spatial[0]


def roles_of(operator: Operator) -> Roles:
    """The roles.

    Raises:
        Unknown: results do not lie side by side.
    """
    strides = operator.output.strides
    spatial = sorted(
        (a for a, axis in enumerate(operator.axes) if not axis.reduced), key=lambda a: strides[a]
    )
    if not spatial or strides[spatial[0]] != 1 or operator.output.offset:
        raise Unknown("its results do not lie side by side")
    lane = spatial[0]
    with_lane = [each for each in operator.factors if each.form.uses(lane)]

    def again(axis: int) -> bool:
        """Whether what is loaded as vectors serves all elements of an axis."""
        return any(not each.form.uses(axis) for each in with_lane)

    others = [axis for axis in spatial[1:] if any(each.form.uses(axis) for each in operator.factors)]
    rows = [axis for axis in others if again(axis)] or others[:2]
    rows = rows[:2]
    summed = sorted(
        (a for a, axis in enumerate(operator.axes) if axis.reduced),
        key=lambda a: (any(w.form.uses(a) for each in operator.factors for w in each.windows), -a),
    )
    summed.sort(key=lambda a: -operator.axes[a].extent)
    return Roles(
        spatial=tuple(spatial),
        rows=tuple(rows),
        outer=tuple(axis for axis in spatial[1:] if axis not in rows),
        summed=tuple(summed),
        factors=tuple(_factor(each, operator, (lane, *rows)) for each in operator.factors),
    )


def _factor(operand: Operand, operator: Operator, order: Sequence[int]) -> Factor:
    strides, offset = list(operand.form.strides), operand.form.offset
    found: list[tuple[Form, int, int, int]] = []
    for window in operand.windows:
        step = window.end // window.length
        found.append((window.form, step, window.length, 0))
        offset -= window.form.offset * step
        strides = [one - step * other for one, other in zip(strides, window.form.strides, strict=True)]
    for axis, stride in enumerate(strides):
        if stride:
            unit = Form(tuple(int(other == axis) for other in range(len(strides))))
            found.append((unit, stride, 0, operator.axes[axis].extent))
    if not found:
        raise Unknown("a factor is one number")

    def place(each: tuple[Form, int, int, int]) -> tuple[int, int]:
        """The vectors' coordinate first, or that of the rows; then as it lies in memory."""
        uses = [number for number, axis in enumerate(order) if each[0].uses(axis)]
        first = min((number for number, a in enumerate(order) if operand.form.uses(a)), default=-1)
        return (0 if first in uses else 1, abs(each[1]))

    found.sort(key=place)
    return Factor(
        operand=operand,
        coordinates=tuple(each[0] for each in found),
        strides=tuple(each[1] for each in found),
        lengths=tuple(each[2] for each in found),
        extents=tuple(each[3] for each in found),
        offset=offset,
    )


def packed(factor: Factor, operator: Operator, summed: Sequence[int], block: int) -> Factor:
    """A weight in the order in which a kernel goes through it.

    Args:
        summed: axes of the sum, the innermost first.
        block: elements of the first coordinate that lie together.
    """
    first, *rest = range(len(factor.coordinates))
    axes = [next(a for a, stride in enumerate(form.strides) if stride) for form in factor.coordinates]
    rest.sort(
        key=lambda at: (
            not operator.axes[axes[at]].reduced,
            summed.index(axes[at]) if axes[at] in summed else axes[at],
        )
    )
    extent = factor.extents[first]
    blocks = block < extent and extent % block == 0
    step = block if blocks else extent
    found = {}
    for at in rest:
        found[at] = Packed(step)
        step *= factor.extents[at]
    found[first] = Packed(1, block, step) if blocks else Packed(1)
    return replace(factor, packing=tuple(found[at] for at in range(len(axes))))
