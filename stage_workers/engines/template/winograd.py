"""Convolutions of 3x3 by Winograd's algorithm (:mod:`stage_workers.graph.winograd`), as text of C.

Some tiles go through all steps together, so that what lies between stays in the caches: their inputs are
transformed, multiplied with the weights, which were transformed when the model was put together, and the
products transformed to outputs, which go through the epilogue at once. That may be done for all channels of
the result, or for some of them at a time. Where a tile hangs over the image, its inputs are copied first,
with zeros around them.

Of a convolution in bfloat16, what is transformed may be rounded to bfloat16 once more, for tiles of 2x2
outputs: their transforms only add and halve, so little is lost. Larger ones multiply in single precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from tunemesh.stage_workers.engines.template import elements, epilogues, winograd_weights
from tunemesh.stage_workers.engines.template.operators import FLOAT, Form
from tunemesh.stage_workers.engines.template.text import loop, shared, total, transformed, vectors
from tunemesh.stage_workers.engines.template.winograd_cut import Cut
from tunemesh.stage_workers.engines.template.winograd_roles import BY_ROWS, FUSED
from tunemesh.stage_workers.graph import winograd


class Convolved(Cut):
    """The text of one kernel."""

    def source(self, symbol: str) -> str:
        """The program whose function is called ``symbol``."""
        operator = self.operator
        dtypes = {self.dtype, operator.dtype, *(step.dtype for step in operator.epilogue)}
        parts = [
            "#include <stdlib.h>\n#define APART static __attribute__((noinline))",
            vectors(self.shape.lanes),
            elements.text(dtypes, operator.dot.name if operator.dot and self.shape.narrow else ""),
            epilogues.library(operator.epilogue),
            self._patch("patch", FLOAT),
            self._patch(self.of_image, self.dtype) if operator.dot else "",
            self._inputs(), self._multiply(), self._finish(False),
        ]  # fmt: skip
        if self.columns % self.shape.lanes:
            parts.append(self._finish(True))
        parts += [self._outputs(), self._main(symbol), *winograd_weights.prepack(self, symbol)]
        return "\n".join(parts)

    def _patch(self, name: str, dtype: str) -> str:
        """The function that transforms the inputs of one tile and one vector of channels: their columns, and
        then their rows."""
        size, matrix = self.size, winograd.of_inputs(self.shape.outputs)
        store, plane = "store_halves" if self.shape.narrow else "store", self.input_plane * self.pair
        lines = [
            f"vec h[{self.planes}];",
            *loop("j", size, transformed(
                lambda values: winograd.transformed(matrix, values),
                [elements.single(dtype, f"q + {i} * down + j * across") for i in range(size)],
                [f"h[{i * size} + j] = {{}};" for i in range(size)],
            )),
            *loop("i", size, transformed(
                lambda values: winograd.transformed(matrix, values),
                [f"h[i * {size} + {j}]" for j in range(size)],
                [f"{store}(to + (i * {size} + {j}) * {plane}, {{}});" for j in range(size)],
            )),
        ]  # fmt: skip
        of = elements.TYPES[dtype]
        return _text(f"APART void {name}(const {of} *q, long down, long across, {self.held} *to)", lines)

    def _inputs(self) -> str:
        """The function that transforms all inputs of the tile at ``y`` and ``x``."""
        size, lanes, form = self.size, self.shape.lanes, self.roles.image.form
        down, across = (form.strides[axis] * self.group for axis in (self.roles.down, self.roles.across))
        inside = [self._inside("y", "i"), self._inside("x", "j")]
        rest = self.inputs % lanes
        place = f"q + i * {down} + j * {across} + c"
        load = elements.single(self.dtype, place)
        if rest:
            part = elements.single(self.dtype, place, rest)
            load = f"(c + LANES <= {self.inputs} ? {load} : {part})"
        copied = [
            f"float copy[{self.planes} * LANES] __attribute__((aligned(64)));",
            f"for (long i = 0; i < {size}; ++i) for (long j = 0; j < {size}; ++j)",
            f"  store(copy + (i * {size} + j) * LANES, {inside[0]} && {inside[1]} ? {load} : all(0));",
            f"patch(copy, {size} * LANES, LANES, to + c);",
        ]
        corners = [self._inside(axis, end) for axis in ("y", "x") for end in ("0", str(size - 1))]
        lines = [
            f"const int whole = {' && '.join(corners)};",
            f"for (long c = 0; c < {self.inputs}; c += LANES) {{",
            f"if (whole{f' && c + LANES <= {self.inputs}' if rest else ''}) "
            f"{self.of_image}(q + c, {down}, {across}, to + c);",
            "else {",
            *copied,
            "}",
            "}",
        ]
        of = elements.TYPES[self.dtype]
        return _text(f"APART void inputs(const {of} *q, {self.held} *to, long y, long x)", lines)

    def _inside(self, axis: str, at: str) -> str:
        """Whether there is an input ``at`` lines or pixels behind the first one of a tile: only there may it
        be read."""
        down = axis == "y"
        number = self.roles.down if down else self.roles.across
        limit = (self.height if down else self.width) + winograd.TAPS - 1
        tests = [f"{axis} + {at} < {limit}"]
        for window in self.roles.image.windows:
            if window.form.uses(number):
                place = total([(window.form.strides[number], f"({axis} + {at})")], window.form.offset)
                tests.append(f"(unsigned long){place} < {window.length}")
        return f"({' && '.join(tests)})"

    def _multiply(self) -> str:
        """The function that computes some rows and columns of a product."""
        shape = self.shape
        places = list(product(range(shape.rows), range(shape.vectors)))
        lines = [f"vec a{row}_{j} = {{}};" for row, j in places]
        lines.append(f"for (long k = 0; k < {self.steps}; k += {shape.unroll}) {{")
        value, added = ("float x = {};", "a{0}_{1} += x * {2};")
        if shape.narrow:
            value, added = ("vec x = all({});", "DOT(a{0}_{1}, x, {2});")
        for u in range(shape.unroll):
            for j in range(shape.vectors):
                lines.append(f"const vec u{u}_{j} = load(u + {u * self.at_a_time + j * shape.lanes});")
            for row in range(shape.rows):
                lines.append("{ const " + value.format(f"v[{u + row * self.input_row}]"))
                lines += [added.format(row, j, f"u{u}_{j}") for j in range(shape.vectors)]
                lines.append("}")
        lines += [f"u += {shape.unroll * self.at_a_time};", f"v += {shape.unroll};", "}"]
        lines += [f"store(m + {row * self.product_row + j * shape.lanes}, a{row}_{j});" for row, j in places]
        return _text("APART void multiply(const float *v, const float *restrict u, float *restrict m)", lines)

    def _at(self, form: Form) -> str:
        return total([(form.strides[axis], f"o{axis}") for axis in self.roles.spatial], form.offset)

    @property
    def _where(self) -> str:
        return "".join(f", long o{axis}" for axis in self.roles.spatial)

    @property
    def _out(self) -> str:
        return f"{elements.TYPES[self.operator.dtype]} *restrict out"

    def _finish(self, partly: bool) -> str:
        """The function that computes the epilogue of a vector and writes it; or some lanes of it."""
        loads = []
        for step in self.operator.epilogue:
            if step.kind != "load":
                loads.append("")
                continue
            lanes = "n" if step.form.strides[self.roles.lane] else ""
            count = "count" if partly else ""
            loads.append(elements.load(step.dtype, f"p[{step.parameter}]", self._at(step.form), lanes, count))
        lines, result = epilogues.body(self.operator.epilogue, "sum", loads)
        name, more = ("finish_part", ", int count") if partly else ("finish", "")
        place = f"out + {self._at(self.operator.output)} + n"
        count, rounds = "count" if partly else "", epilogues.rounds(self.operator.epilogue)
        write = elements.store(self.operator.dtype, place, result, count, rounds=rounds)
        return _text(
            f"INLINE void {name}(const float *const *restrict p, {self._out}, vec sum, "
            f"long n{self._where}{more})",
            [*lines, write],
        )

    def _outputs(self) -> str:
        """The function that transforms the products of a tile, for channels from ``n0`` on, and finishes
        them."""
        shape, size, outputs, roles = self.shape, self.size, self.shape.outputs, self.roles
        matrix = winograd.of_products(outputs)
        place = "".join(f", o{axis}" for axis in (*roles.images, roles.down, roles.across))
        last, rest = self.columns - self.columns % shape.lanes, self.columns % shape.lanes
        finish = f"finish(p, out, f[j], n{place});"
        if rest:
            finish = f"if (n < {last}) {finish} else finish_part(p, out, f[j], n{place}, {rest});"
        bottom = f"if (y + i < {self.height}) " if self.height % outputs else ""
        right = f"if (x + j < {self.width}) " if self.width % outputs else ""
        lines = [
            "for (long n = n0; n < n1; n += LANES, m += LANES) {",
            f"vec h[{outputs * size}];",
            *loop("j", size, transformed(
                lambda values: winograd.transformed_by_columns(matrix, values),
                [f"load(m + ({i * size} + j) * {self.product_plane})" for i in range(size)],
                [f"h[{i * size} + j] = {{}};" for i in range(outputs)],
            )),
            f"for (long i = 0; i < {outputs}; ++i) {bottom}{{",
            f"vec f[{outputs}];",
            *transformed(
                lambda values: winograd.transformed_by_columns(matrix, values),
                [f"h[i * {size} + {j}]" for j in range(size)],
                [f"f[{j}] = {{}};" for j in range(outputs)],
            ),
            f"for (long j = 0; j < {outputs}; ++j) {right}{{",
            f"const long o{roles.down} = y + i, o{roles.across} = x + j;",
            finish,
            "}", "}", "}",
        ]  # fmt: skip
        image = "".join(f", long o{axis}" for axis in roles.images)
        return _text(
            f"APART void outputs(const float *const *restrict p, {self._out}, "
            f"const float *restrict m, long n0, long n1{image}, long y, long x)",
            lines,
        )

    def _main(self, symbol: str) -> str:
        """The exported function."""
        shape, roles = self.shape, self.roles
        inputs, blocks = len(self.operator.parameters) - 1, -(-self.tiles // self.block)
        image, form = roles.image.parameter, roles.image.form
        corner = [(form.strides[axis], f"o{axis}") for axis in roles.images]
        corner += [(form.strides[axis], name) for axis, name in ((roles.down, "y"), (roles.across, "x"))]
        panel = self.steps * self.at_a_time
        v = f"v + plane * {self.input_plane} + t * {self.input_row}"
        u = f"u + (plane * {self.blocks} + b) * {panel}"
        fused = shape.order == FUSED
        m = f"m + plane * {self.product_plane} + t * {self.product_row}"
        columns = f"for (long b = 0; b < {self.blocks}; ++b)"
        rows = f"for (long t = 0; t < count; t += {shape.rows})"
        planes = f"for (long plane = 0; plane < {self.planes}; ++plane)"
        call = f"multiply({v}, {u}, {m}{'' if fused else f' + b * {self.at_a_time}'});"
        place = "".join(f", o{axis}" for axis in roles.images)

        def outputs(n0: str, n1: str) -> list[str]:
            return [
                "for (long t = 0; t < count; ++t) {",
                *self._corner("first + t"),
                f"outputs(p, out, m + t * {self.product_row}, {n0}, {n1}{place}, y, x);",
                "}",
            ]

        lines = [
            f"const float *const p[] = {{{', '.join(f'data(&given[{i}])' for i in range(inputs))}}};",
            f"{self._out} = (void *)data(&given[{inputs}]);",
            f"const float *const u = p[{roles.weights.parameter}];",
            f"float *const v = aligned_alloc(64, {-(-self.room // 64) * 64});",
            "if (!v) return -1;",
            f"float *const m = v + {self.planes * self.input_plane};",
            f"for (long block = BEGIN({blocks}); block < END({blocks}); ++block) {{",
            f"const long first = block * {self.block};",
            f"const long count = {self.tiles} - first < {self.block} ? {self.tiles} - first : {self.block};",
            # What is multiplied beside the last tiles are these once more.
            f"for (long t = 0; t < (count + {shape.rows - 1}) / {shape.rows} * {shape.rows}; ++t) {{",
            *self._corner(f"(t < count ? first + t : {self.tiles - 1})"),
            f"inputs((const void *)(p[{image}] + {total(corner, form.offset)}), "
            f"(void *)(v + t * {self.input_row}), y, x);",
            "}",
        ]
        if fused:
            lines += [f"{columns} {{", planes, f"{rows} {call}"]
            n0, n1 = f"b * {self.at_a_time}", f"(b + 1) * {self.at_a_time}"
            lines += [*outputs(n0, f"({n1} < {self.columns} ? {n1} : {self.columns})"), "}"]
        else:
            lines += [planes, f"{rows} {columns}" if shape.order == BY_ROWS else f"{columns} {rows}", call]
            lines += outputs("0", str(self.columns))
        return shared(symbol, [*lines, "}", "free(v);"])

    def _corner(self, tile: str) -> list[str]:
        """The first output of a tile."""
        outputs = self.shape.outputs
        lines = [
            f"const long tile = {tile};",
            f"const long x = tile % {self.across} * {outputs};",
            f"const long y = tile / {self.across} % {self.down} * {outputs};",
        ]
        return lines + [
            f"const long o{axis} = tile / {self.across * self.down};" for axis in self.roles.images
        ]


def _text(head: str, lines: Sequence[str]) -> str:
    body = "\n  ".join(lines)
    return f"{head} {{\n  {body}\n}}\n"
