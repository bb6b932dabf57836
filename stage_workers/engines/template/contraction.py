"""The loops around sums of products, as text of C.

A tile of the result stays in registers: some rows times some vectors of neighbours. Each step of the sum
loads the vectors of one factor (*moving*), and multiplies them with one number for each row of the other
(*still*). Around it are loops over the rows and the vectors in blocks, and over the sum in pieces, which the
caches hold. What is left at the ends is a smaller tile, whose code is there once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunemesh.stage_workers.engines.protocol import elements_name, prepack_name
from tunemesh.stage_workers.engines.template import epilogues
from tunemesh.stage_workers.engines.template.operators import Form, Operand, Operator
from tunemesh.stage_workers.engines.template.text import vectors

STACK = 2**14
"""Floats that a kernel may keep on the stack, beside registers: a thread may have little of it."""
ZEROS = 2**18
"""Floats that it may read in place of what is padded."""


@dataclass(frozen=True)
class Roles:
    """Which axis of an operator is what.

    Attributes:
        lane: neighbours in the output and in the moving factor.
        rows: axes that only the still factor has, numbered through as one, the last one fastest.
        outer: other axes of the result: loops around all else.
        depth: the axis of the sum that is gone along inside; ``None``: there is but one step.
        taps: other axes of the sum, as of a convolution's kernel.
        still: the factor that gives single numbers.
        moving: the factor that gives vectors.
    """

    lane: int
    rows: tuple[int, ...]
    outer: tuple[int, ...]
    depth: int | None
    taps: tuple[int, ...]
    still: Operand
    moving: Operand


@dataclass(frozen=True)
class Shape:
    """How the loops are cut.

    Attributes:
        lanes: of a vector.
        vectors: of a tile.
        rows: of a tile.
        unroll: steps of the sum that stand one after the other.
        depth: steps of the sum at a time; 0 for all.
        columns_block: tiles in a block along the vectors; 0 for all.
        rows_block: and along the rows.
        rows_first: whether the loop over the rows of a block is the inner one.
        pack_moving: whether the moving factor is put in the order in which it is read: a weight before,
            other factors tile by tile.
        pack_still: whether the other one is, which must be a weight.
    """

    lanes: int
    vectors: int
    rows: int
    unroll: int = 1
    depth: int = 0
    columns_block: int = 0
    rows_block: int = 0
    rows_first: bool = True
    pack_moving: bool = False
    pack_still: bool = False


class Contraction:
    """One kernel; :meth:`source` is its text."""

    def __init__(self, operator: Operator, roles: Roles, shape: Shape) -> None:
        self.operator = operator
        self.roles = roles
        self.shape = shape
        self.extents = [axis.extent for axis in operator.axes]
        self.columns = self.extents[roles.lane]
        self.rows = math.prod(self.extents[axis] for axis in roles.rows)
        self.depth = 1 if roles.depth is None else self.extents[roles.depth]
        self.taps = math.prod(self.extents[axis] for axis in roles.taps)
        self.piece = min(shape.depth or self.depth, self.depth)
        """Steps along the depth at a time."""
        self.width = shape.lanes * shape.vectors
        self.whole = self.piece == self.depth
        self.scratch = shape.pack_moving and not roles.moving.weight
        self.packed = shape.pack_moving and roles.moving.weight

    # -- What is valid ---------------------------------------------------------------------------------------

    def objection(self) -> str:
        """Why this shape makes no kernel; empty where it does."""
        shape, roles = self.shape, self.roles
        if shape.rows > self.rows:
            return "a tile has more rows than there are"
        if self.width >= self.columns + shape.lanes and shape.vectors > 1:
            return "a tile has more vectors than there are"
        if not shape.pack_moving:
            if roles.moving.form.strides[roles.lane] != 1:
                return "the moving factor must be packed"
            if self.width > self.columns:
                return "a tile is wider than the result"
            if self.columns % self.width and not self.whole:
                return "tiles overlap, and would be added twice"
        if shape.pack_still and not roles.still.weight:
            return "only weights are packed"
        if shape.pack_still and (roles.still.windows or len(roles.rows) > 1):
            return "a factor with gaps is not packed"
        if roles.moving.windows and not self.scratch:
            return "what is padded must be packed"
        if self.scratch and (not shape.rows_first or self.taps * self.piece * self.width > STACK):
            return "the tile that is packed is too large"
        if shape.unroll > 1 and self.piece % shape.unroll:
            return "unrolled steps do not fit"
        if shape.columns_block * self.width >= self.columns or shape.rows_block * shape.rows >= self.rows:
            return "a block is all there is"
        if shape.depth >= self.depth:
            return "a piece is all there is"
        return ""

    # -- Parts -----------------------------------------------------------------------------------------------

    def source(self, symbol: str) -> str:
        """The program whose function is called ``symbol``."""
        parts = [vectors(self.shape.lanes), epilogues.library(self.operator.epilogue)]
        if self.roles.still.windows:
            parts.append(f"static float zeros[{self._zeros()}];\n")
        parts += [self._finish(False)]
        if self.columns % self.shape.lanes and (self.packed or self.scratch):
            parts.append(self._finish(True))
        parts += [self._tile(rows, width) for rows in self._row_variants() for width in self._widths()]
        parts += [self._main(symbol), *self._prepacks(symbol)]
        return "\n".join(parts)

    @property
    def packs(self) -> list[int]:
        """Numbers of the weights that are packed."""
        packed = [self.roles.moving.parameter] if self.packed else []
        return sorted({*packed, *([self.roles.still.parameter] if self.shape.pack_still else [])})

    def _zeros(self) -> int:
        stride = 0 if self.roles.depth is None else self.roles.still.form.strides[self.roles.depth]
        return (self.depth - 1) * stride + 1

    def _row_variants(self) -> list[int]:
        rest = self.rows % self.shape.rows
        return [self.shape.rows, rest] if rest else [self.shape.rows]

    def _widths(self) -> list[int]:
        """Columns of the tiles that there are: in a narrower one not all lanes of the last vector count."""
        rest = self.columns % self.width
        if not rest or not self.shape.pack_moving:
            return [self.width]
        return [self.width, rest] if self.columns > self.width else [rest]

    def _padded(self, columns: int) -> int:
        """Columns of a packed tile."""
        return -(-columns // self.shape.lanes) * self.shape.lanes

    @property
    def _indices(self) -> str:
        """The parameters that say where a tile is."""
        return "".join(f", long o{axis}" for axis in self.roles.outer)

    @property
    def _given(self) -> str:
        return "".join(f", o{axis}" for axis in self.roles.outer)

    def _outer(self, form: Form) -> str:
        """What the loops around add to an offset."""
        return _sum([(form.strides[axis], f"o{axis}") for axis in self.roles.outer], form.offset)

    def _is_plain(self, form: Form) -> bool:
        """Whether rows lie at equal distances."""
        return all(
            form.strides[outer] == form.strides[inner] * self.extents[inner]
            for outer, inner in zip(self.roles.rows, self.roles.rows[1:], strict=False)
        )

    def _row(self, form: Form, row: str) -> str:
        """What a row adds to an offset."""
        rows = self.roles.rows
        if not rows:
            return "0"
        if self._is_plain(form):
            return _sum([(form.strides[rows[-1]], f"({row})")])
        terms, inner = [], 1
        for axis in reversed(rows):
            place = f"(({row}) / {inner})" if inner > 1 else f"({row})"
            inner *= self.extents[axis]
            if inner < self.rows:
                place = f"({place} % {self.extents[axis]})"
            terms.append((form.strides[axis], place))
        return _sum(terms)

    @property
    def _looked_up(self) -> bool:
        """Whether it is looked up for each row where the still factor begins."""
        still = self.roles.still
        return not self.shape.pack_still and bool(still.windows or not self._is_plain(still.form))

    # -- The end of a sum ------------------------------------------------------------------------------------

    def _finish(self, partly: bool) -> str:
        """The function that computes the epilogue of a vector and writes it; or some lanes of it."""
        loads = []
        for step in self.operator.epilogue:
            if step.kind != "load":
                loads.append("")
                continue
            place = f"p[{step.parameter}] + {self._outer(step.form)} + {self._row(step.form, 'm')}"
            if step.form.strides[self.roles.lane]:
                loads.append(f"part({place} + n, count)" if partly else f"load({place} + n)")
            else:
                loads.append(f"all(*({place}))")
        lines, result = epilogues.body(self.operator.epilogue, "sum", loads)
        name, more = ("finish_part", ", int count") if partly else ("finish", "")
        text = "\n  ".join(lines)
        write = f"store_part(c, {result}, count)" if partly else f"store(c, {result})"
        return (
            f"INLINE void {name}(const float *const *restrict p, float *restrict c, vec sum, long m, long n"
            f"{self._indices}{more}) {{\n  {text}\n  {write};\n}}\n"
        )

    # -- A tile ----------------------------------------------------------------------------------------------

    def _tile(self, rows: int, columns: int) -> str:
        """The function that computes a tile.

        ``s`` and ``v`` point to the factors of the tile at this piece of the sum, as far as they are not
        computed for each row.
        """
        lines: list[str] = []
        count = -(-columns // self.shape.lanes)
        rest = columns % self.shape.lanes
        places = [f"c + {self._row(self.operator.output, f'm + {row}')}" for row in range(rows)]
        for row in range(rows):
            for j in range(count):
                at = f"{places[row]} + {j * self.shape.lanes}"
                old = f"part({at}, {rest})" if rest and j == count - 1 else f"load({at})"
                lines.append(f"vec a{row}_{j} = " + ("{};" if self.whole else f"first ? (vec){{}} : {old};"))
        if self._looked_up:
            lines += self._row_starts(rows)
        lines += self._sum_loops(rows, count, columns)
        lines += [f"float *const c{row} = {place};" for row, place in enumerate(places)]
        if not self.whole:
            lines.append("if (!last) {")
            lines += [f"  {line}" for line in self._stores(rows, count, rest)]
            lines += ["  return;", "}"]
        lines += self._finished(rows, columns)
        text = "\n  ".join(lines)
        return (
            f"static __attribute__((noinline)) void {self._name(rows, columns)}"
            "(const float *const *restrict p, const float *restrict s, const float *restrict v, "
            f"float *restrict c, long m, long n, long kc, int first, int last{self._indices}) {{\n"
            f"  {text}\n}}\n"
        )

    def _name(self, rows: int, columns: int) -> str:
        return f"tile_{rows}_{columns}"

    def _row_starts(self, rows: int) -> list[str]:
        """Where each row of the still factor begins."""
        lines = []
        for row in range(rows):
            where = f"m + {row}"
            lines.append(f"const long b{row} = {self._row(self.roles.still.form, where)};")
            for number, window in enumerate(self.roles.still.windows):
                at = f"{self._outer(window.form)} + {self._row(window.form, where)}"
                lines.append(f"const long w{number}_{row} = {at};")
        return lines

    def _sum_loops(self, rows: int, count: int, columns: int) -> list[str]:
        """The loops over the sum."""
        still, moving = self.roles.still, self.roles.moving
        lines = [
            f"for (long r{axis} = 0; r{axis} < {self.extents[axis]}; ++r{axis}) {{"
            for axis in self.roles.taps
        ]
        if self.shape.pack_moving:
            at = f"{self._tap()} * {'kc' if self.scratch else self.depth} * {self._padded(columns)}"
        else:
            at = _sum([(moving.form.strides[axis], f"r{axis}") for axis in self.roles.taps])
        lines.append(f"const float *u = v + {at};")
        if self.shape.pack_still:
            lines.append(f"const float *q = s + {self._tap()} * {self.depth * rows};")
        elif not self._looked_up:
            tap = _sum([(still.form.strides[axis], f"r{axis}") for axis in self.roles.taps])
            lines.append(f"const float *q = s + {self._row(still.form, 'm')} + {tap};")
        else:
            tap = _sum([(still.form.strides[axis], f"r{axis}") for axis in self.roles.taps])
            for row in range(rows):
                start = f"s + b{row} + {tap}"
                tests = [
                    f"(unsigned long)(w{number}_{row} + "
                    f"{_sum([(window.form.strides[axis], f'r{axis}') for axis in self.roles.taps])})"
                    f" < {window.length}"
                    for number, window in enumerate(still.windows)
                ]
                lines.append(
                    f"const float *q{row} = "
                    + (f"{' && '.join(tests)} ? {start} : zeros;" if tests else f"{start};")
                )
        lines += self._depth_loop(rows, count, columns)
        return [*lines, *["}"] * len(self.roles.taps)]

    def _tap(self) -> str:
        """The number of the tap."""
        terms, step = [], 1
        for axis in reversed(self.roles.taps):
            terms.append((step, f"r{axis}"))
            step *= self.extents[axis]
        return _sum(terms)

    def _depth_loop(self, rows: int, count: int, columns: int) -> list[str]:
        limit = str(self.depth) if self.whole else "kc"
        packed, still = self.shape.pack_moving, self.roles.still
        axis = self.roles.depth
        step = (
            self._padded(columns)
            if packed
            else self.roles.moving.form.strides[axis]
            if axis is not None
            else 0
        )
        apart = rows if self.shape.pack_still else still.form.strides[axis] if axis is not None else 0
        next_row = 1
        if not self.shape.pack_still and self.roles.rows:
            next_row = still.form.strides[self.roles.rows[-1]]
        # What is left at the ends is run seldom, and compiled as long.
        unroll = self.shape.unroll if self._is_usual(rows, columns) else 1

        def steps(times: int) -> list[str]:
            lines = []
            for u in range(times):
                for j in range(count):
                    lines.append(f"  const vec v{u}_{j} = load(u + {u * step + j * self.shape.lanes});")
                for row in range(rows):
                    at = (
                        f"q{row}[(k + {u}) * {apart}]"
                        if self._looked_up
                        else f"q[{u * apart + row * next_row}]"
                    )
                    lines.append(f"  {{ const float x = {at};")
                    lines += [f"    a{row}_{j} += x * v{u}_{j};" for j in range(count)]
                    lines.append("  }")
            lines.append(f"  u += {times * step};")
            if not self._looked_up:
                lines.append(f"  q += {times * apart};")
            return lines

        if self.depth == 1:
            return ["{", "const long k = 0;", *steps(1), "}"]
        lines = ["long k = 0;", f"for (; k + {unroll} <= {limit}; k += {unroll}) {{", *steps(unroll), "}"]
        if self.depth % unroll or self.piece % unroll:
            lines += [f"for (; k < {limit}; ++k) {{", *steps(1), "}"]
        return lines

    def _stores(self, rows: int, count: int, rest: int) -> list[str]:
        """Of sums that are not complete."""
        lines = []
        for row in range(rows):
            for j in range(count):
                at = f"c{row} + {j * self.shape.lanes}, a{row}_{j}"
                lines.append(f"store_part({at}, {rest});" if rest and j == count - 1 else f"store({at});")
        return lines

    def _is_usual(self, rows: int, columns: int) -> bool:
        """Whether a tile is no smaller one at an end."""
        return (rows, columns) == (self.shape.rows, self._widths()[0])

    def _finished(self, rows: int, columns: int) -> list[str]:
        lanes = self.shape.lanes
        count, rest = -(-columns // lanes), columns % lanes
        if self._is_usual(rows, columns) and not epilogues.is_long(self.operator.epilogue):
            return [
                self._call(f"c{row} + {j * lanes}", f"a{row}_{j}", f"m + {row}", j, rest, count)
                for row in range(rows)
                for j in range(count)
            ]
        lines = [f"vec sums[{rows}][{count}];"]
        lines += [f"sums[{row}][{j}] = a{row}_{j};" for row in range(rows) for j in range(count)]
        lines.append(f"for (long i = 0; i < {rows}; ++i) {{")
        lines.append(f"  float *const ci = c + {self._row(self.operator.output, 'm + i')};")
        lines += [
            "  " + self._call(f"ci + {j * lanes}", f"sums[i][{j}]", "m + i", j, rest, count)
            for j in range(count)
        ]
        return [*lines, "}"]

    def _call(self, at: str, value: str, row: str, j: int, rest: int, count: int) -> str:
        place = f"p, {at}, {value}, {row}, n + {j * self.shape.lanes}{self._given}"
        return f"finish_part({place}, {rest});" if rest and j == count - 1 else f"finish({place});"

    # -- All tiles -------------------------------------------------------------------------------------------

    def _main(self, symbol: str) -> str:
        operator, roles, shape = self.operator, self.roles, self.shape
        inputs = len(operator.parameters) - 1
        lines = [f"const float *const p[] = {{{', '.join(f'data(&given[{i}])' for i in range(inputs))}}};"]
        lines.append(f"float *const out = data(&given[{inputs}]);")
        for axis in roles.outer:
            lines.append(f"for (long o{axis} = 0; o{axis} < {self.extents[axis]}; ++o{axis}) {{")
        lines.append(f"const float *const still = p[{roles.still.parameter}] + {self._start(roles.still)};")
        lines.append(
            f"const float *const moving = p[{roles.moving.parameter}] + {self._start(roles.moving)};"
        )
        lines.append(f"float *const c = out + {self._outer(operator.output)};")
        if self.scratch:
            lines.append(
                f"float panel[{self.taps * self.piece * self._padded(self.width)}]"
                " __attribute__((aligned(64)));"
            )
        wide, high = shape.columns_block * self.width, shape.rows_block * shape.rows
        lines += _loop("n0", str(self.columns), wide or self.columns, "n1")
        lines += _loop("k0", str(self.depth), self.piece, "k1")
        lines.append(f"const int first = k0 == 0, last = k1 == {self.depth};")
        lines += _loop("m0", str(self.rows), high or self.rows, "m1")
        columns = [f"for (long n = n0; n < n1; n += {self.width}) {{"]
        rows = [f"for (long m = m0; m < m1; m += {shape.rows}) {{"]
        if self.scratch:
            columns += self._packing()
        lines += [*columns, *rows] if shape.rows_first else [*rows, *columns]
        lines += self._dispatch()
        lines += ["}"] * (5 + len(roles.outer))
        text = "\n  ".join(lines)
        return (
            f"int __tvm_ffi_{symbol}(void *self, const TVMFFIAny *given, int32_t count, "
            "TVMFFIAny *result) {\n"
            f"  {text}\n  return 0;\n}}\n"
        )

    def _start(self, operand: Operand) -> str:
        """Where a factor begins in the loops around."""
        roles = self.roles
        packed = self.packed if operand is roles.moving else self.shape.pack_still
        if not packed:
            return self._outer(operand.form)
        size = self._panel_elements if operand is roles.moving else self.rows * self.taps * self.depth
        terms = []
        for axis in reversed(self._outer_of(operand)):
            terms.append((size, f"o{axis}"))
            size *= self.extents[axis]
        return _sum(terms)

    def _outer_of(self, operand: Operand) -> list[int]:
        """The loops around that a factor depends on."""
        return [axis for axis in self.roles.outer if operand.form.uses(axis)]

    @property
    def _panel_elements(self) -> int:
        """Of the moving factor when it is packed, at one place of the loops around."""
        rest = self.columns % self.width
        return (self.columns - rest + self._padded(rest)) * self.taps * self.depth

    def _dispatch(self) -> list[str]:
        """The call of the tile at ``m`` and ``n``."""
        roles, shape = self.roles, self.shape
        still, moving = roles.still.form, roles.moving.form
        steps = self.taps * self.depth
        along = 0 if roles.depth is None else still.strides[roles.depth]

        def call(rows: int, columns: int) -> str:
            if shape.pack_still:
                s = f"still + m * {steps} + k0 * {rows}"
            else:
                s = f"still + k0 * {along}"
            if self.scratch:
                v = "panel"
            elif self.packed:
                v = f"moving + n * {steps} + k0 * {self._padded(columns)}"
            else:
                deep = 0 if roles.depth is None else moving.strides[roles.depth]
                v = f"moving + at + k0 * {deep}"
            where = "at" if not shape.pack_moving else "n"
            return (
                f"{self._name(rows, columns)}(p, {s}, {v}, c + {where}, m, {where}, k1 - k0, first, last"
                f"{self._given});"
            )

        lines = []
        if not shape.pack_moving:
            lines.append(
                f"const long at = n + {self.width} <= {self.columns} ? n : {self.columns - self.width};"
            )
        rows, widths = self._row_variants(), self._widths()

        def by_width(height: int) -> str:
            if len(widths) == 1:
                return call(height, widths[0])
            return (
                f"if (n + {self.width} <= {self.columns}) {call(height, widths[0])} "
                f"else {call(height, widths[1])}"
            )

        if len(rows) == 1:
            return [*lines, by_width(rows[0])]
        return [
            *lines,
            f"if (m + {rows[0]} <= {self.rows}) {{ {by_width(rows[0])} }}",
            f"else {{ {by_width(rows[1])} }}",
        ]

    # -- Packing ---------------------------------------------------------------------------------------------

    def _packing(self) -> list[str]:
        """The lines that copy the moving factor of a tile and a piece."""
        return [
            f"const long width = n + {self.width} <= {self.columns} ? {self.width} : "
            f"{self._padded(self.columns % self.width)};",
            "float *to = panel;",
            *self._copied("moving", "k0", "k1", "n", "width"),
        ]

    def _copied(self, source: str, low: str, high: str, n: str, width: str) -> list[str]:
        """Loops that copy the moving factor from ``source`` to where ``to`` points."""
        roles, form = self.roles, self.roles.moving.form
        lines = [f"for (long r{axis} = 0; r{axis} < {self.extents[axis]}; ++r{axis})" for axis in roles.taps]
        terms = [(form.strides[axis], f"r{axis}") for axis in roles.taps]
        if roles.depth is not None:
            terms.append((form.strides[roles.depth], "k"))
        at = _sum([*terms, (form.strides[roles.lane], f"({n} + l)")])
        tests = [f"{n} + l < {self.columns}"]
        for window in roles.moving.windows:
            terms = [(window.form.strides[axis], f"r{axis}") for axis in roles.taps]
            place = _sum([*terms, (window.form.strides[roles.lane], f"({n} + l)")])
            tests.append(f"(unsigned long)({self._outer(window.form)} + {place}) < {window.length}")
        return [
            *lines,
            f"for (long k = {low}; k < {high}; ++k)",
            f"for (long l = 0; l < {width}; ++l)",
            f"  *to++ = {' && '.join(tests)} ? {source}[{at}] : 0;",
        ]

    def _prepacks(self, symbol: str) -> list[str]:
        """The functions that pack weights."""
        prefix = "" if symbol == "main" else f"{symbol}_"
        texts = []
        roles, shape = self.roles, self.shape
        if self.packed:
            operand = roles.moving
            inner = [
                f"for (long n = 0; n < {self.columns}; n += {self.width}) {{",
                f"const long width = n + {self.width} <= {self.columns} ? {self.width} : "
                f"{self._padded(self.columns % self.width)};",
                *self._copied("from", "0", str(self.depth), "n", "width"),
                "}",
            ]
            texts.append(self._prepack(prefix, operand, inner))
            elements = self._panel_elements * math.prod(self.extents[a] for a in self._outer_of(operand))
            if elements != operand.size:
                texts.append(
                    f"int __tvm_ffi_{prefix}{elements_name(operand.parameter)}"
                    "(void *self, const TVMFFIAny *given, int32_t count, TVMFFIAny *result) {\n"
                    f"  result->type_index = kTVMFFIInt; result->v_int64 = {elements};\n  return 0;\n}}\n"
                )
        if shape.pack_still:
            form = roles.still.form
            terms = [(form.strides[axis], f"r{axis}") for axis in roles.taps]
            if roles.depth is not None:
                terms.append((form.strides[roles.depth], "k"))
            loops = [
                f"for (long r{axis} = 0; r{axis} < {self.extents[axis]}; ++r{axis})" for axis in roles.taps
            ]
            inner = [
                f"for (long m = 0; m < {self.rows}; m += {shape.rows}) {{",
                f"const long height = m + {shape.rows} <= {self.rows} ? {shape.rows} : {self.rows} - m;",
                *loops,
                f"for (long k = 0; k < {self.depth}; ++k)",
                "for (long i = 0; i < height; ++i)",
                f"  *to++ = from[{_sum(terms)} + {self._row(form, 'm + i')}];",
                "}",
            ]
            texts.append(self._prepack(prefix, roles.still, inner))
        return texts

    def _prepack(self, prefix: str, operand: Operand, inner: Sequence[str]) -> str:
        axes = self._outer_of(operand)
        lines = ["const float *const weight = data(&given[0]);", "float *to = data(&given[1]);"]
        lines += [f"for (long o{axis} = 0; o{axis} < {self.extents[axis]}; ++o{axis}) {{" for axis in axes]
        offset = _sum([(operand.form.strides[axis], f"o{axis}") for axis in axes], operand.form.offset)
        lines += [f"const float *const from = weight + {offset};", *inner, *["}"] * len(axes)]
        text = "\n  ".join(lines)
        return (
            f"int __tvm_ffi_{prefix}{prepack_name(operand.parameter)}"
            "(void *self, const TVMFFIAny *given, int32_t count, TVMFFIAny *result) {\n"
            f"  {text}\n  return 0;\n}}\n"
        )


def roles_of(operator: Operator) -> Roles | str:
    """Which axis is what, with rows along one axis; or why there is no way to say so."""
    lanes = [axis for axis, stride in enumerate(operator.output.strides) if stride == 1]
    if len(lanes) != 1:
        return "its results do not lie side by side"
    (lane,) = lanes
    owners = [each for each in (operator.left, operator.right) if each.form.uses(lane)]
    if len(owners) != 1:
        return "both factors have an element of their own for each result"
    (moving,) = owners
    still = operator.right if moving is operator.left else operator.left
    summed = [axis for axis, each in enumerate(operator.axes) if each.reduced]
    spatial = [axis for axis, each in enumerate(operator.axes) if not each.reduced and axis != lane]
    rows = [axis for axis in spatial if still.form.uses(axis) and not moving.form.uses(axis)]
    outer = [axis for axis in spatial if axis not in rows]
    loads = [step.form for step in operator.epilogue if step.kind == "load"]
    if any(form.strides[lane] not in (0, 1) for form in loads):
        return "what follows reads a tensor in another order"
    return Roles(
        lane=lane, rows=tuple(rows), outer=tuple(outer), depth=None, taps=tuple(summed), still=still,
        moving=moving,
    )  # fmt: skip


def _sum(terms: Sequence[tuple[int, str]], offset: int = 0) -> str:
    """A sum of multiples, in brackets."""
    parts = [name if factor == 1 else f"{name} * {factor}" for factor, name in terms if factor]
    if offset:
        parts.append(str(offset))
    return f"({' + '.join(parts)})" if parts else "0"


def _loop(low: str, limit: str, step: int, high: str) -> list[str]:
    """The beginning of a loop over blocks."""
    return [
        f"for (long {low} = 0; {low} < {limit}; {low} += {step}) {{",
        f"const long {high} = {low} + {step} < {limit} ? {low} + {step} : {limit};",
    ]
