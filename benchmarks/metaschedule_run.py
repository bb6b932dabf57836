"""One run of MetaSchedule itself, on the tasks that the mesh would tune: what Tunemesh is compared with.

``metaschedule`` is :func:`tvm.s_tir.meta_schedule.tune_tasks` with all its defaults, what ``tune_tir``
and ``tune_relax`` come down to. ``metaschedule-warm`` is the same on workers that are forked from a process
that has imported everything (:mod:`benchmarks.warm_workers`).
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import evidence, warm_workers
from benchmarks.evidence import Evidence, Measured, TaskCurve
from benchmarks.experiment import settings_of
from benchmarks.machine import cores_of
from benchmarks.matrix import Run
from benchmarks.table import Value, by_name
from benchmarks.work import Result, Work
from tunemesh.report import write_file
from tunemesh.stage_workers.engines.protocol import TirPart
from tunemesh.stage_workers.frontends.shapes import variants
from tunemesh.stage_workers.graph import assembly
from tunemesh.stage_workers.options import GRAPH
from tunemesh.stage_workers.platforms.protocol import (
    AssembleCall,
    ImportCall,
    Imported,
    TargetCall,
    TunedTask,
)
from tunemesh.stage_workers.platforms.tvm_platform import TvmPlatform

LLVM_AS_TVM_HAS_IT = {"opt-level": 3, "cl-opt": []}
"""What a target says of LLVM by default, in place of ``targets.LLVM_LEVEL`` and ``LLVM_OPTIONS``."""


def run_metaschedule(work: Work, run: Run, folder: Path) -> Result:
    """Tune the models one after the other, and compile them with the best schedules found."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores_of(run.cores))
    platform = TvmPlatform()
    target = platform.resolve_target(TargetCall(target=work.experiment.target)).canonical
    target = json.dumps({**LLVM_AS_TVM_HAS_IT, **json.loads(target)}, sort_keys=True)
    settings, options = settings_of(run.settings), work.experiment.options.get(GRAPH, {})
    seconds, tried, measured, curves = 0.0, 0, 0, []
    stages: dict[str, float] = {}
    for name in run.models:
        imported = platform.import_model(
            ImportCall(
                model=work.models[name].read_bytes(),
                target=target,
                variants=variants(settings),
                options=options,
                # Its own builder knows nothing of ours.
                math="exact",
            )
        )
        tuned = _Tuning(imported, target, run)
        curves += tuned.curves(name, seconds)
        seconds += tuned.seconds
        tried += tuned.tried
        measured += tuned.measured
        for stage, spent in tuned.stages.items():
            stages[stage] = stages.get(stage, 0.0) + spent
        # Compiled with the passes that it was measured with, all of them.
        call = AssembleCall(model=imported.model, target=target, tasks=tuned.best())
        assembled = assembly.assemble(call, left_out=())
        write_file(folder / "tuned" / name / "model.so", assembled.tuned)
        write_file(folder / "tuned" / name / "signature.json", assembled.signature)
    os.sched_setaffinity(0, usable)
    evidence.save(Evidence(makespan=seconds, slots={}, bars=[], curves=curves), folder)
    values: dict[str, Value] = {
        "jobs": len(run.models),
        "trials_done": tried,
        "measured": measured,
        "makespan_s": seconds,
        "steps_s": seconds,
        "tuning_s": seconds,
        "stages_s": by_name(stages),
        "models_ms": "{}",
    }
    return Result(values=values)


class _Tuning:
    """One model, tuned when this is made."""

    def __init__(self, imported: Imported, target: str, run: Run) -> None:
        from tvm.s_tir import meta_schedule

        from tunemesh.stage_workers.graph import targets, workloads

        self._tasks = imported.tasks
        self._target = targets.load(target)
        self._modules = [workloads.load(task.workload) for task in self._tasks]
        self._results: list[tuple[float, int, float | None]] = []
        warm = run.tuner == "metaschedule-warm"
        workers = {"builder": warm_workers.builder(), "runner": warm_workers.runner()} if warm else {}
        began = time.monotonic()
        seeds = meta_schedule.utils.fork_seed(run.seed, n=len(self._tasks))
        with tempfile.TemporaryDirectory() as folder, meta_schedule.Profiler() as profiler:
            contexts = [
                meta_schedule.TuneContext(
                    mod=module,
                    target=self._target,
                    space_generator="post-order-apply",
                    search_strategy="evolutionary",
                    task_name=task.name,
                    rand_state=seed,
                    num_threads=len(os.sched_getaffinity(0)),
                ).clone()
                for task, module, seed in zip(self._tasks, self._modules, seeds, strict=True)
            ]
            self._database = meta_schedule.tune.tune_tasks(
                tasks=contexts,
                task_weights=[float(task.weight) for task in self._tasks],
                work_dir=folder,
                max_trials_global=run.trials,
                measure_callbacks=[
                    *meta_schedule.MeasureCallback.create("default"),
                    _recorder(self._results, began),
                ],
                **workers,
            )
            self.seconds = time.monotonic() - began
            self._best = [self._database.query_tuning_record(m, self._target, "main") for m in self._modules]
        self.tried = len(self._results)
        self.measured = sum(latency is not None for _, _, latency in self._results)
        self.stages = _by_stage({str(k): float(v) for k, v in profiler.get().items()}, self.seconds)

    def best(self) -> list[TunedTask]:
        """Of every task its best schedule, as the mesh's own ``assemble`` takes it."""
        from tunemesh.stage_workers.graph import prepacking, workloads

        return [
            TunedTask(
                workload=task.workload,
                symbol=f"tunemesh_{task.key}",
                part=TirPart(module=workloads.pack(prepacking.split(_replayed(record)))),
                latency=statistics.median(map(float, record.run_secs)),
            )
            for task, record in zip(self._tasks, self._best, strict=True)
            if record is not None
        ]

    def curves(self, job: str, since: float) -> list[TaskCurve]:
        """What was known when; ``since`` is when this model's turn came."""
        return [
            TaskCurve(
                job=job,
                task=task.name,
                weight=task.weight,
                untuned=None,
                measured=[
                    Measured(at=since + at, latency=latency)
                    for at, of, latency in self._results
                    if of == number and latency is not None
                ],
            )
            for number, task in enumerate(self._tasks)
        ]


def _replayed(record: Any) -> Any:
    """The scheduled workload of a record of TVM's."""
    from tvm.s_tir import Schedule

    scheduled = Schedule(record.workload.mod)
    record.trace.apply_to_schedule(scheduled, remove_postproc=False)
    return scheduled.mod


def _recorder(results: list[tuple[float, int, float | None]], began: float) -> Any:
    """A callback that notes (seconds since ``began``, task, latency or ``None``) of every trial."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.measure_callback import PyMeasureCallback

    class Recorder(PyMeasureCallback):  # type: ignore[misc]
        def apply(
            self, task_scheduler: Any, task_id: int, candidates: Any, built: Any, measured: Any
        ) -> None:
            now = time.monotonic() - began
            for result in measured:
                costs = [float(each) for each in result.run_secs or []]
                results.append((now, task_id, statistics.fmean(costs) if costs else None))

    return derived_object(Recorder)()


def _by_stage(profile: Mapping[str, float], total: float) -> dict[str, float]:
    """Where the time went. What is neither building nor running is search, cost model included."""
    build, run = profile.get("SendToBuilder", 0.0), profile.get("SendToRunner", 0.0)
    run += profile.get("JoinRunnerFutures", 0.0)
    return {"update": max(total - build - run, 0.0), "build": build, "profile": run}
