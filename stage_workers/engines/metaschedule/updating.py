"""Learn from the last round and propose the next."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tunemesh.shared.messages import Trial
from tunemesh.stage_workers.engines.metaschedule import (
    candidates,
    options,
    proposing,
    regions,
    search_state,
    spaces,
    transferring,
    ways,
    winograd_search,
)
from tunemesh.stage_workers.engines.metaschedule.cost_model import Scored
from tunemesh.stage_workers.engines.metaschedule.search_state import Example, SearchState
from tunemesh.stage_workers.engines.metaschedule.transferring import Near
from tunemesh.stage_workers.engines.protocol import Examples, Proposal, UpdateCall
from tunemesh.stage_workers.graph import workloads
from tunemesh.stage_workers.graph.winograd_kernels import Knobs

HASH = re.compile("[0-9a-f]{16}")
ELSEWHERE = 0.3
"""Weight of a trial of the task under other conditions: what is fast there is mostly fast here."""


def update(call: UpdateCall) -> Proposal:
    """See :meth:`stage_workers.engines.protocol.Engine.update`."""
    given = options.read(call.options)
    module = workloads.load(call.workload)
    spaces.require(module, call.target)
    state = _restore(workloads.structural_hash(module), call.search)
    _remember(state, call)
    _learn(state, call.trials, call.workload, call.target)
    proposed = []
    if call.want:
        space = regions.by_winograd(winograd_search.space(module, call.target), call.region)
        near = transferring.nearest(call)
        expected = transferring.winograd_ratio(near)
        first = ways.by_winograd(state, space.keys(), call.want, expected)
        proposed = _proposed_by_winograd(state, module, call.target, space, first, near)
        direct = msgspec.structs.replace(call, want=call.want - len(proposed))
        if direct.want:
            proposed += proposing.propose(state, direct, given, near)
        if len(proposed) < call.want:  # of the one way there are no others
            proposed += _proposed_by_winograd(state, module, call.target, space, call.want - len(proposed))
    return Proposal(search=search_state.encode(state), schedules=proposed)


def _proposed_by_winograd(
    state: SearchState,
    module: Any,
    target: str,
    space: Mapping[str, Knobs],
    want: int,
    near: Sequence[Near] = (),
) -> list[tuple[str, bytes]]:
    known = state.seen | state.pending
    # Whatever else is set, with tiles of the same size the same numbers are computed in the same order.
    untried = {
        name: knobs
        for name, knobs in space.items()
        if name not in known and knobs.outputs not in state.inexact
    }
    if not want or not untried:
        return []
    measured = [(latency, schedule) for latency, name, schedule in state.best if name in space]
    similar = transferring.by_winograd(near)
    proposed = winograd_search.propose(module, target, untried, measured, want, similar)
    state.pending |= {name for name, _ in proposed}
    return proposed


def _restore(workload: str, search: bytes | None) -> SearchState:
    if search is None:
        return SearchState(workload)
    state = search_state.decode(search)
    if state.workload != workload:
        raise ValueError(f"the search state is that of workload {state.workload}, not of {workload}")
    return state


def _remember(state: SearchState, call: UpdateCall) -> None:
    """What earlier jobs have tried."""
    for here in _readable(call.here):
        _learn(state, here.trials, here.workload, call.target)
    state.seen |= {name for name in call.seen if HASH.fullmatch(name)}
    for there in _readable(call.elsewhere):
        others = [each for each in there.trials if not winograd_search.is_ours(each.candidate.schedule)]
        best = min((each.estimate for each in others), default=math.inf)
        state.learn_of_others(
            [
                Scored(math.log(best / each.latency), ELSEWHERE, each.features)
                for each in _examples(others, there.workload, there.target)
            ]
        )


def _readable(examples: Iterable[Examples]) -> list[Examples]:
    return [each for each in examples if each.format == options.FORMAT]


def _learn(state: SearchState, trials: Sequence[Trial], workload: bytes, target: str) -> None:
    new = {each.candidate.hash: each for each in trials if each.candidate.hash not in state.seen}
    others = []
    for trial in new.values():
        state.tried(trial, trial.estimate)
        if not winograd_search.is_ours(trial.candidate.schedule):
            others.append(trial)
        elif trial.outcome == "wrong-result":
            state.inexact.add(winograd_search.unpack(trial.candidate.schedule).outputs)
    state.learn(_examples(others, workload, target))


def _examples(trials: Sequence[Trial], workload: bytes, target: str) -> list[Example]:
    """What the cost model learns from trials of MetaSchedule's own schedules."""
    recalled = candidates.recall(workload, target, [trial.candidate.schedule for trial in trials])
    return [
        Example(trial.estimate, candidate.features)
        for trial, candidate in zip(trials, recalled, strict=True)
        if candidate is not None and len(candidate.features)
    ]
