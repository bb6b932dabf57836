"""Service levels: when a job has enough, what it still needs to end, what it is quoted, and what came of it.

A job *has enough* when what it asks for is reached, as far as its tasks tell, or when no more than what it
needs to end is left of its time or of a budget. Then nothing new is tried: what was begun is finished, the
best few are confirmed, and the model is assembled and validated. What that takes is predicted from learned
durations (:mod:`coordinator.jobs.rest`), for the mesh as busy as it is. A job that has stopped too early,
because that was too much, goes on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping

from tunemesh.coordinator.jobs import allocation, forecast, prices, rounds, searches, trials
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.coordinator.jobs.rest import (
    BUDGET_CARE,
    DELAY,
    NOTHING,
    Mesh,
    Rest,
    another_round,
    last_steps,
    rest,
)
from tunemesh.coordinator.jobs.states import search_state
from tunemesh.shared.messages import Quote, Standing, Usage, ValidateDone

MARGIN = 0.05
"""By so much a goal must be passed before the job stops for it: the model as a whole is not measured yet."""

LEARNED, GUESSED = 0.35, 0.7
"""Standard deviation of the logarithm of how long the end takes: where durations of its stages were seen, and
where they were not."""


LEAST_SPREAD = 0.2
"""The same, at least, where jobs have ended here."""
LEAST_RATIO = 0.05
"""What took less of what it was thought to take is no more than that."""


def spent(job: Job) -> Mapping[str, Usage]:
    """What the job has used so far."""
    return job.ledger.usage if job.ended else rounds.current_usage(job)


def enough(job: Job, instant: float, mesh: Mesh, more: Rest = NOTHING) -> str:
    """Why nothing more is to be tried, in a few words; empty where something is. ``more``: what is to have
    room besides."""
    level, ledger = job.ledger.request.level, job.ledger
    now, before = _latencies(job)
    if level.latency_s is not None and now is not None and now <= level.latency_s * (1 - MARGIN):
        return f"its tasks take {now * 1e3:.3f} ms, which is what was asked for"
    if level.speedup is not None and now and before and before / now >= level.speedup * (1 + MARGIN):
        return f"its tasks are {before / now:.1f} times as fast, which is what was asked for"
    if not level.has_limit:
        return ""
    last, usage = rest(job, mesh), spent(job)
    if level.deadline is not None:
        left = ledger.accepted + level.deadline - instant
        if left <= last.careful + more.careful:
            return (
                f"{max(left, 0.0):.0f} s are left until its deadline, and ending takes {last.seconds:.0f} s"
            )
    device = prices.device_seconds(usage) + BUDGET_CARE * (last.device_seconds + more.device_seconds)
    if level.device_seconds is not None and device >= level.device_seconds:
        return f"of its {level.device_seconds:g} device seconds no more are left than ending takes"
    cost = prices.of_usage(usage, job.prices)
    if (
        level.cost is not None
        and cost is not None
        and cost + BUDGET_CARE * (last.cost + more.cost) >= level.cost
    ):
        return f"of its budget of {level.cost:g} no more is left than ending costs"
    return ""


def may_go_on(job: Job, instant: float, mesh: Mesh) -> bool:
    """Whether a job that has stopped for its service level could have another round after all, because ending
    turned out to take less than was thought. To be asked when all is back that was begun: once its tasks are
    being closed it is too late."""
    ledger = job.ledger
    if not ledger.enough or ledger.phase != "tuning" or trials.granted(job) >= ledger.request.level.trials:
        return False
    open_ = [task for task in ledger.tasks if not task.closed]
    if any(search_state(task) == "closing" for task in open_):
        return False
    found = [trials.standing(job, task) for task in open_]
    if any(each.busy for each in found) or not any(map(allocation.may_go_on, found)):
        return False
    return not enough(job, instant, mesh, another_round(job, mesh))


def must_assemble(job: Job, instant: float, mesh: Mesh) -> bool:
    """Whether a job with a deadline has no more time left than assembling and validating take."""
    deadline = job.ledger.request.level.deadline
    if deadline is None:
        return False
    return job.ledger.accepted + deadline - instant <= last_steps(job, mesh).careful


def _latencies(job: Job) -> tuple[float | None, float | None]:
    """Of the model, as its tasks tell: with the best so far, and without tuning. ``None`` while one of them
    was not measured."""
    now = before = 0.0
    for first, *_ in searches.by_task(job.ledger.tasks):
        untuned, lead = rounds.untuned(job, first), rounds.lead(job, first)
        if untuned is None:
            return None, None
        before += first.spec.weight * untuned
        now += first.spec.weight * min(untuned, lead if lead is not None else math.inf)
    return (now, before) if job.ledger.tasks else (None, None)


def quote(job: Job, instant: float, mesh: Mesh, shared: Collection[str]) -> Quote:
    """What a job is told whose model was just imported. ``shared``: searches that another one does."""
    ledger, level = job.ledger, job.ledger.request.level
    expected = forecast.forecast(job, mesh.durations)
    busy = max((work / max(mesh.load.slots(need), 1) for need, work in expected.work.items()), default=0.0)
    waits = max((mesh.load.supply(need) for need in expected.work), default=0.0)
    seconds = max(expected.path, busy) + waits
    device = sum(work for need, work in expected.work.items() if need.kind.startswith("profile:"))
    cost = sum(work * mesh.price(need) for need, work in expected.work.items())
    chance: float | None = None
    # Searches that another job does cost this one nothing.
    part = 1 - len(shared) / max(len(ledger.tasks), 1)
    tasks = searches.by_task(ledger.tasks)
    seconds, device, cost = seconds * max(part, 0.1), device * part, cost * part
    if level.deadline is not None:
        left = ledger.accepted + level.deadline - instant
        last = rest(job, mesh)
        bias, sigma = _spread(mesh, last)
        needed = last.seconds + DELAY
        chance = _normal((math.log(left / needed) - bias) / sigma) if left > 0 else 0.0
        share = min(1.0, max(left, 0.0) / seconds) if seconds else 1.0
        seconds, device, cost = seconds * share, device * share, cost * share
    if level.device_seconds is not None:
        device = min(device, level.device_seconds)
    if level.cost is not None:
        cost = min(cost, level.cost)
    return Quote(
        tasks=len(tasks),
        known=sum(any(task.closed and task.history for task in each) for each in tasks),
        shared=sum(any(task.spec.id in shared for task in each) for each in tasks),
        trials=level.trials if any(not task.closed for task in ledger.tasks) else 0,
        seconds=seconds,
        device_seconds=device,
        cost=cost if job.prices else None,
        chance=chance,
    )


def _spread(mesh: Mesh, last: Rest) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm of how long an end takes, by what it is thought to take.
    Where enough jobs have ended here they tell."""
    if not mesh.knows_endings:
        return 0.0, LEARNED if last.learned else GUESSED
    logarithms = [math.log(each) for each in mesh.endings]
    # Few of them say little of the rare ones.
    return statistics.mean(logarithms), max(statistics.stdev(logarithms), LEAST_SPREAD)


def ending(ledger: Ledger) -> float | None:
    """How long the end of a job took, by what it was thought to take; ``None`` where it has no result."""
    foreseen, finished = ledger.foreseen, ledger.finished
    if ledger.phase != "done" or foreseen is None or finished is None:
        return None
    return max((finished - foreseen.at) / (foreseen.seconds + DELAY), LEAST_RATIO)


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
