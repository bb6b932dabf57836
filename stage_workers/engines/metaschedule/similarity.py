"""How alike two tasks are: the same blocks, and how far their extents are apart."""

from __future__ import annotations

import functools
import math
import re

from msgspec import Struct

from tunemesh.stage_workers.engines.metaschedule import blocks
from tunemesh.stage_workers.graph import workloads

OTHERWISE_FUSED = 1.0
"""Distance of tasks with the same operator and something else behind it; doubling one extent is as far."""
OTHER_AXES = 2.0
"""The same for those whose results have more axes or fewer, such as a batch."""
SPATIAL, SUMMED = "s", "r"
KEPT = 1024
"""Tasks whose shapes a process keeps: some 200 bytes each."""


class Shape(Struct, frozen=True):
    """What a task computes.

    Attributes:
        operator: what its main block is called.
        kinds: of its axes, a letter for each.
        behind: what the other blocks are called.
        extents: of the axes of the main block, then of all tensors that are read and written.
    """

    operator: str
    kinds: str
    behind: tuple[str, ...]
    extents: tuple[int, ...]

    @property
    def together(self) -> tuple[int, ...]:
        """How much there is: rows, which are all axes of the result but the last, columns, and terms of each
        sum."""
        axes = self.extents[: len(self.kinds)]
        of_result = [each for each, kind in zip(axes, self.kinds, strict=True) if kind == SPATIAL]
        terms = [each for each, kind in zip(axes, self.kinds, strict=True) if kind != SPATIAL]
        return math.prod(of_result[:-1]), of_result[-1] if of_result else 1, math.prod(terms)


@functools.lru_cache(KEPT)
def shape_of(workload: bytes) -> Shape | None:
    """The shape of a workload; ``None`` where there is no block, or a size is not known.

    Raises:
        RuntimeError, ValueError: it cannot be read.
    """
    from tvm.s_tir import Schedule
    from tvm.tirx import IterVar

    schedule = Schedule(workloads.load(workload))
    found = [schedule.get(each) for each in blocks.stages(schedule)]
    if not found or not all(map(blocks.is_fixed, found)):
        return None
    main = max(found, key=lambda each: (each.init is not None, math.prod(blocks.extents(each.iter_vars))))
    names = [_name(each) for each in found if each is not main]
    data = IterVar.DataPar
    kinds = "".join(SPATIAL if each.iter_type == data else SUMMED for each in main.iter_vars)
    sizes = [size for each in workloads.arguments(schedule.mod["main"]) for size in each.shape]
    return Shape(_name(main), kinds, tuple(names), (*blocks.extents(main.iter_vars), *sizes))


def distance(one: Shape, other: Shape) -> float:
    """0 for tasks that are the same, infinite for those that have nothing in common."""
    if one.operator != other.operator:
        return math.inf
    far = OTHERWISE_FUSED if one.behind != other.behind else 0.0
    if one.kinds == other.kinds and len(one.extents) == len(other.extents):
        return far + _apart(one.extents, other.extents)
    return far + OTHER_AXES + 2 * _apart(one.together, other.together)


def _apart(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    return sum(abs(math.log2(max(a, 1) / max(b, 1))) for a, b in zip(one, other, strict=True))


def _name(block: object) -> str:
    """Without what only numbers it."""
    return re.sub(r"(_?\d+)+$", "", str(getattr(block, "name_hint", "")))
