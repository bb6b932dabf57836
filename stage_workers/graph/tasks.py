"""Take the distinct workloads out of an optimised model."""

from __future__ import annotations

from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.graph import compilation, models, targets, workloads
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.platforms.protocol import ExtractedTask


def extract(module: Any, target: str) -> list[ExtractedTask]:
    """The distinct workloads of an optimised module, in order of first use.

    Raises:
        BadModel: there is none, or one cannot be compiled.
    """
    from tvm.s_tir.meta_schedule import relax_integration

    extracted = relax_integration.extract_tasks(module, targets.load(target))
    extracted = [task for task in extracted if not workloads.is_scheduled(task.dispatched[0]["main"])]
    if not extracted:
        raise BadModel("the model has no operator that could be tuned")
    first_use = {name: i for i, name in reversed(list(enumerate(_calls(module))))}
    extracted.sort(key=lambda task: first_use[str(task.task_name)])
    return [_task(task, target) for task in extracted]


def _task(task: Any, target: str) -> ExtractedTask:
    (workload,) = task.dispatched
    name = str(task.task_name)
    try:
        workloads.arguments(workload["main"])
    except ValueError as error:
        raise BadModel(f"the operator {name} cannot be tuned: {error}") from None
    try:
        untuned = compilation.build_untuned(workload, target)
    except Exception as error:  # whatever TVM, LLVM or nvcc raise
        reraise_memory_error(error)
        raise BadModel(f"TVM cannot compile the operator {name}: {first_line(error)}") from None
    return ExtractedTask(
        name=name,
        key=workloads.key(workload, target),
        weight=int(task.weight),
        workload=workloads.pack(workload),
        untuned=untuned,
    )


def _calls(module: Any) -> list[str]:
    """Names of the TIR functions that the main function calls, in order."""
    import tvm

    return [str(node.name_hint) for node in models.nodes(module) if isinstance(node, tvm.ir.GlobalVar)]
