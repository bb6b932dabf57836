"""A model of the latency over the knobs (XGBoost; as in AutoTVM, T. Chen et al., 2018), fitted to all trials
so far: what it finds fast among many genomes is tried."""

from __future__ import annotations

import math
import random

import numpy as np
from numpy.typing import NDArray

from tunemesh.stage_workers.engines.template.searches.history import History
from tunemesh.stage_workers.engines.template.searches.picking import FIRST, Picks
from tunemesh.stage_workers.engines.template.space import Genome, Space

RANDOM = 0.1
"""Of all, that are random later, so that the model learns of the rest, too."""
POOL = 400
"""Genomes that the model weighs for a batch: half of them random, half near the best."""
PARENTS = 16
"""The best, which those are near to."""
TREES = 60
FAILED = 4.0
"""Times slower than the slowest that a failed one counts as."""


def propose(history: History, want: int, chance: random.Random) -> list[Genome]:
    """See :mod:`.searches`."""
    picks = Picks(history, want, chance)
    if len(history.known) < FIRST or not history.measured:
        return picks.begin()
    pool = _pool(history, want, chance)
    if pool:
        predicted = _predicted(history, pool)
        order = sorted(range(len(pool)), key=lambda number: (predicted[number], pool[number]))
        chosen = want - sum(chance.random() < RANDOM for _ in range(want))
        for number in order[: max(chosen, 1)]:
            picks.add(pool[number])
    return picks.fill()


def _pool(history: History, want: int, chance: random.Random) -> list[Genome]:
    pool = Picks(history, max(POOL, 4 * want), chance)
    best = history.measured[:PARENTS]
    for _ in range(5 * pool.want):
        if len(pool.genomes) >= pool.want // 2:
            break
        near = pool.mutated(chance.choice(best).genome, 0.15)
        pool.add(pool.stepped(near))
    return pool.fill()


def _predicted(history: History, pool: list[Genome]) -> NDArray[np.float32]:
    """The logarithm of the latency of each."""
    import xgboost

    known = history.known
    slowest = FAILED * history.measured[-1].latency
    latencies = [each.latency if math.isfinite(each.latency) else slowest for each in known]
    data = xgboost.DMatrix(_rows(history.space, [each.genome for each in known]), np.log(latencies))
    parameters = {"max_depth": 5, "eta": 0.2, "nthread": 1, "seed": 0, "min_child_weight": 0.5}
    model = xgboost.train(parameters, data, num_boost_round=TREES)
    return np.asarray(model.predict(xgboost.DMatrix(_rows(history.space, pool))))


def _rows(space: Space, genomes: list[Genome]) -> NDArray[np.float32]:
    values = np.array([space.values(genome) for genome in genomes], np.float32)
    logarithms = np.log2(values + 1)
    # A tile's size is a product of knobs, which a tree sees badly.
    products = [logarithms[:, i] + logarithms[:, j] for i in range(logarithms.shape[1]) for j in range(i)]
    return np.concatenate([logarithms, np.stack(products, 1)], 1) if products else logarithms
