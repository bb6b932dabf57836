"""Learn from the last round and propose the next."""

from __future__ import annotations

from tunemesh.stage_workers.engines.metaschedule import candidates, options, proposing, search_state, spaces
from tunemesh.stage_workers.engines.metaschedule.search_state import Example, SearchState
from tunemesh.stage_workers.engines.protocol import Proposal, UpdateCall
from tunemesh.stage_workers.graph import preloading, workloads


def update(call: UpdateCall) -> Proposal:
    """See :meth:`stage_workers.engines.protocol.Engine.update`."""
    given = options.read(call.options)
    module = workloads.load(call.workload)
    if spaces.uses_tensor_cores(module, call.target):
        preloading.require_intrinsics()
    state = _restore(workloads.structural_hash(module), call.search)
    _learn(state, call)
    proposed = proposing.propose(state, call, given) if call.want else []
    return Proposal(search=search_state.encode(state), schedules=proposed)


def _restore(workload: str, search: bytes | None) -> SearchState:
    if search is None:
        return SearchState(workload)
    state = search_state.decode(search)
    if state.workload != workload:
        raise ValueError(f"the search state is that of workload {state.workload}, not of {workload}")
    return state


def _learn(state: SearchState, call: UpdateCall) -> None:
    new = [trial for trial in call.trials if trial.candidate.hash not in state.seen]
    for trial in new:
        state.tried(trial, trial.estimate)
    schedules = [trial.candidate.schedule for trial in new]
    recalled = candidates.recall(call.workload, call.target, schedules)
    state.learn(
        [
            Example(trial.estimate, candidate.features)
            for trial, candidate in zip(new, recalled, strict=True)
            if candidate is not None and len(candidate.features)
        ]
    )
