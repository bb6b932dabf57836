"""How much work a job still is, and how long it must take at least: predictions for the strategies."""

from __future__ import annotations

import math

from tunemesh.coordinator.jobs import allocation, steps
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.strategies import Outlook
from tunemesh.shared.messages import Stage


def outlook(job: Job, durations: Durations) -> Outlook:
    """What is predicted of ``job`` with its present ledger; computed once per revision."""
    if job.outlook is None or job.outlook[0] is not job.ledger:
        job.outlook = job.ledger, _predict(job, durations)
    return job.outlook[1]


def _predict(job: Job, durations: Durations) -> Outlook:
    ledger = job.ledger
    request = ledger.request
    batch = request.settings.batch
    own = model_key(job)
    open_tasks = [task for task in ledger.tasks if not task.closed]
    keys = [task.spec.key for task in open_tasks] or [own]

    def mean(stage: Stage) -> float:
        return sum(durations.seconds(stage, key) for key in keys) / len(keys)

    update, build, profile = mean("model-update"), mean("build"), mean("profile")
    last = durations.seconds("assemble", own), durations.seconds("validate", own)
    work: dict[str, float] = {}
    path = 0.0

    def add(stage: Stage, seconds: float) -> None:
        need = steps.need_of(job, stage)
        work[need] = work.get(need, 0.0) + seconds

    if ledger.phase == "importing":
        first = durations.seconds("import", own)
        add("import", first)
        path += first
    if ledger.phase in ("importing", "tuning"):
        trials = max(request.trials - sum(task.trials for task in ledger.tasks), 0)
        if ledger.stopped:
            trials = 0
        rounds = trials / batch
        closing = len(open_tasks)
        add("model-update", (rounds + closing) * update)
        add("build", trials * build)
        add("profile", trials * profile)
        at_once = allocation.rounds_at_once(len(keys))
        chunk = min(request.settings.chunk, batch)
        path += math.ceil(rounds / at_once) * (update + chunk * (build + profile)) + update
    if ledger.phase != "validating":
        add("assemble", last[0])
        path += last[0]
    add("validate", last[1])
    return Outlook(work, path + last[1])


def model_key(job: Job) -> str:
    """The key under which the durations of job-wide stages are learned: that of the model."""
    return job.ledger.request.model.sha256
