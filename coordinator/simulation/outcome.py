"""What came of a simulation."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict

from msgspec import Struct

from tunemesh.coordinator.simulation.bounds import kind_of, lower_bound, speeds
from tunemesh.coordinator.simulation.workers import Executed
from tunemesh.coordinator.simulation.world import World


class Slot(Struct, frozen=True):
    """One step on one worker. Times are virtual seconds since the start."""

    resource: str
    worker: str
    job: str
    task: str
    stage: str
    started: float
    finished: float


class Outcome(Struct, frozen=True, kw_only=True):
    """All times are virtual seconds, except where wall time is named."""

    strategy: str
    seed: int
    makespan: float
    """From the first arrival to the end of the last job."""
    lower_bound: float
    """See :mod:`coordinator.simulation.bounds`."""
    completions: dict[str, float]
    """By job: from its arrival to its end."""
    completion_mean: float
    completion_p95: float
    utilisation: dict[str, float]
    """By kind of resource: busy time over workers and makespan."""
    steps: int
    lost: int
    """Steps whose worker died under them, and that ran again."""
    decisions: int
    decision_us: float
    """Wall time of the strategy per decision, in microseconds."""
    core_us: float
    """Wall time of the whole core per dispatched step, in microseconds."""
    device_seconds: dict[str, float]
    """By tenant: device time while every tenant had jobs."""
    timeline: list[Slot]

    @property
    def ratio(self) -> float:
        """Makespan over the lower bound."""
        return self.makespan / self.lower_bound if self.lower_bound else 1.0

    @property
    def scarcest(self) -> tuple[str, float]:
        """The kind of resource that was busiest, and its utilisation."""
        return max(self.utilisation.items(), key=lambda item: item[1])


def outcome_of(world: World) -> Outcome:
    """Sum up a run."""
    scenario = world.scenario
    makespan = max(world.ends.values()) - min(world.arrivals.values())
    completions = {job: end - world.arrivals[job] for job, end in sorted(world.ends.items())}
    done = {each.step.id: each for each in world.executed if each.completed}
    targets = {worker.queue: worker.target or "" for worker in world.workers}
    steps = [
        (each.step, kind_of(each.resource, targets[each.resource]), each.seconds) for each in done.values()
    ]
    times = sorted(completions.values())
    taken = sum(strategy.taken for strategy in world.strategies)
    return Outcome(
        strategy=scenario.strategy,
        seed=scenario.seed,
        makespan=makespan,
        lower_bound=lower_bound(scenario, steps, world.arrivals),
        completions=completions,
        completion_mean=statistics.fmean(times),
        completion_p95=times[math.ceil(0.95 * len(times)) - 1],
        utilisation=_utilisation(world, targets, makespan),
        steps=len(done),
        lost=world.lost,
        decisions=taken,
        decision_us=1e6 * sum(strategy.seconds for strategy in world.strategies) / max(taken, 1),
        core_us=1e6 * world.core_seconds / max(world.dispatches, 1),
        device_seconds=_device_seconds(world),
        timeline=[_slot(each) for each in world.executed],
    )


def _utilisation(world: World, targets: dict[str, str], makespan: float) -> dict[str, float]:
    busy: dict[str, float] = dict.fromkeys(speeds(world.scenario), 0.0)
    workers: dict[str, int] = dict.fromkeys(busy, 0)
    for worker in world.workers:
        workers[kind_of(worker.queue, targets[worker.queue])] += 1
    for each in world.executed:
        busy[kind_of(each.resource, targets[each.resource])] += each.finished - each.started
    return {kind: seconds / (workers[kind] * makespan) for kind, seconds in busy.items()}


def _device_seconds(world: World) -> dict[str, float]:
    """What tenants got of the devices until the first of them had no job left; also cut at that moment."""
    tenants = world.scenario.tenants
    tenant = {job: tenants[number % len(tenants)] for number, job in enumerate(world.arrivals)}
    ends: dict[str, float] = defaultdict(float)
    starts: dict[str, float] = {}
    for job, name in tenant.items():
        ends[name] = max(ends[name], world.ends[job])
        starts[name] = min(starts.get(name, world.arrivals[job]), world.arrivals[job])
    since, until = max(starts.values()), min(ends.values())
    used: dict[str, float] = dict.fromkeys(sorted(set(tenants)), 0.0)
    for each in world.executed:
        if each.resource.startswith("profile-"):
            overlap = min(each.finished, until) - max(each.started, since)
            used[tenant[each.step.job]] += max(overlap, 0.0)
    return used


def _slot(each: Executed) -> Slot:
    step = each.step
    stage = str(step.work.__struct_config__.tag)
    return Slot(each.resource, each.worker, step.job, step.task, stage, each.started, each.finished)
