"""A rule of MetaSchedule's for CPUs: reductions whose results stay in registers.

MetaSchedule's own rule draws the sizes of four levels of tiles at random. For a convolution of 1x1 with few
channels, or a depthwise one, few of them use whole vectors, and fewer keep the sums in registers, so that
tens of trials reach a half of what the core can do. Here the innermost tile is one that fits
(:mod:`.tiles`), the last axis is cut into whole vectors, and everything within the tile is unrolled. What
stands behind is computed on the tile, and what pads the input right before it. What is left to draw, the
shape of the tile, how far the reduction is unrolled, and whether rows or columns come first, is little, and
most of it is good. A search begins with it. Later, one candidate of four is drawn by MetaSchedule's rules:
they reach tiles of tiles, for caches, and never run out of candidates.

A kernel has one such reduction. Where there are other stages, or vectors do not work out, MetaSchedule's own
rules do what they always did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tunemesh.stage_workers.engines.metaschedule import blocks, tiles
from tunemesh.stage_workers.engines.metaschedule.factors import divisors
from tunemesh.stage_workers.engines.metaschedule.tiles import Registers, Tile
from tunemesh.stage_workers.graph import targets, workloads

FLOATS = frozenset({"float32", "float64"})
UNROLLED_WINDOW = 9
"""Most elements of a window that are unrolled as a whole; of a larger one only its last axis is."""
UNROLLED_STEPS = (1, 2, 4)
"""How many steps of a long reduction may be unrolled."""
LEAST_SKETCHES = 9
"""A search draws from all sketches alike, and MetaSchedule's own rules make up to three: this many make it
draw three of four candidates here. Fewer are repeated."""
CACHED = 2**16
"""Elements that a core's own caches hold beside all else."""


class _Reduction(NamedTuple):
    """What a kernel computes, as far as it matters here.

    Attributes:
        block: of the schedule, that sums up.
        pads: blocks that it reads from, which only move elements.
        rows: axes that a tile takes rows from, by number; the last of them is that of neighbours.
        together: whether rows are numbered through along all these axes.
        windows: whether every element has inputs of its own.
        spatial: extents of all axes of the result.
        reduced: extents of the axes that are summed up.
        lanes: of a vector.
    """

    block: Any
    pads: list[Any]
    rows: list[int]
    together: bool
    windows: bool
    spatial: list[int]
    reduced: list[int]
    lanes: int


def rule(module: Any, target: str, alone: bool) -> Any:
    """The rule as MetaSchedule takes it, for a workload and a canonical target of a CPU.

    Args:
        alone: whether no other rule is to have a say in what this one takes.
    """
    registers = Registers(*targets.vector_registers(target))
    free = [module["main"].params[number] for number in workloads.weights_of(module["main"])]
    cores = targets.cores(target)

    def apply(schedule: Any, block: Any) -> list[Any]:
        reduction = _reduction(schedule, block, registers, free)
        sketches = [] if reduction is None else _sketches(schedule, reduction, registers, cores)
        if alone and sketches:
            return sketches
        times = math.ceil(LEAST_SKETCHES / max(len(sketches), 1))
        return [schedule, *(each.copy() for each in sketches * times)]

    return blocks.python_rule(apply)


def _reduction(schedule: Any, block: Any, registers: Registers, free: Sequence[Any]) -> _Reduction | None:
    """What ``block`` sums up; ``None`` where it sums up nothing, or tiles of registers are nothing for it."""
    from tvm.tirx import IterVar

    node = schedule.get(block)
    if node.init is None or len(node.writes) != 1:
        return None
    axes = [each for each in node.iter_vars if each.iter_type == IterVar.DataPar]
    steps = [each for each in node.iter_vars if each.iter_type == IterVar.CommReduce]
    written = [each.min for each in node.writes[0].region]
    dtypes = {str(each.source.dtype) for each in (node.writes[0], *node.reads)}
    pads = _pads(schedule, block)
    if (
        pads is None
        or len(axes) < 2
        or not steps
        or list(node.iter_vars) != [*axes, *steps]
        or not blocks.is_fixed(node)
        or not blocks.are(written, axes)
        or len(dtypes) != 1
        or not dtypes <= FLOATS
    ):
        return None
    vector, others = axes[-1].var, [each.var for each in axes[:-1]]
    still = [each.var for each in steps if int(each.dom.extent) == 1]
    weights: list[Any] = []
    inputs: list[Any] = []
    for read in node.reads:
        if not any(read.source.same_as(each) for each in free) and not blocks.is_in_order(
            read, vector, still
        ):
            return None
        (weights if blocks.reads(read, vector) else inputs).append(read)
    rows = [
        number
        for number, each in enumerate(others)
        if not all(blocks.reads(read, each) for read in (weights if inputs else node.reads))
    ]
    if not rows and not inputs and len(weights) == 1:  # as in a pooling
        rows = list(range(len(others)))[-2:]
    spatial = blocks.extents(axes)
    lanes = registers.lanes(spatial[-1], blocks.bits(dtypes.pop()))
    if not rows or not lanes:
        return None
    moving = [each.var for each in steps if int(each.dom.extent) > 1]
    together = bool(inputs) and not pads and rows == list(range(rows[0], rows[-1] + 1))
    for index in (one.min for read in inputs for one in read.region):
        of_rows = [number for number in rows if blocks.uses(index, others[number])]
        # Else neighbours along an axis share inputs.
        together &= not of_rows or (
            len(of_rows) == 1 and not any(blocks.uses(index, each) for each in moving)
        )
    return _Reduction(
        block=block,
        pads=pads,
        rows=rows,
        together=together,
        windows=not inputs,
        spatial=spatial,
        reduced=blocks.extents(steps),
        lanes=lanes,
    )


def _pads(schedule: Any, block: Any) -> list[Any] | None:
    """The blocks that ``block`` reads from; ``None`` where the kernel is more than those, the block, and one
    that makes each element of the result of one of the block's."""
    pads, behind = list(schedule.get_producers(block)), schedule.get_consumers(block)
    if len(blocks.stages(schedule)) != len(pads) + 1 + len(behind) or len(behind) > 1:
        return None
    if any(schedule.get(each).init is not None or schedule.get_producers(each) for each in pads):
        return None
    result = schedule.get(block).writes[0].source
    for each in map(schedule.get, behind):
        if each.init is not None or len(each.writes) != 1:
            return None
        regions = [*(read for read in each.reads if read.source.same_as(result)), *each.writes]
        if not all(blocks.are([one.min for one in region.region], each.iter_vars) for region in regions):
            return None
    return pads


def _sketches(schedule: Any, reduction: _Reduction, registers: Registers, cores: int) -> list[Any]:
    """Schedules with tiles of all kinds that fit."""
    extents = [reduction.spatial[number] for number in reduction.rows]
    vectors = reduction.spatial[-1] // reduction.lanes
    if reduction.together or len(extents) == 1:
        rows = {1: tiles.row_tiles(extents)}
    else:
        heights = divisors(extents[-2])[: tiles.HEIGHTS]
        rows = {height: divisors(extents[-1]) for height in heights}
    if reduction.windows:
        found = [(tile, True) for tile in tiles.of_windows(rows, vectors)]
    else:
        orders = _orders(reduction)
        found = [(tile, first) for tile in tiles.of_products(registers, rows, vectors) for first in orders]
    return [_Sketch(schedule.copy(), reduction, tile, first, cores).made() for tile, first in found]


def _orders(reduction: _Reduction) -> list[bool]:
    """Whether columns come first: those of weights that a cache does not hold are read once then, and rows
    all the more often."""
    steps = math.prod(reduction.reduced)
    if steps * reduction.spatial[-1] <= CACHED:
        return [False]
    rows = math.prod(reduction.spatial[number] for number in reduction.rows)
    return [True] if steps * rows <= CACHED else [False, True]


class _Sketch:
    """Applies a kind of tile to a schedule."""

    def __init__(
        self, schedule: Any, reduction: _Reduction, tile: Tile, columns_first: bool, cores: int
    ) -> None:
        self._schedule = schedule
        self._reduction = reduction
        self._tile = tile
        self._columns_first = columns_first
        self._cores = cores

    def made(self) -> Any:
        schedule, block = self._schedule, self._reduction.block
        behind = list(schedule.get_consumers(block)) or [schedule.cache_write(block, 0, "global")]
        outer, pad_at = self._tiled(block)
        for pad in self._reduction.pads:
            self._padded(pad, pad_at)
        for each in behind:
            schedule.reverse_compute_at(each, outer[-1], preserve_unit_loops=True)
            *others, last = schedule.get_loops(each)[len(outer) :]
            self._unrolled([*others, self._vectorised(last)])
        blocks.take(schedule, [block, *self._reduction.pads])
        return schedule

    def _tiled(self, block: Any) -> tuple[list[Any], Any]:
        """The loops over tiles, and the one of them in which padded input is made; ``None`` for all of it at
        once."""
        schedule, reduction, tile = self._schedule, self._reduction, self._tile
        loops = schedule.get_loops(block)
        axes, steps = loops[: len(reduction.spatial)], loops[len(reduction.spatial) :]
        batch = [each for number, each in enumerate(axes[:-1]) if number not in reduction.rows]
        rows = [axes[number] for number in reduction.rows]
        rows = [schedule.fuse(*rows)] if reduction.together else rows
        count = self._drawn(tile.rows)
        *lines, row = rows
        inner = []
        if tile.height > 1:
            line, within = schedule.split(lines.pop(), [None, tile.height])
            lines.append(line)
            inner.append(within)
        row, within = schedule.split(row, [None, count])
        inner.append(within)
        column, side, lane = schedule.split(axes[-1], [None, tile.vectors, reduction.lanes])
        inner.append(side)
        steps, unrolled = self._steps(steps)
        outer = [*batch, column, *lines, row] if self._columns_first else [*batch, *lines, row, column]
        schedule.reorder(*outer, *steps, *unrolled, *inner, lane)
        self._unrolled([*unrolled, *inner])
        schedule.vectorize(lane)
        if reduction.windows:
            depth = len(outer)
        else:
            depth = 0 if self._columns_first else len(batch) + max(len(lines), 1)
        if self._cores > 1:
            shared = depth or len(outer) - 1 or 1
            fused = schedule.fuse(*outer[:shared])
            schedule.parallel(fused)
            outer = [fused, *outer[shared:]]
            depth = min(depth, 1)
        return outer, outer[depth - 1] if depth else None

    def _steps(self, loops: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The loops of the reduction: those that remain, and those that are unrolled."""
        extents = self._reduction.reduced
        if self._reduction.windows and math.prod(extents) <= UNROLLED_WINDOW:
            return [], list(loops)
        *others, last = loops
        if extents[-1] <= UNROLLED_WINDOW if self._reduction.windows else extents[-1] < max(UNROLLED_STEPS):
            return others, [last]
        count = self._drawn([each for each in UNROLLED_STEPS if extents[-1] % each == 0])
        last, within = self._schedule.split(last, [None, count])
        return [*others, last], [within]

    def _padded(self, pad: Any, at: Any) -> None:
        schedule = self._schedule
        if at is not None:
            schedule.compute_at(pad, at, preserve_unit_loops=True)
        node = schedule.get(pad)
        # Else TVM would make one branch for each element; LLVM makes vectors of such a loop.
        if not blocks.is_tested(node, node.iter_vars[-1].var):
            self._vectorised(schedule.get_loops(pad)[-1])

    def _vectorised(self, loop: Any) -> Any:
        """Cut a loop into vectors; the loop over them."""
        over, lane = self._schedule.split(loop, [None, self._reduction.lanes])
        self._schedule.vectorize(lane)
        return over

    def _unrolled(self, loops: Sequence[Any]) -> None:
        for loop in loops:
            self._schedule.unroll(loop)

    def _drawn(self, choices: Sequence[int]) -> Any:
        """One of several numbers, by chance, to be drawn anew for each candidate."""
        return self._schedule.sample_categorical(list(choices), [1 / len(choices)] * len(choices))
