"""First convolutions of images whose channels lie one behind the other, by the instructions of :mod:`.dots`.

Such an image has too few channels to multiply several at once. So the groups of an instruction are neighbours
in a line, which an even stride keeps together: what a result reads of a line begins at a multiple of the
group, and has zeros for weights at its ends where a kernel is shorter. The image is read as it lies.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tunemesh.stage_workers.graph import dots
from tunemesh.stage_workers.graph.dots import Dot
from tunemesh.stage_workers.graph.rewriting import operator_of, sizes_of
from tunemesh.stage_workers.measuring.comparison import Array


class Planes(NamedTuple):
    """A convolution, as it is computed.

    Attributes:
        strides: down and right.
        top: zeros above the image.
        bottom: and below.
        left: and at the left end of a line, a multiple of the group.
        shift: zeros among the weights before those of a line.
        length: of what a result reads of a line, a multiple of the group.
        outputs: channels of the result.
        size: of the result, down and across.
    """

    strides: tuple[int, int]
    top: int
    bottom: int
    left: int
    shift: int
    length: int
    outputs: int
    size: tuple[int, int]


def of(call: Any, dot: Dot) -> Planes | None:
    """How a call can be computed so; ``None`` where it cannot be."""
    if operator_of(call) != dots.CONVOLUTION or (dot.data, dot.weights) != ("bfloat16", "bfloat16"):
        return None
    attributes = call.attrs
    layouts = attributes.data_layout, attributes.kernel_layout, attributes.out_layout
    image, kernel, result = (sizes_of(each.ty) for each in (*call.args, call))
    if layouts != ("NCHW", "HWIO", "NHWC") or image is None or kernel is None or result is None:
        return None
    down, right = (int(each) for each in attributes.strides)
    dilated = any(int(each) != 1 for each in attributes.dilation)
    if dilated or int(attributes.groups) != 1 or right % dot.group or image[3] % dot.group:
        return None
    top, left, bottom, _ = (int(each) for each in attributes.padding)
    shift = -left % dot.group
    length = -(-(shift + kernel[1]) // dot.group) * dot.group
    planes = Planes(
        (down, right), top, bottom, left + shift, shift, length, kernel[3], (result[1], result[2])
    )
    return planes if dot.fits(length, planes.outputs) else None


def packed(weights: Array, planes: Planes, dot: Dot) -> Array:
    """Weights of shape (height, width, inputs, outputs) as (blocks, inputs, height, groups, lanes, group)."""
    ends = (planes.shift, planes.length - planes.shift - weights.shape[1])
    filled = np.pad(weights, ((0, 0), ends, (0, 0), (0, 0)))
    return dot.packed(np.ascontiguousarray(filled.transpose(2, 0, 1, 3)))


def convolution(image: Any, weights: Any, planes: Planes, dot: Dot) -> Any:
    """The convolution, as TE: (images, inputs, lines, pixels) to (images, lines, pixels, outputs)."""
    from tvm import te, tirx, topi

    images, inputs, _, pixels = (int(length) for length in image.shape)
    rows = int(weights.shape[2])
    height, width = planes.size
    down, across = planes.strides
    end = max(0, (width - 1) * across + planes.length - planes.left - pixels)
    around = (planes.top, planes.left), (planes.bottom, end)
    if any(map(any, around)):
        plain = dots.bits(image)
        zero = tirx.const(0, str(plain.dtype))
        before, after = ((0, 0, *each) for each in around)
        image = topi.nn.pad(plain, before, after, zero, name="padded")
    rc, ry = te.reduce_axis((0, inputs), name="rc"), te.reduce_axis((0, rows), name="ry")
    rx = te.reduce_axis((0, planes.length), name="rx")

    def compute(number: Any, y: Any, x: Any, n: Any) -> Any:
        value = image[number, rc, y * down + ry, x * across + rx]
        factor = weights[n // dot.lanes, rc, ry, rx // dot.group, n % dot.lanes, rx % dot.group]
        return te.sum(dots.widened(value, dot) * factor.astype(dot.total), axis=[rc, ry, rx])

    shape = (images, height, width, planes.outputs)
    name = dots.intrinsic(dot, str(image.dtype))
    return te.compute(shape, compute, name="convolution", attrs={dots.MARK: name})
