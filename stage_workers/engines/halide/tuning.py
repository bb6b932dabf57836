"""What the engine does with a task, once TVM and Halide are imported."""

from __future__ import annotations

import functools
from typing import NamedTuple

import halide as hl
import msgspec

from tunemesh.stage_workers.engines import compilers
from tunemesh.stage_workers.engines.halide import (
    arithmetic,
    autoschedulers,
    compiling,
    options,
    pipelines,
    spaces,
)
from tunemesh.stage_workers.engines.halide.pipelines import Pipeline
from tunemesh.stage_workers.engines.halide.roles import Roles, roles_of
from tunemesh.stage_workers.engines.halide.scheduling import Plan, shape_of
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
from tunemesh.stage_workers.engines.template import machine, proposals, recognition, schedules
from tunemesh.stage_workers.engines.template.compiling import CompileFailed, outcome_of
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.schedules import Schedule
from tunemesh.stage_workers.engines.template.space import Space
from tunemesh.stage_workers.engines.template.stages import Unknown
from tunemesh.stage_workers.graph import targets, workloads

SHARE = 4
"""Candidates of a round of which one may be an autoscheduler's: knobs promise more."""


class Taken(NamedTuple):
    """A task that there is a pipeline for."""

    operator: Operator
    roles: Roles
    machine: Machine
    space: Space


class Scheduled(NamedTuple):
    """A candidate: the functions with their schedule, and the roles that they were made with."""

    pipeline: Pipeline
    roles: Roles


def objection(task: TaskRef) -> str:
    """See :meth:`stage_workers.engines.protocol.Engine.objection`."""
    if targets.is_gpu(task.target):
        return "the engine halide makes kernels for CPUs only"
    if targets.cores(task.target) > 1:
        return "the engine halide makes kernels of one thread only"
    made_for = machine.of_target(task.target)
    if not compiling.supported(made_for):
        return "the engine halide makes kernels for x86 and 64-bit ARM only"
    if compilers.compiler(made_for.architecture) is None:
        return compilers.MISSING
    if not compiling.has_temporary_files():
        return "Halide makes temporary files in /tmp, which this worker's cage does not allow"
    try:
        taken(task.workload, task.target)
    except Unknown as error:
        return f"no pipeline fits: {error}"
    return ""


@functools.lru_cache(maxsize=32)
def taken(workload: bytes, target: str) -> Taken:
    """What a workload computes, and its knobs.

    Raises:
        Unknown: there is no pipeline for it.
    """
    operator = recognition.operator_of(recognition.Function(workloads.load(workload)["main"]))
    if not operator.is_plain:
        raise Unknown("it is not in single precision")
    if why := arithmetic.objection(operator.epilogue):
        raise Unknown(why)
    roles = roles_of(operator)
    made_for = machine.of_target(target)
    space = spaces.space_of(operator, roles, made_for)
    if next(space.all(), None) is None:
        raise Unknown("no schedule fits")
    return Taken(operator, roles, made_for, space)


def update(call: UpdateCall, format: int) -> Proposal:
    """See :meth:`stage_workers.engines.protocol.Engine.update`. The schedules of autoschedulers are the last
    candidates of the first rounds. Of the state, the first byte says how many of them were proposed."""
    task, given = taken(call.workload, call.target), options.read(call.options)
    begun, state = (call.search[0], call.search[1:]) if call.search is not None else (0, None)
    waiting = list(autoschedulers.AUTOSCHEDULERS)[begun:]
    if not given.autoschedulers or (call.region is not None and call.region.number):
        waiting = []
    # Those that were tried before take no place.
    taken_now = waiting[: call.want // SHARE]
    names = [name for name in taken_now if name not in call.seen]
    own = [(name, msgspec.json.encode(Schedule(name, {}))) for name in names]
    call = msgspec.structs.replace(call, want=call.want - len(own), search=state)
    proposal = proposals.update(call, format, options.NAME, task.space, given.search)
    return msgspec.structs.replace(
        proposal,
        search=bytes([begun + len(taken_now)]) + proposal.search,
        schedules=[*proposal.schedules, *own],
    )


def regions(task: TaskRef) -> int:
    """See :meth:`stage_workers.engines.protocol.Engine.regions`."""
    return proposals.regions(taken(task.workload, task.target).space)


def placed(call: PlacedCall) -> Placed:
    """See :meth:`stage_workers.engines.protocol.Engine.placed`."""
    return proposals.placed(call, taken(call.workload, call.target).space)


def build(call: BuildCall) -> BuildOutcome:
    """See :meth:`stage_workers.engines.protocol.Engine.build`."""
    return outcome_of(lambda: _code(call, "main")[0])


def part(call: PartCall) -> ObjectPart:
    """See :meth:`stage_workers.engines.protocol.Engine.part`."""
    code, packs = _code(call, call.symbol)
    return ObjectPart(code=code, packs=packs)


def source(call: BuildCall) -> str:
    """The loops of a candidate, as Halide writes them down."""
    task, scheduled = _scheduled(call)
    return compiling.statement(scheduled.pipeline, task.machine)


def _code(call: BuildCall | PartCall, symbol: str) -> tuple[bytes, list[int]]:
    task, (pipeline, roles) = _scheduled(call)
    code = compiling.compiled(task.operator, roles, pipeline, task.machine, symbol)
    return code, sorted(each.operand.parameter for each in roles.factors if each.packing)


def _scheduled(call: BuildCall | PartCall) -> tuple[Taken, Scheduled]:
    """A candidate.

    Raises:
        CompileFailed: Halide refuses the schedule.
        ValueError: it is none of this task.
    """
    task, schedule = taken(call.workload, call.target), schedules.unpacked(call.schedule)
    try:
        if schedule.template in autoschedulers.AUTOSCHEDULERS:
            pipeline = pipelines.pipeline_of(task.operator, task.roles)
            autoschedulers.apply(schedule.template, pipeline.output, compiling.target_of(task.machine))
            return task, Scheduled(pipeline, task.roles)
        shape = shape_of(schedules.values_of(schedule, task.space))
        plan = Plan(task.operator, task.roles, shape)
        pipeline = pipelines.pipeline_of(task.operator, plan.packed_roles)
        plan.apply(pipeline)
        return task, Scheduled(pipeline, plan.packed_roles)
    except hl.HalideError as error:
        raise CompileFailed(f"Halide refuses the schedule: {str(error).strip()}") from None
