"""How much work a job still is, and how long it must take at least: predictions for the strategies."""

from __future__ import annotations

import math

from tunemesh.coordinator.jobs import allocation, searches, steps
from tunemesh.coordinator.jobs import trials as job_trials
from tunemesh.coordinator.jobs.job import Job, StepRef
from tunemesh.coordinator.scheduling import chunks
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.strategies import Forecast, Ready
from tunemesh.shared.messages import Stage
from tunemesh.shared.messages.levels import CANDIDATES, CLASS_WEIGHT


def ready(job: Job, ref: StepRef, durations: Durations, account: Job | None = None) -> Ready:
    """A step of the job as the dispatcher takes it, on its own account or on that of a job that waits for
    what comes of it."""
    payer = account or job
    request = payer.ledger.request
    size = steps.candidates_of(job, ref)
    return Ready(
        step=ref.id,
        job=job.id,
        need=steps.need_of(job, ref.stage, ref.task),
        job_order=payer.order,
        tenant=request.tenant,
        priority=request.priority * CLASS_WEIGHT[request.level.class_],
        feeds=steps.feeds(job, ref.stage, ref.task),
        seconds=durations.seconds(ref.stage, key_of(job, ref.task), size),
        forecast=forecast(payer, durations),
        account=payer.id,
        class_=request.level.class_,
        urgent=ends(job, ref),
    )


def ends(job: Job, ref: StepRef) -> bool:
    """Whether a step belongs to the end of a job with a deadline: it goes first, as it was promised in time.
    A job that ends has little to do, and brings nothing new."""
    ledger = job.ledger
    if ledger.request.level.deadline is None:
        return False
    task = job.task_ledger(ref.task)
    return ledger.stopped or ref.stage in ("assemble", "validate") or (task is not None and not task.want)


def chunk_size(job: Job, ref: StepRef, durations: Durations, load: Dispatcher, *, fits: bool) -> int:
    """Candidates per chunk of the batch that a ``model-update`` proposes.

    Args:
        fits: see :func:`~coordinator.scheduling.chunks.best`.
    """
    task = job.task_ledger(ref.task)
    if ref.stage != "model-update" or task is None or not task.want:
        return job.ledger.request.settings.chunk
    build, profile = steps.need_of(job, "build", ref.task), steps.need_of(job, "profile")
    key = key_of(job, ref.task)
    # What counts is who has nothing to do when the batch is there.
    until_then = durations.seconds("model-update", key)
    free = load.slots(build) if load.supply(build) <= until_then else load.free(build)
    return chunks.best(
        task.want,
        job.ledger.request.settings.chunk,
        durations.cost("build", key),
        durations.cost("profile", key),
        builders=load.slots(build),
        free=free,
        devices=load.slots(profile),
        waits=load.supply(profile) > until_then,
        fits=fits,
    )


def forecast(job: Job, durations: Durations) -> Forecast:
    """What is predicted of ``job`` with its present ledger; computed once per revision."""
    return job.forecast(lambda: _predict(job, durations))


def _predict(job: Job, durations: Durations) -> Forecast:
    ledger = job.ledger
    request = ledger.request
    batch = request.settings.batch
    own = key_of(job, "-")
    open_tasks = [task for task in ledger.tasks if not task.closed]
    keys = [task.spec.pace_key for task in open_tasks] or [own]
    distinct = max(len(searches.by_task(open_tasks)), 1)

    def mean(stage: Stage) -> float:
        return sum(durations.seconds(stage, key) for key in keys) / len(keys)

    update, build, profile = mean("model-update"), mean("build"), mean("profile")
    last = durations.seconds("assemble", own), durations.seconds("validate", own)
    shares = steps.engines_at_work(job)
    work: dict[Need, float] = {}
    path = 0.0

    def add(stage: Stage, seconds: float) -> None:
        if stage in ("model-update", "build"):
            parts = [(steps.need_for(job, stage, [e]), n / shares.total()) for e, n in shares.items()]
        else:
            parts = [(steps.need_of(job, stage), 1.0)]
        for need, part in parts:
            work[need] = work.get(need, 0.0) + part * seconds

    if ledger.phase == "importing":
        first = durations.seconds("import", own)
        add("import", first)
        path += first
    if ledger.phase in ("importing", "tuning"):
        level = request.level
        few = CANDIDATES.get(level.effort, 0) * distinct
        budget = level.trials or few or allocation.automatic(distinct, allocation.PATIENCE)
        if level.trials and ledger.tasks:
            # More is tried only where it pays, which nobody knows yet.
            budget = min(budget, max(job_trials.share(ledger), len(open_tasks)))
        trials = max(budget - sum(task.trials for task in ledger.tasks), 0)
        if ledger.stopped or not (open_tasks or ledger.phase == "importing"):
            trials = 0
        rounds = trials / batch
        closing = len(open_tasks)
        add("model-update", (rounds + closing) * update)
        add("build", trials * build)
        add("profile", trials * profile)
        at_once = allocation.rounds_at_once(distinct)
        chunk = min(request.settings.chunk, batch)
        path += math.ceil(rounds / at_once) * (update + chunk * (build + profile)) + update
    if ledger.phase != "validating":
        add("assemble", last[0])
        path += last[0]
    add("validate", last[1])
    return Forecast(work, path + last[1])


def key_of(job: Job, task: str) -> str:
    """The key under which the durations of a task's steps are learned; for job-wide stages that of the
    model."""
    ledger = job.task_ledger(task)
    return ledger.spec.pace_key if ledger is not None else job.ledger.request.model.sha256
