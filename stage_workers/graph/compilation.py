"""From TIR to a shared object: with which passes, and with which schedules where nobody gave one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunemesh.stage_workers.graph import constants, fast_math, linking, loops, objects, targets, workloads
from tunemesh.stage_workers.graph.rewriting import rewritten
from tunemesh.stage_workers.measuring import loading

LEFT_TO_LLVM = (
    "tirx.RemoveNoOp",
    "s_tir.RenormalizeSplitPattern",
    "tirx.CommonSubexprElim",
    "tirx.NarrowDataType",
)
"""Passes of TVM, by name, that candidates and tuned models are lowered without. LLVM does the work of the
first three once more: the first two change next to no object file, for a 25th of the time to build it;
without the third kernels are as fast, for nearly as much again. The last makes indices 32 bits wide, which
LLVM has to widen for every address: without it builds take a tenth less. A schedule is measured and used with
the same passes."""

OF_NO_USE = (
    "tirx.AnnotateEntryFunc",
    "s_tir.ThreadSync",
    "s_tir.InferFragment",
    "s_tir.LowerThreadAllreduce",
    "s_tir.MergeSharedMemoryAllocations",
    "s_tir.InjectPermutedLayout",
)
"""Passes, likewise, that do nothing for a CPU but take a fiftieth of the time. The first adds a function that
has the only one called by another name, which nobody uses."""


MAIN = "main"
"""The function of a kernel that computes its task. Others pack its weights."""
MOVED = 2**22
"""Elements of a weight, at most, that is packed by code which LLVM has not optimised. That saves 8 to 12 of
the 20 ms that the function takes to build, and costs 0.8 ns for each element."""


def left_out(target: str) -> list[str]:
    """Names of the passes that TVM is to leave out of what is tuned for ``target``."""
    return [] if targets.is_gpu(target) else [*LEFT_TO_LLVM, *OF_NO_USE]


def build_candidate(module: Any, target: str) -> bytes:
    """The kernel of a scheduled workload: a shared object with the functions of ``module``."""
    return _kernel(module, target, left_out(target))


def build_untuned(module: Any, target: str) -> bytes:
    """The kernel without tuning: as written on a CPU, with DLight's default schedule on a GPU. exp and the
    like are the C library's, whatever is marked."""
    return _kernel(with_default_schedule(fast_math.without_marks(module), target), target)


def with_default_schedule(module: Any, target: str) -> Any:
    """Bind the unscheduled functions of ``module`` to GPU threads. A CPU runs them as they are."""
    if not targets.is_gpu(target):
        return module
    import tvm
    from tvm.s_tir import dlight

    rules = dlight.gpu
    # DLight changes the module that it is given.
    copied = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
    with targets.load(target):
        return dlight.ApplyDefaultSchedule(
            rules.Matmul(), rules.GEMV(), rules.Reduction(), rules.GeneralReduction(), rules.Fallback()
        )(copied)


def _kernel(module: Any, target: str, without: Sequence[str] = ()) -> bytes:
    """A shared object with the functions of ``module``, of which ``main`` takes the workload's tensors."""
    import tvm

    functions = {str(name.name_hint): function for name, function in module.functions_items()}
    if all(objects.is_plain(function, target) for function in functions.values()):
        made = {
            name: objects.compiled(function, target, without, optimised=not _only_moves(name, function))
            for name, function in functions.items()
        }
        symbols = {name: symbol for name, (symbol, _) in made.items()}
        return linking.link_objects([code for _, code in made.values()], symbols)
    # Candidates are called as they should be: nothing is gained by checking it.
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}, disabled_pass=list(without)):
        return compile_and_link(module, target)


def _only_moves(name: str, function: Any) -> bool:
    """Whether a function of a kernel only puts the elements of a weight into another order: it runs once."""
    if name == MAIN:
        return False
    sizes = {math.prod(int(length) for length in parameter.shape) for parameter in function.params}
    # Where there are more elements in the end, they are computed.
    return len(sizes) == 1 and max(sizes) <= MOVED


def compile_and_link(module: Any, target: str) -> bytes:
    """A shared object with the functions of TIR of a module, compiled together."""
    import tvm

    limited = loops.for_cores_of(fast_math.with_operators(module, target), target)
    # What makes code for a GPU asks the present target for the architecture.
    with targets.load(target) as compiled_for:
        return linking.link(tvm.tirx.build(limited, target=compiled_for, pipeline=fast_math.pipeline()))


def compile_model(module: Any, target: str, left_out: Sequence[str] = ()) -> bytes:
    """The shared object of a model whose functions are fused and, where wanted, scheduled. Passes whose names
    are in ``left_out`` do not run on those that are scheduled."""
    executable, parts = _executable(module, target, left_out)
    return linking.link(executable, parts)


def main_of(module: Any, target: str) -> Any:
    """The function ``main`` of a model, compiled in this process to be called here once or twice: its
    constants, of which there may be gigabytes, go through no file. It takes and gives tensors on the CPU.

    Functions that have a schedule are fast enough as they are written, and LLVM does not look for more."""
    import tvm

    executable, parts = _executable(module, target, left_out(target), optimised=False)
    if parts:
        executable.mod.import_module(loading.load(linking.link_objects(list(parts.values()))))
    return tvm.relax.VirtualMachine(executable.mod, tvm.cpu())["main"]


def _executable(
    module: Any, target: str, left_out: Sequence[str] = (), *, optimised: bool = True
) -> tuple[Any, dict[str, bytes]]:
    """A model for TVM's virtual machine, and the objects by symbol that it has to be linked with.

    Args:
        left_out: names of passes that do not run on functions that have a schedule.
        optimised: whether LLVM is to make these fast.
    """
    import tvm
    from tvm.relax import pipeline

    compiled_for = targets.load(target)
    module = constants.without_empty(module)
    module = loops.for_cores_of(with_default_schedule(module, target), target)
    module = fast_math.with_operators(module, target)
    parts: dict[str, bytes] = {}

    @tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
    def apart(module: Any, _context: Any) -> Any:
        found: dict[Any, str] = {}
        functions = [item for item in module.functions_items() if isinstance(item[1], tvm.tirx.PrimFunc)]
        called = [each for _, function in functions for each in workloads.called_by(function)]
        used = set(called).union(*map(workloads.called_by, _relax_functions(module)))
        # TVM has made views of calls that only give a tensor another shape: nothing calls their functions.
        module = module.clone()
        for name, _ in functions:
            if name not in used:
                del module[name]
        for name, function in ((name, function) for name, function in functions if name in used):
            if name not in called and objects.is_plain(function, target):
                scheduled = workloads.is_scheduled(function)
                found[name], code = objects.compiled(
                    function, target, left_out if scheduled else (), optimised=optimised or not scheduled
                )
                parts[found[name]] = code
        return _calling_outside(module, found)

    # Not the default pipeline: it would fuse once more, over functions already scheduled.
    passes = tvm.transform.Sequential([pipeline.default_build_pipeline(), apart])
    with compiled_for, tvm.transform.PassContext(opt_level=3, disabled_pass=list(left_out)):
        built = tvm.relax.build(
            module, target=compiled_for, relax_pipeline=passes, tir_pipeline=fast_math.pipeline()
        )
        return built, parts


def _relax_functions(module: Any) -> list[Any]:
    from tvm import relax

    return [each for _, each in module.functions_items() if isinstance(each, relax.Function)]


def _calling_outside(module: Any, symbols: Mapping[Any, str]) -> Any:
    """A lowered module that calls external functions of these names in place of some of its own."""
    from tvm import relax

    @relax.expr_functor.mutator
    class Caller(relax.PyExprMutator):  # type: ignore[misc]
        def visit_global_var_(self, variable: Any) -> Any:
            return relax.ExternFunc(symbols[variable]) if variable in symbols else variable

    changed = rewritten(module, Caller(module).visit_expr)
    for name in symbols:
        del changed[name]
    return changed
