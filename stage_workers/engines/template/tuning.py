"""What the engine does with a task, once TVM is imported."""

from __future__ import annotations

import functools
import platform
from typing import Any, NamedTuple

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
    winograd_roles,
)
from tunemesh.stage_workers.engines.template.cuda import compiling as cuda_compiling
from tunemesh.stage_workers.engines.template.cuda import gpu
from tunemesh.stage_workers.engines.template.cuda import templates as cuda_templates
from tunemesh.stage_workers.engines.template.cuda import text as cuda_text
from tunemesh.stage_workers.engines.template.cuda.gpu import Gpu
from tunemesh.stage_workers.engines.template.cuda.templates import GpuTemplate
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.rows import Rows
from tunemesh.stage_workers.engines.template.space import Space
from tunemesh.stage_workers.engines.template.stages import Unknown
from tunemesh.stage_workers.engines.template.templates import Template
from tunemesh.stage_workers.engines.template.templates import all as templates
from tunemesh.stage_workers.graph import device_code, targets, workloads


class Taken(NamedTuple):
    """A task that there is a template for."""

    operator: Operator | Rows
    template: Template[Any]
    machine: Machine
    space: Space


class TakenByGpu(NamedTuple):
    """The same for a GPU."""

    operator: Operator | Rows
    template: GpuTemplate[Any]
    gpu: Gpu
    space: Space


def objection(task: TaskRef) -> str:
    """See :meth:`stage_workers.engines.protocol.Engine.objection`."""
    if targets.is_gpu(task.target):
        architecture = platform.machine()
        if not cuda_compiling.compiler():
            return f"no compiler for CUDA on this machine: {device_code.WITH}"
    else:
        architecture = machine.of_target(task.target).architecture
    if compilers.compiler(architecture) is None:
        return compilers.MISSING
    try:
        _any(task.workload, task.target)
    except Unknown as error:
        return f"no template fits: {error}"
    return ""


@functools.lru_cache(maxsize=32)
def taken(workload: bytes, target: str) -> Taken:
    """The template for a workload, for a CPU.

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


@functools.lru_cache(maxsize=32)
def taken_by_gpu(workload: bytes, target: str) -> TakenByGpu:
    """The template for a workload, for a GPU.

    Raises:
        Unknown: no tile fits, or nothing is known of it.
    """
    operator, made_for = _operator(workload), gpu.of_target(target)
    if isinstance(operator, Operator) and not operator.is_plain:
        raise Unknown("it is not in single precision")
    passes = (
        [operator.epilogue] if isinstance(operator, Operator) else [each.steps for each in operator.passes]
    )
    if why := next(filter(None, map(cuda_text.objection, passes)), ""):
        raise Unknown(why)
    template = cuda_templates.matching(operator)
    space = template.space(operator, made_for)
    if next(space.all(), None) is None:
        raise Unknown("no tile fits")
    return TakenByGpu(operator, template, made_for, space)


def _any(workload: bytes, target: str) -> Taken | TakenByGpu:
    return taken_by_gpu(workload, target) if targets.is_gpu(target) else taken(workload, target)


def _operator(workload: bytes) -> Operator | Rows:
    """What a workload computes: one value of many products, or what goes row by row."""
    function = recognition.Function(workloads.load(workload)["main"])
    if sum(stage.reduces for stage in function.stages) > 1:
        return rows.rows_of(function)
    return recognition.operator_of(function)


def update(call: UpdateCall, format: int) -> Proposal:
    """See :meth:`stage_workers.engines.protocol.Engine.update`."""
    task = _any(call.workload, call.target)
    search = options.read(call.options).search
    return proposals.update(call, format, task.template.name, task.space, search)


def regions(task: TaskRef) -> int:
    """See :meth:`stage_workers.engines.protocol.Engine.regions`."""
    return proposals.regions(_any(task.workload, task.target).space)


def placed(call: PlacedCall) -> Placed:
    """See :meth:`stage_workers.engines.protocol.Engine.placed`."""
    return proposals.placed(call, _any(call.workload, call.target).space)


def build(call: BuildCall) -> BuildOutcome:
    """See :meth:`stage_workers.engines.protocol.Engine.build`."""
    return compiling.outcome_of(lambda: _code(call, "main")[0])


def part(call: PartCall) -> ObjectPart:
    """See :meth:`stage_workers.engines.protocol.Engine.part`."""
    code, packs = _code(call, call.symbol)
    return ObjectPart(code=code, packs=packs, way=_way(call))


def _way(call: PartCall) -> str:
    """How a kernel computes a convolution that could be computed in several ways."""
    operator = _any(call.workload, call.target).operator
    if isinstance(operator, Rows) or not operator.winograd or isinstance(winograd_roles.known(operator), str):
        return ""
    outputs = schedules.unpacked(call.schedule).knobs.get("outputs")
    return f"Winograd, tiles of {outputs}x{outputs}" if outputs else "direct"


def source(workload: bytes, target: str, schedule: bytes, symbol: str = "main") -> str:
    """The program of a candidate: of C, or for a GPU of CUDA C++."""
    task = _any(workload, target)
    values = schedules.values_of(schedules.unpacked(schedule), task.space)
    if isinstance(task, TakenByGpu):
        return task.template.program(task.operator, values).text
    return task.template.source(task.operator, values, symbol)


def _code(call: BuildCall | PartCall, symbol: str) -> tuple[bytes, list[int]]:
    task = _any(call.workload, call.target)
    values = schedules.values_of(schedules.unpacked(call.schedule), task.space)
    if isinstance(task, TakenByGpu):
        program, parameters = task.template.program(task.operator, values), len(task.operator.parameters)
        return cuda_compiling.compiled(program, task.gpu.architecture, parameters, symbol), []
    text = task.template.source(task.operator, values, symbol)
    return compiling.compiled(text, task.machine), task.template.packs(task.operator, values)
