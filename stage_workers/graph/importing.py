"""From a model's file to its tasks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tunemesh.stage_workers.frontends import onnx
from tunemesh.stage_workers.graph import batch_norm, models, optimisation, options, proving, tasks
from tunemesh.stage_workers.platforms.protocol import ImportCall, Imported


def import_model(call: ImportCall) -> Imported:
    """See :meth:`stage_workers.platforms.protocol.Platform.import_model`."""
    given = options.read(call.options)
    module, signature = onnx.read(call.model, call.shapes)
    folded = batch_norm.fold_batch_norms(module)
    proven = proving.prove(folded, signature, call.target, given)
    optimised = optimisation.optimise(folded, call.target, proven.changes).module
    extracted, notes = tasks.extract(optimised, call.target)
    return Imported(
        model=models.pack(folded, signature, proven.changes),
        tasks=extracted,
        constants=_constants(optimised),
        notes=[*proven.notes, *notes],
    )


def _constants(module: Any) -> int:
    """Bytes of the constants in the main function of a module."""
    import tvm

    values = [node.value for node in models.nodes(module) if isinstance(node, tvm.ir.GenericConst)]
    return sum(math.prod(value.shape) * np.dtype(value.dtype).itemsize for value in values)
