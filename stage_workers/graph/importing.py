"""From a model's file to its tasks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source, Variant
from tunemesh.stage_workers.graph import batch_norm, models, optimisation, options, tasks
from tunemesh.stage_workers.platforms.protocol import ImportCall, Imported


def import_model(call: ImportCall) -> Imported:
    """See :meth:`stage_workers.platforms.protocol.Platform.import_model`."""
    given = options.read(call.options)
    source = Source(call.model, {name: Path(path) for name, path in call.files.items()})
    module, signature = frontends.read(source, Variant(shapes=call.shapes))
    folded = batch_norm.fold_batch_norms(module)
    optimised = optimisation.optimise(folded, call.target, given)
    return Imported(
        model=models.pack(folded, signature),
        tasks=tasks.extract(optimised, call.target),
        constants=_constants(optimised),
    )


def _constants(module: Any) -> int:
    """Bytes of the constants in the main function of a module."""
    import tvm

    values = [node.value for node in models.nodes(module) if isinstance(node, tvm.ir.GenericConst)]
    return sum(math.prod(value.shape) * np.dtype(value.dtype).itemsize for value in values)
