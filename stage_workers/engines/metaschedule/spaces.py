"""Search spaces: which MetaSchedule rules generate the candidates of a workload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tunemesh.stage_workers.engines.metaschedule import intrinsics, plain_loops, register_tiles
from tunemesh.stage_workers.graph import dots, preloading, targets, workloads

UNROLL_STEPS = (0, 16, 64, 256)
"""Up to how many steps the loops of a candidate are unrolled on a CPU: it draws one of these. MetaSchedule
itself goes up to 512. Such candidates take LLVM three to five times as long as others, and 64 trials of six
kernels (three seeds each) find as much without them."""

Space = Literal["own", "all", "metaschedule"]
"""Of candidates for a CPU: those by :mod:`.register_tiles`, where it has some; those, and MetaSchedule's;
only MetaSchedule's."""

TENSOR_CORE_DTYPES = frozenset({"float16", "bfloat16", "int8", "uint8"})


def rules(module: Any, target: str) -> str:
    """The name of MetaSchedule's default rules for a workload."""
    if not targets.is_gpu(target):
        # Not "vnni" or "avx512", which need the tensor intrinsics: seconds of import in every process for
        # what LLVM's vectoriser reaches too, except on int8.
        return "llvm"
    return "cuda-tensorcore" if uses_tensor_cores(module, target) else "cuda"


def uses_tensor_cores(module: Any, target: str) -> bool:
    """Whether candidates may call tensor intrinsics, which must then be registered before any replay."""
    if not targets.is_gpu(target):
        return False
    return any(a.dtype in TENSOR_CORE_DTYPES for a in workloads.arguments(module["main"]))


def generator(module: Any, target: str, space: Space = "all", checks: Sequence[Any] = ()) -> Any:
    """A fresh space generator. Its rules may need what :func:`require` registers.

    Args:
        checks: postprocessors that come before those that there are.
    """
    from tvm.s_tir import meta_schedule

    name = rules(module, target)
    instructions = dots.marks(module["main"])
    return meta_schedule.space_generator.PostOrderApply(
        sch_rules=_schedule_rules(name, module, target, space, instructions),
        postprocs=_postprocessors(name, instructions, checks),
        mutator_probs=name,
    )


def require(module: Any, target: str) -> None:
    """Register the tensor intrinsics that candidates of a workload may call."""
    if uses_tensor_cores(module, target):
        preloading.require_intrinsics()
    intrinsics.require(dots.marks(module["main"]))


def _schedule_rules(name: str, module: Any, target: str, space: Space, instructions: Sequence[str]) -> Any:
    """MetaSchedule's rules of that name; on a CPU with :data:`UNROLL_STEPS`, with tiles of instructions where
    there are any for a block, and with two rules of our own once everything is inlined."""
    from tvm.s_tir.meta_schedule import schedule_rule

    if name != "llvm":
        return name
    found: list[Any] = []
    tiles = _tiles(instructions)
    for rule in schedule_rule.ScheduleRule.create(name):
        if instructions and isinstance(rule, schedule_rule.RandomComputeLocation):
            continue  # where an image is padded, is chosen by our own rule
        if isinstance(rule, schedule_rule.MultiLevelTiling):
            found += tiles
            tiles = []
        if isinstance(rule, schedule_rule.AddRFactor) and space != "metaschedule":
            found += [register_tiles.rule(module, target, space == "own"), plain_loops.rule(target)]
        found.append(_unrolling_less(rule))
    return found


def _tiles(instructions: Sequence[str]) -> list[Any]:
    """Rules that tile around instructions, as MetaSchedule tiles the loops of multiplications."""
    from tvm.s_tir.meta_schedule import schedule_rule

    if not instructions:
        return []
    sums = schedule_rule.ReuseType(req="may", levels=[1, 2], scope="global")
    tiles = [
        schedule_rule.MultiLevelTilingWithIntrin(
            each, structure="SSRSRS", max_innermost_factor=64, reuse_write=sums
        )
        for each in instructions
    ]
    return [*tiles, intrinsics.around()]


def _unrolling_less(rule: Any) -> Any:
    """A rule, with :data:`UNROLL_STEPS` where it unrolls."""
    from tvm.s_tir.meta_schedule import schedule_rule

    unroll = schedule_rule.ParallelizeVectorizeUnroll
    if not isinstance(rule, unroll):
        return rule
    return unroll(rule.max_jobs_per_core, rule.max_vectorize_extent, UNROLL_STEPS, rule.unroll_explicit)


def _postprocessors(name: str, instructions: Sequence[str], checks: Sequence[Any]) -> Any:
    """Those of MetaSchedule of that name, after ``checks``, and what puts instructions in their place."""
    from tvm.s_tir.meta_schedule import postproc

    if not instructions and not checks:
        return name
    found = postproc.Postproc.create(name)
    if instructions:
        # Not RewriteLayout: weights lie as the instructions take them.
        found = [each for each in found if not isinstance(each, postproc.RewriteLayout)]
        found.append(postproc.RewriteTensorize(vectorize_init_loop=True))
    return [*checks, *found]
