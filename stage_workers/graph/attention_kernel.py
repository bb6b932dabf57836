"""Attention in one kernel: scores, mask, softmax and the sum of values, for a block of rows at a time.

What lies between the two products is as large as tokens times tokens. As operators of their own they write
and read it five times. Here the scores of some rows stay in the first cache until they are used up. Both
products keep a block of their result in registers, and the last block of rows overlaps the one before, so
that no row needs a condition. Keys are copied first into the order that the products read them in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from tunemesh.stage_workers.graph import legalising

ROWS = range(8, 13)
"""Rows of a block, with two vectors each: 24 of 32 registers of AVX-512."""
FEW_ROWS = range(4, 7)
"""The same for 16 registers."""
VECTORS = 2
"""Of a row in a block of a product."""
TOGETHER = 4
"""Rows whose exponentials are computed together: one alone would wait for its sum most of the time."""


class Layout(Struct, frozen=True):
    """How a tensor of (batch, rows, columns) lies in memory: in which order its axes.

    Attributes:
        order: the place that each axis in memory has in the shape that the graph says.
        joined: the last two axes in memory, heads and their columns, are one, in which others come before and
            behind: the columns before, and those of a head. ``None`` where each is one of its own.
    """

    order: tuple[int, ...]
    joined: tuple[int, int] | None = None

    def at(self, *index: Any) -> tuple[Any, ...]:
        """The index in memory of a place in the tensor that the graph says."""
        places = tuple(index[axis] for axis in self.order)
        if self.joined is None:
            return places
        first, columns = self.joined
        *before, head, column = places
        return (*before, first + head * columns + column)


class Attention(Struct, frozen=True, kw_only=True):
    """What is computed: softmax(queries keys scale + masks) values.

    Attributes:
        batch: lengths of the axes before the last two.
        rows: queries.
        columns: keys, and values.
        depth: length of a query, and of a key.
        width: of a value.
        scale: of the scores.
        queries: lies as (*batch, rows, depth).
        keys: as (*batch, depth, columns).
        values: as (*batch, columns, width), the last axis innermost.
        result: as (*batch, rows, width), likewise.
        masks: of each tensor that is added to the scores the lengths of the axes, which are 1 or those of the
            scores.
        causal: how many columns behind its own number a row may look; ``None`` for all.
        lanes: of a vector.
        registers: that hold vectors.
        narrow: whether both products multiply numbers that are rounded to bfloat16, two at a time.
    """

    batch: tuple[int, ...]
    rows: int
    columns: int
    depth: int
    width: int
    scale: float
    queries: Layout
    keys: Layout
    values: Layout
    result: Layout
    masks: list[tuple[int, ...]] = []
    causal: int | None = None
    lanes: int
    registers: int
    narrow: bool = False

    def block(self) -> int:
        """Rows of a block: those that compute the fewest rows twice."""
        sizes = ROWS if self.registers >= 32 else FEW_ROWS
        return min(self.rows, min(sizes, key=lambda size: (-(-self.rows // size) * size, -size)))


def attend(what: Attention, kernel: type[Kernel], *tensors: Any) -> Any:
    """The result, as TE, with a fixed schedule.

    Args:
        what: is computed.
        kernel: that computes it.
        tensors: queries, keys, values, and masks.
    """
    from tvm.script.ir_builder import IRBuilder

    logical = (*what.batch, what.rows, what.width)
    shape = [logical[axis] for axis in what.result.order]

    def generate(*buffers: Any) -> Any:
        with IRBuilder() as builder:
            kernel(what, buffers).write()
            return builder.get()

    return legalising.written_by_hand("attention", tensors, shape, generate)


class Kernel:
    """Writes the statements of TIR.

    Args:
        what: is computed.
        buffers: of queries, keys, values, masks, and the result.
    """

    def __init__(self, what: Attention, buffers: Sequence[Any]) -> None:
        from tvm.script.ir_builder import tirx

        self._t: Any = tirx
        self._what = what
        self._buffers = [tirx.buffer_proxy(buffer) for buffer in buffers]
        self._dtype = str(buffers[0].dtype)
        self._lanes = what.lanes
        self._vectors = -(-what.columns // what.lanes)

    def write(self) -> None:
        t, what = self._t, self._what
        block = what.block()
        with t.parallel(0, math.prod(what.batch)) as number:
            place = self._places(number)
            self._reserve(block)
            self._pack(place)
            with t.serial(0, -(-what.rows // block)) as part:
                first = t.min(part * block, what.rows - block) if what.rows % block else part * block
                self._score(place, first, block)
                self._weigh(place, first, block)
                self._mix(place, first, block)

    def _reserve(self, block: int) -> None:
        """Room for what lies between the steps, for so many rows."""
        self._keys = self._alloc(self._vectors * self._what.depth * self._lanes)
        self._scores = self._alloc(block * self._vectors * self._lanes)
        self._inverse = self._alloc(block)

    def _places(self, number: Any) -> tuple[Any, ...]:
        """Where the ``number``-th of all matrices is in the batch."""
        t, found = self._t, list[Any]()
        for length in reversed(self._what.batch):
            found.append(t.floormod(number, length))
            number = t.floordiv(number, length)
        return tuple(reversed(found))

    def _alloc(self, size: int, scope: str = "global") -> Any:
        return self._t.buffer_proxy(self._t.alloc_buffer((size,), self._dtype, scope=scope))

    def _const(self, value: float) -> Any:
        from tvm import tirx

        return tirx.const(value, self._dtype)

    def _pack(self, place: tuple[Any, ...]) -> None:
        """Keys times scale, by vectors of columns; zeros where there are none."""
        what, lanes = self._what, self._lanes

        def copy(vector: Any, deep: Any, lane: Any) -> None:
            at = (vector * what.depth + deep) * lanes + lane
            self._keys[at] = self._scaled_key(place, deep, vector * lanes + lane)

        def clear(vector: Any, deep: Any, lane: Any) -> None:
            self._keys[(vector * what.depth + deep) * lanes + lane] = self._const(0.0)

        self._pack_columns(what.depth, copy, clear)

    def _scaled_key(self, place: tuple[Any, ...], deep: Any, column: Any) -> Any:
        return self._buffers[1][self._what.keys.at(*place, deep, column)] * self._const(self._what.scale)

    def _pack_columns(self, depth: int, copy: Any, clear: Any) -> None:
        """``copy`` for so many places of all columns, by vectors of these; ``clear`` where there are none."""
        t, what, lanes = self._t, self._what, self._lanes
        whole, left = divmod(what.columns, lanes)
        across = depth % lanes == 0 and what.keys.order[-1] == len(what.batch)
        with t.serial(0, whole) as vector:
            if across:  # a column lies in memory as a vector
                blocks, rows, columns = (
                    t.serial(0, depth // lanes),
                    t.unroll(0, lanes),
                    t.vectorized(0, lanes),
                )
                with blocks as deep, rows as lane, columns as inner:
                    copy(vector, deep * lanes + inner, lane)
            else:
                with t.serial(0, depth) as deep, t.vectorized(0, lanes) as lane:
                    copy(vector, deep, lane)
        if left:
            with t.serial(0, depth) as deep, t.vectorized(0, lanes) as lane:
                clear(whole, deep, lane)
            with t.serial(0, left) as lane, t.serial(0, depth) as deep:
                copy(whole, deep, lane)

    def _product(self, rows: int, vectors: int, depth: int, left: Any, right: Any, store: Any) -> None:
        """A block of a product in registers.

        Args:
            rows: of the block.
            vectors: of a row.
            depth: numbers that are multiplied and summed.
            left: the number of a row and of a place.
            right: that of a place, a vector and a lane.
            store: what is done with the result, by row, vector and lane.
        """

        def add(sums: Any, each: Any, deep: Any) -> None:
            def one(row: int, vector: int, lane: Any, at: Any) -> None:
                sums[at] = sums[at] + left(row, deep) * right(deep, vector, lane)

            each(one)

        self._summed(rows, vectors, depth, add, store)

    def _summed(self, rows: int, vectors: int, depth: int, add: Any, store: Any) -> None:
        """Sums in registers: ``add`` is what a step of ``depth`` does, given the sums, what goes through
        all of them, and the number of the step."""
        t, lanes = self._t, self._lanes
        sums = self._alloc(rows * vectors * lanes, scope="local")

        def each(change: Any) -> None:
            for row in range(rows):
                for vector in range(vectors):
                    with t.vectorized(0, lanes) as lane:
                        change(row, vector, lane, (row * vectors + vector) * lanes + lane)

        def clear(row: int, vector: int, lane: Any, at: Any) -> None:
            sums[at] = self._const(0.0)

        each(clear)
        with t.serial(0, depth) as deep:
            add(sums, each, deep)
        each(lambda row, vector, lane, at: store(row, vector, lane, sums[at]))

    def _in_vectors(self, count: int, write: Any) -> None:
        """``write`` for all of ``count`` vectors: two at a time, then what is left."""
        whole, left = divmod(count, VECTORS)
        if whole:
            with self._t.serial(0, whole) as pair:
                write(pair * VECTORS, VECTORS)
        if left:
            write(whole * VECTORS, left)

    def _score(self, place: tuple[Any, ...], first: Any, block: int) -> None:
        what, lanes, keys = self._what, self._lanes, self._keys
        queries = self._buffers[0]

        def write(start: Any, vectors: int) -> None:
            self._product(
                block,
                vectors,
                what.depth,
                lambda row, deep: queries[what.queries.at(*place, first + row, deep)],
                lambda deep, vector, lane: keys[((start + vector) * what.depth + deep) * lanes + lane],
                store=lambda row, vector, lane, value: self._keep(row, start + vector, lane, value),
            )

        self._in_vectors(self._vectors, write)

    def _keep(self, row: Any, vector: Any, lane: Any, value: Any) -> None:
        self._scores[(row * self._vectors + vector) * self._lanes + lane] = value

    def _weigh(self, place: tuple[Any, ...], first: Any, block: int) -> None:
        """Scores of each row become their exponentials, less the largest; one over their sum."""
        whole, left = divmod(block, TOGETHER)
        if whole:
            with self._t.serial(0, whole) as part:
                self._weigh_some(place, first, part * TOGETHER, TOGETHER)
        if left:
            self._weigh_some(place, first, whole * TOGETHER, left)

    def _weigh_some(self, place: tuple[Any, ...], first: Any, start: Any, count: int) -> None:
        """So many rows, from ``start`` on."""
        t, lanes, scores = self._t, self._lanes, self._scores
        bases = [(start + row) * self._vectors * lanes for row in range(count)]
        for row, base in enumerate(bases):
            self._mask(place, first + start + row, base)
        most, total = self._alloc(count * lanes, "local"), self._alloc(count * lanes, "local")
        with t.vectorized(0, count * lanes) as lane:
            most[lane] = self._const(-math.inf)
        with t.vectorized(0, count * lanes) as lane:
            total[lane] = self._const(0.0)
        with t.serial(0, self._vectors) as vector:
            for row, base in enumerate(bases):
                with t.vectorized(0, lanes) as lane:
                    at = row * lanes + lane
                    most[at] = t.max(most[at], scores[base + vector * lanes + lane])
        for row in range(count):
            self._folded(most, row * lanes, t.max)
        with t.serial(0, self._vectors) as vector:
            for row, base in enumerate(bases):
                with t.vectorized(0, lanes) as lane:
                    at = base + vector * lanes + lane
                    scores[at] = t.exp(scores[at] - most[row * lanes + lane])
                    total[row * lanes + lane] = total[row * lanes + lane] + scores[at]
        for row in range(count):
            self._folded(total, row * lanes, lambda one, other: one + other)
            self._inverse[start + row] = self._const(1.0) / total[row * lanes]

    def _folded(self, vectors: Any, first: int, joined: Any) -> None:
        """Each number of a vector becomes all of them joined."""
        from tvm import tirx

        lanes = self._lanes
        whole = tirx.Ramp(first, 1, lanes)
        half = lanes // 2
        while half:
            turned = [(lane + half) % lanes for lane in range(lanes)]
            vectors[whole] = joined(vectors[whole], tirx.Shuffle([vectors[whole]], turned))
            half //= 2

    def _mask(self, place: tuple[Any, ...], row: Any, base: Any) -> None:
        """What is added to the scores of a row, and minus infinity where there is no column to see."""
        t, what, lanes, scores = self._t, self._what, self._lanes, self._scores
        for number, lengths in enumerate(what.masks, 3):
            self._add_mask(self._buffers[number], lengths, (*place, row), base)
        whole, left = divmod(what.columns, lanes)
        if what.causal is not None:
            last = t.min(row + what.causal, what.columns - 1)
            with t.serial(0, self._vectors) as vector, t.vectorized(0, lanes) as lane:
                at = base + vector * lanes + lane
                scores[at] = t.Select(vector * lanes + lane <= last, scores[at], self._const(-math.inf))
        elif left:
            with t.vectorized(0, lanes) as lane:
                at = base + whole * lanes + lane
                scores[at] = t.Select(lane < left, scores[at], self._const(-math.inf))

    def _add_mask(self, mask: Any, lengths: tuple[int, ...], row: tuple[Any, ...], base: Any) -> None:
        t, what, lanes, scores = self._t, self._what, self._lanes, self._scores

        def add(column: Any) -> None:
            index = (*row, column)
            ending = index[len(index) - len(lengths) :]
            where = tuple(0 if length == 1 else at for at, length in zip(ending, lengths, strict=True))
            scores[base + column] = scores[base + column] + mask[where]

        whole, left = divmod(what.columns, lanes)
        with t.serial(0, whole) as vector, t.vectorized(0, lanes) as lane:
            add(vector * lanes + lane)
        if left:
            with t.serial(0, left) as lane:
                add(whole * lanes + lane)

    def _mix(self, place: tuple[Any, ...], first: Any, block: int) -> None:
        what, lanes = self._what, self._lanes
        values = self._buffers[2]

        def write(start: Any, vectors: int) -> None:
            self._product(
                block,
                vectors,
                what.columns,
                lambda row, deep: self._scores[row * self._vectors * lanes + deep],
                lambda deep, vector, lane: values[
                    what.values.at(*place, deep, (start + vector) * lanes + lane)
                ],
                self._storing(place, first, start),
            )

        self._in_vectors(what.width // lanes, write)

    def _storing(self, place: tuple[Any, ...], first: Any, start: Any) -> Any:
        """What writes a row's sums, of vectors from ``start`` on, over the sum of its shares."""

        def store(row: int, vector: int, lane: Any, value: Any) -> None:
            column = (start + vector) * self._lanes + lane
            self._buffers[-1][self._what.result.at(*place, first + row, column)] = value * self._inverse[row]

        return store
