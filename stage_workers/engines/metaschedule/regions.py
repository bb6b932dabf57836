"""The regions of a task's space, for searches that run side by side.

A trace is a sketch, the steps of a rule, and decisions. Its region follows from a hash of the sketch and of
the leading decisions: the first ones that together have many values. So neighbours, which differ in later
decisions, are mostly in the same region, every region has sketches of all kinds, and a trace is in exactly
one. Kernels by Winograd's algorithm are dealt out in turn, the most promising first.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

from tunemesh.shared.messages import Region
from tunemesh.stage_workers.engines.metaschedule import schedules, sketches, winograd_search
from tunemesh.stage_workers.engines.metaschedule.factors import tilings
from tunemesh.stage_workers.graph.winograd_kernels import Knobs

CHOICE = "SampleCategorical"
VALUES = 8
"""Times as many values as there are regions that leading decisions have, where there are so many."""


def holds(region: Region | None, schedule: bytes) -> bool:
    """Whether a schedule of MetaSchedule's is in a region."""
    return region is None or number_of(schedule, region.of) == region.number


def number_of(schedule: bytes, count: int) -> int:
    """In which of so many regions a schedule of MetaSchedule's is; what cannot be read is in the first."""
    try:
        return _number(schedules.unpack(schedule), count)
    except (ValueError, KeyError, TypeError, IndexError, zlib.error):
        return 0


def by_winograd(space: Mapping[str, Knobs], region: Region | None) -> dict[str, Knobs]:
    """The settings of a region, of all for a task."""
    if region is None:
        return dict(space)
    return {name: knobs for name, knobs in space.items() if _dealt(space, name, region.of) == region.number}


def placed(workload: Any, target: str, found: list[bytes], count: int) -> list[int]:
    """In which of so many regions each of some schedules is."""
    space = winograd_search.space(workload, target)
    numbers = []
    for schedule in found:
        if winograd_search.is_ours(schedule):
            numbers.append(_dealt(space, winograd_search.hash_of(winograd_search.unpack(schedule)), count))
        else:
            numbers.append(number_of(schedule, count))
    return numbers


def postprocessor(region: Region) -> Any:
    """What refuses schedules outside of a region, as MetaSchedule takes it: what it draws or mutates is in
    the region then."""
    from tvm.s_tir.meta_schedule.postproc import postproc

    def apply(scheduled: Any) -> bool:
        return _number(schedules.plain(scheduled.trace.as_json()), region.of) == region.number

    def made() -> Any:
        # PyPostproc, the public base class, would only wrap this one.
        return postproc._PyPostproc(lambda context: None, apply, made)

    return made()


def _dealt(space: Mapping[str, Knobs], name: str, count: int) -> int:
    return list(space).index(name) % count if name in space else 0


def _number(trace: Any, count: int) -> int:
    sketch = sketches.of_json(trace)
    leading, values = [], 1
    for number, decision in sorted(sketch.decisions.items()):
        if values >= VALUES * count:
            break
        many = _values(sketch.instructions[number], decision)
        if many > 1:
            values *= many
            leading.append([number, decision])
    text = json.dumps([sketch.instructions, leading], separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % count


def _values(instruction: Any, decision: Any) -> int:
    """How many values a decision could have; 1 for what says little of where a schedule is."""
    kind, _, attributes, _ = instruction
    if kind == CHOICE:
        return len(attributes[0])
    if kind != sketches.TILE:
        return 1
    return tilings(math.prod(int(each) for each in decision), len(decision))
