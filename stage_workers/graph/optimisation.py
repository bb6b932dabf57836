"""Optimise the graph of a model, down to the functions of TIR that can be tuned."""

from __future__ import annotations

from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.graph import convolutions, targets
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.graph.options import GraphOptions


def optimise(module: Any, target: str, options: GraphOptions) -> Any:
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
        transform.LegalizeOps(convolutions.legalizers(target, options)),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    try:
        with targets.load(target), tvm.transform.PassContext(opt_level=3):
            simple = tvm.transform.Sequential(simplify)(module)
            return tvm.transform.Sequential(lower)(convolutions.prepare(simple, target, options))
    except Exception as error:  # passes raise whatever their operators raise
        reraise_memory_error(error)
        raise BadModel(f"TVM cannot lower the model: {first_line(error)}") from None
