"""Attention whose products multiply numbers in bfloat16 two at a time, and sum in single precision.

Two numbers that are multiplied at once lie half of the sum apart: so neighbours stay neighbours, and whole
vectors of pairs are made by a few instructions. Scores, masks and the softmax are in single precision.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tunemesh.stage_workers.graph import dots
from tunemesh.stage_workers.graph.attention_kernel import Attention, Kernel

LOW, HIGH = 0xFFFF, -0x10000
"""Bits of the first and of the second number of a pair."""


def narrowed(what: Attention, target: str) -> Attention:
    """The same of pairs, where the target has an instruction for vectors of so many lanes, and queries are
    pairs."""
    dot = next((each for each in dots.BFLOAT16 if each.lanes == what.lanes), None)
    there = dot is not None and what.depth % dot.group == 0 and dot.runs_on(target)
    return msgspec.structs.replace(what, narrow=there)


def kernel_of(what: Attention) -> type[Kernel]:
    """What writes its kernel."""
    return PairsKernel if what.narrow else Kernel


class PairsKernel(Kernel):
    """Writes the statements of TIR. Both factors of a product are packed before it as pairs, in integers of
    32 bits: TVM has no place for vectors of small floats."""

    def _reserve(self, block: int) -> None:
        super()._reserve(block)
        self._deep = self._what.depth // 2
        """Pairs of a query and of a key."""
        self._half = -(-self._vectors // 2) * self._lanes
        """Pairs of shares, and of values."""
        self._keys = self._alloc_pairs(self._vectors * self._deep * self._lanes)
        self._values = self._alloc_pairs(self._half * self._what.width)
        self._queries = self._alloc_pairs(block * self._deep)
        self._shares = self._alloc_pairs(block * self._half)

    def _alloc_pairs(self, size: int) -> Any:
        return self._t.buffer_proxy(self._t.alloc_buffer((size,), "int32"))

    def _pair(self, low: Any, high: Any = None) -> Any:
        """Two numbers as one, or one and 0, rounded to the nearest and of two that are as near to the even
        one. (NaN as CPUs make it stays NaN.)"""
        from tvm import tirx

        def rounded(number: Any) -> Any:
            bits = tirx.reinterpret("int32", number)
            return bits + 0x7FFF + ((bits >> 16) & 1)

        first = (rounded(low) >> 16) & LOW
        return first if high is None else first | (rounded(high) & HIGH)

    def _lanes_at(self, vector: Any) -> Any:
        """The index of all lanes of a vector, by its number in a buffer."""
        from tvm import tirx

        return tirx.Ramp(vector * self._lanes, 1, self._lanes)

    def _pack(self, place: tuple[Any, ...]) -> None:
        lanes, deep_pairs = self._lanes, self._deep

        def copy(vector: Any, deep: Any, lane: Any) -> None:
            column = vector * lanes + lane
            low, high = (self._scaled_key(place, deep + more, column) for more in (0, deep_pairs))
            self._keys[(vector * deep_pairs + deep) * lanes + lane] = self._pair(low, high)

        def clear(vector: Any, deep: Any, lane: Any) -> None:
            self._keys[(vector * deep_pairs + deep) * lanes + lane] = 0

        self._pack_columns(deep_pairs, copy, clear)
        self._pack_values(place)

    def _pack_values(self, place: tuple[Any, ...]) -> None:
        t, what, lanes, half = self._t, self._what, self._lanes, self._half
        both = what.columns - half

        def value(row: Any, column: Any) -> Any:
            return self._buffers[2][what.values.at(*place, row, column)]

        def pack(first: int, count: int, make: Any) -> None:
            if count:
                rows, vectors = t.serial(0, count), t.serial(0, what.width // lanes)
                with rows as row, vectors as vector, t.vectorized(0, lanes) as lane:
                    column = vector * lanes + lane
                    self._values[(first + row) * what.width + column] = make(first + row, column)

        pack(0, both, lambda row, column: self._pair(value(row, column), value(row + half, column)))
        pack(both, half - both, lambda row, column: self._pair(value(row, column)))

    def _multiplied(self, rows: int, vectors: int, depth: int, left: Any, right: Any, store: Any) -> None:
        """A block of a product in registers, as of :meth:`_product`; ``right`` gives all lanes of a vector at
        once."""
        from tvm import tirx

        lanes = self._lanes
        name = next(each.name for each in dots.BFLOAT16 if each.lanes == lanes)

        def add(sums: Any, _: Any, deep: Any) -> None:
            for row in range(rows):
                for vector in range(vectors):
                    at = self._lanes_at(row * vectors + vector)
                    pairs = left(row, deep), right(deep, vector)
                    sums[at] = tirx.call_extern(f"{self._dtype}x{lanes}", name, sums[at], *pairs)

        self._summed(rows, vectors, depth, add, store)

    def _score(self, place: tuple[Any, ...], first: Any, block: int) -> None:
        t, what, lanes, deep_pairs = self._t, self._what, self._lanes, self._deep

        def query(row: Any, deep: Any) -> Any:
            return self._buffers[0][what.queries.at(*place, first + row, deep)]

        def pack(row: Any, deep: Any) -> None:
            self._queries[row * deep_pairs + deep] = self._pair(
                query(row, deep), query(row, deep + deep_pairs)
            )

        with t.serial(0, block) as row:
            whole, left = divmod(deep_pairs, lanes)
            if whole:
                with t.serial(0, whole) as vector, t.vectorized(0, lanes) as lane:
                    pack(row, vector * lanes + lane)
            if left:
                with t.serial(0, left) as deep:
                    pack(row, whole * lanes + deep)

        def write(start: Any, vectors: int) -> None:
            self._multiplied(
                block,
                vectors,
                deep_pairs,
                lambda row, deep: self._queries[row * deep_pairs + deep],
                lambda deep, vector: self._keys[self._lanes_at((start + vector) * deep_pairs + deep)],
                lambda row, vector, lane, value: self._keep(row, start + vector, lane, value),
            )

        self._in_vectors(self._vectors, write)

    def _mix(self, place: tuple[Any, ...], first: Any, block: int) -> None:
        t, what, lanes, half = self._t, self._what, self._lanes, self._half
        line = self._vectors * lanes

        def pack(begin: int, end: int, make: Any) -> None:
            if end > begin:
                rows, vectors = t.serial(0, block), t.serial(0, (end - begin) // lanes)
                with rows as row, vectors as vector, t.vectorized(0, lanes) as lane:
                    column = begin + vector * lanes + lane
                    self._shares[row * half + column] = make(row * line + column)

        pack(0, line - half, lambda at: self._pair(self._scores[at], self._scores[at + half]))
        pack(line - half, half, lambda at: self._pair(self._scores[at]))

        def write(start: Any, vectors: int) -> None:
            self._multiplied(
                block,
                vectors,
                half,
                lambda row, deep: self._shares[row * half + deep],
                lambda deep, vector: self._values[
                    self._lanes_at(deep * (what.width // lanes) + start + vector)
                ],
                self._storing(place, first, start),
            )

        self._in_vectors(what.width // lanes, write)
