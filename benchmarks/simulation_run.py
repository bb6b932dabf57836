"""One run in virtual time. The only place that knows how the simulation is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from benchmarks import evidence
from benchmarks.evidence import Bar, Evidence
from benchmarks.matrix import Run
from benchmarks.table import Value
from benchmarks.work import Result, Work
from shared.errors import BadInput

COLUMNS = (
    "jobs", "makespan_s", "lower_bound_s", "ratio", "use_update", "use_build", "use_profile",
    "completions_s", "decisions", "decision_us", "device_s",
)  # fmt: skip


class Slot(Protocol):
    """One entry of the timeline: a step on a worker. Times are virtual seconds."""

    @property
    def resource(self) -> str: ...
    @property
    def worker(self) -> str: ...
    @property
    def job(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def started(self) -> float: ...
    @property
    def finished(self) -> float: ...


class Simulated(Protocol):
    """What a simulation gives: ``coordinator.simulation.Outcome``. Times are virtual seconds."""

    @property
    def makespan(self) -> float: ...
    @property
    def lower_bound(self) -> float: ...
    @property
    def utilisation(self) -> Mapping[str, float]: ...
    @property
    def completions(self) -> Mapping[str, float]: ...
    @property
    def decision_seconds(self) -> Sequence[float]: ...
    @property
    def device_seconds(self) -> Mapping[str, float]: ...
    @property
    def timeline(self) -> Sequence[Slot]: ...


Simulate = Callable[[Run, Path], Simulated]


def simulate(run: Run, source: Path) -> Simulated:
    """Simulate one run of the experiment in ``source``.

    Raises:
        BadInput: the scenario is unknown or malformed, or has no field that ``overrides`` names.
    """
    try:
        simulation: Any = importlib.import_module("coordinator.simulation")
    except ModuleNotFoundError:
        raise BadInput("this version has no coordinator.simulation; only kind mesh can be run") from None
    beside = source.parent / run.scenario
    scenario = simulation.load_scenario(beside if beside.is_file() else run.scenario)
    known = scenario.__struct_fields__
    if unknown := sorted(set(run.overrides) - set(known)):
        raise BadInput(f"a scenario has no field {unknown[0]!r}; known: {', '.join(known)}")
    changed = msgspec.convert({**msgspec.to_builtins(scenario), **run.overrides}, type(scenario))
    outcome: Simulated = simulation.simulate(changed, run.strategy, seed=run.seed)
    return outcome


def run_simulation(work: Work, run: Run, folder: Path, simulate: Simulate = simulate) -> Result:
    """Simulate, and keep the timeline for the plots.

    Raises:
        BadInput: see :func:`simulate`.
    """
    outcome = simulate(run, work.source)
    evidence.save(_evidence(outcome), folder)
    decisions = outcome.decision_seconds
    use: dict[str, list[float]] = {}
    for resource, share in outcome.utilisation.items():
        use.setdefault(evidence.kind_of(resource), []).append(share)
    values: dict[str, Value] = {
        "jobs": len(outcome.completions),
        "makespan_s": outcome.makespan,
        "lower_bound_s": outcome.lower_bound,
        "ratio": outcome.makespan / outcome.lower_bound if outcome.lower_bound > 0 else None,
        "completions_s": _json(outcome.completions),
        "decisions": len(decisions),
        "decision_us": sum(decisions) / len(decisions) * 1e6 if decisions else None,
        "device_s": _json(outcome.device_seconds),
    }
    for kind in ("update", "build", "profile"):
        shares = use.get(kind, [])
        values[f"use_{kind}"] = sum(shares) / len(shares) if shares else None
    return Result(values=values)


def _evidence(outcome: Simulated) -> Evidence:
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
    ]
    workers = {(evidence.kind_of(bar.resource), bar.worker) for bar in bars}
    slots = {kind: sum(each == kind for each, _ in workers) for kind, _ in sorted(workers)}
    return Evidence(makespan=outcome.makespan, slots=slots, bars=bars)


def _json(values: Mapping[str, float]) -> str:
    return msgspec.json.encode({name: round(value, 6) for name, value in values.items()}).decode()
