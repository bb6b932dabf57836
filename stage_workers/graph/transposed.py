"""Transposed convolutions with channels last, as convolutions.

TVM puts zeros between the elements of the image, and convolves that: with a stride of 2, three of four
multiplications are by one of these zeros. Here each of the stride's phases is a convolution of the image as
it is, with the part of the kernel that meets it. All phases are computed at once, as further channels, and
then put side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct

from tunemesh.stage_workers.graph.rewriting import sizes_of
from tunemesh.stage_workers.measuring.comparison import Array

CHANNELS_FIRST = ("NCW", "NCHW", "NCDHW")
KERNELS = ("IOW", "IOHW", "IODHW")
SPACE = ("W", "HW", "DHW")


class Transposed(Struct, frozen=True):
    """One with constant weights. All but the channels is per axis of space.

    Attributes:
        kernel: weights of the convolution: places, inputs, and phases times outputs.
        dtype: of the weights.
        out_dtype: of the result; empty for that of the operands.
        strides: places of the output that lie between neighbours of the image.
        before: rows of zeros before the image.
        after: behind it.
        first: the place of the output among what the convolution gives.
        image: the shape of the output with channels last.
    """

    kernel: Array
    dtype: str
    out_dtype: str
    strides: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    first: tuple[int, ...]
    image: tuple[int, ...]

    def emit(self, emit: Callable[[Any], Any], data: Any) -> Any:
        """The variable of the result for an image with channels last."""
        from tvm import relax

        rank = len(self.strides)
        space = SPACE[rank - 1]
        made = emit(
            getattr(relax.op.nn, f"conv{rank}d")(
                data,
                relax.const(self.kernel, self.dtype),
                padding=[*self.before, *self.after],
                data_layout=f"N{space}C",
                kernel_layout=f"{space}IO",
                out_dtype=self.out_dtype or None,
            )
        )
        images, *sizes, _ = (int(size.value) for size in made.ty.shape.values)
        outputs = self.image[-1]
        if any(stride > 1 for stride in self.strides):
            made = emit(relax.op.reshape(made, [images, *sizes, *self.strides, outputs]))
            beside = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
            made = emit(relax.op.permute_dims(made, [0, *beside, 1 + 2 * rank]))
            sizes = [size * stride for size, stride in zip(sizes, self.strides, strict=True)]
            made = emit(relax.op.reshape(made, [images, *sizes, outputs]))
        if list(self.image[1:-1]) != sizes:
            ends = [start + size for start, size in zip(self.first, self.image[1:-1], strict=True)]
            axes = list(range(1, rank + 1))
            made = emit(relax.op.strided_slice(made, axes, list(self.first), ends, [1] * rank))
        return made


def read(call: Any) -> Transposed | None:
    """``None`` for those of other kinds."""
    import tvm

    data, weights = call.args
    attributes = call.attrs
    shape, image = sizes_of(call.ty), sizes_of(data.ty)
    if shape is None or image is None or not isinstance(weights, tvm.ir.GenericConst):
        return None
    rank = len(shape) - 2
    plain = attributes.data_layout == attributes.out_layout == CHANNELS_FIRST[rank - 1]
    if not plain or attributes.kernel_layout != KERNELS[rank - 1] or int(attributes.groups) != 1:
        return None
    if any(int(each) != 1 for each in attributes.dilation):
        return None
    strides = tuple(int(each) for each in attributes.strides)
    cut = [int(each) for each in attributes.padding][:rank]
    values = weights.value.numpy()
    # Place v = u + cut of the uncut output is s q + r. It sums x[q - m] w[r + s m].
    taps = [-(-size // stride) for size, stride in zip(values.shape[2:], strides, strict=True)]
    least = [edge // stride for edge, stride in zip(cut, strides, strict=True)]
    most = [(edge + size - 1) // stride for edge, size, stride in zip(cut, shape[2:], strides, strict=True)]
    before = [tap - 1 - start for tap, start in zip(taps, least, strict=True)]
    after = [end + 1 - size for end, size in zip(most, image[2:], strict=True)]
    if min(*before, *after) < 0:
        return None
    return Transposed(
        kernel=_phases(values, strides, taps),
        dtype=str(weights.ty.dtype),
        out_dtype=str(attributes.out_dtype or ""),
        strides=strides,
        before=tuple(before),
        after=tuple(after),
        first=tuple(edge - start * stride for edge, start, stride in zip(cut, least, strides, strict=True)),
        image=(shape[0], *shape[2:], shape[1]),
    )


def _phases(weights: Array, strides: tuple[int, ...], taps: list[int]) -> Array:
    """From (inputs, outputs, places) to (taps, inputs, phases times outputs), turned round."""
    inputs, outputs, *sizes = weights.shape
    rank = len(sizes)
    missing = [tap * stride - size for tap, stride, size in zip(taps, strides, sizes, strict=True)]
    padded = np.pad(weights, [(0, 0), (0, 0), *((0, each) for each in missing)])
    split = padded.reshape(inputs, outputs, *(n for pair in zip(taps, strides, strict=True) for n in pair))
    turned = np.flip(split, axis=tuple(2 + 2 * i for i in range(rank)))
    places, phases = [2 + 2 * i for i in range(rank)], [3 + 2 * i for i in range(rank)]
    ordered = turned.transpose(*places, 0, *phases, 1).reshape(*taps, inputs, -1)
    return np.ascontiguousarray(ordered)
