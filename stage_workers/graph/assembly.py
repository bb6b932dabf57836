"""Compile the whole model with the best that was found for each task, and once more without any of it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunemesh.shared.errors import JobFailed
from tunemesh.stage_workers.engines.protocol import ObjectPart, TirPart
from tunemesh.stage_workers.graph import (
    compilation,
    models,
    objects,
    optimisation,
    packing,
    prepacking,
    variants,
    workloads,
)
from tunemesh.stage_workers.graph.changes import NONE
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.graph.rewriting import is_call_of_tir, rewritten
from tunemesh.stage_workers.graph.signatures import pack_signatures
from tunemesh.stage_workers.platforms.protocol import AssembleCall, Assembled, TunedTask

log = logging.getLogger(__name__)

NOT_AS_GIVEN = (
    "TVM cannot compile the model as it is given: the model before tuning has the changes of its graph"
)


def assemble(call: AssembleCall, left_out: Sequence[str] | None = None) -> Assembled:
    """See :meth:`stage_workers.platforms.protocol.Platform.assemble`.

    Args:
        left_out: names of TVM's passes that the tuned model is compiled without: those that the candidates
            were measured without (``None``), unless they come from elsewhere.

    Raises:
        JobFailed: when some task was tuned, but is no part of the model.
    """
    target = call.target
    for packed_objects in call.objects:
        objects.remember(objects.unpack(packed_objects))
    packed = models.unpack(call.model)
    modules, plain = variants.split(packed.module), [NONE] * len(packed.changes)
    optimised = optimisation.optimise_all(modules, target, packed.changes)
    marked = packing.mark(optimised, target, packed.packing)
    with _tuned(marked, call.tasks, target) as tuned:
        compiled = compilation.compile_model(
            tuned, target, compilation.left_out(target) if left_out is None else left_out
        )
    untuned, notes = call.untuned, packed.notes
    if not untuned:
        # What there would be without Tunemesh.
        same = packed.changes == plain
        try:
            as_given = optimised if same else optimisation.optimise_all(modules, target, plain)
            untuned = compilation.compile_model(as_given, target)
        except Exception as error:  # whatever TVM or LLVM raise
            reraise_memory_error(error)
            if same:
                raise
            notes = [*notes, f"{NOT_AS_GIVEN}: {first_line(error)}"]
            untuned = compilation.compile_model(optimised, target)
    return Assembled(
        tuned=compiled,
        untuned=untuned,
        signature=pack_signatures(packed.signatures),
        notes=notes,
    )


@contextmanager
def _tuned(module: Any, tasks: Sequence[TunedTask], target: str) -> Iterator[Any]:
    """``module`` with the parts of ``tasks`` in place of its own functions. The objects among them lie in
    files while the context lasts."""
    functions = _functions_of(module, tasks)
    scheduled = {
        name: prepacking.scheduled(module[name], task.part)
        for name, task in functions.items()
        if isinstance(task.part, TirPart)
    }
    external = {name: task for name, task in functions.items() if isinstance(task.part, ObjectPart)}
    changed = prepacking.applied(module, functions, scheduled, target)
    changed = _calling_outside(changed, {name: task.symbol for name, task in external.items()})
    log.info("%d tasks are tuned: %d functions of the model", len(tasks), len(functions))
    with tempfile.TemporaryDirectory(prefix="tunemesh-parts-") as folder:
        yield _linked_with(changed, list({task.symbol: task for task in external.values()}.values()), folder)


def _functions_of(module: Any, tasks: Sequence[TunedTask]) -> dict[Any, TunedTask]:
    """The functions of a model, by their global variables, that compute what a tuned task does.

    Raises:
        JobFailed: there is none for a task.
    """
    import tvm

    by_hash = {workloads.structural_hash(workloads.load(task.workload)): task for task in tasks}
    found = {}
    for name, function in module.functions_items():
        if isinstance(function, tvm.tirx.PrimFunc) and not workloads.is_scheduled(function):
            task = by_hash.get(workloads.structural_hash(workloads.of_function(function)))
            if task is not None:
                found[name] = task
    missing = len(by_hash) - len({task.symbol for task in found.values()})
    # Tasks and model were made from the same functions: this can only be a defect.
    if missing:
        raise JobFailed(f"{len(tasks)} tasks were tuned, but {missing} of them are no functions of the model")
    return found


def _calling_outside(module: Any, symbols: Mapping[Any, str]) -> Any:
    """``module`` in which calls of some functions go to the external functions of these names."""
    if not symbols:
        return module
    from tvm import relax

    @relax.expr_functor.mutator
    class Caller(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            if is_call_of_tir(call) and call.args[0] in symbols:
                return relax.call_dps_packed(symbols[call.args[0]], call.args[1], list(call.ty_args))
            return call

    changed = rewritten(module, Caller(module).visit_expr)
    for name in symbols:
        del changed[name]
    return changed


def _linked_with(module: Any, tasks: Sequence[TunedTask], folder: str) -> Any:
    """``module``, to be linked with the objects of ``tasks``, which are written to ``folder``."""
    if not tasks:
        return module
    import tvm

    libraries = []
    for task in tasks:
        assert isinstance(task.part, ObjectPart)
        path = Path(folder, f"{task.symbol}.o")
        path.write_bytes(task.part.code)
        libraries.append(tvm.runtime.load_static_library(str(path), [task.symbol]))
    return module.with_attr("external_mods", libraries)
