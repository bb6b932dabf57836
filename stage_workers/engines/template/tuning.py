"""What the engine does with a task, once TVM is imported."""

from __future__ import annotations

import functools
from typing import NamedTuple

from tunemesh.shared.text import clip
from tunemesh.stage_workers.engines.protocol import (
    BuildCall,
    BuildOutcome,
    ObjectPart,
    PartCall,
    Proposal,
    TaskRef,
    UpdateCall,
)
from tunemesh.stage_workers.engines.template import (
    compiling,
    machine,
    options,
    recognition,
    schedules,
    searches,
)
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.space import Space
from tunemesh.stage_workers.engines.template.templates import Template
from tunemesh.stage_workers.engines.template.templates import all as templates
from tunemesh.stage_workers.graph import linking, targets


class Taken(NamedTuple):
    """A task that there is a template for."""

    operator: Operator
    template: Template
    machine: Machine
    space: Space


def objection(task: TaskRef) -> str:
    """See :meth:`stage_workers.engines.protocol.Engine.objection`."""
    if targets.is_gpu(task.target):
        return "the template engine makes kernels for CPUs only"
    if targets.cores(task.target) > 1:
        return "the template engine makes kernels of one thread only"
    if compiling.compiler(machine.of_target(task.target).architecture) is None:
        return compiling.MISSING
    try:
        taken(task.workload, task.target)
    except recognition.Unknown as error:
        return f"no template fits: {error}"
    return ""


@functools.lru_cache(maxsize=32)
def taken(workload: bytes, target: str) -> Taken:
    """The template for a workload.

    Raises:
        Unknown: there is none.
    """
    operator = recognition.recognised(workload)
    template, why = templates.matching(operator)
    if template is None:
        raise recognition.Unknown(why)
    made_for = machine.of_target(target)
    space = template.space(operator, made_for)
    if next(space.all(), None) is None:
        raise recognition.Unknown("it is too small for vectors")
    return Taken(operator, template, made_for, space)


def update(call: UpdateCall, format: int) -> Proposal:
    """See :meth:`stage_workers.engines.protocol.Engine.update`."""
    task = taken(call.workload, call.target)
    results = []
    before = [trial for each in call.here if each.format == format for trial in each.trials]
    for trial in (*before, *call.trials):
        genome = schedules.genome_of(schedules.unpacked(trial.candidate.schedule), task.space)
        if genome is not None:
            results.append((genome, trial.estimate))
    search = options.read(call.options).search
    state, seen = call.search, set(call.seen)
    proposed: dict[str, bytes] = {}
    while True:
        want = call.want - len(proposed)
        state, genomes = searches.propose(search, task.space, state, results, want, call.seed)
        packed = [schedules.packed(task.template.name, task.space, genome) for genome in genomes]
        proposed |= {name: schedule for name, schedule in packed if name not in seen}
        if len(proposed) == call.want or len(genomes) < want:
            return Proposal(search=state, schedules=list(proposed.items()), format=format)
        results = []  # earlier jobs have tried some of these


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
