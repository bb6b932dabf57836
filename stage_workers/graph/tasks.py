"""From a model to its tasks: optimise the graph, then take the distinct workloads out of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tunemesh.shared.errors import BadModel
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers.engines.metaschedule import building
from tunemesh.stage_workers.engines.protocol import ExtractedTask, Imported
from tunemesh.stage_workers.frontends import onnx
from tunemesh.stage_workers.graph import batch_norm, convolutions, models, targets, workloads
from tunemesh.stage_workers.graph.errors import first_line


def import_model(model: bytes, target: str, settings: Settings) -> Imported:
    """See :meth:`stage_workers.engines.protocol.Engine.import_model`."""
    module, signature = onnx.read(model, settings.shapes)
    folded = batch_norm.fold_batch_norms(module)
    optimised = optimise(folded, target, settings)
    return Imported(
        model=models.pack(folded, signature), tasks=_tasks(optimised, target), constants=_constants(optimised)
    )


def optimise(module: Any, target: str, settings: Settings) -> Any:
    """Fold constants, choose the layout, lower operators to TIR and fuse what can be fused.

    The same arguments give the same functions, in every process.

    Raises:
        BadModel: when TVM fails at it.
    """
    import tvm
    from tvm.relax import transform

    simplify = [
        transform.DecomposeOpsForInference(),
        transform.FoldConstant(),
        transform.CanonicalizeBindings(),
    ]
    lower = [
        transform.LegalizeOps(convolutions.legalizers(target, settings)),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    try:
        with targets.load(target), tvm.transform.PassContext(opt_level=3):
            simple = tvm.transform.Sequential(simplify)(module)
            return tvm.transform.Sequential(lower)(convolutions.prepare(simple, target, settings))
    except Exception as error:  # passes raise whatever their operators raise
        raise BadModel(f"TVM cannot lower the model: {first_line(error)}") from None


def _tasks(module: Any, target: str) -> list[ExtractedTask]:
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
        untuned = building.build_untuned(workload, target)
    except Exception as error:  # whatever TVM, LLVM or nvcc raise
        raise BadModel(f"TVM cannot compile the operator {name}: {first_line(error)}") from None
    return ExtractedTask(
        name=name,
        key=workloads.key(workload, target),
        weight=int(task.weight),
        workload=workloads.pack(workload),
        untuned=untuned,
    )


def _constants(module: Any) -> int:
    """Bytes of the constants in the main function of a module."""
    import tvm

    values = [node.value for node in models.nodes(module) if isinstance(node, tvm.ir.GenericConst)]
    return sum(math.prod(value.shape) * np.dtype(value.dtype).itemsize for value in values)


def _calls(module: Any) -> list[str]:
    """Names of the TIR functions that the main function calls, in order."""
    import tvm

    return [str(node.name_hint) for node in models.nodes(module) if isinstance(node, tvm.ir.GlobalVar)]
