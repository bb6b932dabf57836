"""Kernels that compute a convolution by Winograd's algorithm, with all that the function does around it.

Everything is done for a few tiles at a time, so that what lies between the steps stays in the caches: their
inputs are transformed, multiplied with the weights, and the products transformed to outputs, which go through
the rest of the function at once. Where a tile hangs over the border, its inputs are copied first, with zeros
around them.

How many tiles, of which size, and how much of a product is held in registers is said by :class:`Knobs`. What
is best depends on the convolution and on the device, so it is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any

from msgspec import Struct

from tunemesh.stage_workers.engines.protocol import elements_name, prepack_name
from tunemesh.stage_workers.graph import targets, winograd, workloads
from tunemesh.stage_workers.graph.anchors import Anchored

MAIN = "main"
FLOAT, INDEX = "float32", "int64"
NOALIAS = "tirx.noalias"


class Knobs(Struct, frozen=True, kw_only=True, order=True):
    """Of a kernel.

    Attributes:
        outputs: of a tile, in each direction.
        tiles: that go through all steps together; a multiple of ``rows``.
        rows: of a product, one for each tile, that are held in registers at a time.
        vectors: likewise, of its columns, which are the outputs of the convolution.
        lanes: of a vector.
        by_rows: whether all columns are computed for some rows, and then the next rows; or all rows for some
            columns.
    """

    outputs: int
    tiles: int
    rows: int
    vectors: int
    lanes: int
    by_rows: bool

    @property
    def columns(self) -> int:
        """Of a product that are held in registers at a time."""
        return self.vectors * self.lanes


def tiles_of(anchored: Anchored, outputs: int) -> int:
    """Tiles of a convolution's result."""
    images, height, width, _ = anchored.convolved
    return images * -(-height // outputs) * -(-width // outputs)


def lanes(anchored: Anchored, target: str) -> int | None:
    """Of the longest vectors that a target has, and that channels can be cut into; ``None`` for channels that
    cannot."""
    _, bits = targets.vector_registers(target)
    channels = anchored.shape[3], anchored.convolved[3]
    fitting = (each for each in (16, 8, 4) if 32 * each <= bits)
    return next((each for each in fitting if not any(c % each for c in channels)), None)


def module(anchored: Anchored, knobs: Knobs) -> Any:
    """A module of TIR with the kernel as ``main``, and what puts the weights into its order."""
    import tvm

    functions = {
        MAIN: _Kernel(anchored, knobs).written(),
        prepack_name(anchored.weights): _packing(anchored, knobs),
        elements_name(anchored.weights): _elements(math.prod(_packed_shape(anchored, knobs))),
    }
    return tvm.IRModule({name: each.with_attr("global_symbol", name) for name, each in functions.items()})


def _packed_shape(anchored: Anchored, knobs: Knobs) -> tuple[int, int, int, int]:
    """Of the weights: products, blocks of columns, inputs, columns of a block."""
    inputs, outputs = anchored.shape[3], anchored.convolved[3]
    return winograd.inputs_of(knobs.outputs) ** 2, outputs // knobs.columns, inputs, knobs.columns


class _Writer:
    """What writing vector code in TIR takes."""

    def __init__(self, lanes: int) -> None:
        from tvm.script.ir_builder import tirx as T  # noqa: N812

        self.tir: Any = T
        self.lanes = lanes

    def loop(self, count: int, parallel: bool = False) -> Any:
        kind = self.tir.parallel if parallel else self.tir.serial
        return kind(_index(0), _index(count))

    def buffer(self, size: int, scope: str) -> Any:
        """A new one, in one dimension."""
        return self.tir.buffer_proxy(self.tir.alloc_buffer((size,), FLOAT, scope=scope, layout=None))

    def vector(self, at: Any) -> Any:
        """The places of a vector that begins at one."""
        from tvm import tirx

        return tirx.Ramp(_index(at) if isinstance(at, int) else at, _index(1), self.lanes)

    def all(self, value: Any) -> Any:
        """A vector of one number."""
        from tvm import tirx

        return tirx.Broadcast(value, self.lanes)

    def zeros(self) -> Any:
        return self.all(_float(0.0))

    def store(self, to: Any, places: Sequence[Any], values: Sequence[Any]) -> None:
        """Vectors that begin at these places."""
        for at, value in zip(places, values, strict=True):
            to[self.vector(at)] = value

    @contextmanager
    def where(self, condition: Any) -> Iterator[None]:
        with self.tir.If(condition), self.tir.Then():
            yield

    def either(self, condition: Any, one: Callable[[], None], other: Callable[[], None]) -> None:
        with self.tir.If(condition):
            with self.tir.Then():
                one()
            with self.tir.Else():
                other()


class _Kernel(_Writer):
    def __init__(self, anchored: Anchored, knobs: Knobs) -> None:
        super().__init__(knobs.lanes)
        self.anchored, self.knobs = anchored, knobs
        self.size = winograd.inputs_of(knobs.outputs)
        self.inputs, self.outputs = anchored.shape[3], anchored.convolved[3]
        self.down, self.across = (-(-each // knobs.outputs) for each in anchored.convolved[1:3])
        self.count = tiles_of(anchored, knobs.outputs)
        # One line of a cache more than needed: planes whose distance is a power of two share few lines.
        self.input_plane = knobs.tiles * self.inputs + knobs.lanes
        self.output_plane = knobs.tiles * self.outputs + knobs.lanes

    def written(self) -> Any:
        """The function of TIR; it has the attributes of the one that it takes the place of."""
        from tvm.script.ir_builder import IRBuilder

        function = self.anchored.function
        given = list(function.params)
        given[self.anchored.weights] = _parameter("weights", _packed_shape(self.anchored, self.knobs))
        with IRBuilder() as builder:
            self._blocks(given)
            made = _function(given, builder.get())
        for name, value in function.attrs.items():
            if name not in (workloads.WEIGHTS, "global_symbol"):
                made = made.with_attr(name, value)
        return made

    def _blocks(self, given: Sequence[Any]) -> None:
        """Of tiles: one after the other, through all steps."""
        image, weights = (
            self.tir.buffer_proxy(given[each]) for each in (self.anchored.image, self.anchored.weights)
        )
        planes, tiles = self.size**2, self.knobs.tiles
        uneven = self.count % tiles
        with self.loop(-(-self.count // tiles), parallel=True) as block:
            transformed = self.buffer(planes * self.input_plane, "global")
            products = self.buffer(planes * self.output_plane, "global")
            with self.loop(tiles) as row:
                tile = block * tiles + row
                if uneven:  # the last one once more
                    tile = self.tir.min(tile, _index(self.count - 1))
                self._transform_inputs(image, transformed, tile, row)
            with self.loop(planes) as plane:
                self._multiply(transformed, weights, products, plane)
            with self.loop(tiles) as row:
                tile = block * tiles + row
                with self.where(tile < self.count) if uneven else nullcontext():
                    self._transform_products(products, tile, row)

    def _corner(self, tile: Any) -> tuple[Any, Any, Any]:
        """Image, row and column of the first output of a tile."""
        from tvm import tirx

        line = tirx.floordiv(tile, self.across)
        y, x = tirx.floormod(line, self.down), tirx.floormod(tile, self.across)
        return tirx.floordiv(line, self.down), y * self.knobs.outputs, x * self.knobs.outputs

    def _transform_inputs(self, image: Any, to: Any, tile: Any, row: Any) -> None:
        """Of all channels of one tile."""
        from tvm import tirx

        size, lanes = self.size, self.lanes
        number, y, x = self._corner(tile)
        y, x = y - self.anchored.padding[0], x - self.anchored.padding[1]
        _, height, width, _ = self.anchored.shape

        def inside() -> None:
            with self.loop(self.inputs // lanes) as part:
                channels = self.vector(part * lanes)
                place = row * self.inputs + part * lanes
                self._transform_patch(lambda i, j: image[number, y + i, x + j, channels], to, place)

        def hanging_over() -> None:
            patch = self.buffer(size * size * lanes, "local")
            with self.loop(self.inputs // lanes) as part:
                channels = self.vector(part * lanes)
                with self.loop(size) as i, self.loop(size) as j:
                    at = [(i * size + j) * lanes]
                    self.either(
                        tirx.all(y + i >= 0, y + i < height, x + j >= 0, x + j < width),
                        lambda: self.store(patch, at, [image[number, y + i, x + j, channels]]),
                        lambda: self.store(patch, at, [self.zeros()]),
                    )
                place = row * self.inputs + part * lanes
                self._transform_patch(lambda i, j: patch[self.vector((i * size + j) * lanes)], to, place)

        whole = tirx.all(y >= 0, y + size <= height, x >= 0, x + size <= width)
        self.either(whole, inside, hanging_over)

    def _transform_patch(self, load: Callable[[Any, Any], Any], to: Any, place: Any) -> None:
        """Of one vector of channels: its columns, and then its rows."""
        size, lanes, matrix = self.size, self.lanes, winograd.of_inputs(self.knobs.outputs)
        halfway = self.buffer(size * size * lanes, "local")
        with self.loop(size) as j:
            column = winograd.transformed(matrix, [load(i, j) for i in range(size)])
            self.store(halfway, [(i * size + j) * lanes for i in range(size)], column)
        with self.loop(size) as i:
            row = [halfway[self.vector((i * size + j) * lanes)] for j in range(size)]
            places = [(i * size + j) * self.input_plane + place for j in range(size)]
            self.store(to, places, winograd.transformed(matrix, row))

    def _multiply(self, transformed: Any, weights: Any, products: Any, plane: Any) -> None:
        """One of the products: of the inputs of all tiles with the weights."""
        knobs, lanes = self.knobs, self.lanes
        blocks, columns = knobs.tiles // knobs.rows, self.outputs // knobs.columns
        held = list(product(range(knobs.rows), range(knobs.vectors)))
        places = [number * lanes for number in range(len(held))]
        with (
            self.loop(blocks if knobs.by_rows else columns) as outer,
            self.loop(columns if knobs.by_rows else blocks) as inner,
        ):
            block, column = (outer, inner) if knobs.by_rows else (inner, outer)
            sums = self.buffer(len(held) * lanes, "local")
            self.store(sums, places, [self.zeros()] * len(held))
            first = plane * self.input_plane + block * knobs.rows * self.inputs
            with self.loop(self.inputs) as k:
                for at, (row, vector) in zip(places, held, strict=True):
                    value = self.all(transformed[first + row * self.inputs + k])
                    weight = weights[plane, column, k, self.vector(vector * lanes)]
                    self.store(sums, [at], [sums[self.vector(at)] + value * weight])
            first = plane * self.output_plane + block * knobs.rows * self.outputs + column * knobs.columns
            self.store(
                products,
                [first + row * self.outputs + vector * lanes for row, vector in held],
                [sums[self.vector(at)] for at in places],
            )

    def _transform_products(self, products: Any, tile: Any, row: Any) -> None:
        """Of all channels of one tile, and what the function does with its outputs."""
        size, lanes, outputs = self.size, self.lanes, self.knobs.outputs
        number, y, x = self._corner(tile)
        _, height, width, _ = self.anchored.convolved
        matrix = winograd.of_products(outputs)
        with self.loop(self.outputs // lanes) as part:
            halfway = self.buffer(outputs * size * lanes, "local")
            finished = self.buffer(outputs * lanes, "local")
            place = row * self.outputs + part * lanes
            with self.loop(size) as j:
                column = [
                    products[self.vector((i * size + j) * self.output_plane + place)] for i in range(size)
                ]
                places = [(i * size + j) * lanes for i in range(outputs)]
                self.store(halfway, places, winograd.transformed_by_columns(matrix, column))
            with self.loop(outputs) as i, self.where(y + i < height) if height % outputs else nullcontext():
                line = [halfway[self.vector((i * size + j) * lanes)] for j in range(size)]
                places = [j * lanes for j in range(outputs)]
                self.store(finished, places, winograd.transformed_by_columns(matrix, line))
                for j in range(outputs):
                    with self.where(x + j < width) if width % outputs else nullcontext():
                        self._finish((number, y + i, x + j), part * lanes, finished, j * lanes)

    def _finish(self, place: tuple[Any, Any, Any], channel: Any, values: Any, at: int) -> None:
        with self.tir.vectorized(_index(0), _index(self.lanes)) as lane:
            written, indices, value = self.anchored.finished([*place, channel + lane], values[at + lane])
            self.tir.buffer_proxy(written)[tuple(indices)] = value


def _packing(anchored: Anchored, knobs: Knobs) -> Any:
    """The function that transforms the weights, and puts them into order."""
    from tvm.script.ir_builder import IRBuilder

    writer, taps, lanes = _Writer(knobs.lanes), winograd.TAPS, knobs.lanes
    shape = _packed_shape(anchored, knobs)
    given = _parameter("weights", (taps, taps, anchored.shape[3], anchored.convolved[3]))
    packed = _parameter("packed", shape)
    size, matrix = winograd.inputs_of(knobs.outputs), winograd.of_weights(knobs.outputs)
    with IRBuilder() as builder:
        read, write = (writer.tir.buffer_proxy(each) for each in (given, packed))
        with writer.loop(shape[1]) as block, writer.loop(shape[2]) as k, writer.loop(knobs.vectors) as vector:
            halfway = writer.buffer(size * taps * lanes, "local")
            columns = writer.vector(block * knobs.columns + vector * lanes)
            with writer.loop(taps) as j:
                column = winograd.transformed(matrix, [read[i, j, k, columns] for i in range(taps)])
                writer.store(halfway, [(i * taps + j) * lanes for i in range(size)], column)
            with writer.loop(size) as i:
                row = [halfway[writer.vector((i * taps + j) * lanes)] for j in range(taps)]
                for j, value in enumerate(winograd.transformed(matrix, row)):
                    write[i * size + j, block, k, writer.vector(vector * lanes)] = value
        return _function([given, packed], builder.get())


def _elements(count: int) -> Any:
    """A function of TIR that gives a number."""
    import tvm
    from tvm import tirx

    given = tirx.PrimFunc([], tirx.Return(_index(count)), ret_type=tvm.ir.PrimType(INDEX))
    return given.with_attr({NOALIAS: True, "s_tir": True})


def _parameter(name: str, shape: Sequence[int]) -> Any:
    from tvm import tirx

    return tirx.decl_buffer([_index(each) for each in shape], FLOAT, name, layout=None)


def _function(parameters: Sequence[Any], body: Any) -> Any:
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize

    root = SBlockRealize([], True, SBlock([], [], [], "root", body))
    return tirx.PrimFunc(list(parameters), root).with_attr({NOALIAS: True, "s_tir": True})


def _index(value: int) -> Any:
    from tvm import tirx

    return tirx.const(value, INDEX)


def _float(value: float) -> Any:
    from tvm import tirx

    return tirx.const(value, FLOAT)
