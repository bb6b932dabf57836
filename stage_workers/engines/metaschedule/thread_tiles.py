"""Schedules for GPUs, drawn so that most of them can be run.

MetaSchedule draws the sizes of all tiles, applies the schedule, lowers the code, and looks whether a GPU
could run it: whether a block has neither too many threads nor too few, and what it copies into shared memory
fits. Of a convolution's schedules some 5 of 100 pass, so that those for a first batch of 16 take 400
attempts, 5 to 40 s. All of this follows from the sizes. Here sizes are drawn until they are right, and only
then is anything applied. MetaSchedule's own check still has the last word.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tunemesh.stage_workers.engines.metaschedule import blocks, sketches
from tunemesh.stage_workers.engines.metaschedule.factors import primes
from tunemesh.stage_workers.engines.metaschedule.sketches import Sketch
from tunemesh.stage_workers.graph import targets

MOST_VIRTUAL = 8
"""Virtual threads that MetaSchedule allows on each axis."""
DRAWS = 2000
"""Of all sizes, until a sketch is given up: a tenth of a second."""
ATTEMPTS = 12
"""Schedules that are applied for each that is wanted, at most. Each takes some 10 ms."""
LEAST = "meta_schedule.thread_extent_low_inclusive"
"""Annotation with how many threads a block has at least."""

log = logging.getLogger(__name__)

Product = list[tuple[int, int]]
"""Of sizes: of which instruction, and which of its tiles."""


class Copy(NamedTuple):
    """Part of a buffer that a block of threads copies into shared memory.

    Attributes:
        bytes: of an element.
        axes: of each axis, by how much its index grows with the axes that are cut: the numbers of the
            instructions that cut them, and factors.
    """

    bytes: int
    axes: list[list[tuple[int, int]]]

    def size(self, inner: Mapping[int, int]) -> int:
        """In bytes, for so many steps of each axis that is cut."""
        extents = (1 + sum(factor * (inner[number] - 1) for number, factor in axis) for axis in self.axes)
        return self.bytes * math.prod(extents)


class Plan(NamedTuple):
    """What is known of all schedules of a sketch.

    Attributes:
        sketch: its steps.
        extents: of the axes that it cuts, by the number of the instruction that draws the sizes.
        innermost: how large the innermost tile may be, likewise.
        bound: the axes of threads that loops are bound to, and the sizes that such a loop is the product of.
        least: threads that a block has at least.
        copies: into shared memory, as far as they can be told.
    """

    sketch: Sketch
    extents: dict[int, int]
    innermost: dict[int, int]
    bound: list[tuple[str, Product]]
    least: int
    copies: list[Copy]


class Limits(NamedTuple):
    """Of a block of threads: how many there are, and bytes that they share."""

    threads: int
    shared: int


def draw(context: Any, module: Any, target: str, want: int, seed: int) -> list[Any]:
    """TVM schedules that a GPU can run; up to ``want``, fewer where they are hard to find.

    Args:
        context: MetaSchedule's context of the task, with its rules and postprocessors.
        module: the task.
        target: canonical; a GPU.
        seed: of all chance.
    """
    chance = random.Random(seed)
    plans = [plan(sketches.of_trace(each.trace), module) for each in context.generate_design_space()]
    limits = Limits(*targets.block_limits(target))
    found: list[Any] = []
    attempts = 0
    while plans and len(found) < want and attempts < ATTEMPTS * want:
        chosen = chance.choice(plans)
        sizes = fitting(chosen, limits, chance)
        if sizes is None:
            plans.remove(chosen)
            continue
        attempts += 1
        made = sketches.made(
            chosen.sketch, sizes, module, context.space_generator.postprocs, chance.randrange(1, 2**31 - 1)
        )
        if made is not None:
            found.append(made)
    log.debug("%d schedules of %d attempts", len(found), attempts)
    return found


def plan(sketch: Sketch, module: Any) -> Plan:
    """What is known of all schedules of a sketch, by following its loops from the sizes that are drawn to the
    threads that they are bound to, and to the copies that are made in them."""
    found = _Follower(module)
    for number, (kind, inputs, attributes, outputs) in enumerate(sketch.instructions):
        names = [str(each) for each in outputs]
        match kind:
            case "GetSBlock":
                found.blocks[names[0]] = str(attributes[0])
            case "GetLoops":
                found.nests.setdefault(str(inputs[0]), names)
            case "SamplePerfectTile":
                found.cut(number, str(inputs[0]), names, math.prod(sketch.decisions[number]), attributes[1])
            case "Split":
                sizes = [found.sizes.get(str(each)) for each in inputs[1:]]
                found.loops |= {name: [size] for name, size in zip(names, sizes, strict=True) if size}
            case "Fuse":
                parts = [found.loops.get(str(each)) for each in inputs]
                if all(parts):
                    found.loops[names[0]] = [size for part in parts for size in part or ()]
            case "Bind" if str(inputs[0]) in found.loops:
                found.bound.append((str(attributes[0]), found.loops[str(inputs[0])]))
            case "Annotate" if attributes[0] == LEAST and isinstance(inputs[1], int):
                found.least = max(found.least, inputs[1])
            case "CacheRead" if attributes[1] == "shared":
                found.reads[names[0]] = (str(inputs[0]), int(attributes[0]))
            case "ComputeAt" if str(inputs[0]) in found.reads:
                found.copied(*found.reads[str(inputs[0])], str(inputs[1]))
    return Plan(sketch, found.extents, found.innermost, found.bound, found.least, found.copies)


class _Follower:
    """What is known so far of the names in a trace."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.extents: dict[int, int] = {}
        self.innermost: dict[int, int] = {}
        self.least = 1
        self.bound: list[tuple[str, Product]] = []
        self.copies: list[Copy] = []
        self.blocks: dict[str, str] = {}
        self.nests: dict[str, list[str]] = {}
        """The loops around a block, before they are cut."""
        self.axes: dict[str, int] = {}
        """By the loop that is cut: the instruction that draws the sizes."""
        self.sizes: dict[str, tuple[int, int]] = {}
        self.loops: dict[str, Product] = {}
        self.reads: dict[str, tuple[str, int]] = {}

    def cut(self, number: int, loop: str, names: Sequence[str], extent: int, innermost: int) -> None:
        """Sizes are drawn for the tiles of a loop."""
        self.extents[number], self.innermost[number] = extent, int(innermost)
        self.axes[loop] = number
        self.sizes |= {name: (number, tile) for tile, name in enumerate(names)}

    def copied(self, block: str, buffer: int, loop: str) -> None:
        """A buffer that a block reads is copied inside of a loop. It can be told how much where that loop is
        an outermost tile, as is all around it, and indices are sums of the block's axes."""
        nest = [self.axes.get(each) for each in self.nests.get(block, ())]
        place = self.loops.get(loop)
        if place is None or len(place) != 1 or place[0][1] or block not in self.blocks:
            return
        copy = _copy(self._module, self.blocks[block], buffer, nest)
        if copy is not None:
            self.copies.append(copy)


def _copy(module: Any, name: str, number: int, nest: Sequence[int | None]) -> Copy | None:
    import tvm
    from tvm import sym
    from tvm.s_tir import Schedule

    scheduled = Schedule(module)
    block = scheduled.get(scheduled.get_sblock(name))
    if len(block.iter_vars) != len(nest):
        return None
    steps = {each.var: axis for each, axis in zip(block.iter_vars, nest, strict=True) if axis is not None}
    read = block.reads[number]
    axes = []
    for part in read.region:
        factors = sym.detect_linear_equation(part.min, list(steps))
        if not factors or not all(isinstance(each, tvm.tirx.IntImm) for each in factors[:-1]):
            return None
        pairs = zip(steps.values(), factors[:-1], strict=True)
        axes.append([(axis, abs(int(factor))) for axis, factor in pairs if int(factor)])
    return Copy(-(-blocks.bits(read.source.dtype) // 8), axes)


def fitting(plan: Plan, limits: Limits, chance: random.Random) -> dict[int, list[int]] | None:
    """Sizes of all tiles that a GPU can run, as far as that can be told, by the numbers of the instructions
    that draw them; ``None`` where none are found."""
    for _ in range(DRAWS):
        drawn = {
            number: perfect_tile(extent, len(plan.sketch.decisions[number]), plan.innermost[number], chance)
            for number, extent in plan.extents.items()
        }
        if _fits(plan, drawn, limits):
            return drawn
    return None


def _fits(plan: Plan, drawn: Mapping[int, Sequence[int]], limits: Limits) -> bool:
    if not all(_allowed(axis, _extent(product, drawn), plan.least, limits) for axis, product in plan.bound):
        return False
    inner = {number: math.prod(sizes[1:]) for number, sizes in drawn.items()}
    return sum(copy.size(inner) for copy in plan.copies) <= limits.shared


def _extent(product: Product, drawn: Mapping[int, Sequence[int]]) -> int:
    return math.prod(drawn[number][tile] for number, tile in product)


def _allowed(axis: str, extent: int, least: int, limits: Limits) -> bool:
    if axis.startswith("vthread"):
        return extent <= MOST_VIRTUAL
    return least <= extent <= limits.threads if axis.startswith("threadIdx") else True


def perfect_tile(extent: int, parts: int, innermost: int, chance: random.Random) -> list[int]:
    """Factors of an extent, the last one not larger than ``innermost``: every prime goes to one of them."""
    while True:
        factors = [1] * parts
        for prime in primes(extent):
            factors[chance.randrange(parts)] *= prime
        if factors[-1] <= innermost:
            return factors
