"""Products, and convolutions as products: a block of threads computes a tile of the result.

A piece of each factor lies in the block's memory, with what is padded as zeros; each thread has a few sums in
registers. The next piece is read into registers meanwhile, where there are two stages. Results of a thread
are a number of threads apart, so that neighbours read and write neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunemesh.stage_workers.engines.template.cuda import text
from tunemesh.stage_workers.engines.template.cuda.gpu import Gpu
from tunemesh.stage_workers.engines.template.operators import Operand, Operator
from tunemesh.stage_workers.engines.template.space import Knob, Space

ROWS = COLUMNS = (8, 16, 32, 64, 128)
DEPTH = (4, 8, 16, 32)
EACH = (1, 2, 4, 8)
UNROLL = (1, 4, 8)
VECTOR = 4
LEAST_THREADS = 32
MOST_SUMS = 64
"""Of a thread, in registers."""
MOST_LOADS = 32
"""Numbers that a thread reads for one step, in registers, too."""


@dataclass(frozen=True)
class Sides:
    """Which axis of an operator is what.

    Attributes:
        columns: of the result, that the moving factor has: the last one is the fastest in memory.
        rows: that the other one has.
        batch: that both have, or none.
        depth: of the sum, the last one is the fastest.
        still: the factor of the rows.
        moving: the factor of the columns.
    """

    columns: tuple[int, ...]
    rows: tuple[int, ...]
    batch: tuple[int, ...]
    depth: tuple[int, ...]
    still: Operand
    moving: Operand


@dataclass(frozen=True)
class Tile:
    """Values of the knobs.

    Attributes:
        rows: of a block.
        columns: of a block.
        depth: steps of the sum in the block's memory.
        each_row: rows of a thread.
        each_column: columns of a thread.
        vector: numbers that are read at once, where a factor allows it.
        stages: pieces that are in the block's memory at once.
        unroll: steps of the sum that stand one after the other.
    """

    rows: int
    columns: int
    depth: int
    each_row: int
    each_column: int
    vector: int
    stages: int
    unroll: int

    @property
    def threads(self) -> int:
        return self.rows // self.each_row * (self.columns // self.each_column)

    @property
    def shared(self) -> int:
        """Bytes of a block's memory. A row is one number longer than it has to be, so that what is written
        across rows goes to different banks."""
        return 4 * self.stages * self.depth * (self.rows + 1 + self.columns + 1)


def sides_of(operator: Operator) -> Sides | str:
    """Which axis is what, or why there is no way to say so."""
    if operator.right is None:
        return "it multiplies nothing"
    strides = operator.output.strides
    spatial = [axis for axis, each in enumerate(operator.axes) if not each.reduced]
    spatial.sort(key=lambda axis: -strides[axis])
    if not spatial or not any(each.reduced for each in operator.axes):
        return "it has no result or no sum"
    lane = spatial[-1]
    owners = [each for each in operator.factors if each.form.uses(lane)]
    if len(owners) != 1:
        return "both factors have an element of their own for each result"
    (moving,) = owners
    still = operator.right if moving is operator.left else operator.left

    def of(one: bool, other: bool) -> tuple[int, ...]:
        return tuple(a for a in spatial if (moving.form.uses(a), still.form.uses(a)) == (one, other))

    depth = [axis for axis, each in enumerate(operator.axes) if each.reduced]
    depth.sort(key=lambda axis: -max(abs(each.form.strides[axis]) for each in operator.factors))
    return Sides(
        columns=of(True, False),
        rows=of(False, True),
        batch=(*of(True, True), *of(False, False)),
        depth=tuple(depth),
        still=still,
        moving=moving,
    )


class Tiled:
    """One kernel."""

    def __init__(self, operator: Operator, sides: Sides, tile: Tile) -> None:
        self.operator = operator
        self.sides = sides
        self.tile = tile
        self.extents = dict(enumerate(axis.extent for axis in operator.axes))

    def _count(self, axes: Sequence[int]) -> int:
        return math.prod(self.extents[axis] for axis in axes)

    @property
    def grid(self) -> tuple[int, int, int]:
        rows, columns = self._count(self.sides.rows), self._count(self.sides.columns)
        return (-(-columns // self.tile.columns), -(-rows // self.tile.rows), self._count(self.sides.batch))

    def _vector(self, operand: Operand, axis: int) -> int:
        padded = any(window.form.uses(axis) for window in operand.windows)
        fits = text.is_aligned(operand.form, axis, self.operator.axes, VECTOR)
        return self.tile.vector if fits and not padded else 1

    @property
    def vectors(self) -> tuple[int, int]:
        """Numbers that are read at once of the still factor, along the sum, and of the moving one, along the
        columns."""
        return (
            self._vector(self.sides.still, self.sides.depth[-1]),
            self._vector(self.sides.moving, self.sides.columns[-1]),
        )

    def objection(self, gpu: Gpu) -> str:
        """Why this is no kernel; empty where it is one."""
        tile, (x, y, z) = self.tile, self.grid
        if tile.each_row > tile.rows or tile.each_column > tile.columns:
            return "a thread does more than its block"
        if not LEAST_THREADS <= tile.threads <= gpu.threads:
            return "a block has too few or too many threads"
        if tile.shared > gpu.shared:
            return "a block needs too much memory"
        if tile.each_row * tile.each_column > MOST_SUMS:
            return "a thread has too many sums"
        if x > text.LIMIT_X or max(y, z) > text.LIMIT_Y:
            return "there are too many blocks"
        if max(self.operator.parameters) >= text.INTEGERS:
            return "a tensor is too large"
        if tile.vector > 1 and max(self.vectors) == 1:
            return "no factor is read several numbers at a time"
        for length, vector in zip((tile.rows, tile.columns), self.vectors, strict=True):
            if length * tile.depth % (tile.threads * vector):
                return "threads do not read equally much"
            if length * tile.depth // tile.threads > MOST_LOADS:
                return "a thread reads too much"
        if tile.unroll > tile.depth:
            return "unrolled steps do not fit"
        return ""

    def program(self) -> text.Program:
        tile = self.tile
        lines = [
            f"__shared__ float still[{tile.stages}][{tile.depth}][{tile.rows + 1}];",
            f"__shared__ float moving[{tile.stages}][{tile.depth}][{tile.columns + 1}];",
            "const int thread = threadIdx.x;",
            f"const int row0 = blockIdx.y * {tile.rows}, column0 = blockIdx.x * {tile.columns};",
            *text.split("(int)blockIdx.z", self.sides.batch, self.extents),
            f"const int across = thread % {tile.columns // tile.each_column};",
            f"const int down = thread / {tile.columns // tile.each_column};",
            f"float sums[{tile.each_row}][{tile.each_column}] = {{}};",
            f"float next_still[{tile.rows * tile.depth // tile.threads}];",
            f"float next_moving[{tile.columns * tile.depth // tile.threads}];",
            *self._loop(),
            *self._finish(),
        ]
        body = "\n  ".join(lines)
        head = text.signature(len(self.operator.parameters), tile.threads)
        return text.Program(f"{head} {{\n  {body}\n}}\n", self.grid, tile.threads, tile.shared)

    def _loop(self) -> list[str]:
        """Reads and sums. With one stage all wait until what was read before is used."""
        tile, depth = self.tile, self._count(self.sides.depth)
        read, written = self._read(), self._written()
        if tile.stages == 1:
            return [
                f"for (int step0 = 0; step0 < {depth}; step0 += {tile.depth}) {{",
                "const int stage = 0;",
                *read, "__syncthreads();", *written, "__syncthreads();", *self._sum(), "}",
            ]  # fmt: skip
        return [
            "{ const int step0 = 0, stage = 0;", *read, *written, "}",
            "__syncthreads();",
            f"for (int from = 0; from < {depth}; from += {tile.depth}) {{",
            f"const int now = from / {tile.depth} & 1, stage = now ^ 1, step0 = from + {tile.depth};",
            f"if (step0 < {depth}) {{", *read, "}",
            "{ const int stage = now;", *self._sum(), "}",
            f"if (step0 < {depth}) {{", *written, "}",
            "__syncthreads();", "}",
        ]  # fmt: skip

    def _pieces(self, which: int) -> tuple[str, Operand, tuple[int, ...], int, int, bool]:
        """Name, factor, axes, length and vector of a factor's piece, and whether neighbouring threads go
        along the sum."""
        sides, tile = self.sides, self.tile
        if which == 0:
            along = sides.still.form.strides[sides.depth[-1]] == 1 or not sides.rows
            return "still", sides.still, sides.rows, tile.rows, self.vectors[0], along
        along = sides.moving.form.strides[sides.columns[-1]] != 1
        return "moving", sides.moving, sides.columns, tile.columns, self.vectors[1], along

    def _position(self, which: int) -> list[str]:
        """Which number of a piece a thread reads: ``own`` along the factor's axes, ``step`` along the sum."""
        _, _, _, length, vector, along = self._pieces(which)
        lines = [f"const int at = (thread + i * {self.tile.threads}) * {vector};"]
        if along:
            return [*lines, f"const int own = at / {self.tile.depth}, step = at % {self.tile.depth};"]
        return [*lines, f"const int own = at % {length}, step = at / {length};"]

    def _read(self) -> list[str]:
        lines = []
        for which in range(2):
            name, operand, axes, length, vector, _ = self._pieces(which)
            origin = "row0" if which == 0 else "column0"
            count, depth = self._count(axes), self._count(self.sides.depth)
            used = (*self.sides.batch, *axes, *self.sides.depth)
            place = f"p{operand.parameter} + {text.place(operand.form, used)}"
            conditions = [f"number < {count}"] if count % length else []
            conditions += [f"along < {depth}"] if depth % self.tile.depth else []
            here = text.inside(operand, used)
            lines += [
                "#pragma unroll",
                f"for (int i = 0; i < {length * self.tile.depth // self.tile.threads // vector}; ++i) {{",
                *self._position(which),
                f"const int number = {origin} + own, along = step0 + step;",
                *text.split("number", axes, self.extents),
                *text.split("along", self.sides.depth, self.extents),
            ]
            condition = " && ".join([*conditions, *([here] if here else [])]) or "true"
            if vector > 1:
                lines += [
                    f"const float4 v = {condition} ? *(const float4 *)({place}) : "
                    "make_float4(0.0f, 0.0f, 0.0f, 0.0f);",
                    f"next_{name}[i * 4] = v.x; next_{name}[i * 4 + 1] = v.y;",
                    f"next_{name}[i * 4 + 2] = v.z; next_{name}[i * 4 + 3] = v.w;",
                ]
            else:
                lines.append(f"next_{name}[i] = {condition} ? *({place}) : 0.0f;")
            lines.append("}")
        return lines

    def _written(self) -> list[str]:
        lines = []
        for which in range(2):
            name, _, _, length, vector, along = self._pieces(which)
            lines += [
                "#pragma unroll",
                f"for (int i = 0; i < {length * self.tile.depth // self.tile.threads // vector}; ++i) {{",
                *self._position(which),
            ]
            for lane in range(vector):
                step, own = (f"step + {lane}", "own") if along else ("step", f"own + {lane}")
                lines.append(f"{name}[stage][{step}][{own}] = next_{name}[i * {vector} + {lane}];")
            lines.append("}")
        return lines

    def _sum(self) -> list[str]:
        tile = self.tile
        apart, beside = tile.rows // tile.each_row, tile.columns // tile.each_column
        return [
            f"#pragma unroll {tile.unroll}",
            f"for (int step = 0; step < {tile.depth}; ++step) {{",
            f"float x[{tile.each_row}], y[{tile.each_column}];",
            "#pragma unroll",
            f"for (int i = 0; i < {tile.each_row}; ++i) x[i] = still[stage][step][down + i * {apart}];",
            "#pragma unroll",
            f"for (int j = 0; j < {tile.each_column}; ++j)",
            f"y[j] = moving[stage][step][across + j * {beside}];",
            "#pragma unroll",
            f"for (int i = 0; i < {tile.each_row}; ++i)",
            "#pragma unroll",
            f"for (int j = 0; j < {tile.each_column}; ++j) sums[i][j] += x[i] * y[j];",
            "}",
        ]

    def _finish(self) -> list[str]:
        """The epilogue of all results of a thread."""
        tile, sides = self.tile, self.sides
        apart, beside = tile.rows // tile.each_row, tile.columns // tile.each_column
        axes = (*sides.batch, *sides.rows, *sides.columns)
        return [
            "#pragma unroll",
            f"for (int i = 0; i < {tile.each_row}; ++i) {{",
            f"const int row = row0 + down + i * {apart};",
            f"if (row >= {self._count(sides.rows)}) break;",
            *text.split("row", sides.rows, self.extents),
            "#pragma unroll",
            f"for (int j = 0; j < {tile.each_column}; ++j) {{",
            f"const int column = column0 + across + j * {beside};",
            f"if (column >= {self._count(sides.columns)}) break;",
            *text.split("column", sides.columns, self.extents),
            *text.epilogue(self.operator.epilogue, ["sums[i][j]"], axes),
            f"out[{text.place(self.operator.output, axes)}] = e;",
            "}", "}",
        ]  # fmt: skip


class Product:
    """Sums of products whose factors are used several times."""

    name = "cuda-product"

    def objection(self, operator: Operator) -> str:
        sides = sides_of(operator)
        return sides if isinstance(sides, str) else ""

    def space(self, operator: Operator, gpu: Gpu) -> Space:
        sides = _known(operator)
        depth = math.prod(operator.axes[axis].extent for axis in sides.depth)
        lines = math.prod(operator.axes[axis].extent for axis in sides.rows)
        knobs = (
            Knob("rows", tuple(value for value in ROWS if value < 2 * max(lines, ROWS[0]))),
            Knob("columns", COLUMNS),
            Knob("depth", tuple(value for value in DEPTH if value < 2 * max(depth, DEPTH[0]))),
            Knob("each_row", EACH),
            Knob("each_column", EACH),
            Knob("vector", (1, VECTOR)),
            Knob("stages", (1, 2)),
            Knob("unroll", UNROLL),
        )

        def valid(values: Sequence[int]) -> bool:
            return not Tiled(operator, sides, Tile(*values)).objection(gpu)

        def promise(values: Sequence[int]) -> float:
            """Products for each number that a thread reads from its block's memory; blocks that are full, and
            many enough for a GPU."""
            tile = Tile(*values)
            each = tile.each_row * tile.each_column / (tile.each_row + tile.each_column)
            blocks = math.prod(Tiled(operator, sides, tile).grid)
            return (
                each * min(1.0, tile.threads / 128) * min(1.0, blocks / 132) * (1.1 if tile.stages > 1 else 1)
            )

        return Space(knobs, valid, promise)

    def program(self, operator: Operator, values: Sequence[int]) -> text.Program:
        return Tiled(operator, _known(operator), Tile(*values)).program()


def _known(operator: Operator) -> Sides:
    sides = sides_of(operator)
    assert isinstance(sides, Sides)
    return sides
