"""The genetic search of TensorComprehensions (N. Vasilache et al., 2018; ``genetic_search.cc``) with its
defaults: every gene of a child comes from one of three parents, which are drawn in proportion to 1 / latency.
Fewer than three valid parents: random again."""

from __future__ import annotations

import math
import random

from tunemesh.stage_workers.engines.template.searches.history import History, Tried
from tunemesh.stage_workers.engines.template.searches.picking import Picks
from tunemesh.stage_workers.engines.template.space import Genome

POPULATION = 100
CROSSOVER = 0.8
MUTATION = 0.07
"""Of a gene."""
ELITES = 10
"""The fastest of all, which stay parents."""
PARENTS = 3


def propose(history: History, want: int, chance: random.Random) -> list[Genome]:
    """See :mod:`.searches`. A generation is not waited for: parents are the newest of a population's size
    whose latency is known, and the elites."""
    picks = Picks(history, want, chance)
    parents = _parents(history)
    if len(history.known) < POPULATION // 2 or len(parents) < PARENTS:
        return picks.begin()
    weights = [1 / each.latency for each in parents]
    for _ in range(50 * want):
        drawn = [each.genome for each in chance.choices(parents, weights, k=PARENTS)]
        child = drawn[0]
        if chance.random() < CROSSOVER:
            child = tuple(chance.choice(genes) for genes in zip(*drawn, strict=True))
        picks.add(picks.mutated(child, MUTATION))
        if not picks.missing:
            break
    return picks.fill()


def _parents(history: History) -> list[Tried]:
    elites = history.measured[:ELITES]
    newest = [each for each in history.known[-POPULATION:] if math.isfinite(each.latency)]
    return elites + [each for each in newest if each not in elites]
