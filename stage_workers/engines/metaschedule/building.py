"""From a schedule to a kernel, and to a part of a model."""

from __future__ import annotations

from typing import Any

from tunemesh.shared.text import clip
from tunemesh.stage_workers.engines.metaschedule import schedules, winograd_search
from tunemesh.stage_workers.engines.protocol import BuildCall, BuildOutcome, PartCall, Source, TirPart
from tunemesh.stage_workers.graph import compilation, objects, prepacking, workloads
from tunemesh.stage_workers.graph.errors import reraise_memory_error


def build(call: BuildCall) -> BuildOutcome:
    """Compile one candidate; see :meth:`stage_workers.engines.protocol.Engine.build`."""
    try:
        module = _module(call)
        with objects.collected(call.target) as made:
            kernel = compilation.build_candidate(module, call.target)
        return BuildOutcome(artifact=kernel, objects=objects.pack(made) if made else b"")
    except Exception as error:  # whatever TVM, LLVM or nvcc raise is the candidate's outcome
        reraise_memory_error(error)
        return BuildOutcome(outcome="build-failed", error=clip(str(error)))


def part(call: PartCall) -> TirPart:
    """The scheduled workload; see :meth:`stage_workers.engines.protocol.Engine.part`."""
    return TirPart(
        module=workloads.pack(_module(call)), way=winograd_search.way(call.workload, call.schedule)
    )


def source(call: BuildCall) -> Source:
    """What a candidate is, for people: see :meth:`stage_workers.engines.protocol.Engine.source`."""
    module = _module(call).script()
    if winograd_search.is_ours(call.schedule):
        return Source(
            text=f"# {winograd_search.way(call.workload, call.schedule)}\n{module}\n", language="TIR"
        )
    steps = schedules.replay(call.workload, call.target, call.schedule).trace
    return Source(text=f"{steps}\n\n{module}\n", language="TIR")


def _module(call: BuildCall | PartCall) -> Any:
    """The scheduled workload, with what puts its weights into their order."""
    if winograd_search.is_ours(call.schedule):
        return winograd_search.module(workloads.load(call.workload), call.schedule)
    return prepacking.split(schedules.replay(call.workload, call.target, call.schedule).mod)
