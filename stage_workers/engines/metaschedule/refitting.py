"""Schedules of one task, made to fit another of the same kind and another shape.

A schedule is a sketch, the steps of a rule, and decisions: sizes of tiles, places of loops. The rules give a
task its own sketches. Of these the one is taken that has the same steps as the schedule of the other task,
with the most similar sizes in them, and its decisions are set as near to those of that schedule as the shape
allows: inner tiles, which decide over vectors and registers, first; what remains is the outermost one's.
Everything that comes out is a schedule of the task's own space, by the same postprocessors as all others.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from tunemesh.stage_workers.engines.metaschedule import contexts, schedules, sketches
from tunemesh.stage_workers.engines.metaschedule.factors import divisors
from tunemesh.stage_workers.engines.metaschedule.sketches import Sketch
from tunemesh.stage_workers.graph import workloads

LARGER = 1.5
"""How much worse a tile is that is larger than it was, beside one that is smaller."""


class Fit(NamedTuple):
    """A schedule that was made to fit.

    Attributes:
        scheduled: the TVM schedule.
        strain: how much of it had to be changed: 1 for each size that is half or twice of what it was.
    """

    scheduled: Any
    strain: float


class Space:
    """The sketches of a task.

    Args:
        workload: as :mod:`stage_workers.graph.workloads` packs it.
        target: canonical.
    """

    def __init__(self, workload: bytes, target: str) -> None:
        self._module = workloads.load(workload)
        self._generator = contexts.make(self._module, target).space_generator
        found = self._generator.generate_design_space(self._module)
        self._sketches = [sketches.of_trace(each.trace) for each in found]

    @property
    def has_own(self) -> bool:
        """Whether some are by :mod:`.register_tiles`: tiles that fit the registers, and little to draw."""
        return any(not each.tiles and "SampleCategorical" in _kinds(each) for each in self._sketches)

    def fitted(self, schedule: bytes) -> Fit | None:
        """What is most like a schedule of another task; ``None`` where there is nothing. Where a rule of our
        own applies, tiles that MetaSchedule drew for a task to which it does not are no use."""
        try:
            given = sketches.of_json(schedules.unpack(schedule))
        except (ValueError, KeyError, TypeError, zlib.error):
            return None
        if given.tiles and self.has_own:
            return None
        kinds = _kinds(given)
        alike = [
            each for each in self._sketches if _kinds(each) == kinds and bool(each.tiles) == bool(given.tiles)
        ]
        if not alike:
            return None
        chosen = min(alike, key=lambda each: _distance(each, given))
        decisions, strain = _decided(chosen, given)
        scheduled = sketches.made(chosen, decisions, self._module, self._generator.postprocs)
        return None if scheduled is None else Fit(scheduled, strain + _distance(chosen, given))


def _kinds(sketch: Sketch) -> list[str]:
    return [sketch.instructions[number][0] for number in sketch.steps]


def _distance(one: Sketch, other: Sketch) -> float:
    """How far two sketches with the same steps are apart: in the sizes that are written into them, and in
    the loops that their steps are about."""
    makers, others = _makers(one), _makers(other)
    total = 0.0
    for first, second in zip(one.steps, other.steps, strict=True):
        these, those = one.instructions[first][1], other.instructions[second][1]
        total += abs(len(these) - len(those))
        for a, b in zip(these, those, strict=False):
            if isinstance(a, int) and isinstance(b, int) and a > 0 and b > 0:
                total += abs(math.log2(a / b))
            else:
                total += makers.get(str(a)) != others.get(str(b))
    return total


def _makers(sketch: Sketch) -> dict[str, tuple[int, int]]:
    """Of the loops that a sketch makes: by which of its cuts and fusions, counted from the last one, and
    which of that one's they are."""
    makers = [each for each in sketch.instructions if each[0] in ("Split", "Fuse")]
    return {
        str(name): (place, number)
        for place, each in enumerate(reversed(makers))
        for number, name in enumerate(each[3])
    }


def _decided(sketch: Sketch, given: Sketch) -> tuple[dict[int, Any], float]:
    """Decisions of a sketch, as near to those of another with the same steps as can be, and how far they are
    from those."""
    found = dict(sketch.decisions)
    strain = 0.0
    for number in sketch.tiles:
        present = found[number]
        found[number] = [math.prod(present), *(1 for _ in present[1:])]
    # Where one has more axes than the other, they have the inner ones in common.
    for number, other in zip(reversed(sketch.tiles), reversed(given.tiles), strict=False):
        wanted = given.decisions[other]
        found[number] = perfect_tile(found[number], wanted)
        strain += sum(abs(math.log2(a / b)) for a, b in zip(found[number][1:], wanted[1:], strict=False))
    for number, other in zip(sketch.steps, given.steps, strict=True):
        if number not in found or other not in given.decisions:
            continue
        instruction, wanted = sketch.instructions[number], given.decisions[other]
        if instruction[0] == "SampleCategorical":
            wanted = given.instructions[other][2][0][wanted]
            choices = instruction[2][0]
            apart = [abs(math.log2(max(each, 1) / max(wanted, 1))) for each in choices]
            found[number] = min(range(len(choices)), key=lambda each: (apart[each], -choices[each]))
            strain += apart[found[number]]
        else:
            found[number] = wanted
    return found, strain


def perfect_tile(present: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Factors with the product of ``present``, as near to ``wanted`` as can be, the innermost first."""
    left = math.prod(present)
    inner = []
    for each in reversed(wanted[1 : len(present)]):
        factor = min(divisors(left), key=lambda factor: _apart(factor, each))
        inner.append(factor)
        left //= factor
    return [left, *reversed(inner)]


def _apart(factor: int, wanted: int) -> float:
    """How far a factor is from another one. A larger one is worse: it may not fit into registers."""
    times = math.log2(factor / wanted)
    return LARGER * times if times > 0 else -times
