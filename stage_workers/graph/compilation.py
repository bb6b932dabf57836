"""From TIR to a shared object: with which passes, and with which schedules where nobody gave one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunemesh.stage_workers.graph import fast_math, linking, loops, targets

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


def left_out(target: str) -> list[str]:
    """Names of the passes that TVM is to leave out of what is tuned for ``target``."""
    return [] if targets.is_gpu(target) else list(LEFT_TO_LLVM)


def build_candidate(module: Any, target: str) -> bytes:
    """The kernel of a scheduled workload."""
    import tvm

    # Checks of arguments are a third of a small kernel's code; candidates are called as they should be.
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}, disabled_pass=left_out(target)):
        return compile_and_link(module, target)


def build_untuned(module: Any, target: str) -> bytes:
    """The kernel without tuning: as written on a CPU, with DLight's default schedule on a GPU. exp and the
    like are the C library's, whatever is marked."""
    return compile_and_link(with_default_schedule(fast_math.without_marks(module), target), target)


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


def compile_and_link(module: Any, target: str) -> bytes:
    """A shared object whose function ``main`` takes the workload's tensors."""
    import tvm

    limited = loops.for_cores_of(fast_math.with_operators(module, target), target)
    return linking.link(tvm.tirx.build(limited, target=targets.load(target), pipeline=fast_math.pipeline()))


def compile_model(module: Any, target: str, left_out: Sequence[str] = ()) -> bytes:
    """The shared object of a model whose functions are fused and, where wanted, scheduled. Passes whose names
    are in ``left_out`` do not run."""
    return linking.link(_executable(module, target, left_out))


def main_of(module: Any, target: str) -> Any:
    """The function ``main`` of a model, compiled in this process to be called here: its constants, of which
    there may be gigabytes, go through no file. It takes and gives tensors on the CPU."""
    import tvm

    return tvm.relax.VirtualMachine(_executable(module, target).mod, tvm.cpu())["main"]


def _executable(module: Any, target: str, left_out: Sequence[str] = ()) -> Any:
    import tvm
    from tvm.relax import pipeline

    compiled_for = targets.load(target)
    module = loops.for_cores_of(with_default_schedule(module, target), target)
    module = fast_math.with_operators(module, target)
    with compiled_for, tvm.transform.PassContext(opt_level=3, disabled_pass=list(left_out)):
        # Not the default pipeline: it would fuse once more, over functions already scheduled.
        return tvm.relax.build(
            module,
            target=compiled_for,
            relax_pipeline=pipeline.default_build_pipeline(),
            tir_pipeline=fast_math.pipeline(),
        )
