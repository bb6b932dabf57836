"""Learn from the last round and propose the next."""

from __future__ import annotations

import math
import statistics
import zlib
from typing import Any

from shared.engine import Proposal, leaders
from shared.messages import Trial

from . import cost_model, preloading, proposing, schedules, search_state, spaces, workloads
from .search_state import Example, SearchState


def update(
    workload: bytes, target: str, search: bytes | None, trials: list[Trial], want: int, seed: int
) -> Proposal:
    """See :meth:`shared.engine.Engine.update`."""
    module = workloads.load(workload)
    if spaces.uses_tensor_cores(module, target):
        preloading.require_intrinsics()
    state = _restore(workloads.structural_hash(module), search)
    _learn(state, workload, target, trials)
    if want:
        proposed = proposing.propose(state, workload, target, want, seed)
    else:
        proposed = leaders(state.best)
    return Proposal(search=search_state.encode(state), schedules=proposed)


def latency(trial: Trial) -> float:
    """The median of the repeats in seconds; infinite when the candidate failed."""
    if trial.outcome != "measured" or not trial.latencies:
        return math.inf
    return statistics.median(trial.latencies)


def _restore(workload: str, search: bytes | None) -> SearchState:
    if search is None:
        return SearchState(workload)
    state = search_state.decode(search)
    if state.workload != workload:
        raise ValueError(f"the search state is that of workload {state.workload}, not of {workload}")
    return state


def _learn(state: SearchState, workload: bytes, target: str, trials: list[Trial]) -> None:
    new = [trial for trial in trials if trial.candidate.hash not in state.seen]
    replayed: list[Any] = []
    latencies: list[float] = []
    for trial in new:
        state.tried(trial, latency(trial))
        try:
            replayed.append(schedules.replay(workload, trial.candidate.schedule))
        except (RuntimeError, ValueError, TypeError, zlib.error):
            continue  # it failed to build for the same reason, and has no features
        latencies.append(latency(trial))
    features = cost_model.extract(*proposing.candidates(workload, target, replayed)) if replayed else []
    state.learn([Example(*pair) for pair in zip(latencies, features, strict=True) if len(pair[1])])
