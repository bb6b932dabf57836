"""Compile the whole model with the best schedules, and once more without any."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from tunemesh.shared.errors import JobFailed
from tunemesh.shared.messages import Settings, Trial
from tunemesh.stage_workers.engines.metaschedule import building, schedules, spaces
from tunemesh.stage_workers.engines.protocol import Assembled, TaskTrials, latency
from tunemesh.stage_workers.graph import (
    convolutions,
    export,
    linking,
    models,
    preloading,
    targets,
    workloads,
)
from tunemesh.stage_workers.graph import (
    tasks as model_tasks,
)

log = logging.getLogger(__name__)


AS_GIVEN = Settings(convolutions="as-given")


def assemble(
    model: bytes,
    target: str,
    tasks: list[TaskTrials],
    settings: Settings,
    left_out: Sequence[str] | None = None,
) -> Assembled:
    """See :meth:`stage_workers.engines.protocol.Engine.assemble`.

    Args:
        left_out: names of TVM's passes that the tuned model is compiled without: those that the candidates
            were measured without (``None``), unless they come from elsewhere.

    Raises:
        JobFailed: when a schedule was found for some task, but none fits the model.
    """
    module, signature = models.unpack(model)
    # What there would be without Tunemesh.
    as_given = model_tasks.optimise(module, target, AS_GIVEN)
    rewritten = convolutions.wanted(target, settings)
    optimised = model_tasks.optimise(module, target, settings) if rewritten else as_given
    return Assembled(
        tuned=_compile(
            _apply(optimised, target, tasks),
            target,
            building.left_out(target) if left_out is None else left_out,
        ),
        untuned=_compile(as_given, target),
        signature=models.pack_signature(signature),
        files=export.database_files(target, tasks),
    )


def _apply(module: Any, target: str, tasks: list[TaskTrials]) -> Any:
    """Replace the functions of ``module`` that were tuned by their best schedules."""
    import tvm

    best = {task.workload: min(task.trials, key=latency) for task in tasks if task.trials and task.apply}
    best = {workload: trial for workload, trial in best.items() if math.isfinite(latency(trial))}
    scheduled = _scheduled(module)
    with targets.load(target), tvm.transform.PassContext(opt_level=3), _database(best, target):
        applied = tvm.relax.transform.MetaScheduleApplyDatabase()(module)
    count = _scheduled(applied) - scheduled
    log.info("applied the schedules of %d tasks to %d functions", len(best), count)
    # Database and model were made from the same functions: this can only be a defect.
    if count < len(best):
        raise JobFailed(f"{len(best)} tasks were tuned, but only {count} functions of the model match them")
    return applied


def _database(best: dict[bytes, Trial], target: str) -> Any:
    from tvm.s_tir import meta_schedule

    database = meta_schedule.database.MemoryDatabase()
    for workload, trial in best.items():
        module = workloads.load(workload)
        if spaces.uses_tensor_cores(module, target):
            preloading.require_intrinsics()
        trace = schedules.replay(workload, trial.candidate.schedule).trace
        database.commit_tuning_record(
            meta_schedule.database.TuningRecord(
                trace, database.commit_workload(module), [latency(trial)], targets.load(target)
            )
        )
    return database


def _scheduled(module: Any) -> int:
    """How many functions of ``module`` have a schedule."""
    return sum(map(workloads.is_scheduled, module.functions.values()))


def _compile(module: Any, target: str, left_out: Sequence[str] = ()) -> bytes:
    """The shared object of a model whose functions are fused and, where wanted, scheduled. Passes whose names
    are in ``left_out`` do not run."""
    import tvm
    from tvm.relax import pipeline

    compiled_for = targets.load(target)
    module = building.with_default_schedule(module, target)
    with compiled_for, tvm.transform.PassContext(opt_level=3, disabled_pass=list(left_out)):
        # Not the default pipeline: it would fuse once more, over functions already scheduled.
        executable = tvm.relax.build(
            module, target=compiled_for, relax_pipeline=pipeline.default_build_pipeline()
        )
    return linking.link(executable)
