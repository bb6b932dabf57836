"""One run on a private mesh, and what it says about the strategy."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks import evidence, fidelity, overhead
from benchmarks.alone import Alone, default_device, wait_for
from benchmarks.evidence import Evidence, TaskTrials
from benchmarks.experiment import settings_of
from benchmarks.machine import cores_of
from benchmarks.matrix import Run
from benchmarks.summary import geometric_mean
from benchmarks.table import Value, by_name
from benchmarks.work import Candidate, Result, Work
from tunemesh import following, layout, tuning
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import JobEvent, Level

COLUMNS = (
    "jobs", "trials_done", "measured", "makespan_s", "steps_s", "tuning_s", "total_s", "stages_s",
    "mesh_cpu_s",
    "use_update", "use_build", "use_profile", "latency_before_ms", "latency_after_ms", "speedup", "models_ms",
    "fidelity_candidates", "fidelity_failed", "fidelity_mean", "fidelity_spread", "fidelity_worst",
    "fidelity_winners", "noise_mean", "noise_spread", "noise_worst",
)  # fmt: skip


@dataclass
class Recorder(following.Watcher):
    """Keeps what the report of a job does not have."""

    others: frozenset[int] = frozenset()
    """Cores for this process while the mesh works; it must not disturb the device either."""
    requested: float = 0.0
    """When the first request was published (Unix time)."""
    ended: dict[str, JobEvent] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    """CPU seconds of the mesh itself from the first request to the last result."""

    def note(self, text: str) -> None:
        """Into the run's log."""
        print(text, flush=True)

    def submitting(self) -> None:
        """The mesh is up, as a service is when a request comes, and the clock of the makespan starts."""
        os.sched_setaffinity(0, self.others or os.sched_getaffinity(0))
        overhead.wait_until_calm()
        self._before = overhead.cpu_seconds()
        self.requested = time.time()

    def event(self, event: JobEvent) -> None:
        """Keep the addresses of the results."""
        if event.kind == "done":
            self.ended[event.job] = event
            now = overhead.cpu_seconds()
            self.spent = {part: now[part] - self._before[part] for part in overhead.PARTS}


def run_mesh(work: Work, run: Run, folder: Path) -> Result:
    """Tune on a mesh of our own, stop it, and check its measurements alone on the device.

    Raises:
        TunemeshError: the mesh could not go on.
    """
    experiment = work.experiment
    usable = frozenset(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores_of(run.cores))
    device = experiment.device or default_device()
    wait_for(device).release()
    settings = settings_of(run.settings)
    plan = tuning.Plan(
        target=experiment.target,
        level=Level(trials=run.trials, shared=False),
        out=folder / "tuned",
        overwrite=True,
        html=False,
        device=device,
        engines=(experiment.engine,),
        seed=run.seed,
        settings=settings,
        options=experiment.options,
        strategy=run.strategy,
        builders=experiment.builders,
        folder=folder / "mesh",
    )
    laid_out = layout.plan(device, experiment.builders, layout.keeps_apart(run.strategy))
    recorder = Recorder(others=laid_out.other_cpus if run.cores else usable - laid_out.device_cpus)
    started = time.time()
    endings = tuning.tune([work.models[name] for name in run.models], plan, recorder)
    os.sched_setaffinity(0, usable)
    if lost := [f"{ending.job}: {ending.error}" for ending in endings if ending.report is None]:
        return Result(status="failed", error="; ".join(lost))
    store = ArtifactStore(str(folder / "mesh" / "artifacts"))
    tasks = [
        task
        for job, event in recorder.ended.items()
        if event.assembled is not None
        for task in evidence.read_trials(store, job, event.assembled)
    ]
    gathered = _gather(endings, tasks, recorder, laid_out)
    evidence.save(gathered, folder)
    candidates: list[Candidate] = []
    if experiment.fidelity is not None:
        chosen = fidelity.choose(tasks, experiment.fidelity, f"{experiment.hash}/{run.id}")
        with Alone(experiment.engine, device, experiment.target) as alone:
            candidates = fidelity.measure(chosen, store, alone, settings)
    _clean(folder)
    values = _values(endings, gathered, started, recorder)
    return Result(values={**values, **fidelity.figures(candidates)}, candidates=candidates)


def _gather(
    endings: list[following.Ending], tasks: list[TaskTrials], recorder: Recorder, plan: layout.Layout
) -> Evidence:
    zero = recorder.requested
    reports = [ending.report for ending in endings if ending.report is not None]
    untuned = {(report.job, task.id): task.untuned_s for report in reports for task in report.tasks}
    ends = [event.progress.finished or event.at for event in recorder.ended.values() if event.progress]
    return Evidence(
        makespan=max(ends) - zero,
        slots={"update": plan.updaters, "build": plan.builders, "profile": 1},
        bars=evidence.bars(((report.job, report.timeline) for report in reports), zero),
        curves=[evidence.curve(task, untuned.get((task.job, task.records.task.id)), zero) for task in tasks],
    )


def _values(
    endings: list[following.Ending], gathered: Evidence, started: float, recorder: Recorder
) -> dict[str, Value]:
    reports = [ending.report for ending in endings if ending.report is not None]
    use = evidence.utilisation(gathered)
    models = {report.job: report.latency_after_s * 1e3 for report in reports}
    return {
        "jobs": len(reports),
        "trials_done": sum(report.trials for report in reports),
        "measured": sum(task.outcomes.get("measured", 0) for report in reports for task in report.tasks),
        "makespan_s": gathered.makespan,
        "steps_s": evidence.span(gathered),
        "tuning_s": evidence.tuning_span(gathered),
        "stages_s": by_name(evidence.stage_seconds(gathered)),
        "mesh_cpu_s": by_name(recorder.spent),
        "total_s": gathered.makespan + recorder.requested - started,
        "use_update": use["update"],
        "use_build": use["build"],
        "use_profile": use["profile"],
        "latency_before_ms": geometric_mean([report.latency_before_s * 1e3 for report in reports]),
        "latency_after_ms": geometric_mean(list(models.values())),
        "speedup": geometric_mean([report.speedup for report in reports]),
        "models_ms": msgspec.json.encode(models).decode(),
    }


def _clean(folder: Path) -> None:
    """Keep the logs; the artifacts and the broker's data are large."""
    shutil.rmtree(folder / "logs", ignore_errors=True)
    shutil.move(str(folder / "mesh" / "logs"), folder / "logs")
    shutil.rmtree(folder / "mesh", ignore_errors=True)
