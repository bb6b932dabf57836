"""Learn from the last round and propose the next."""

from __future__ import annotations

from tunemesh.shared.messages import Settings, Trial
from tunemesh.stage_workers.engines.metaschedule import candidates, proposing, search_state, spaces
from tunemesh.stage_workers.engines.metaschedule.search_state import Example, SearchState
from tunemesh.stage_workers.engines.protocol import Proposal, estimate, leaders
from tunemesh.stage_workers.graph import preloading, workloads


def update(
    workload: bytes,
    target: str,
    search: bytes | None,
    trials: list[Trial],
    want: int,
    seed: int,
    settings: Settings,
) -> Proposal:
    """See :meth:`stage_workers.engines.protocol.Engine.update`."""
    module = workloads.load(workload)
    if spaces.uses_tensor_cores(module, target):
        preloading.require_intrinsics()
    state = _restore(workloads.structural_hash(module), search)
    _learn(state, workload, target, trials)
    if want:
        proposed = proposing.propose(state, workload, target, want, seed, settings)
    else:
        proposed = leaders(state.best)
    return Proposal(search=search_state.encode(state), schedules=proposed)


def _restore(workload: str, search: bytes | None) -> SearchState:
    if search is None:
        return SearchState(workload)
    state = search_state.decode(search)
    if state.workload != workload:
        raise ValueError(f"the search state is that of workload {state.workload}, not of {workload}")
    return state


def _learn(state: SearchState, workload: bytes, target: str, trials: list[Trial]) -> None:
    new = [trial for trial in trials if trial.candidate.hash not in state.seen]
    for trial in new:
        state.tried(trial, estimate(trial))
    recalled = candidates.recall(workload, target, [trial.candidate.schedule for trial in new])
    state.learn(
        [
            Example(estimate(trial), candidate.features)
            for trial, candidate in zip(new, recalled, strict=True)
            if candidate is not None and len(candidate.features)
        ]
    )
