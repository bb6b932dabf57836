"""The loops of a depthwise convolution, as text of C.

Every channel has its own sum, so that both factors give vectors. A tile is some pixels of a row times some
vectors of channels; what several of its pixels read is loaded once. Where a whole tile lies within the image
nothing is looked up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from tunemesh.stage_workers.engines.template import epilogues
from tunemesh.stage_workers.engines.template.contraction import Contraction
from tunemesh.stage_workers.engines.template.operators import Form
from tunemesh.stage_workers.engines.template.text import vectors

LOADS = 256
"""Places that a tile may read from: each is text of its own."""


class Channelwise(Contraction):
    """One kernel; of the shape, ``columns_block`` counts tiles along the channels, and nothing is packed."""

    def objection(self) -> str:
        shape = self.shape
        if shape.rows > self.extents[self.roles.rows[-1]]:
            return "a tile has more pixels than a row"
        if self.columns % self.width:
            return "channels are no whole tiles"
        if shape.columns_block * self.width >= self.columns:
            return "a block is all there is"
        return "" if len(self._places(shape.rows)) <= LOADS else "a tile reads from too many places"

    def source(self, symbol: str) -> str:
        windows = self.roles.still.windows
        rest = self.extents[self.roles.rows[-1]] % self.shape.rows
        parts = [vectors(self.shape.lanes), epilogues.library(self.operator.epilogue)]
        if windows:
            parts.append(f"static float zeros[{self.columns}];\n")
            parts.append(self._tile_of(self.shape.rows, True))
        parts.insert(2, self._finish(False))
        if self._some_inside():
            parts.append(self._tile_of(self.shape.rows, False))
        if rest:
            parts.append(self._tile_of(rest, bool(windows)))
        return "\n".join([*parts, self._all(symbol, rest)])

    def _some_inside(self) -> bool:
        """Whether there are tiles all of whose places lie within the image."""
        column, rows = self.roles.rows[-1], self.shape.rows
        starts = range(0, self.extents[column] - rows + 1, rows)
        return all(
            any(low >= 0 and high < window.length for low, high in self._ends(number, starts))
            for number, window in enumerate(self.roles.still.windows)
            if window.form.uses(column)
        )

    def _ends(self, number: int, starts: Iterable[int]) -> list[tuple[int, int]]:
        """From where to where tiles that start at these pixels of a row read along a window."""
        form = self.roles.still.windows[number].form
        along = [each[number] for _, each in self._places(self.shape.rows)]
        firsts = [form.offset + start * form.strides[self.roles.rows[-1]] for start in starts]
        return [(first + min(along), first + max(along)) for first in firsts]

    def _places(self, rows: int) -> dict[tuple[int, tuple[int, ...]], list[tuple[int, int]]]:
        """Where a tile reads from, relative to its first pixel: the distance and that along each window; and
        which of its pixels at which of the weights use it."""
        still, weights = self.roles.still, self.roles.moving.form
        column = self.roles.rows[-1]
        places: dict[tuple[int, tuple[int, ...]], list[tuple[int, int]]] = {}
        for taps in itertools.product(*(range(self.extents[axis]) for axis in self.roles.taps)):

            def distance(form: Form, row: int, taps: Sequence[int] = taps) -> int:
                steps = sum(form.strides[axis] * at for axis, at in zip(self.roles.taps, taps, strict=True))
                return steps + row * form.strides[column]

            for row in range(rows):
                at = distance(still.form, row), tuple(distance(each.form, row) for each in still.windows)
                places.setdefault(at, []).append((row, distance(weights, 0)))
        return dict(sorted(places.items()))

    def _tile_of(self, rows: int, tested: bool) -> str:
        """The function that computes some pixels, ``tested`` where they may read beyond the image."""
        places, count, lanes = self._places(rows), self.shape.vectors, self.shape.lanes
        lines = []
        if tested:
            lines.append(f"const float *q[{len(places)}];")
            for number, (distance, along) in enumerate(places):
                tests = " && ".join(
                    f"(unsigned long)(w{i} + {at}) < {window.length}"
                    for i, (at, window) in enumerate(zip(along, self.roles.still.windows, strict=True))
                )
                lines.append(f"q[{number}] = {tests} ? s + {distance} : zeros;")
        lines.append(f"for (long n = n0; n < n1; n += {self.width}) {{")
        lines += [f"vec a{row}_{j} = {{}};" for row in range(rows) for j in range(count)]
        for number, ((distance, _), users) in enumerate(places.items()):
            start = f"q[{number}]" if tested else f"s + {distance}"
            for j in range(count):
                lines.append(f"{{ const vec x = load({start} + n + {j * lanes});")
                lines += [
                    f"  a{row}_{j} += x * load(v + {weight} + n + {j * lanes});" for row, weight in users
                ]
                lines.append("}")
        lines += [
            f"finish(p, c + n + {self._row(self.operator.output, f'm + {row}')} + {j * lanes}, "
            f"a{row}_{j}, m + {row}, n + {j * lanes}{self._given});"
            for row in range(rows)
            for j in range(count)
        ]
        lines.append("}")
        text = "\n  ".join(lines)
        windows = "".join(f", long w{i}" for i in range(len(self.roles.still.windows)))
        return (
            f"static __attribute__((noinline)) void {_tile_name(rows, tested)}"
            "(const float *const *restrict p, const float *restrict s, const float *restrict v, "
            f"float *restrict c, long m, long n0, long n1{windows}{self._indices}) {{\n  {text}\n}}\n"
        )

    def _all(self, symbol: str, rest: int) -> str:
        """The exported function."""
        operator, roles = self.operator, self.roles
        inputs, column = len(operator.parameters) - 1, self.extents[roles.rows[-1]]
        windows, rows = roles.still.windows, self.shape.rows
        lines = [f"const float *const p[] = {{{', '.join(f'data(&given[{i}])' for i in range(inputs))}}};"]
        lines.append(f"float *const out = data(&given[{inputs}]);")
        loops = [
            f"for (long o{axis} = 0; o{axis} < {self.extents[axis]}; ++o{axis}) {{" for axis in roles.outer
        ]
        block = self.shape.columns_block * self.width or self.columns
        loops += [
            f"for (long n0 = 0; n0 < {self.columns}; n0 += {block}) {{",
            f"const long n1 = n0 + {block} < {self.columns} ? n0 + {block} : {self.columns};",
            f"for (long line = 0; line < {self.rows}; line += {column})",
            f"for (long x = 0; x < {column}; x += {rows}) {{",
            "const long m = line + x;",
            f"const float *s = p[{roles.still.parameter}] + {self._outer(roles.still.form)} + "
            f"{self._row(roles.still.form, 'm')};",
            f"const float *v = p[{roles.moving.parameter}] + {self._outer(roles.moving.form)};",
            f"float *c = out + {self._outer(operator.output)};",
        ]
        lines += loops
        lines += [
            f"const long w{i} = {self._outer(window.form)} + {self._row(window.form, 'm')};"
            for i, window in enumerate(windows)
        ]
        given = f"(p, s, v, c, m, n0, n1{''.join(f', w{i}' for i in range(len(windows)))}{self._given});"
        ends = [[along[i] for _, along in self._places(rows)] for i in range(len(windows))]
        inside = " && ".join(
            f"w{i} + {min(at)} >= 0 && w{i} + {max(at)} < {window.length}"
            for i, (at, window) in enumerate(zip(ends, windows, strict=True))
        )
        if rest:
            lines.append(f"if (x + {rows} > {column}) {_tile_name(rest, bool(windows))}{given} else")
        if not self._some_inside():
            lines.append(f"{_tile_name(rows, True)}{given}")
        else:
            if windows:
                lines.append(f"if (!({inside})) {_tile_name(rows, True)}{given} else")
            lines.append(f"{_tile_name(rows, False)}{given}")
        lines += ["}"] * (2 + len(roles.outer))
        text = "\n  ".join(lines)
        return (
            f"int __tvm_ffi_{symbol}(void *self, const TVMFFIAny *given, int32_t count, "
            f"TVMFFIAny *result) {{\n  {text}\n  return 0;\n}}\n"
        )


def _tile_name(rows: int, tested: bool) -> str:
    return f"tile_{rows}_{'tested' if tested else 'inside'}"
