"""Take the distinct workloads out of an optimised model."""

from __future__ import annotations

from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.graph import canonical, compilation, models, targets, workloads
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.platforms.protocol import ExtractedTask


def extract(module: Any, target: str) -> tuple[list[ExtractedTask], list[str]]:
    """The distinct workloads of an optimised module, in order of first use, and what cannot be one and why.

    Raises:
        BadModel: one cannot be compiled.
    """
    from tvm.s_tir.meta_schedule import relax_integration

    found = relax_integration.extract_tasks(module, targets.load(target))
    found = [task for task in found if not workloads.is_scheduled(task.dispatched[0]["main"])]
    first_use = {name: i for i, name in reversed(list(enumerate(_calls(module))))}
    found.sort(key=lambda task: first_use.get(str(task.task_name), len(first_use)))
    reasons = [unfit(task.dispatched[0]["main"]) for task in found]
    tasks = [_task(task, target) for task, reason in zip(found, reasons, strict=True) if not reason]
    notes = [
        f"{task.task_name} is not tuned: {reason}"
        for task, reason in zip(found, reasons, strict=True)
        if reason
    ]
    if not tasks:
        notes.append("the model has no operator that could be tuned: it is compiled as it is")
    return tasks, notes


def unfit(function: Any) -> str:
    """Why a function is no task; empty where it is one."""
    try:
        arguments = workloads.arguments(function)
    except ValueError as error:
        return str(error)
    empty = [each for each in arguments if 0 in each.shape]
    return f"its tensor {empty[0].name} has no elements" if empty else ""


def _task(task: Any, target: str) -> ExtractedTask:
    (workload,) = task.dispatched
    name = str(task.task_name)
    try:
        untuned = compilation.build_untuned(workload, target)
    except Exception as error:  # whatever TVM, LLVM or nvcc raise
        reraise_memory_error(error)
        raise BadModel(f"TVM cannot compile the operator {name}: {first_line(error)}") from None
    return ExtractedTask(
        name=name,
        key=canonical.key(workload, target),
        weight=int(task.weight),
        workload=workloads.pack(workload),
        untuned=untuned,
        operations=workloads.operations(workload),
    )


def _calls(module: Any) -> list[str]:
    """Names of the TIR functions that the main function calls, in order."""
    import tvm

    return [str(node.name_hint) for node in models.nodes(module) if isinstance(node, tvm.ir.GlobalVar)]
