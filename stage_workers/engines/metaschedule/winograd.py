"""Winograd's algorithm for 3x3 convolutions: F(4x4, 3x3) of Lavin and Gray (arXiv:1509.09308).

An image is cut into tiles of 4x4 outputs. Each needs 6x6 inputs, which are transformed; 36 matrix products
over the channels take the place of the convolution, with a quarter of its multiplications; and 6x6 values
each are transformed to 4x4 outputs. The weights are transformed when the model is imported.

The products are left to tuning. The transforms have a fixed schedule: they only move and add. As reductions
over constant matrices, which a tuner could see into, a candidate took 0.4 to 0.8 s to compile, and the best
of 64 ran two to three times slower (56x56x64: 301 us, this one 88 us; a Zen 4 core).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .comparing import Array

OUTPUT = 4
"""Outputs of a tile in each direction."""
INPUT = OUTPUT + 2
LANES = 16
"""Channels that a transform handles at once: a vector of AVX-512, two of AVX2."""

WEIGHT_TRANSFORM = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


def transform_weights(weights: Array) -> Array:
    """Of shape (3, 3, inputs, outputs), to (36, inputs, outputs)."""
    g = WEIGHT_TRANSFORM
    transformed = np.einsum("ea,abio,fb->efio", g, weights.astype(np.float64), g)
    reshaped: Array = transformed.reshape(INPUT * INPUT, *weights.shape[2:]).astype(weights.dtype)
    return reshaped


def tiles(size: int) -> int:
    """Tiles along an output of this size."""
    return -(-size // OUTPUT)


def transform_input(image: Any, top: int, left: int, rows: int, columns: int) -> Any:
    """The tiles of an image, transformed.

    Args:
        image: TE tensor of shape (images, height, width, channels).
        top: rows of zeros above it.
        left: columns of zeros to its left.
        rows: tiles from top to bottom; beyond the image there are zeros.
        columns: tiles from left to right.

    Returns:
        TE tensor of shape (36, images * rows * columns, channels).
    """
    from tvm import te, tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T  # noqa: N812

    images, height, width, channels = (int(size) for size in image.shape)
    shape = (INPUT * INPUT, images * rows * columns, channels)

    def generate(source: Any, target: Any) -> Any:
        with IRBuilder() as builder:
            read, write = T.buffer_proxy(source), T.buffer_proxy(target)
            with T.parallel(0, shape[1]) as tile, T.serial(0, channels // LANES) as block:
                number = tirx.floordiv(tile, rows * columns)
                y = tirx.floormod(tirx.floordiv(tile, columns), rows) * OUTPUT - top
                x = tirx.floormod(tile, columns) * OUTPUT - left
                values = _local(T, image.dtype, INPUT, INPUT)
                for i in range(INPUT):
                    for j in range(INPUT):
                        inside = tirx.all(y + i >= 0, y + i < height, x + j >= 0, x + j < width)
                        with T.vectorized(0, LANES) as lane:
                            value = read[number, y + i, x + j, block * LANES + lane]
                            zero = tirx.const(0.0, image.dtype)
                            values[i, j, lane] = tirx.if_then_else(inside, value, zero)
                halfway = _columns_then_rows(T, image.dtype, values, _transform_inputs)
                for i in range(INPUT):
                    for j in range(INPUT):
                        with T.vectorized(0, LANES) as lane:
                            row = [halfway[i, k, lane] for k in range(INPUT)]
                            write[i * INPUT + j, tile, block * LANES + lane] = _transform_inputs(row)[j]
            return builder.get()

    buffer = tirx.decl_buffer(shape, image.dtype, "tiles", layout=None)
    return te.extern(
        shape,
        [image],
        lambda ins, outs: generate(ins[0], outs[0]),
        dtype=image.dtype,
        out_buffers=[buffer],
        name="winograd_input",
    )


def multiply(transformed: Any, weights: Any) -> Any:
    """36 products of (tiles, inputs) and (inputs, outputs), as TE."""
    from tvm import te

    count, number, inputs = transformed.shape
    k = te.reduce_axis((0, inputs), name="k")
    return te.compute(
        (count, number, weights.shape[2]),
        lambda b, i, j: te.sum(transformed[b, i, k] * weights[b, k, j], axis=k),
        name="winograd_product",
    )


def transform_output(products: Any, images: int, height: int, width: int) -> Any:
    """An image of shape (images, height, width, channels) from products of shape (36, tiles, channels)."""
    from tvm import te, tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T  # noqa: N812

    channels = int(products.shape[2])
    rows, columns = tiles(height), tiles(width)
    shape = (images, height, width, channels)

    def generate(source: Any, target: Any) -> Any:
        with IRBuilder() as builder:
            read, write = T.buffer_proxy(source), T.buffer_proxy(target)
            with T.parallel(0, images * rows * columns) as tile, T.serial(0, channels // LANES) as block:
                number = tirx.floordiv(tile, rows * columns)
                y = tirx.floormod(tirx.floordiv(tile, columns), rows) * OUTPUT
                x = tirx.floormod(tile, columns) * OUTPUT
                values = _local(T, products.dtype, INPUT, INPUT)
                for i in range(INPUT):
                    for j in range(INPUT):
                        with T.vectorized(0, LANES) as lane:
                            values[i, j, lane] = read[i * INPUT + j, tile, block * LANES + lane]
                halfway = _columns_then_rows(T, products.dtype, values, _transform_products)
                for i in range(OUTPUT):
                    for j in range(OUTPUT):
                        inside = tirx.all(y + i < height, x + j < width)
                        with T.If(inside), T.Then(), T.vectorized(0, LANES) as lane:
                            row = [halfway[i, k, lane] for k in range(INPUT)]
                            result = _transform_products(row)[j]
                            write[number, y + i, x + j, block * LANES + lane] = result
            return builder.get()

    buffer = tirx.decl_buffer(shape, products.dtype, "image", layout=None)
    return te.extern(
        shape,
        [products],
        lambda ins, outs: generate(ins[0], outs[0]),
        dtype=products.dtype,
        out_buffers=[buffer],
        name="winograd_output",
    )


class _Local:
    """A small array of vectors. All indices but the lane are constants: LLVM keeps it in registers."""

    def __init__(self, buffer: Any, columns: int) -> None:
        self._buffer = buffer
        self._columns = columns

    def __getitem__(self, index: tuple[int, int, Any]) -> Any:
        return self._buffer[self._place(*index)]

    def __setitem__(self, index: tuple[int, int, Any], value: Any) -> None:
        self._buffer[self._place(*index)] = value

    def _place(self, i: int, j: int, lane: Any) -> Any:
        return (i * self._columns + j) * LANES + lane


def _local(builder: Any, dtype: str, rows: int, columns: int) -> _Local:
    size = (rows * columns * LANES,)
    return _Local(builder.buffer_proxy(builder.alloc_buffer(size, dtype, scope="local")), columns)


def _columns_then_rows(builder: Any, dtype: str, values: _Local, transform: Any) -> _Local:
    """The first half of a transform: that of each of the six columns."""
    height = len(transform([0.0] * INPUT))
    halfway = _local(builder, dtype, height, INPUT)
    for j in range(INPUT):
        for i in range(height):
            with builder.vectorized(0, LANES) as lane:
                halfway[i, j, lane] = transform([values[k, j, lane] for k in range(INPUT)])[i]
    return halfway


def _transform_inputs(d: Sequence[Any]) -> list[Any]:
    even, odd = d[4] - 4.0 * d[2], d[3] - 4.0 * d[1]
    near, far = d[4] - d[2], 2.0 * (d[3] - d[1])
    return [
        4.0 * d[0] - 5.0 * d[2] + d[4],
        even + odd,
        even - odd,
        near + far,
        near - far,
        4.0 * d[1] - 5.0 * d[3] + d[5],
    ]


def _transform_products(m: Sequence[Any]) -> list[Any]:
    one, two = m[1] - m[2], m[3] - m[4]
    three, four = m[1] + m[2], m[3] + m[4]
    return [m[0] + three + four, one + 2.0 * two, three + 4.0 * four, one + 8.0 * two + m[5]]
