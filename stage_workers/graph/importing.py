"""From a model's file to its tasks."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source
from tunemesh.stage_workers.graph import (
    batch_norm,
    checking,
    layouts,
    models,
    narrowing,
    objects,
    optimisation,
    options,
    packing,
    proving,
    tasks,
    variants,
)
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.signatures import signatures_of
from tunemesh.stage_workers.platforms.protocol import ImportCall, Imported

log = logging.getLogger(__name__)


def import_model(call: ImportCall) -> Imported:
    """See :meth:`stage_workers.platforms.protocol.Platform.import_model`."""
    with objects.collected(call.target) as made:
        imported = _import_model(call)
    return msgspec.structs.replace(imported, objects=objects.pack(made))


def _import_model(call: ImportCall) -> Imported:
    given = options.read(call.options)
    target = call.target
    narrowing.require(call.precision, target)
    source = Source(call.model, {name: Path(path) for name, path in call.files.items()})
    found = [frontends.read(source, variant) for variant in call.variants]
    signatures = signatures_of([signature for _, signature in found])
    folded = [batch_norm.fold_batch_norms(module) for module, _ in found]
    wished = Changes(fast_math=call.math == "fast", narrow=call.precision == "bf16")
    samples, proven = [], []
    for number, (module, signature) in enumerate(zip(folded, signatures.variants, strict=True)):
        model = optimisation.Simplified(module, signature, target)
        sampled = checking.sample(source, model, call, number)
        made = proving.prove(model, sampled, given, wished)
        tolerated = narrowing.tolerated(made.changes.narrow)
        samples.append(sampled.sample.widened(tolerated).compared(made.outputs))
        proven.append(made)
    changes = [each.changes for each in proven]
    optimised = packing.mark(variants.join([each.module for each in proven]), target, given.weights)
    log.info("the model transposes %d tensors", layouts.transpositions(optimised))
    extracted, untuned = tasks.extract(optimised, target)
    notes = list(dict.fromkeys(note for each in proven for note in each.notes)) + untuned
    return Imported(
        model=models.pack(variants.join(folded), signatures, changes, notes, given.weights),
        tasks=extracted,
        constants=_constants(optimised),
        sample=checking.pack(samples),
        judged=[each.judgement for each in samples],
    )


def _constants(module: Any) -> int:
    """Bytes of the constants in the entry functions of a module."""
    import tvm

    nodes = [node for node in models.nodes(module) if isinstance(node, tvm.ir.GenericConst)]
    values = [node.value for node in {hash(node): node for node in nodes}.values()]  # shared by variants
    return sum(math.prod(value.shape) * np.dtype(value.dtype).itemsize for value in values)
