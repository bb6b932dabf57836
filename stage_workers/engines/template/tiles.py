"""The function that computes one tile of a sum of products, as text of C."""

from __future__ import annotations

from tunemesh.stage_workers.engines.template import elements, epilogues
from tunemesh.stage_workers.engines.template.contraction import Contraction
from tunemesh.stage_workers.engines.template.operators import FLOAT, Form
from tunemesh.stage_workers.engines.template.text import total
from tunemesh.stage_workers.graph.vector_code import INTEGER

SEGMENT = """\
static __attribute__((noinline)) const float *segment(float *to, const float *from, long low, long high,
                                                      long count) {{
  low = low < 0 ? 0 : low < count ? low : count;
  high = high < low ? low : high < count ? high : count;
  __builtin_memset(to, {around}, low * sizeof *to);
  __builtin_memcpy(to + low, from + low, (high - low) * sizeof *to);
  __builtin_memset(to + high, {around}, (count - high) * sizeof *to);
  return to;
}}
"""
"""A piece of a line, of which only what is from ``low`` up to ``high`` is there; all bytes ``around`` it are
the same."""


TOGETHER = {16: 4, 8: 2, 4: 2}
"""Vectors of so many lanes whose epilogues are computed together: as many as the registers hold."""


class Tile:
    """The functions of tiles: of all rows and columns, and of what is left at the ends."""

    def __init__(self, kernel: Contraction) -> None:
        self.kernel = kernel
        self.roles = kernel.roles
        self.lanes = kernel.shape.lanes
        dot = kernel.operator.dot
        self.sum = elements.ACCUMULATORS[dot.total if dot else FLOAT]
        """The type of sums."""
        self.to = f"{elements.TYPES[kernel.operator.dtype]} *restrict "
        """How a pointer to the result is declared."""

    def all(self) -> str:
        """The program, up to what calls these functions."""
        kernel = self.kernel
        has_part = kernel.columns % self.lanes > 0 and kernel.shape.pack_moving
        if epilogues.is_long(kernel.operator.epilogue):
            parts = [self._finish_all(has_part)]
        else:
            parts = [self._finish(partly) for partly in ((False, True) if has_part else (False,))]
        if kernel.segment:
            parts.append(SEGMENT.format(around=int(kernel.roles.still.beyond)))
        return "\n".join(
            [*parts, *(self._tile(rows, width) for rows in kernel.heights for width in kernel.widths)]
        )

    def name(self, rows: int, columns: int) -> str:
        return f"tile_{rows}_{columns}"

    @property
    def indices(self) -> list[str]:
        """The variables that say where a tile is."""
        return [f"o{axis}" for axis in (*self.roles.outer, *self.roles.rows)]

    @property
    def _where(self) -> str:
        return "".join(f", long {each}" for each in self.indices)

    @property
    def given(self) -> str:
        return "".join(f", {each}" for each in self.indices)

    def at(self, form: Form) -> str:
        """Where a form is at the first row of a tile, at the beginning of the sum."""
        axes = (*self.roles.outer, *self.roles.rows)
        return total([(form.strides[axis], f"o{axis}") for axis in axes], form.offset)

    def tap(self, form: Form) -> str:
        """What the taps add."""
        return total([(form.strides[axis], f"r{axis}") for axis in self.roles.taps])

    # -- The end of a sum ------------------------------------------------------------------------------------

    def _loads(self, row: str, column: str, count: str) -> list[str]:
        """What each step of the epilogue loads for a vector, or ``count`` lanes of it."""
        loads = []
        for step in self.kernel.operator.epilogue:
            if step.kind != "load":
                loads.append("")
                continue
            place = f"{self.at(step.form)} + {row} * {self.kernel.next_row(step.form)}"
            lanes = column if step.form.strides[self.roles.lane] else ""
            loads.append(elements.load(step.dtype, f"p[{step.parameter}]", place, lanes, count))
        return loads

    def _store(self, to: str, value: str, count: str) -> str:
        operator = self.kernel.operator
        return elements.store(operator.dtype, to, value, count, rounds=epilogues.rounds(operator.epilogue))

    def _finish(self, partly: bool) -> str:
        """The function that computes the epilogue of a vector and writes it; or some lanes of it."""
        count = "count" if partly else ""
        lines, result = epilogues.body(self.kernel.operator.epilogue, "sum", self._loads("i", "n", count))
        name, more = ("finish_part", ", int count") if partly else ("finish", "")
        text = "\n  ".join([*lines, self._store("c", result, count)])
        return (
            f"INLINE void {name}(const float *const *restrict p, {self.to}c, {self.sum} sum, "
            f"long i, long n{self._where}{more}) {{\n  {text}\n}}\n"
        )

    def _finish_all(self, has_part: bool) -> str:
        """The function that does that for all vectors of a tile, ``count`` in a row, of which the last one
        may have but ``rest`` lanes: some vectors together, the last one once more where these are too few."""
        apart, together = self.kernel.next_row(self.kernel.operator.output), TOGETHER[self.lanes]
        slots = range(together)
        lines = ["const long all_of_them = rows * count;", "long i = 0, j = 0;"]
        lines.append(f"for (long s = 0; s < all_of_them; s += {together}) {{")
        for k in slots:
            lines += [
                f"const long i{k} = i, j{k} = j, n{k} = n + j * {self.lanes};",
                f"const {self.sum} sum{k} = sums[i * count + j];",
                f"if (s + {k + 1} < all_of_them && ++j == count) {{ j = 0; ++i; }}",
            ]
            if has_part:
                lines.append(f"const int part{k} = rest && j{k} == count - 1;")
        kinds = {
            at: "ivec" if elements.VECTORS[step.dtype] == INTEGER else "vec"
            for at, step in enumerate(self.kernel.operator.epilogue)
            if step.kind == "load"
        }
        loads = []
        for k in slots:
            whole = self._loads(f"i{k}", f"n{k}", "")
            some = self._loads(f"i{k}", f"n{k}", "rest")
            for at, kind in kinds.items():
                value = f"part{k} ? {some[at]} : {whole[at]}" if has_part else whole[at]
                lines.append(f"const {kind} from{k}_{at} = {value};")
            loads.append([f"from{k}_{at}" if at in kinds else "" for at in range(len(whole))])
        made, results = epilogues.together(self.kernel.operator.epilogue, [f"sum{k}" for k in slots], loads)
        lines += made
        for k, result in zip(slots, results, strict=True):
            to = f"c + i{k} * {apart} + j{k} * {self.lanes}"
            whole_store = self._store(to, result, "")
            some_store = f"if (part{k}) {self._store(to, result, 'rest')} else " if has_part else ""
            lines.append(some_store + whole_store)
        lines.append("}")
        text = "\n  ".join(lines)
        return (
            "static __attribute__((noinline)) void finish_all(const float *const *restrict p, "
            f"{self.to}c, const {self.sum} *restrict sums, long rows, long count, int rest, long n"
            f"{self._where}) {{\n  {text}\n}}\n"
        )

    # -- A tile ----------------------------------------------------------------------------------------------

    def _tile(self, rows: int, columns: int) -> str:
        """The function that computes a tile; ``s``, ``v`` and ``c`` point to where it begins in the factors,
        at this piece of the sum, and in the result."""
        kernel = self.kernel
        count, rest = -(-columns // self.lanes), columns % self.lanes
        apart = kernel.next_row(kernel.operator.output)
        places = [
            (row, j, f"c + {row * apart + j * self.lanes}", rest if j == count - 1 else 0)
            for row in range(rows)
            for j in range(count)
        ]
        lines: list[str] = []
        for row, j, at, some in places:
            old = f"part({at}, {some})" if some else f"load({at})"
            lines.append(
                f"{self.sum} a{row}_{j} = " + ("{};" if kernel.whole else f"first ? (vec){{}} : {old};")
            )
        lines += self._sum_loops(rows, count, columns)
        if not kernel.whole:
            lines.append("if (!last) {")
            lines += [
                f"  store_part({at}, a{row}_{j}, {some});" if some else f"  store({at}, a{row}_{j});"
                for row, j, at, some in places
            ]
            lines += ["  return;", "}"]
        if epilogues.is_long(kernel.operator.epilogue):
            lines.append(f"{self.sum} sums[{rows * count}];")
            lines += [f"sums[{row * count + j}] = a{row}_{j};" for row, j, _, _ in places]
            lines.append(f"finish_all(p, c, sums, {rows}, {count}, {rest}, n{self.given});")
        else:
            lines += [self._call(at, f"a{row}_{j}", row, j, some) for row, j, at, some in places]
        text = "\n  ".join(lines)
        return (
            f"static __attribute__((noinline)) void {self.name(rows, columns)}"
            "(const float *const *restrict p, const float *restrict s, const float *restrict v, "
            f"{self.to}c, long n, long k0, long kc, int first, int last{self._where}) {{\n"
            f"  {text}\n}}\n"
        )

    def _call(self, at: str, value: str, row: int, j: int, some: int) -> str:
        place = f"p, {at}, {value}, {row}, n + {j * self.lanes}{self.given}"
        return f"finish_part({place}, {some});" if some else f"finish({place});"

    def _sum_loops(self, rows: int, count: int, columns: int) -> list[str]:
        """The loops over the sum."""
        kernel, roles = self.kernel, self.roles
        still, moving = roles.still, roles.moving
        number, taps = 1, []
        for axis in reversed(roles.taps):
            taps.append((number, f"r{axis}"))
            number *= kernel.extents[axis]
        if kernel.shape.pack_moving:
            steps = "kc" if kernel.scratch else kernel.depth
            moved = f"{total(taps)} * {steps} * {kernel.padded(columns)}"
        else:
            moved = self.tap(moving.form)
        stood = f"{total(taps)} * {kernel.depth * rows}" if kernel.shape.pack_still else self.tap(still.form)
        windows = [
            f"(unsigned long){self._position(window.form)} < {window.length}"
            for window in still.windows
            if window is not kernel.segment
        ]
        lines = []
        if kernel.segment:
            lines.append(f"float line[{kernel.reach(rows, kernel.piece)}] __attribute__((aligned(64)));")
        lines += [f"for (long r{a} = 0; r{a} < {kernel.extents[a]}; ++r{a}) {{" for a in roles.taps]
        there = " && ".join(windows) or "1"
        # Where zeros are around, lines that are not there add nothing.
        left_out = not still.beyond
        lines += [
            f"if ({there}) {{" if left_out and windows else "{",
            f"const float *u = v + {moved};",
            f"const float *q = s + {stood};",
        ]
        if kernel.segment:
            window = kernel.segment
            reach = f"{kernel.reach(rows, 1)} + (kc - 1) * {kernel.step(still.form)}"
            lines += [
                f"const long at = {self._position(window.place)} + k0 * {kernel.step(window.place)};",
                f"const long reach = {reach};",
                f"const int there = {'1' if left_out else there};",
                f"if (!there || at < 0 || at + reach > {window.end}) "
                f"q = segment(line, q, -at, there ? {window.end} - at : 0, reach);",
            ]
        lines += self._depth_loop(rows, count, columns)
        return [*lines, *["}"] * (len(roles.taps) + 1)]

    def _position(self, form: Form) -> str:
        """Where a form is at the first row of a tile and a tap."""
        return f"({self.at(form)} + {self.tap(form)})"

    def _added(self, row: int, j: int, value: str) -> str:
        if self.kernel.operator.dot:
            return f"DOT(a{row}_{j}, x, {value});"
        return f"a{row}_{j} += x * {value};"

    def _depth_loop(self, rows: int, count: int, columns: int) -> list[str]:
        kernel, form = self.kernel, self.roles.still.form
        limit = str(kernel.depth) if kernel.whole else "kc"
        wide = kernel.padded(columns) if kernel.shape.pack_moving else kernel.step(self.roles.moving.form)
        apart, next_row = kernel.step(form), kernel.next_row(form)
        if kernel.shape.pack_still:
            apart, next_row = rows, 1
        # What is left at the ends is run seldom, and compiled as long.
        unroll = kernel.shape.unroll if kernel.is_usual(rows, columns) else 1

        dot = kernel.operator.dot

        def steps(times: int) -> list[str]:
            lines = []
            for u in range(times):
                for j in range(count):
                    lines.append(f"  const vec v{u}_{j} = load(u + {u * wide + j * self.lanes});")
                for row in range(rows):
                    value = f"q[{u * apart + row * next_row}]"
                    lines.append(
                        f"  {{ const vec x = all({value});" if dot else f"  {{ const float x = {value};"
                    )
                    lines += [f"    {self._added(row, j, f'v{u}_{j}')}" for j in range(count)]
                    lines.append("  }")
            return [*lines, f"  u += {times * wide};", f"  q += {times * apart};"]

        if kernel.depth == 1:
            return steps(1)
        lines = ["long k = 0;", f"for (; k + {unroll} <= {limit}; k += {unroll}) {{", *steps(unroll), "}"]
        if kernel.depth % unroll or kernel.piece % unroll:
            lines += [f"for (; k < {limit}; ++k) {{", *steps(1), "}"]
        return lines
