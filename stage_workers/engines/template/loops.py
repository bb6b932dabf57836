"""The program of a sum of products, as text of C: the loops around its tiles, and what packs a factor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunemesh.stage_workers.engines.protocol import elements_name, prepack_name
from tunemesh.stage_workers.engines.template import elements, epilogues
from tunemesh.stage_workers.engines.template.contraction import Contraction
from tunemesh.stage_workers.engines.template.operators import Operand
from tunemesh.stage_workers.engines.template.text import function, shared, total, vectors
from tunemesh.stage_workers.engines.template.tiles import Tile

TILES, COLUMNS = -1, -2
"""What threads share, beside axes."""


def source(kernel: Contraction, symbol: str) -> str:
    """The program whose function is called ``symbol``."""
    return Program(kernel).text(symbol)


class Program:
    """The text of one kernel."""

    def __init__(self, kernel: Contraction) -> None:
        self.kernel = kernel
        self.tile = Tile(kernel)

    def text(self, symbol: str) -> str:
        kernel, operator = self.kernel, self.kernel.operator
        dtypes = {operator.dtype, *(step.dtype for step in operator.epilogue)}
        parts = [
            vectors(kernel.shape.lanes), elements.text(dtypes, operator.dot.name if operator.dot else ""),
            epilogues.library(operator.epilogue), self.tile.all(),
            self._main(symbol), *self._prepacks(symbol),
        ]  # fmt: skip
        return "\n".join(parts)

    # -- All tiles -------------------------------------------------------------------------------------------

    def _main(self, symbol: str) -> str:
        kernel, roles, shape = self.kernel, self.kernel.roles, self.kernel.shape
        inputs = len(kernel.operator.parameters) - 1
        lines = [f"const float *const p[] = {{{', '.join(f'data(&given[{i}])' for i in range(inputs))}}};"]
        of = elements.TYPES[kernel.operator.dtype]
        lines.append(f"{of} *const out = ({of} *)data(&given[{inputs}]);")
        if kernel.scratch:
            size = kernel.taps * kernel.piece * kernel.padded(kernel.width)
            lines.append(f"float panel[{size}] __attribute__((aligned(64)));")
        by = self._shared()
        for axis in roles.outer:
            begin, end = _range(kernel.extents[axis], by == axis)
            lines.append(f"for (long o{axis} = {begin}; o{axis} < {end}; ++o{axis}) {{")
        wide = shape.columns_block * kernel.width
        begin, end = _range(-(-kernel.columns // kernel.width), by == COLUMNS, kernel.width)
        if by == COLUMNS:
            end = f"({end} < {kernel.columns} ? {end} : {kernel.columns})"
        else:
            end = str(kernel.columns)
        lines += _loop("n0", begin, end, wide or kernel.columns, "n1")
        lines += _loop("k0", "0", str(kernel.depth), kernel.piece, "k1")
        lines.append(f"const int first = k0 == 0, last = k1 == {kernel.depth};")
        begin, end = _range(kernel.tiles, by == TILES)
        lines += _loop("t0", begin, end, shape.rows_block or kernel.tiles, "t1")
        columns = [f"for (long n = n0; n < n1; n += {kernel.width}) {{"]
        rows = ["for (long t = t0; t < t1; ++t) {", *self._place()]
        if kernel.scratch:
            columns += self._packing()
        lines += [*columns, *rows] if shape.rows_first else [*rows, *columns]
        lines += self._dispatch()
        lines += ["}"] * (5 + len(roles.outer))
        return shared(symbol, lines)

    def _shared(self) -> int:
        """What threads share, where there are several: the axis of a loop around, or the tiles along the
        rows or columns, whatever there is most of. A factor that is packed is packed by one thread."""
        kernel = self.kernel
        counts = {axis: kernel.extents[axis] for axis in kernel.roles.outer[:1]}
        counts[COLUMNS] = -(-kernel.columns // kernel.width)
        if not kernel.scratch:
            counts[TILES] = kernel.tiles
        return max(counts, key=lambda each: counts[each])

    def _place(self) -> list[str]:
        """Where a tile is, from its number."""
        kernel, rows = self.kernel, self.kernel.roles.rows
        if not rows:
            return []
        lines = [f"const long o{rows[-1]} = t % {kernel.in_line} * {kernel.shape.rows};"]
        inner = kernel.in_line
        for axis in reversed(rows[:-1]):
            place = f"t / {inner}"
            inner *= kernel.extents[axis]
            lines.append(
                f"const long o{axis} = {place}{f' % {kernel.extents[axis]}' if inner < kernel.tiles else ''};"
            )
        return lines

    def _dispatch(self) -> list[str]:
        """The call of the tile ``t`` at ``n``."""
        kernel, shape, roles, tile = self.kernel, self.kernel.shape, self.kernel.roles, self.tile
        still, moving = roles.still, roles.moving
        steps = kernel.taps * kernel.depth
        where = "n" if shape.pack_moving else "at"

        def call(rows: int, columns: int) -> str:
            if shape.pack_still:
                first = f"o{roles.rows[-1]} * {steps}" if roles.rows else "0"
                s = f"p[{still.parameter}] + {self._panel(still)} + {first} + k0 * {rows}"
            else:
                s = f"p[{still.parameter}] + {tile.at(still.form)} + k0 * {kernel.step(still.form)}"
            if kernel.scratch:
                v = "panel"
            elif kernel.packed:
                v = (
                    f"p[{moving.parameter}] + {self._panel(moving)} + n * {steps} "
                    f"+ k0 * {kernel.padded(columns)}"
                )
            else:
                v = f"p[{moving.parameter}] + {tile.at(moving.form)} + at + k0 * {kernel.step(moving.form)}"
            return (
                f"{tile.name(rows, columns)}(p, {s}, {v}, out + {tile.at(kernel.operator.output)} + {where}, "
                f"{where}, k0, k1 - k0, first, last{tile.given});"
            )

        lines = []
        if not shape.pack_moving:
            lines.append(
                f"const long at = n + {kernel.width} <= {kernel.columns} ? n : "
                f"{kernel.columns - kernel.width};"
            )
        heights, widths = kernel.heights, kernel.widths

        def by_width(height: int) -> str:
            if len(widths) == 1:
                return call(height, widths[0])
            return (
                f"if (n + {kernel.width} <= {kernel.columns}) {call(height, widths[0])} "
                f"else {call(height, widths[1])}"
            )

        if len(heights) == 1:
            return [*lines, by_width(heights[0])]
        return [
            *lines,
            f"if (o{roles.rows[-1]} + {heights[0]} <= {kernel.line}) {{ {by_width(heights[0])} }}",
            f"else {{ {by_width(heights[1])} }}",
        ]

    # -- Packing ---------------------------------------------------------------------------------------------

    def _panel(self, operand: Operand) -> str:
        """Where a factor that is packed begins in the loops around."""
        kernel = self.kernel
        size = kernel.rows * kernel.taps * kernel.depth
        if operand is kernel.roles.moving:
            size = kernel.panel_elements
        terms = []
        for axis in reversed(kernel.outer_of(operand)):
            terms.append((size, f"o{axis}"))
            size *= kernel.extents[axis]
        return total(terms)

    def _packing(self) -> list[str]:
        """The lines that copy the moving factor of a tile and a piece."""
        form = self.kernel.roles.moving.form
        at = total([(form.strides[axis], f"o{axis}") for axis in self.kernel.roles.outer], form.offset)
        from_ = f"p[{self.kernel.roles.moving.parameter}] + {at} + k0 * {self.kernel.step(form)}"
        return [
            "{",
            f"const float *const from = {from_};",
            "float *to = panel;",
            self._width(),
            *self._taps(),
            "for (long k = 0; k < k1 - k0; ++k)",
            *self._copied([(self.kernel.step(form), "k")]),
            "}",
        ]

    def _width(self) -> str:
        kernel = self.kernel
        return (
            f"const long width = n + {kernel.width} <= {kernel.columns} ? {kernel.width} : "
            f"{kernel.padded(kernel.columns % kernel.width)};"
        )

    def _taps(self) -> list[str]:
        extents = self.kernel.extents
        return [f"for (long r{a} = 0; r{a} < {extents[a]}; ++r{a})" for a in self.kernel.roles.taps]

    def _copied(self, depth: list[tuple[int, str]]) -> list[str]:
        """The loop that copies the lanes of the moving factor at a step of the sum to where ``to`` points."""
        kernel, roles, form = self.kernel, self.kernel.roles, self.kernel.roles.moving.form
        taps = [(form.strides[axis], f"r{axis}") for axis in roles.taps]
        at = total([*taps, *depth, *_along(roles.moving, roles.lane, "(n + l)")])
        tests = [f"n + l < {kernel.columns}"]
        for window in roles.moving.windows:
            axes = (*roles.outer, *roles.taps)
            names = [f"o{axis}" if axis in roles.outer else f"r{axis}" for axis in axes]
            terms = [(window.form.strides[axis], name) for axis, name in zip(axes, names, strict=True)]
            place = total([*terms, (window.form.strides[roles.lane], "(n + l)")], window.form.offset)
            tests.append(f"(unsigned long){place} < {window.length}")
        return [
            "for (long l = 0; l < width; ++l)",
            f"  *to++ = {' && '.join(tests)} ? from[{at}] : 0;",
        ]

    def _prepacks(self, symbol: str) -> list[str]:
        """The functions that pack weights."""
        kernel, roles, shape = self.kernel, self.kernel.roles, self.kernel.shape
        prefix = "" if symbol == "main" else f"{symbol}_"
        texts = []
        depth = [f"for (long r{a} = 0; r{a} < {kernel.extents[a]}; ++r{a})" for a in roles.depth]
        if kernel.packed:
            operand = roles.moving
            inner = [
                f"for (long n = 0; n < {kernel.columns}; n += {kernel.width}) {{",
                self._width(),
                *self._taps(),
                *depth,
                *self._copied([(operand.form.strides[axis], f"r{axis}") for axis in roles.depth]),
                "}",
            ]
            texts.append(self._prepack(prefix, operand, inner))
            size = kernel.panel_elements * math.prod(kernel.extents[a] for a in kernel.outer_of(operand))
            if size != operand.size:
                group = kernel.operator.dot.group if kernel.operator.dot else 1
                count = [f"result->type_index = kTVMFFIInt; result->v_int64 = {size * group};"]
                texts.append(function(prefix + elements_name(operand.parameter), count))
        if shape.pack_still:
            form = roles.still.form
            terms = [(form.strides[axis], f"r{axis}") for axis in (*roles.taps, *roles.depth)]
            row = f"(m + i) * {kernel.next_row(form)}"
            inner = [
                f"for (long m = 0; m < {kernel.rows}; m += {shape.rows}) {{",
                f"const long height = m + {shape.rows} <= {kernel.rows} ? {shape.rows} : {kernel.rows} - m;",
                *self._taps(),
                *depth,
                "for (long i = 0; i < height; ++i)",
                f"  *to++ = from[{total(terms)} + {row}];",
                "}",
            ]
            texts.append(self._prepack(prefix, roles.still, inner))
        return texts

    def _prepack(self, prefix: str, operand: Operand, inner: Sequence[str]) -> str:
        axes = self.kernel.outer_of(operand)
        lines = ["const float *const weight = data(&given[0]);", "float *to = data(&given[1]);"]
        lines += [f"for (long o{a} = 0; o{a} < {self.kernel.extents[a]}; ++o{a}) {{" for a in axes]
        offset = total([(operand.form.strides[axis], f"o{axis}") for axis in axes], operand.form.offset)
        lines += [f"const float *const from = weight + {offset};", *inner, *["}"] * len(axes)]
        return function(prefix + prepack_name(operand.parameter), lines)


def _along(operand: Operand, axis: int, variable: str) -> list[tuple[int, str]]:
    """How far an element is along an axis."""
    if operand.blocks is None:
        return [(operand.form.strides[axis], variable)]
    lanes = operand.blocks.lanes
    return [(operand.blocks.apart, f"({variable} / {lanes})"), (1, f"({variable} % {lanes})")]


def _range(count: int, is_shared: bool, times: int = 1) -> tuple[str, str]:
    """Where a loop over so many begins and ends, which threads may share."""
    if not is_shared:
        return "0", str(count * times)
    more = f" * {times}" if times > 1 else ""
    return f"BEGIN({count}){more}", f"END({count}){more}"


def _loop(low: str, begin: str, limit: str, step: int, high: str) -> list[str]:
    """The beginning of a loop over blocks."""
    return [
        f"for (long {low} = {begin}; {low} < {limit}; {low} += {step}) {{",
        f"const long {high} = {low} + {step} < {limit} ? {low} + {step} : {limit};",
    ]
