"""What no schedule can beat: a lower bound of the makespan of one simulated run.

It is the larger of two, both from the durations that were drawn in this very run (every step counted once, at
usual speed, however often faults made it run):

**Work.** For each kind of resource: the total duration of its steps over the summed speed of its workers (one
of slowness *s* has speed 1/*s*). No schedule keeps more workers busy than there are.

**Critical path.** For each job: its arrival, its import, the longest chain of a task, assemble and validate,
on the fastest workers and without any waiting. In a task's chain a model update follows another one only when
something of the batch between them is back: with lookahead one chunk, so the chunk that is soonest through
build and profile counts; without it the whole batch, so the chunk that takes longest. Of the last batch all.

Delays between coordinator and workers are not part of it, so that it is a bound for any delay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from tunemesh.coordinator.simulation.scenario import Scenario
from tunemesh.shared.messages import Step


def kind_of(resource: str, target: str) -> str:
    """Resources of the same kind can take each other's steps."""
    return f"profile:{target}" if resource.startswith("profile-") else resource


def speeds(scenario: Scenario) -> dict[str, float]:
    """The summed speed of the workers of each kind."""
    total: dict[str, float] = {
        "build-cpu": float(scenario.builders),
        "model-update": float(scenario.updaters),
    }
    for number in range(scenario.devices):
        target = scenario.targets[number % len(scenario.targets)]
        slowness = scenario.slowness[number % len(scenario.slowness)]
        total[f"profile:{target}"] = total.get(f"profile:{target}", 0.0) + 1 / slowness
    return total


def lower_bound(
    scenario: Scenario, steps: Iterable[tuple[Step, str, float]], arrivals: Mapping[str, float]
) -> float:
    """The bound in seconds.

    Args:
        steps: every step once, with the kind of its resource and its duration at usual speed.
        arrivals: of the jobs, in seconds since the start.
    """
    work: dict[str, float] = defaultdict(float)
    whole: dict[str, float] = defaultdict(float)
    updates: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    chunks: dict[tuple[str, str, int], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    fastest = min(scenario.slowness)
    for step, kind, seconds in steps:
        work[kind] += seconds
        stage = step.work.__struct_config__.tag
        if stage in ("profile", "validate"):
            seconds *= fastest
        if step.task == "-":
            whole[step.job] += seconds
        elif stage == "model-update":
            updates[step.job, step.task][step.round] = seconds
        else:
            chunks[step.job, step.task, step.round][step.chunk] += seconds
    capacity = speeds(scenario)
    longest = max((seconds / capacity[kind] for kind, seconds in work.items()), default=0.0)
    pick = min if scenario.lookahead else max
    paths: dict[str, float] = defaultdict(float)
    for (job, task), rounds in updates.items():
        path = sum(rounds.values())
        for number in rounds:
            batch = chunks.get((job, task, number))
            if batch:
                last = number == max(n for n in rounds if (job, task, n) in chunks)
                path += max(batch.values()) if last else pick(batch.values())
        paths[job] = max(paths[job], path)
    return max([longest, *(arrivals[job] + whole[job] + paths[job] for job in arrivals)])
