"""From a schedule to a shared object."""

from __future__ import annotations

from typing import Any

from tunemesh.shared.text import clip
from tunemesh.stage_workers.engines.metaschedule import schedules, spaces
from tunemesh.stage_workers.engines.protocol import BuildOutcome
from tunemesh.stage_workers.graph import linking, preloading, targets, workloads

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


def build(workload: bytes, target: str, schedule: bytes) -> BuildOutcome:
    """Compile one candidate; see :meth:`stage_workers.engines.protocol.Engine.build`."""
    import tvm

    try:
        if spaces.uses_tensor_cores(workloads.load(workload), target):
            preloading.require_intrinsics()
        module = schedules.replay(workload, schedule).mod
        # Checks of arguments are a third of a small kernel's code; candidates are called as they should be.
        with tvm.transform.PassContext(config={"tirx.disable_assert": True}, disabled_pass=left_out(target)):
            return BuildOutcome(artifact=compile_and_link(module, target))
    except Exception as error:  # whatever TVM, LLVM or nvcc raise is the candidate's outcome
        return BuildOutcome(outcome="build-failed", error=clip(str(error)))


def left_out(target: str) -> list[str]:
    """Names of the passes that TVM is to leave out of what is tuned for ``target``."""
    return [] if targets.is_gpu(target) else list(LEFT_TO_LLVM)


def build_untuned(module: Any, target: str) -> bytes:
    """The workload without tuning: as written on a CPU, with DLight's default schedule on a GPU."""
    return compile_and_link(with_default_schedule(module, target), target)


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

    return linking.link(tvm.tirx.build(module, target=targets.load(target)))
