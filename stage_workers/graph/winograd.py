"""Winograd's algorithm for 3x3 convolutions: F(4x4, 3x3) of Lavin and Gray (arXiv:1509.09308).

An image is cut into tiles of 4x4 outputs. Each needs 6x6 inputs, which are transformed; 36 matrix products
over the channels take the place of the convolution, with a quarter of its multiplications; and 6x6 values
each are transformed to 4x4 outputs. The weights are transformed when the model is imported.

The products are left to tuning. The transforms have a fixed schedule: they only move and add. As reductions
over constant matrices, which a tuner could see into, a candidate took 0.4 to 0.8 s to compile, and the best
of 64 ran two to three times slower (56x56x64: 301 us, this one 88 us; a Zen 4 core).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import product
from typing import Any

import numpy as np

from tunemesh.stage_workers.graph import legalising
from tunemesh.stage_workers.measuring.comparison import Array

OUTPUT = 4
"""Outputs of a tile in each direction."""
INPUT = OUTPUT + 2
LANES = 16
"""Channels that a transform handles at once: a vector of AVX-512, two of AVX2."""

Transform = Callable[[Sequence[Any]], list[Any]]
"""Of six values, one-dimensional."""

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
    from tvm import tirx

    images, height, width, channels = (int(size) for size in image.shape)
    shape = (INPUT * INPUT, images * rows * columns, channels)

    def load(source: Any, tile: Any, i: int, j: int, channel: Any) -> Any:
        number, y, x = _corner(tile, rows, columns)
        y, x = y - top + i, x - left + j
        inside = tirx.all(y >= 0, y < height, x >= 0, x < width)
        return tirx.if_then_else(inside, source[number, y, x, channel], tirx.const(0.0, image.dtype))

    def place(tile: Any, i: int, j: int) -> tuple[Any, ...]:
        return (i * INPUT + j, tile)

    return _by_tiles("winograd_input", image, shape, shape[1], _transform_inputs, load, place)


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
    from tvm import tirx

    rows, columns = tiles(height), tiles(width)
    shape = (images, height, width, int(products.shape[2]))

    def load(source: Any, tile: Any, i: int, j: int, channel: Any) -> Any:
        return source[i * INPUT + j, tile, channel]

    def place(tile: Any, i: int, j: int) -> tuple[Any, ...]:
        number, y, x = _corner(tile, rows, columns)
        return (number, y + i, x + j)

    def inside(tile: Any, i: int, j: int) -> Any:
        _, y, x = _corner(tile, rows, columns)
        return tirx.all(y + i < height, x + j < width)

    count = images * rows * columns
    return _by_tiles("winograd_output", products, shape, count, _transform_products, load, place, inside)


def _corner(tile: Any, rows: int, columns: int) -> tuple[Any, Any, Any]:
    """Image, row and column of the first output of a tile."""
    from tvm import tirx

    number = tirx.floordiv(tile, rows * columns)
    y = tirx.floormod(tirx.floordiv(tile, columns), rows)
    return number, y * OUTPUT, tirx.floormod(tile, columns) * OUTPUT


def _by_tiles(
    name: str,
    source: Any,
    shape: tuple[int, ...],
    count: int,
    transform: Transform,
    load: Callable[[Any, Any, int, int, Any], Any],
    place: Callable[[Any, int, int], tuple[Any, ...]],
    inside: Callable[[Any, int, int], Any] | None = None,
) -> Any:
    """A TE tensor of ``shape`` that is made tile by tile, with a fixed schedule.

    Args:
        name: of the operation.
        source: TE tensor that it reads; channels last, like the result.
        shape: of the result.
        count: tiles.
        transform: of the columns, and then of the rows, of each tile's 6x6 values.
        load: value (i, j) of a tile and channel from the source.
        place: index of value (i, j) of a tile in the result, without the channel.
        inside: whether the result has such a place; by default always.
    """
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T  # noqa: N812

    size = len(transform([0.0] * INPUT))

    def generate(given: Any, made: Any) -> Any:
        with IRBuilder() as builder:
            read, write = T.buffer_proxy(given), T.buffer_proxy(made)
            with T.parallel(0, count) as tile, T.serial(0, shape[-1] // LANES) as block:
                values, halfway = _Local(T, source.dtype, INPUT), _Local(T, source.dtype, size)
                for i, j in product(range(INPUT), range(INPUT)):
                    with T.vectorized(0, LANES) as lane:
                        values[i, j, lane] = load(read, tile, i, j, block * LANES + lane)
                for j, i in product(range(INPUT), range(size)):
                    with T.vectorized(0, LANES) as lane:
                        halfway[i, j, lane] = transform([values[k, j, lane] for k in range(INPUT)])[i]
                for i, j in product(range(size), range(size)):
                    with ExitStack() as stack:
                        if inside is not None:
                            stack.enter_context(T.If(inside(tile, i, j)))
                            stack.enter_context(T.Then())
                        lane = stack.enter_context(T.vectorized(0, LANES))
                        result = transform([halfway[i, k, lane] for k in range(INPUT)])[j]
                        write[(*place(tile, i, j), block * LANES + lane)] = result
            return builder.get()

    return legalising.written_by_hand(name, [source], shape, generate)


class _Local:
    """Rows of six vectors. All indices but the lane are constants, so that LLVM keeps it in registers."""

    def __init__(self, builder: Any, dtype: str, rows: int) -> None:
        size = (rows * INPUT * LANES,)
        self._buffer = builder.buffer_proxy(builder.alloc_buffer(size, dtype, scope="local"))

    def __getitem__(self, index: tuple[int, int, Any]) -> Any:
        return self._buffer[self._place(*index)]

    def __setitem__(self, index: tuple[int, int, Any], value: Any) -> None:
        self._buffer[self._place(*index)] = value

    def _place(self, i: int, j: int, lane: Any) -> Any:
        return (i * INPUT + j) * LANES + lane


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
