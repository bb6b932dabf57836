"""Schedules of a similar task, made to fit another one."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

from tunemesh.stage_workers.engines.metaschedule import contexts, schedules, spaces
from tunemesh.stage_workers.graph import workloads
from tunemesh.stage_workers.graph.errors import reraise_memory_error


def adapted(
    workload: bytes, target: str, other: bytes, of_other: Sequence[bytes], want: int
) -> dict[str, bytes]:
    """Hashes and packed schedules of a workload that do what those of another one do: the first of them that
    fit."""
    module = workloads.load(workload)
    spaces.require(module, target)
    postprocessors = list(contexts.make(module, target).space_generator.postprocs)
    found: dict[str, bytes] = {}
    for schedule in of_other:
        if len(found) == want:
            break
        try:
            made = _applied(module, schedules.replay(other, target, schedule).trace)
            if all(each.apply(made) for each in postprocessors):
                found[workloads.structural_hash(made.mod)] = schedules.pack(made.trace)
        except (RuntimeError, ValueError, TypeError, zlib.error) as error:
            reraise_memory_error(error)  # it does not fit
    return found


def _applied(module: Any, trace: Any) -> Any:
    from tvm.s_tir import Schedule

    made = Schedule(module)

    def decide(instruction: Any, inputs: Any, attributes: Any, decision: Any) -> Any:
        if str(instruction.kind.name) != "SamplePerfectTile" or decision is None:
            return decision
        left = int(made.get(inputs[0]).extent)
        inner: list[int] = []
        for wanted in reversed([int(each) for each in decision][1:]):
            inner.append(near(wanted, left))
            left //= inner[-1]
        return [left, *reversed(inner)]

    trace.apply_to_schedule(made, True, decide)
    if " T.where(" in made.mod.script():
        raise ValueError("its tiles do not divide the loops")
    return made


def near(wanted: int, extent: int) -> int:
    """The divisor of an extent that is nearest by ratio."""
    found = [each for each in range(1, extent + 1) if extent % each == 0]
    return min(found, key=lambda each: abs(math.log(each / wanted)))
