"""What the engine does with a task, once TVM is imported."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from tunemesh.shared.text import clip
from tunemesh.stage_workers.engines import compilers
from tunemesh.stage_workers.engines.protocol import (
    BuildCall,
    BuildOutcome,
    ObjectPart,
    PartCall,
    Placed,
    PlacedCall,
    Proposal,
    TaskRef,
    UpdateCall,
)
from tunemesh.stage_workers.engines.template import (
    compiling,
    machine,
    options,
    proposals,
    recognition,
    rows,
    schedules,
)
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.rows import Rows
from tunemesh.stage_workers.engines.template.space import Space
from tunemesh.stage_workers.engines.template.stages import Unknown
from tunemesh.stage_workers.engines.template.templates import Template
from tunemesh.stage_workers.engines.template.templates import all as templates
from tunemesh.stage_workers.graph import linking, targets, workloads


class Taken(NamedTuple):
    """A task that there is a template for."""

    operator: Operator | Rows
    template: Template[Any]
    machine: Machine
    space: Space


def objection(task: TaskRef) -> str:
    """See :meth:`stage_workers.engines.protocol.Engine.objection`."""
    if targets.is_gpu(task.target):
        return "the template engine makes kernels for CPUs only"
    if targets.cores(task.target) > 1:
        return "the template engine makes kernels of one thread only"
    if compilers.compiler(machine.of_target(task.target).architecture) is None:
        return compilers.MISSING
    try:
        taken(task.workload, task.target)
    except Unknown as error:
        return f"no template fits: {error}"
    return ""


@functools.lru_cache(maxsize=32)
def taken(workload: bytes, target: str) -> Taken:
    """The template for a workload.

    Raises:
        Unknown: there is none.
    """
    operator = _operator(workload)
    template, why = templates.matching(operator)
    if template is None:
        raise Unknown(why)
    made_for = machine.of_target(target)
    space = template.space(operator, made_for)
    if next(space.all(), None) is None:
        raise Unknown("it is too small for vectors")
    return Taken(operator, template, made_for, space)


def _operator(workload: bytes) -> Operator | Rows:
    """What a workload computes: one value of many products, or what goes row by row."""
    function = recognition.Function(workloads.load(workload)["main"])
    if sum(stage.reduces for stage in function.stages) > 1:
        return rows.rows_of(function)
    return recognition.operator_of(function)


def update(call: UpdateCall, format: int) -> Proposal:
    """See :meth:`stage_workers.engines.protocol.Engine.update`."""
    task = taken(call.workload, call.target)
    search = options.read(call.options).search
    return proposals.update(call, format, task.template.name, task.space, search)


def regions(task: TaskRef) -> int:
    """See :meth:`stage_workers.engines.protocol.Engine.regions`."""
    return proposals.regions(taken(task.workload, task.target).space)


def placed(call: PlacedCall) -> Placed:
    """See :meth:`stage_workers.engines.protocol.Engine.placed`."""
    return proposals.placed(call, taken(call.workload, call.target).space)


def build(call: BuildCall) -> BuildOutcome:
    """See :meth:`stage_workers.engines.protocol.Engine.build`."""
    try:
        code, _ = _code(call, "main")
    except compiling.CompileTimedOut as error:
        return BuildOutcome(outcome="build-timed-out", error=str(error))
    except compiling.CompileFailed as error:
        return BuildOutcome(outcome="build-failed", error=clip(str(error)))
    return BuildOutcome(artifact=linking.link_objects([code]))


def part(call: PartCall) -> ObjectPart:
    """See :meth:`stage_workers.engines.protocol.Engine.part`."""
    code, packs = _code(call, call.symbol)
    return ObjectPart(code=code, packs=packs)


def source(workload: bytes, target: str, schedule: bytes, symbol: str = "main") -> str:
    """The program of a candidate."""
    task = taken(workload, target)
    values = schedules.values_of(schedules.unpacked(schedule), task.space)
    return task.template.source(task.operator, values, symbol)


def _code(call: BuildCall | PartCall, symbol: str) -> tuple[bytes, list[int]]:
    task = taken(call.workload, call.target)
    values = schedules.values_of(schedules.unpacked(call.schedule), task.space)
    text = task.template.source(task.operator, values, symbol)
    return compiling.compiled(text, task.machine), task.template.packs(task.operator, values)
