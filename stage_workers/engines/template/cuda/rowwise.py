"""Softmax, layer normalisation and what else takes sums or maxima of rows and goes through these once more:
some threads do a row together, and keep what later passes read of it in registers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunemesh.stage_workers.engines.template.cuda import text
from tunemesh.stage_workers.engines.template.cuda.gpu import Gpu
from tunemesh.stage_workers.engines.template.operators import Step
from tunemesh.stage_workers.engines.template.rows import Rows
from tunemesh.stage_workers.engines.template.space import Knob, Space

THREADS = (32, 64, 128, 256, 512, 1024)
ROWS = (1, 2, 4, 8)
MOST_KEPT = 32
"""Numbers of a row that a thread keeps."""


@dataclass(frozen=True)
class Group:
    """Values of the knobs.

    Attributes:
        threads: that do a row.
        rows: of a block.
    """

    threads: int
    rows: int


class Rowwise:
    """One kernel."""

    def __init__(self, task: Rows, group: Group) -> None:
        self.task = task
        self.group = group
        self.length = task.axes[-1].extent
        self.count = math.prod(axis.extent for axis in task.axes[:-1])
        self.each = -(-self.length // group.threads)
        """Elements of a row that a thread has."""
        self.axes = range(len(task.axes))

    @property
    def shared(self) -> int:
        return 4 * self.group.threads * self.group.rows

    def objection(self, gpu: Gpu) -> str:
        """Why this is no kernel; empty where it is one."""
        if self.group.threads * self.group.rows > gpu.threads:
            return "a block has too many threads"
        if self.shared > gpu.shared:
            return "a block needs too much memory"
        if self.group.threads > 32 and self.group.threads >= 2 * self.length:
            return "most threads have nothing to do"
        kept = sum(each.kind == "map" for each in self.task.passes[:-1])
        if self.each * max(kept, 1) > MOST_KEPT:
            return "a thread has too much of a row"
        if any(each.kind == "sum" and each.start for each in self.task.passes):
            return "a sum begins with another number than zero"
        if max(self.task.parameters) >= text.INTEGERS or self.count > text.LIMIT_X:
            return "a tensor is too large"
        return ""

    def program(self) -> text.Program:
        group, task = self.group, self.task
        extents = {axis: task.axes[axis].extent for axis in self.axes}
        lines = [
            f"__shared__ float shared[{group.rows}][{group.threads}];",
            f"const int thread = threadIdx.x % {group.threads}, own = threadIdx.x / {group.threads};",
            f"const int row = blockIdx.x * {group.rows} + own;",
            # All wait for each other, also those that have no row: these do the last one once more.
            f"const int number = row < {self.count} ? row : {self.count - 1};",
            *text.split("number", list(self.axes[:-1]), extents),
        ]
        for at, each in enumerate(task.passes):
            lines += self._map(at) if each.kind == "map" else self._reduction(at)
        body = "\n  ".join(lines)
        head = text.signature(len(task.parameters), group.threads * group.rows)
        grid = (-(-self.count // group.rows), 1, 1)
        return text.Program(f"{head} {{\n  {body}\n}}\n", grid, group.threads * group.rows, self.shared)

    def _each(self, at: int) -> list[str]:
        """The beginning of a loop over a thread's elements, up to the value of a pass."""
        lane = text.name(self.axes[-1])
        ragged = self.length % self.group.threads
        return [
            "#pragma unroll",
            f"for (int i = 0; i < {self.each}; ++i) {{",
            f"const int {lane} = thread + i * {self.group.threads};",
            *([f"if ({lane} < {self.length}) {{"] if ragged else ["{"]),
            *text.epilogue(self._steps(at), self._earlier(), self.axes),
        ]

    def _steps(self, at: int) -> Sequence[Step]:
        return self.task.passes[at].steps

    def _earlier(self) -> list[str]:
        return [f"m{n}[i]" if each.kind == "map" else f"t{n}" for n, each in enumerate(self.task.passes)]

    def _map(self, at: int) -> list[str]:
        if at < len(self.task.passes) - 1:
            return [f"float m{at}[{self.each}];", *self._each(at), f"m{at}[i] = e;", "}", "}"]
        place = text.place(self.task.output, self.axes)
        return [*self._each(at), f"if (row < {self.count}) out[{place}] = e;", "}", "}"]

    def _reduction(self, at: int) -> list[str]:
        """Each thread reduces what it has, then half of them what the others have, until one is left."""
        each, threads = self.task.passes[at], self.group.threads
        lines = [f"float s{at} = {text.number(each.start)};", *self._each(at)]
        lines += [text.reduced(each.kind, f"s{at}", "e"), "}", "}", f"shared[own][thread] = s{at};"]
        lines += [
            "#pragma unroll",
            f"for (int apart = {threads // 2}; apart; apart /= 2) {{",
            "__syncthreads();",
            "if (thread < apart) {",
            "const float other = shared[own][thread + apart];",
            text.reduced(each.kind, "shared[own][thread]", "other"),
            "}", "}",
            "__syncthreads();",
            f"const float t{at} = shared[own][0];",
            # Before it is written again.
            "__syncthreads();",
        ]  # fmt: skip
        return lines


class RowByRow:
    name = "cuda-rowwise"

    def objection(self, operator: Rows) -> str:
        return ""

    def space(self, operator: Rows, gpu: Gpu) -> Space:
        knobs = (Knob("threads", THREADS), Knob("rows", ROWS))

        def valid(values: Sequence[int]) -> bool:
            return not Rowwise(operator, Group(*values)).objection(gpu)

        def promise(values: Sequence[int]) -> float:
            """Four elements for a thread."""
            return -abs(math.log2(Rowwise(operator, Group(*values)).each / 4))

        return Space(knobs, valid, promise)

    def program(self, operator: Rows, values: Sequence[int]) -> text.Program:
        return Rowwise(operator, Group(*values)).program()
