"""Depthwise convolutions, pooling, and whatever else is one value of a few: each thread computes some results
of its own, one line of them, or of some neighbours at once. Nothing is shared but by the caches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunemesh.stage_workers.engines.template.cuda import text
from tunemesh.stage_workers.engines.template.cuda.gpu import Gpu
from tunemesh.stage_workers.engines.template.operators import Form, Operand, Operator
from tunemesh.stage_workers.engines.template.space import Knob, Space

THREADS = (32, 64, 128, 256, 512)
ROWS = (1, 2, 4, 7, 8)
VECTORS = {1: "float", 2: "float2", 4: "float4"}
MOST_RESULTS = 16
"""Of a thread."""
UNROLLED = 9
"""Steps of a kernel's axis up to which it may be unrolled."""


@dataclass(frozen=True)
class Share:
    """Values of the knobs.

    Attributes:
        threads: of a block.
        rows: results of a thread along the second axis of the result.
        vector: and along the first one, which are read and written at once.
        unroll: whether the axes of the sum are unrolled.
    """

    threads: int
    rows: int
    vector: int
    unroll: int


class Points:
    """One kernel."""

    def __init__(self, operator: Operator, share: Share) -> None:
        self.operator = operator
        self.share = share
        strides = operator.output.strides
        self.spatial = sorted(
            (axis for axis, each in enumerate(operator.axes) if not each.reduced),
            key=lambda axis: -strides[axis],
        )
        self.summed = [axis for axis, each in enumerate(operator.axes) if each.reduced]
        self.lane = self.spatial[-1]
        self.row = self.spatial[-2] if len(self.spatial) > 1 else None
        self.pieces = {axis: operator.axes[axis].extent for axis in self.spatial}
        """Threads along each axis."""
        self.pieces[self.lane] = -(-self.pieces[self.lane] // share.vector)
        if self.row is not None:
            self.pieces[self.row] = -(-self.pieces[self.row] // share.rows)
        self.count = math.prod(self.pieces.values())

    def objection(self, gpu: Gpu) -> str:
        """Why this is no kernel; empty where it is one."""
        share = self.share
        if share.threads > gpu.threads:
            return "a block has too many threads"
        if share.rows > 1 and (self.row is None or self.operator.axes[self.row].extent < share.rows):
            return "there are no such rows"
        if share.rows * share.vector > MOST_RESULTS:
            return "a thread has too many results"
        if share.vector > 1 and (self._is_padded or not all(map(self._fits, self._forms()))):
            return "neighbours do not lie side by side"
        if share.unroll and any(self.operator.axes[axis].extent > UNROLLED for axis in self.summed):
            return "the sum is too long to unroll"
        if -(-self.count // share.threads) > text.LIMIT_X or max(self.operator.parameters) >= text.INTEGERS:
            return "a tensor is too large"
        return ""

    def _forms(self) -> list[Form]:
        """Of what a thread reads or writes for neighbours at once."""
        return [self.operator.output, *(each.form for each in self.operator.factors)]

    @property
    def _is_padded(self) -> bool:
        """Whether the axis of neighbours is: what is beyond its ends is left out one by one."""
        windows = [window for each in self.operator.factors for window in each.windows]
        return any(window.form.uses(self.lane) for window in windows)

    def _fits(self, form: Form) -> bool:
        return not form.uses(self.lane) or text.is_aligned(
            form, self.lane, self.operator.axes, self.share.vector
        )

    def program(self) -> text.Program:
        share, operator = self.share, self.operator
        start = text.number(operator.start)
        lines = [
            f"const int thread = blockIdx.x * {share.threads} + threadIdx.x;",
            f"if (thread >= {self.count}) return;",
            *self._places(),
            f"float sums[{share.rows}][{share.vector}];",
            "#pragma unroll",
            f"for (int i = 0; i < {share.rows}; ++i)",
            "#pragma unroll",
            f"for (int j = 0; j < {share.vector}; ++j) sums[i][j] = {start};",
            *self._sum(),
            *self._finish(),
        ]
        body = "\n  ".join(lines)
        head = text.signature(len(operator.parameters), share.threads)
        grid = (-(-self.count // share.threads), 1, 1)
        return text.Program(f"{head} {{\n  {body}\n}}\n", grid, share.threads, 0)

    def _places(self) -> list[str]:
        """The variables of all axes but that of the rows, where the first row of a thread is ``first``."""
        lines = []
        inner = 1
        for axis in reversed(self.spatial):
            outermost = axis == self.spatial[0]
            place = f"thread / {inner}{'' if outermost else f' % {self.pieces[axis]}'}"
            inner *= self.pieces[axis]
            if axis == self.row:
                last = self.operator.axes[axis].extent - self.share.rows
                # The last rows are done once more where they are too few.
                lines.append(f"const int wanted = {place} * {self.share.rows};")
                lines.append(f"const int first = wanted < {last} ? wanted : {last};")
            else:
                factor = f" * {self.share.vector}" if axis == self.lane else ""
                lines.append(f"const int {text.name(axis)} = {place}{factor};")
        return lines

    def _row(self) -> list[str]:
        return [] if self.row is None else [f"const int {text.name(self.row)} = first + i;"]

    def _sum(self) -> list[str]:
        share, operator = self.share, self.operator
        every = range(len(operator.axes))
        lines = []
        for axis in self.summed:
            name = text.name(axis)
            lines += ["#pragma unroll"] if share.unroll else []
            lines.append(f"for (int {name} = 0; {name} < {operator.axes[axis].extent}; ++{name})")
        lines += ["#pragma unroll", f"for (int i = 0; i < {share.rows}; ++i) {{", *self._row()]
        here = " && ".join(filter(None, (text.inside(each, every) for each in operator.factors)))
        lines.append(f"if ({here}) {{" if here else "{")
        for number, operand in enumerate(operator.factors):
            lines += self._read(f"x{number}", operand)
        lines += ["#pragma unroll", f"for (int j = 0; j < {share.vector}; ++j) {{"]
        value = "x0[j] * x1[j]" if operator.combine == "product" else "x0[j]"
        lines.append(f"const float value = {value};")
        return [*lines, text.reduced(operator.combine, "sums[i][j]", "value"), "}", "}", "}"]

    def _read(self, name: str, operand: Operand) -> list[str]:
        """The lines that read what a thread needs of a factor."""
        vector, form = self.share.vector, operand.form
        place = f"p{operand.parameter} + {text.place(form, range(len(self.operator.axes)))}"
        if not form.uses(self.lane):
            values = ", ".join([f"{name}_"] * vector)
            return [f"const float {name}_ = *({place});", f"const float {name}[] = {{{values}}};"]
        if vector == 1:
            return [f"const float {name}[] = {{*({place})}};"]
        kind = VECTORS[vector]
        fields = ", ".join(f"{name}_.{field}" for field in "xyzw"[:vector])
        return [
            f"const {kind} {name}_ = *(const {kind} *)({place});",
            f"const float {name}[] = {{{fields}}};",
        ]

    def _finish(self) -> list[str]:
        share, operator = self.share, self.operator
        lane = text.name(self.lane)
        lines = ["#pragma unroll", f"for (int i = 0; i < {share.rows}; ++i) {{", *self._row()]
        lines += [f"const int lane0 = {lane};", "#pragma unroll"]
        lines += [f"for (int j = 0; j < {share.vector}; ++j) {{", f"const int {lane} = lane0 + j;"]
        lines += text.epilogue(operator.epilogue, ["sums[i][j]"], self.spatial)
        return [*lines, f"out[{text.place(operator.output, self.spatial)}] = e;", "}", "}"]


class Depthwise:
    """One value of a few, each with elements of its own."""

    name = "cuda-points"

    def objection(self, operator: Operator) -> str:
        return "" if any(not each.reduced for each in operator.axes) else "it has one result"

    def space(self, operator: Operator, gpu: Gpu) -> Space:
        knobs = (
            Knob("threads", THREADS),
            Knob("rows", ROWS),
            Knob("vector", tuple(VECTORS)),
            Knob("unroll", (0, 1)),
        )

        def valid(values: Sequence[int]) -> bool:
            return not Points(operator, Share(*values)).objection(gpu)

        def promise(values: Sequence[int]) -> float:
            """What is read is used several times; but there are threads for all of a GPU."""
            share = Share(*values)
            return min(share.rows * share.vector, 4) * min(1.0, Points(operator, share).count / 2**17)

        return Space(knobs, valid, promise)

    def program(self, operator: Operator, values: Sequence[int]) -> text.Program:
        return Points(operator, Share(*values)).program()
