"""Service levels: when a job has enough, what it still needs to end, what it is quoted, and what came of it.

A job *has enough* when what it asks for is reached, as far as its tasks tell, or when no more than what it
needs to end is left of its time or of a budget. Then nothing new is tried: what was begun is finished, the
best few are confirmed, and the model is assembled and validated. What that takes is predicted from learned
durations (:class:`Rest`), for the mesh as busy as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tunemesh.coordinator.jobs import forecast, prices, rounds, steps
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.strategies import Load
from tunemesh.shared.messages import Quote, Stage, Standing, Usage, ValidateDone

CONFIRMED = 4
"""Candidates of a task that are confirmed at its end, at most."""

CONFIRMING = 2.0
"""Times as long as another one a candidate takes that is confirmed: with all its repeats."""

MARGIN = 0.05
"""By so much a goal must be passed before the job stops for it: the model as a whole is not measured yet."""

CARE = 1.3
"""What is predicted of the end is multiplied by, where a deadline or a budget depends on it."""

DELAY = 3.0
"""Seconds that looking, and sending a few steps one after the other, may take besides."""

LEARNED, GUESSED = 0.35, 1.0
"""Standard deviation of the logarithm of how long the end takes: where durations of its stages were seen, and
where they were not."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What a job still takes if nothing new is tried from now on."""

    seconds: float
    device_seconds: float
    cost: float
    learned: bool
    """Whether all of it follows from durations that were seen."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """What is known of the mesh."""

    durations: Durations
    load: Load
    price: Callable[[Need], float]
    """What a busy second of a worker for a need costs at most."""


def spent(job: Job) -> Mapping[str, Usage]:
    """What the job has used so far."""
    return job.ledger.usage if job.ended else rounds.current_usage(job)


def rest(job: Job, mesh: Mesh) -> Rest:
    """What it takes to end with the best so far."""
    durations, load = mesh.durations, mesh.load
    own = forecast.key_of(job, "-")
    work: dict[Stage, float] = {}
    seconds = 0.0
    learned = True

    def add(stage: Stage, each: float, count: float, slots: int) -> float:
        """Note ``count`` pieces of work; returns how long they take, with what is before them."""
        need = steps.need_of(job, stage)
        work[stage] = work.get(stage, 0.0) + each * count
        return load.supply(need) + each * max(math.ceil(count / max(slots, 1)), 1) if count else 0.0

    slots = {stage: load.slots(steps.need_of(job, stage)) for stage in steps.FEEDS}
    if job.ledger.phase == "importing":
        seconds += add("import", durations.seconds("import", own), 1, 1)
    if job.ledger.phase in ("importing", "tuning"):
        begun = [task for task in job.ledger.tasks if not task.closed and (task.round >= 0 or task.taken)]
        pace = _mean(durations, [task.spec.key for task in begun])
        under_way, built = _under_way(job, slots["build"])
        seconds += add("build", pace["build"], under_way, slots["build"])
        seconds += add("profile", pace["profile"], under_way + built, slots["profile"])
        seconds += add("model-update", pace["model-update"], len(begun), slots["model-update"])
        confirmed = CONFIRMED * len(begun)
        seconds += add("build", pace["build"], confirmed, slots["build"])
        seconds += add("profile", CONFIRMING * pace["profile"], confirmed, slots["profile"])
        learned = not begun or all(durations.seen(stage) for stage in ("model-update", "build", "profile"))
    # Whoever has never seen a model assembled knows how long it took to import this one.
    imported = durations.seconds("import", own) if durations.seen("import") else 0.0
    last: tuple[Stage, ...] = ("validate",) if job.ledger.phase == "validating" else ("assemble", "validate")
    for stage in last:
        known = durations.seen(stage)
        learned = learned and known
        seconds += add(stage, max(durations.seconds(stage, own), 0.0 if known else imported), 1, 1)
    cost = sum(each * mesh.price(steps.need_of(job, stage)) for stage, each in work.items())
    return Rest(seconds, work.get("profile", 0.0) + work["validate"], cost, learned)


def _mean(durations: Durations, keys: list[str]) -> dict[Stage, float]:
    """Seconds of each stage of a round, for tasks with these keys. What was never seen is not counted: a
    guess is no reason to stop."""
    found: dict[Stage, float] = {"model-update": 0.0, "build": 0.0, "profile": 0.0}
    for stage in found:
        if durations.seen(stage) and keys:
            found[stage] = sum(durations.seconds(stage, key) for key in keys) / len(keys)
    return found


def _under_way(job: Job, build_slots: int) -> tuple[int, int]:
    """Candidates that are being built, about, and those that are built and not yet profiled."""
    building = built = 0
    chunk = job.ledger.request.settings.chunk
    for task in job.ledger.tasks:
        kept = job.task(task.spec.id)
        for number in rounds.open_rounds(task, kept):
            round_ = kept.rounds[number]
            for each in range(round_.chunk_count()):
                stage = round_.stage(each)
                building += len(round_.candidates(each)) if stage == "build" else 0
                built += len(round_.candidates(each)) if stage == "profile" else 0
    return min(building, chunk * max(build_slots, 1)), built


def enough(job: Job, instant: float, mesh: Mesh) -> str:
    """Why nothing more is to be tried, in a few words; empty where something is."""
    level, ledger = job.ledger.request.level, job.ledger
    now, before = _latencies(job)
    if level.latency_s is not None and now is not None and now <= level.latency_s * (1 - MARGIN):
        return f"its tasks take {now * 1e3:.3f} ms, which is what was asked for"
    if level.speedup is not None and now and before and before / now >= level.speedup * (1 + MARGIN):
        return f"its tasks are {before / now:.1f} times as fast, which is what was asked for"
    if level.deadline is None and level.device_seconds is None and level.cost is None:
        return ""
    last, usage = rest(job, mesh), spent(job)
    if level.deadline is not None:
        left = ledger.accepted + level.deadline - instant
        if left <= CARE * last.seconds + DELAY:
            return (
                f"{max(left, 0.0):.0f} s are left until its deadline, and ending takes {last.seconds:.0f} s"
            )
    device = prices.device_seconds(usage) + CARE * last.device_seconds
    if level.device_seconds is not None and device >= level.device_seconds:
        return f"of its {level.device_seconds:g} device seconds no more are left than ending takes"
    cost = prices.of_usage(usage, job.prices)
    if level.cost is not None and cost is not None and cost + CARE * last.cost >= level.cost:
        return f"of its budget of {level.cost:g} no more is left than ending costs"
    return ""


def _latencies(job: Job) -> tuple[float | None, float | None]:
    """Of the model, as its tasks tell: with the best so far, and without tuning. ``None`` while one of them
    was not measured."""
    now = before = 0.0
    for task in job.ledger.tasks:
        found = rounds.current(job, task)
        if found.untuned is None:
            return None, None
        before += task.spec.weight * found.untuned
        now += task.spec.weight * min(found.untuned, found.best if found.best is not None else math.inf)
    return (now, before) if job.ledger.tasks else (None, None)


def quote(job: Job, instant: float, mesh: Mesh, shared: int) -> Quote:
    """What a job is told whose model was just imported. ``shared``: tasks that another one tunes."""
    ledger, level = job.ledger, job.ledger.request.level
    expected = forecast.forecast(job, mesh.durations)
    busy = max((work / max(mesh.load.slots(need), 1) for need, work in expected.work.items()), default=0.0)
    waits = max((mesh.load.supply(need) for need in expected.work), default=0.0)
    seconds = max(expected.path, busy) + waits
    device = sum(work for need, work in expected.work.items() if need.kind.startswith("profile:"))
    cost = sum(work * mesh.price(need) for need, work in expected.work.items())
    chance: float | None = None
    # Tasks that another job tunes cost this one nothing.
    part = 1 - shared / max(len(ledger.tasks), 1)
    seconds, device, cost = seconds * max(part, 0.1), device * part, cost * part
    if level.deadline is not None:
        left = ledger.accepted + level.deadline - instant
        last = rest(job, mesh)
        sigma = LEARNED if last.learned else GUESSED
        needed = last.seconds + DELAY
        chance = _normal(math.log(left / needed) / sigma) if left > 0 else 0.0
        share = min(1.0, max(left, 0.0) / seconds) if seconds else 1.0
        seconds, device, cost = seconds * share, device * share, cost * share
    if level.device_seconds is not None:
        device = min(device, level.device_seconds)
    if level.cost is not None:
        cost = min(cost, level.cost)
    return Quote(
        tasks=len(ledger.tasks),
        known=sum(bool(task.closed and task.history) for task in ledger.tasks),
        shared=shared,
        trials=level.trials if any(not task.closed for task in ledger.tasks) else 0,
        seconds=seconds,
        device_seconds=device,
        cost=cost if job.prices else None,
        chance=chance,
    )


def _normal(value: float) -> float:
    """The distribution function of the normal distribution."""
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


def quoted(said: Quote) -> str:
    """A quote in one line."""
    parts = [f"{said.tasks} tasks"]
    parts += [f"{said.known} of them known"] if said.known else []
    parts += [f"{said.shared} of them tuned by other jobs"] if said.shared else []
    parts.append(f"up to {said.trials} trials")
    parts.append(f"about {said.seconds:.0f} s, {said.device_seconds:.0f} s of a device")
    parts += [f"cost about {said.cost:.3g}"] if said.cost is not None else []
    parts += [f"{said.chance:.0%} to meet the deadline"] if said.chance is not None else []
    return "quote: " + ", ".join(parts)


def standing(
    job: Job, ledger: Ledger, usage: Mapping[str, Usage], validated: ValidateDone | None, finished: float
) -> Standing | None:
    """What came of the goals of a job that ends like this. *Impossible* is what was missed although the job
    took no more than it had to: nothing was tried, or nothing new was left to try."""
    level = ledger.request.level
    if not level.has_goal:
        return None
    texts: list[str] = []
    missed: list[bool] = []
    """Of each goal that was missed, whether it was impossible."""
    tried = sum(task.trials for task in ledger.tasks)
    tuned = [task for task in ledger.tasks if task.spec.engine is not None]
    nothing_new = bool(tuned) and all(task.exhausted for task in tuned)

    def judge(ok: bool, impossible: bool, text: str, why: str) -> None:
        texts.append(text if ok or not impossible else f"{text}: {why}")
        if not ok:
            missed.append(impossible)

    if validated is None:
        judge(False, False, "there is no result", "")
    elif level.latency_s is not None or level.speedup is not None:
        after, factor = validated.latency_after, validated.latency_before / validated.latency_after
        new = "nothing new was left to try"
        if level.latency_s is not None:
            text = f"{after * 1e3:.3f} ms of {level.latency_s * 1e3:g} ms"
            judge(after <= level.latency_s, nothing_new, text, new)
        if level.speedup is not None:
            judge(
                factor >= level.speedup, nothing_new, f"{factor:.2f} of {level.speedup:g} times as fast", new
            )
    without = "no trial was made, and it took that all the same"
    if level.deadline is not None:
        took = finished - ledger.accepted
        judge(took <= level.deadline, not tried, f"{took:.1f} of {level.deadline:g} s", without)
    if level.device_seconds is not None:
        used = prices.device_seconds(usage)
        text = f"{used:.1f} of {level.device_seconds:g} device seconds"
        judge(used <= level.device_seconds, not tried, text, without)
    cost = prices.of_usage(usage, job.prices)
    if level.cost is not None and cost is not None:
        judge(cost <= level.cost, not tried, f"cost {cost:.4g} of {level.cost:g}", without)
    if not missed:
        return Standing(verdict="met", reason="; ".join(texts))
    return Standing(verdict="impossible" if any(missed) else "missed", reason="; ".join(texts))
