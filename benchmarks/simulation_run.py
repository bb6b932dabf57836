"""One run in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks import evidence
from benchmarks.evidence import Bar, Evidence
from benchmarks.matrix import Run
from benchmarks.table import Value, by_name
from benchmarks.work import Result, Work
from tunemesh.coordinator import simulation
from tunemesh.coordinator.simulation import Outcome, Scenario
from tunemesh.shared.errors import BadInput

COLUMNS = (
    "jobs", "makespan_s", "lower_bound_s", "ratio", "use_update", "use_build", "use_profile",
    "completions_s", "completion_mean_s", "completion_p95_s", "steps", "decisions", "decision_us", "core_us",
    "device_s",
)  # fmt: skip

BARS_KEPT = 20_000
"""Steps of a run that are kept for its Gantt chart; of a longer run none, it could not be read anyway."""

Simulate = Callable[[Run, Path], Outcome]


def simulate(run: Run, source: Path) -> Outcome:
    """Simulate one run of the experiment in ``source``.

    Raises:
        BadInput: the scenario is unknown or malformed, or has no field that ``overrides`` names.
    """
    beside = source.parent / run.scenario
    scenario = simulation.load_scenario(beside if beside.is_file() else run.scenario)
    known = Scenario.__struct_fields__
    if unknown := sorted(set(run.overrides) - set(known)):
        raise BadInput(f"a scenario has no field {unknown[0]!r}; known: {', '.join(known)}")
    fields = {
        **msgspec.to_builtins(scenario), **run.overrides, "strategy": run.strategy, "seed": run.seed
    }  # fmt: skip
    try:
        changed = msgspec.convert(fields, Scenario)
    except msgspec.ValidationError as error:
        raise BadInput(f"overrides of {run.scenario}: {error}") from None
    return simulation.simulate(changed)


def run_simulation(work: Work, run: Run, folder: Path, simulate: Simulate = simulate) -> Result:
    """Simulate, and keep the timeline for the plots.

    Raises:
        BadInput: see :func:`simulate`.
    """
    outcome = simulate(run, work.source)
    evidence.save(_evidence(outcome), folder)
    use: dict[str, list[float]] = {}
    for resource, share in outcome.utilisation.items():
        use.setdefault(evidence.kind_of(resource), []).append(share)
    values: dict[str, Value] = {
        "jobs": len(outcome.completions),
        "makespan_s": outcome.makespan,
        "lower_bound_s": outcome.lower_bound,
        "ratio": outcome.ratio,
        "completions_s": by_name(outcome.completions),
        "completion_mean_s": outcome.completion_mean,
        "completion_p95_s": outcome.completion_p95,
        "steps": outcome.steps,
        "decisions": outcome.decisions,
        "decision_us": outcome.decision_us,
        "core_us": outcome.core_us,
        "device_s": by_name(outcome.device_seconds),
    }
    for kind in ("update", "build", "profile"):
        shares = use.get(kind, [])
        values[f"use_{kind}"] = sum(shares) / len(shares) if shares else None
    return Result(values=values)


def _evidence(outcome: Outcome) -> Evidence:
    bars = [
        Bar(
            worker=slot.worker,
            resource=slot.resource,
            job=slot.job,
            stage=slot.stage,
            started=slot.started,
            finished=slot.finished,
        )
        for slot in outcome.timeline
        if len(outcome.timeline) <= BARS_KEPT
    ]
    workers = {(evidence.kind_of(bar.resource), bar.worker) for bar in bars}
    slots = {kind: sum(each == kind for each, _ in workers) for kind, _ in sorted(workers)}
    return Evidence(makespan=outcome.makespan, slots=slots, bars=bars)
