"""Did the mesh measure what is true? Build candidates of a run again and measure them with nothing else on
the machine, twice: the second time shows how much two measurements differ anyway."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.alone import Alone, CallFailed
from benchmarks.evidence import TaskTrials
from benchmarks.summary import geometric_mean, geometric_spread
from benchmarks.table import Value
from benchmarks.work import Candidate
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import Settings, Trial
from tunemesh.stage_workers.engines.protocol import BuildCall, Engine
from tunemesh.stage_workers.platforms.protocol import Platform, ProfileCall
from tunemesh.stage_workers.stages.profiling import as_measured


@dataclass(frozen=True, slots=True)
class Chosen:
    """A candidate to measure again."""

    task: TaskTrials
    trial: Trial
    winner: bool


def choose(tasks: Sequence[TaskTrials], others: int, seed: str) -> list[Chosen]:
    """The winner of every task, and ``others`` measured candidates of all tasks by chance."""
    chosen, rest = [], []
    for task in tasks:
        winner = task.winner()
        for trial in task.trials:
            if trial.outcome != "measured":
                continue
            if winner is not None and trial.candidate.hash == winner.candidate.hash:
                continue
            rest.append(Chosen(task, trial, winner=False))
        if winner is not None:
            chosen.append(Chosen(task, winner, winner=True))
    rest.sort(key=lambda each: (each.task.job, each.task.records.task.id, each.trial.candidate.hash))
    return chosen + random.Random(seed).sample(rest, min(others, len(rest)))


def measure(
    chosen: Sequence[Chosen], store: ArtifactStore, alone: Alone, settings: Settings
) -> list[Candidate]:
    """Measure all of them alone, then all of them once more."""
    built = [_build(each, store, alone, settings) for each in chosen]
    first = [
        _profile(each, program, store, alone, settings) for each, program in zip(chosen, built, strict=True)
    ]
    second = [
        _profile(each, program, store, alone, settings) for each, program in zip(chosen, built, strict=True)
    ]
    return [_candidate(*row) for row in zip(chosen, first, second, strict=True)]


def figures(candidates: Sequence[Candidate]) -> dict[str, Value]:
    """The cells of a run's row; see ``docs/benchmarks.md``."""
    ratios = [each.ratio for each in candidates if each.ratio is not None]
    noise = [each.noise for each in candidates if each.noise is not None]
    winners = [each.ratio for each in candidates if each.winner and each.ratio is not None]
    return {
        "fidelity_candidates": len(ratios),
        "fidelity_failed": len(candidates) - len(ratios),
        "fidelity_mean": geometric_mean(ratios),
        "fidelity_spread": geometric_spread(ratios),
        "fidelity_worst": max(ratios, default=None),
        "fidelity_winners": geometric_mean(winners),
        "noise_mean": geometric_mean(noise),
        "noise_spread": geometric_spread(noise),
        "noise_worst": max(noise, default=None),
    }


def _build(each: Chosen, store: ArtifactStore, alone: Alone, settings: Settings) -> bytes | str:
    """The program, or why there is none."""
    workload = store.get(each.task.records.task.workload)
    call = BuildCall(workload=workload, target=alone.target, schedule=each.trial.candidate.schedule)
    try:
        answer = alone.call(Engine.build, call, settings.build_timeout)
    except CallFailed as error:
        return str(error)
    return answer.artifact if answer.artifact is not None else answer.error or "build failed"


def _profile(
    each: Chosen, program: bytes | str, store: ArtifactStore, alone: Alone, settings: Settings
) -> float | str:
    """The median latency, or why there is none."""
    if isinstance(program, str):
        return program
    spec = each.task.records.task
    workload, untuned = store.get(spec.workload), store.get(spec.untuned)
    call = ProfileCall(
        workload=workload,
        target=alone.target,
        artifact=program,
        untuned=untuned,
        device=alone.device,
        settings=as_measured(settings, spec, alone.cache),
    )
    try:
        answer = alone.call(Platform.profile, call, settings.profile_timeout)
    except CallFailed as error:
        return str(error)
    if answer.outcome != "measured" or not answer.latencies:
        return answer.error or answer.outcome
    return statistics.median(answer.latencies)


def _candidate(each: Chosen, first: float | str, second: float | str) -> Candidate:
    errors = [outcome for outcome in (first, second) if isinstance(outcome, str)]
    return Candidate(
        job=each.task.job,
        task=each.task.records.task.id,
        task_name=each.task.records.task.name,
        hash=each.trial.candidate.hash,
        winner=each.winner,
        mesh_s=each.trial.latency,
        confirmed_s=each.task.confirmed(each.trial),
        alone_first_s=first if isinstance(first, float) else None,
        alone_second_s=second if isinstance(second, float) else None,
        drift=each.trial.drift,
        attempts=each.trial.attempts,
        error=errors[0] if errors else "",
    )
