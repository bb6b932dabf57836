"""Which axis of a convolution of 3x3 is what, as Winograd's algorithm needs to know it, and how kernels are
cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from tunemesh.stage_workers.engines.template.operators import FLOAT, Axis, Form, Operand, Operator, Step
from tunemesh.stage_workers.graph import winograd
from tunemesh.stage_workers.graph.winograd_kernels import Knobs

BY_COLUMNS, BY_ROWS, FUSED = 0, 1, 2
"""How the products of a plane are gone through: all rows for some columns, or all columns for some rows; or
all planes for some columns, whose products are transformed at once."""
PAIR = 2
"""Numbers in bfloat16 that are multiplied at once."""


@dataclass(frozen=True)
class Roles:
    """Which axis of an operator is what.

    Attributes:
        images: the axis of several images, if there is one.
        down: lines of the result.
        across: pixels of a line.
        lane: channels of the result.
        taps: of the kernel, down and across.
        depth: channels of the image.
        image: the factor that is transformed again and again.
        weights: the other one.
    """

    images: tuple[int, ...]
    down: int
    across: int
    lane: int
    taps: tuple[int, int]
    depth: int
    image: Operand
    weights: Operand

    @property
    def spatial(self) -> tuple[int, ...]:
        """Axes of the result, but for its channels."""
        return (*self.images, self.down, self.across)


@dataclass(frozen=True)
class Shape:
    """How a kernel is cut.

    Attributes:
        outputs: of a tile, in each direction.
        lanes: of a vector.
        vectors: of a product's columns, channels of the result, that are held in registers at a time.
        rows: of a product, one for each tile, likewise.
        groups: of so many rows, that go through all steps together.
        order: see :data:`BY_COLUMNS`.
        unroll: terms of a product that stand one after the other.
        narrow: whether both factors of a product are rounded to bfloat16, and multiplied two channels at a
            time.
    """

    outputs: int
    lanes: int
    vectors: int
    rows: int
    groups: int
    order: int
    unroll: int
    narrow: int = 0

    @property
    def knobs(self) -> Knobs:
        """As others know it."""
        return Knobs(
            outputs=self.outputs, tiles=self.groups * self.rows, rows=self.rows, vectors=self.vectors,
            lanes=self.lanes, by_rows=self.order == BY_ROWS,
        )  # fmt: skip


def known(operator: Operator) -> tuple[Operator, Roles] | str:
    """Which axis is what, in an operator that may have an axis more; or why the algorithm does not apply."""
    lanes = [axis for axis, stride in enumerate(operator.output.strides) if stride == 1]
    if operator.dot is not None and operator.dot.total != FLOAT:
        return "its sums are exact"
    if operator.right is None or len(lanes) != 1:
        return "it is no convolution with channels last"
    operator = _parted(operator)
    (lane,), (image, weights) = lanes, operator.factors
    if image.form.uses(lane):
        image, weights = weights, image
    spatial = [axis for axis, each in enumerate(operator.axes) if not each.reduced and axis != lane]
    summed = [axis for axis, each in enumerate(operator.axes) if each.reduced]
    if image.form.uses(lane) or not weights.form.uses(lane) or not weights.weight or weights.windows:
        return "its kernel is no weight"
    if any(weights.form.uses(axis) or not image.form.uses(axis) for axis in spatial):
        return "it is no plain convolution"
    # A line of the image, and a pixel of it, are as far from the next as those of the kernel.
    pairs = [
        (axis, tap)
        for axis, tap in product(spatial, summed)
        if operator.axes[tap].extent == winograd.TAPS and _goes_along(image, axis, tap)
    ]
    depth = [axis for axis in summed if axis not in [tap for _, tap in pairs]]
    if len(pairs) != 2 or len(depth) != 1 or image.form.strides[depth[0]] != 1:
        return "it is no convolution of 3x3 with stride 1 and channels last"
    pairs.sort(key=lambda pair: -image.form.strides[pair[0]])
    (down, first), (across, second) = pairs
    images = tuple(axis for axis in spatial if axis not in (down, across))
    used = [window.form for window in image.windows]
    if (
        down == across
        or len(images) > 1
        or any(form.uses(axis) for form in used for axis in (*images, *depth))
    ):
        return "it is no plain convolution"
    if any(form.uses(down) == form.uses(across) for form in used):
        return "it is padded in an unusual way"
    loads = [step.form for step in operator.epilogue if step.kind == "load"]
    if any(form.strides[lane] not in (0, 1) for form in loads):
        return "what follows reads a tensor in another order"
    return operator, Roles(images, down, across, lane, (first, second), depth[0], image, weights)


def _goes_along(image: Operand, axis: int, tap: int) -> bool:
    forms = [image.form, *(form for window in image.windows for form in (window.form, window.place))]
    return image.form.uses(axis) and all(form.strides[axis] == form.strides[tap] for form in forms)


def _parted(operator: Operator) -> Operator:
    """Where nothing is padded, the pixels of a kernel and the channels may have become one axis."""
    spatial = [axis for axis, each in enumerate(operator.axes) if not each.reduced]
    for axis, each in enumerate(operator.axes):
        channels = each.extent // winograd.TAPS
        if not each.reduced or each.extent % winograd.TAPS or channels < 2:
            continue
        for factor in operator.factors:
            pixel = channels * factor.form.strides[axis]
            if pixel and pixel in factor.form.of(spatial) and not factor.windows:
                return _with_axis(operator, axis, channels)
    return operator


def _with_axis(operator: Operator, axis: int, inner: int) -> Operator:
    """With an axis that is cut into an outer one, the last, and an inner one."""

    def form(each: Form) -> Form:
        return Form((*each.strides, each.strides[axis] * inner), each.offset)

    def operand(each: Operand) -> Operand:
        windows = tuple(replace(w, form=form(w.form), place=form(w.place)) for w in each.windows)
        return replace(each, form=form(each.form), windows=windows)

    def step(each: Step) -> Step:
        return replace(each, form=form(each.form)) if each.kind == "load" else each

    assert operator.right is not None
    axes, whole = list(operator.axes), operator.axes[axis]
    axes[axis] = replace(whole, extent=inner)
    return replace(
        operator,
        axes=(*axes, Axis(f"{whole.name}_outer", whole.extent // inner, reduced=True)),
        left=operand(operator.left),
        right=operand(operator.right),
        output=form(operator.output),
        epilogue=tuple(map(step, operator.epilogue)),
    )
