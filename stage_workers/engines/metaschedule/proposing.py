"""Propose candidates: MetaSchedule's evolutionary search, made stateless and deterministic."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunemesh.stage_workers.engines.metaschedule import (
    candidates,
    contexts,
    cost_model,
    prior,
    regions,
    schedules,
    thread_tiles,
    transferring,
    winograd_search,
)
from tunemesh.stage_workers.engines.metaschedule.candidates import Candidate
from tunemesh.stage_workers.engines.metaschedule.cost_model import Predictor
from tunemesh.stage_workers.engines.metaschedule.options import SearchOptions
from tunemesh.stage_workers.engines.metaschedule.search_state import SearchState
from tunemesh.stage_workers.engines.metaschedule.spaces import Space
from tunemesh.stage_workers.engines.metaschedule.transferring import Near
from tunemesh.stage_workers.engines.protocol import UpdateCall
from tunemesh.stage_workers.graph import targets, workloads

LEAST_POPULATION = 32
FEW_TRIALS = 128
"""With fewer the cost model does not know enough for a thorough search to pay: it finds no better
candidates, and takes twice the time."""
OWN_TRIALS = 16
"""First trials of a task, which come from rules of our own alone, where they have candidates: the prior knows
little of those, and MetaSchedule's are seldom better."""
FIRST_POPULATION = 3
"""Schedules to weigh per candidate by the prior alone."""
MEASURED_SHARE = 0.2
"""Part of the first population that comes from the best schedules measured so far."""
BORROWED = 2
"""Candidates of a first batch that come from similar tasks, at most: those that are drawn are good, too."""
SPARE = 2
"""Times as many candidates as are wanted that a search gives, for the case that some were tried before."""
SLOW = 1e6
"""Seconds: of a schedule that nobody has measured."""
FRUITLESS_ATTEMPTS = 3
"""Attempts in a row that bring nothing new before the space counts as exhausted."""

log = logging.getLogger(__name__)


def propose(
    state: SearchState, call: UpdateCall, options: SearchOptions, near: Sequence[Near] = ()
) -> list[tuple[str, bytes]]:
    """Hash and schedule of up to ``call.want`` candidates that were never proposed, and count the round.
    Fewer when :data:`FRUITLESS_ATTEMPTS` searches in a row have found nothing new.

    Args:
        near: similar tasks, whose best schedules compete with those that are drawn.

    Raises:
        RuntimeError: TVM fails at the search.
    """
    workload, target, want = call.workload, call.target, call.want
    model = cost_model.fit(
        [example.features for example in state.examples],
        [example.latency for example in state.examples],
        prior.of(target, call.prior),
        state.others,
    )
    found: dict[str, bytes] = {}
    known = state.seen | state.pending
    space: Space = "all"
    if options.space == "metaschedule":
        space = "metaschedule"
    elif len(known) < OWN_TRIALS:
        space = "own"
    fruitless = attempt = 0
    borrowed = {
        name: each
        for name, each in _borrowed(call, near).items()
        if name not in known and regions.holds(call.region, each)
    }
    borrowed = dict(itertools.islice(borrowed.items(), max(1, min(BORROWED, want // 2))))
    drawn = want - len(borrowed)
    while len(found) < drawn and fruitless < FRUITLESS_ATTEMPTS:
        random_state = _random_state(call.seed, state, attempt)
        before = len(found)
        predictor = Predictor(model, np.random.default_rng(random_state))
        for scheduled in _search(state, call, options, predictor, random_state, space):
            key = workloads.structural_hash(scheduled.mod)
            if len(found) < drawn and key not in known and key not in found and key not in borrowed:
                found[key] = schedules.pack(scheduled.trace)
                if (features := predictor.features.get(scheduled)) is not None:
                    candidates.keep(workload, target, found[key], Candidate(scheduled.trace, features))
        space = "all" if space == "own" else space  # where there are too few of them
        fruitless = fruitless + 1 if len(found) == before else 0
        attempt += 1
    found = _mixed(found, borrowed, want)
    state.round += 1
    state.pending |= found.keys()
    return list(found.items())


def _borrowed(call: UpdateCall, near: Sequence[Near]) -> dict[str, bytes]:
    """Hash and schedule of what was best for similar tasks, made to fit, first what most of them agree on."""
    found: dict[str, Any] = {}
    votes: dict[str, float] = {}
    for each in transferring.fitted(call, near):
        name = workloads.structural_hash(each.scheduled.mod)
        found.setdefault(name, each.scheduled)
        votes[name] = votes.get(name, 0.0) + each.trust**2
    return {name: schedules.pack(found[name].trace) for name in sorted(found, key=lambda name: -votes[name])}


def _mixed(found: dict[str, bytes], borrowed: dict[str, bytes], want: int) -> dict[str, bytes]:
    """Both by turns, the first of them from a similar task where there is one."""
    mixed: dict[str, bytes] = {}
    drawn = iter(found.items())
    for name, schedule in borrowed.items():
        mixed[name] = schedule
        mixed |= dict(itertools.islice(drawn, 1))
    return dict(itertools.islice((mixed | dict(drawn)).items(), want))


def _search(
    state: SearchState,
    call: UpdateCall,
    options: SearchOptions,
    predictor: Predictor,
    random_state: int,
    space: Space,
) -> list[Any]:
    """TVM schedules, most promising first; some may have been tried before."""
    from tvm.s_tir import meta_schedule

    workload, target, want = call.workload, call.target, call.want
    # Without scores there is nothing to choose by, nor to evolve towards.
    effort, generations = _effort(state, options) if predictor.knows else (1, 0)
    population = max(LEAST_POPULATION, want * effort)
    parents = [
        each
        for each in state.best
        if not winograd_search.is_ours(each[2]) and regions.holds(call.region, each[2])
    ]
    parents = parents[: int(population * MEASURED_SHARE)]
    module, drawn, measured = workloads.load(workload), [], MEASURED_SHARE
    if targets.is_gpu(target):
        first = contexts.make(module, target, region=call.region)
        several = max(want, population // 2) if predictor.knows else want
        drawn = thread_tiles.draw(first, module, target, several, random_state)
        if not predictor.knows:
            return drawn
        measured = 1.0  # what was drawn goes the way of what was measured
    strategy = meta_schedule.search_strategy.EvolutionarySearch(
        population_size=population,
        init_measured_ratio=measured,
        init_min_unmeasured=0 if drawn else population // 2,
        genetic_num_iters=generations,
    )
    context = contexts.make(module, target, strategy, random_state, space, call.region)
    context.pre_tuning(
        max_trials=2**31 - 1,
        # The search does not know which candidates were tried, and the parents are likely to win again.
        num_trials_per_iter=SPARE * want + len(parents),
        database=_database(parents, workload, target, drawn),
        cost_model=predictor.cost_model(),
    )
    return [candidate.sch for candidate in context.generate_measure_candidates() or []]


def _effort(state: SearchState, options: SearchOptions) -> tuple[int, int]:
    """Schedules to weigh per candidate, and generations."""
    if not state.seen:
        population, generations = FIRST_POPULATION, 0
    elif len(state.seen) < FEW_TRIALS:
        population, generations = 2, 1
    else:
        population, generations = 4, 2
    return (
        population if options.population is None else options.population,
        generations if options.generations is None else options.generations,
    )


def _database(
    parents: list[tuple[float, str, bytes]], workload: bytes, target: str, drawn: Sequence[Any] = ()
) -> Any:
    """What a search begins with: what was measured, and schedules that were drawn, which count as slower."""
    from tvm.s_tir import meta_schedule

    database = meta_schedule.database.MemoryDatabase()
    committed = database.commit_workload(workloads.load(workload))
    recalled = candidates.recall(workload, target, [schedule for _, _, schedule in parents])
    traces = [
        (parent.trace, latency) for (latency, *_), parent in zip(parents, recalled, strict=True) if parent
    ]
    for trace, latency in [*traces, *((each.trace, SLOW) for each in drawn)]:
        record = meta_schedule.database.TuningRecord(trace, committed, [latency], targets.load(target))
        database.commit_tuning_record(record)
    return database


def _random_state(seed: int, state: SearchState, attempt: int) -> int:
    """From 1 to 2**31 - 2, which is what TVM's generator takes."""
    text = json.dumps([seed, state.workload, state.round, attempt])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (2**31 - 2) + 1
