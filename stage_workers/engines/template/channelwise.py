"""The loops of a depthwise convolution, as text of C.

Every channel has its own sum, so that both factors give vectors. A tile is some pixels of a row times some
vectors of channels; what several of its pixels read is loaded once. Which columns of an image a tile would
read beyond its ends is known beforehand: tiles at the ends of a row are functions of their own, in which
these are left out. Rows of the image are tested.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tunemesh.stage_workers.engines.template import epilogues
from tunemesh.stage_workers.engines.template.contraction import Contraction
from tunemesh.stage_workers.engines.template.operators import Form
from tunemesh.stage_workers.engines.template.text import vectors

Place = tuple[int, tuple[int, ...]]
"""Where something is read: the distance from a tile's first pixel, and that along each window."""
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
        if any(
            window.form.uses(self.roles.rows[-1]) and any(map(window.form.uses, self.roles.rows[:-1]))
            for window in self.roles.still.windows
        ):
            return "rows and columns of the image are one dimension"
        if shape.columns_block * self.width >= self.columns:
            return "a block is all there is"
        return "" if len(self._places(shape.rows)) <= LOADS else "a tile reads from too many places"

    def results_per_load(self, registers: int) -> float:
        """Multiplications for each load of a tile, where there are so many registers."""
        rows, count = self.shape.rows, self.shape.vectors
        held = rows * count + self.taps * count + 2 <= registers
        weights = self.taps * count * (1 if held else rows)
        places = len(self._places(rows)) * count
        line = self.extents[self.roles.rows[-1]]
        used = line / (-(-line // rows) * rows)
        return used * self.shape.lanes * self.taps * rows * count / (weights + places)

    def source(self, symbol: str) -> str:
        parts = [vectors(self.shape.lanes), epilogues.library(self.operator.epilogue), self._finish(False)]
        parts += [self._tile_of(name, start) for name, start in self._variants().items()]
        return "\n".join([*parts, self._all(symbol)])

    def _starts(self) -> range:
        """The first pixels of the tiles of a row."""
        return range(0, self.extents[self.roles.rows[-1]], self.shape.rows)

    def _rows_at(self, start: int) -> int:
        """Pixels of the tile that starts there."""
        return min(self.shape.rows, self.extents[self.roles.rows[-1]] - start)

    def _is_column(self, number: int) -> bool:
        """Whether a window is one along the pixels of a row."""
        return self.roles.still.windows[number].form.uses(self.roles.rows[-1])

    def _read(self, start: int) -> dict[Place, list[tuple[int, int]]]:
        """The places that the tile which starts there reads from: those that may lie within the image."""
        windows = self.roles.still.windows
        columns = [number for number in range(len(windows)) if self._is_column(number)]

        def within(along: Sequence[int], number: int) -> bool:
            form = windows[number].form
            at = form.offset + start * form.strides[self.roles.rows[-1]] + along[number]
            return 0 <= at < windows[number].length

        places = self._places(self._rows_at(start))
        return {
            place: users
            for place, users in places.items()
            if all(within(place[1], number) for number in columns)
        }

    def _names(self) -> dict[int, str]:
        """The function for the tile that starts at each pixel: the same for those that read alike."""
        known: dict[tuple[object, ...], str] = {}
        names = {}
        for start in self._starts():
            key = self._rows_at(start), *self._read(start)
            names[start] = known.setdefault(key, f"tile_{len(known)}")
        return names

    def _variants(self) -> dict[str, int]:
        """Each function with the first pixel of one of its tiles."""
        return {name: start for start, name in reversed(self._names().items())}

    def _places(self, rows: int) -> dict[Place, list[tuple[int, int]]]:
        """Where a tile reads from, relative to its first pixel: the distance and that along each window; and
        which of its pixels at which of the weights use it."""
        still, weights = self.roles.still, self.roles.moving.form
        column = self.roles.rows[-1]
        places: dict[Place, list[tuple[int, int]]] = {}
        for taps in itertools.product(*(range(self.extents[axis]) for axis in self.roles.taps)):

            def distance(form: Form, row: int, taps: Sequence[int] = taps) -> int:
                steps = sum(form.strides[axis] * at for axis, at in zip(self.roles.taps, taps, strict=True))
                return steps + row * form.strides[column]

            for row in range(rows):
                at = distance(still.form, row), tuple(distance(each.form, row) for each in still.windows)
                places.setdefault(at, []).append((row, distance(weights, 0)))
        return dict(sorted(places.items()))

    def _tile_of(self, name: str, start: int) -> str:
        """The function that computes such tiles as the one that starts there."""
        rows, count, lanes = self._rows_at(start), self.shape.vectors, self.shape.lanes
        windows = self.roles.still.windows
        tested = [number for number in range(len(windows)) if not self._is_column(number)]
        lines = [f"for (long n = n0; n < n1; n += {self.width}) {{"]
        lines += [f"vec a{row}_{j} = {{}};" for row in range(rows) for j in range(count)]

        def rows_of_image(place: tuple[Place, list[tuple[int, int]]]) -> list[int]:
            return [place[0][1][number] for number in tested]

        places = sorted(self._read(start).items(), key=lambda each: (rows_of_image(each), each[0]))
        for ats, group in itertools.groupby(places, key=rows_of_image):
            tests = [
                f"(unsigned long)(w{number} + {at}) < {windows[number].length}"
                for number, at in zip(tested, ats, strict=True)
            ]
            lines.append(f"if ({' && '.join(tests)}) {{" if tests else "{")
            for (distance, _), users in group:
                for j in range(count):
                    lines.append(f"  {{ vec x = load(s + {distance} + n + {j * lanes}); IN_REGISTER(x);")
                    lines += [
                        f"    a{row}_{j} += x * load(v + {weight} + n + {j * lanes});"
                        for row, weight in users
                    ]
                    lines.append("  }")
            lines.append("}")
        lines += [
            f"finish(p, c + n + {self._row(self.operator.output, f'm + {row}')} + {j * lanes}, "
            f"a{row}_{j}, m + {row}, n + {j * lanes}{self._given});"
            for row in range(rows)
            for j in range(count)
        ]
        lines.append("}")
        text = "\n  ".join(lines)
        given = "".join(f", long w{i}" for i in range(len(windows)))
        return (
            f"static __attribute__((noinline)) void {name}"
            "(const float *const *restrict p, const float *restrict s, const float *restrict v, "
            f"float *restrict c, long m, long n0, long n1{given}{self._indices}) {{\n  {text}\n}}\n"
        )

    def _all(self, symbol: str) -> str:
        """The exported function."""
        operator, roles = self.operator, self.roles
        inputs, column = len(operator.parameters) - 1, self.extents[roles.rows[-1]]
        windows, block = roles.still.windows, self.shape.columns_block * self.width or self.columns
        lines = [f"const float *const p[] = {{{', '.join(f'data(&given[{i}])' for i in range(inputs))}}};"]
        lines.append(f"float *const out = data(&given[{inputs}]);")
        lines += [
            f"for (long o{axis} = 0; o{axis} < {self.extents[axis]}; ++o{axis}) {{" for axis in roles.outer
        ]
        lines += [
            f"for (long n0 = 0; n0 < {self.columns}; n0 += {block}) {{",
            f"const long n1 = n0 + {block} < {self.columns} ? n0 + {block} : {self.columns};",
            f"for (long line = 0; line < {self.rows}; line += {column}) {{",
        ]
        given = "".join(f", w{i}" for i in range(len(windows)))
        for name, group in itertools.groupby(self._names().items(), key=lambda each: each[1]):
            starts = [start for start, _ in group]
            lines.append(f"for (long x = {starts[0]}; x <= {starts[-1]}; x += {self.shape.rows}) {{")
            lines.append("const long m = line + x;")
            lines += [
                f"const long w{i} = {self._outer(window.form)} + {self._row(window.form, 'm')};"
                for i, window in enumerate(windows)
            ]
            lines += [
                f"const float *s = p[{roles.still.parameter}] + {self._outer(roles.still.form)} + "
                f"{self._row(roles.still.form, 'm')};",
                f"const float *v = p[{roles.moving.parameter}] + {self._outer(roles.moving.form)};",
                f"{name}(p, s, v, out + {self._outer(operator.output)}, m, n0, n1{given}{self._given});",
                "}",
            ]
        lines += ["}"] * (2 + len(roles.outer))
        text = "\n  ".join(lines)
        return (
            f"int __tvm_ffi_{symbol}(void *self, const TVMFFIAny *given, int32_t count, "
            f"TVMFFIAny *result) {{\n  {text}\n  return 0;\n}}\n"
        )
