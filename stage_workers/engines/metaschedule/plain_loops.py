"""A rule of MetaSchedule's for CPUs: kernels that only compute or move elements, one by one.

Of such a kernel MetaSchedule makes vectors of up to 64 elements, or none at all where extents are odd, and
tests every condition for every element. Three more schedules are tried here: the loops as they are written,
which LLVM makes vectors of, with what is left at the end; vectors that end where a line does, as those of 64
need not; and one for conditions on short axes, as where tensors are joined: those axes are unrolled, so that
the conditions are gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tunemesh.stage_workers.engines.metaschedule import blocks
from tunemesh.stage_workers.engines.metaschedule.tiles import Registers
from tunemesh.stage_workers.graph import targets

LONG = 64
"""Elements of a vector of MetaSchedule's. One that goes on in the next line may become single elements: a
cast of 3x224x224 took 193 us."""
MOST_UNROLLED = 32
"""Elements of axes that conditions depend on."""


def rule(target: str) -> Any:
    """The rule as MetaSchedule takes it, for a canonical target of a CPU."""
    registers = Registers(*targets.vector_registers(target))
    cores = targets.cores(target)

    def apply(schedule: Any, block: Any) -> list[Any]:
        node = schedule.get(block)
        alone = len(blocks.stages(schedule)) == 1
        if node.init is not None or not alone or not node.iter_vars or not blocks.is_fixed(node):
            return [schedule]
        if not schedule.get_loops(block):  # of a number
            return [schedule]
        return [schedule, *_sketches(schedule, block, registers, cores)]

    return blocks.python_rule(apply)


def _sketches(schedule: Any, block: Any, registers: Registers, cores: int) -> list[Any]:
    node = schedule.get(block)
    extents = blocks.extents(node.iter_vars)
    dtype = node.writes[0].source.dtype
    tested = [axis for axis in range(len(extents)) if blocks.is_tested(node, node.iter_vars[axis].var)]
    lanes = registers.lanes(extents[-1], blocks.bits(dtype))
    found = []
    if not lanes or tested:
        found.append(_shared(schedule.copy(), block, [], 0, cores))
    elif extents[-1] % LONG:
        found.append(_shared(schedule.copy(), block, [], lanes, cores))
    short = [axis for axis in tested if extents[axis] > 1]
    if short and lanes and short[-1] < len(extents) - 1 and _count(extents, short) <= MOST_UNROLLED:
        found.append(_shared(schedule.copy(), block, short, lanes, cores))
    return found


def _count(extents: Sequence[int], axes: Sequence[int]) -> int:
    return math.prod(extents[axis] for axis in axes)


def _shared(schedule: Any, block: Any, unrolled: Sequence[int], lanes: int, cores: int) -> Any:
    """A schedule with some axes unrolled, and vectors along the last axis where there are lanes."""
    loops = list(schedule.get_loops(block))
    outer = [loop for axis, loop in enumerate(loops[:-1]) if axis not in unrolled]
    inner = [loops[axis] for axis in unrolled]
    last = loops[-1]
    if lanes:
        last, lane = schedule.split(last, [None, lanes])
        schedule.reorder(*outer, last, *inner, lane)
        schedule.vectorize(lane)
        outer.append(last)
    for loop in inner:
        schedule.unroll(loop)
    if cores > 1 and outer:
        schedule.parallel(schedule.fuse(*outer))
    blocks.take(schedule, [block])
    return schedule
