"""Propose candidates: MetaSchedule's evolutionary search, made stateless and deterministic."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import numpy as np

from . import cost_model, schedules, spaces, targets, workloads
from .errors import first_line
from .search_state import SearchState

POPULATION_PER_CANDIDATE = 4
LEAST_POPULATION = 32
GENERATIONS = 2
"""MetaSchedule takes a population of 512 for 64 candidates, and 4 generations: minutes a round. On a 3x3
convolution of 128 channels, four rounds of 16 spent 8 s on proposing with these and 25 s with 8 and 4,
and the best latencies differed by less than those of two seeds do (two seeds each, one Zen 4 core)."""
MEASURED_SHARE = 0.2
"""Part of the first population that comes from the best schedules measured so far."""
FRUITLESS_ATTEMPTS = 3
"""Attempts in a row that bring nothing new before the space counts as exhausted."""

log = logging.getLogger(__name__)
_quiet = logging.getLogger(f"{__name__}.metaschedule")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def propose(
    state: SearchState, workload: bytes, target: str, want: int, seed: int
) -> list[tuple[str, bytes]]:
    """Hash and schedule of up to ``want`` candidates that were never proposed, and count the round."""
    trees = cost_model.fit([e.features for e in state.examples], [e.latency for e in state.examples])
    found: dict[str, bytes] = {}
    known = state.seen | state.pending
    fruitless = attempt = 0
    while len(found) < want and fruitless < FRUITLESS_ATTEMPTS:
        random_state = _random_state(seed, state, attempt)
        before = len(found)
        for scheduled in _search(state, workload, target, want, trees, random_state):
            key = workloads.structural_hash(scheduled.mod)
            if len(found) < want and key not in known and key not in found:
                found[key] = schedules.pack(scheduled.trace)
        fruitless = fruitless + 1 if len(found) == before else 0
        attempt += 1
    state.round += 1
    state.pending |= found.keys()
    return list(found.items())


def candidates(workload: bytes, target: str, scheduled: list[Any]) -> tuple[Any, list[Any]]:
    """A tuning context and MetaSchedule's candidates, as the feature extractor wants them."""
    from tvm.s_tir import meta_schedule

    module = workloads.load(workload)
    info = meta_schedule.arg_info.ArgInfo.from_prim_func(module["main"])
    context = _context(module, target, None, random_state=1)
    return context, [meta_schedule.MeasureCandidate(one, info) for one in scheduled]


def _search(
    state: SearchState, workload: bytes, target: str, want: int, trees: Any, random_state: int
) -> list[Any]:
    """TVM schedules, most promising first; some may have been tried before."""
    from tvm.s_tir import meta_schedule

    # Without scores there is nothing to choose by, nor to evolve towards.
    population = max(LEAST_POPULATION, want * (POPULATION_PER_CANDIDATE if trees is not None else 1))
    parents = state.best[: int(population * MEASURED_SHARE)]
    strategy = meta_schedule.search_strategy.EvolutionarySearch(
        population_size=population,
        init_measured_ratio=MEASURED_SHARE,
        init_min_unmeasured=population // 2,
        genetic_num_iters=GENERATIONS if trees is not None else 0,
    )
    context = _context(workloads.load(workload), target, strategy, random_state)
    try:
        context.pre_tuning(
            max_trials=2**31 - 1,
            # The search does not know which candidates were tried, and the parents are likely to win again.
            num_trials_per_iter=want + len(parents),
            database=_database(parents, workload, target),
            cost_model=cost_model.predictor(trees, np.random.default_rng(random_state)),
        )
        found = context.generate_measure_candidates()
    except RuntimeError as error:
        # Some workloads, such as a sort, are not made of the blocks that the rules look for.
        log.warning("MetaSchedule has no search space for %s: %s", state.workload, first_line(error))
        return []
    return [candidate.sch for candidate in found or []]


def _context(module: Any, target: str, strategy: Any, random_state: int) -> Any:
    """A ``TuneContext`` with one thread, whose results depend on ``random_state`` alone.

    Made without its Python constructor, which imports all tensor intrinsics (7 to 25 s) whether or not
    the rules of the search space use any.
    """
    import tvm_ffi
    from tvm.s_tir.meta_schedule.logging import get_logging_func

    context = tvm_ffi.get_global_func("s_tir.meta_schedule.TuneContext")(
        module,
        targets.load(target),
        spaces.generator(module, target),
        strategy,
        "main",
        1,
        random_state,
        get_logging_func(_quiet),
    )
    tvm_ffi.get_global_func("s_tir.meta_schedule.TuneContextInitialize")(context)
    return context


def _database(parents: list[tuple[float, str, bytes]], workload: bytes, target: str) -> Any:
    from tvm.s_tir import meta_schedule

    database = meta_schedule.database.MemoryDatabase()
    committed = database.commit_workload(workloads.load(workload))
    for latency, _, schedule in parents:
        trace = schedules.replay(workload, schedule).trace
        database.commit_tuning_record(
            meta_schedule.database.TuningRecord(trace, committed, [latency], targets.load(target))
        )
    return database


def _random_state(seed: int, state: SearchState, attempt: int) -> int:
    """From 1 to 2**31 - 2, which is what TVM's generator takes."""
    text = json.dumps([seed, state.workload, state.round, attempt])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (2**31 - 2) + 1
