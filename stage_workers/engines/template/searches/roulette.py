"""A genetic search as in Woodpecker-DL (Y. Chen et al., 2020): all knobs are one chromosome, parents are
drawn by a roulette wheel, whose fields are as large as a kernel is fast, and the population is as large as
the space asks for."""

from __future__ import annotations

import random

from tunemesh.stage_workers.engines.template.searches.history import History
from tunemesh.stage_workers.engines.template.searches.picking import Picks, speeds
from tunemesh.stage_workers.engines.template.space import Genome, Space

LEAST, MOST = 16, 96
"""Of a population."""
CROSSOVER = 0.9
"""How often a child has two parents."""
MUTATION = 0.08
"""Of a gene."""
PRESSURE = 2.0
"""Power of the speed that a field of the wheel is as large as."""


def population(space: Space) -> int:
    """The larger the space, the larger, but by its logarithm: trials are few."""
    return min(max(4 * space.size.bit_length(), LEAST), MOST)


def propose(history: History, want: int, chance: random.Random) -> list[Genome]:
    """See :mod:`.searches`."""
    picks, size = Picks(history, want, chance), population(history.space)
    parents = history.measured[:size]
    if len(history.known) < size // 2 or len(parents) < 2:
        return picks.begin()
    wheel = [speed**PRESSURE for speed in speeds([each.latency for each in parents])]
    for _ in range(50 * want):
        one, other = (each.genome for each in chance.choices(parents, wheel, k=2))
        child = one
        if chance.random() < CROSSOVER:
            cut = chance.randrange(1, max(len(one), 2))
            child = one[:cut] + other[cut:]
        picks.add(picks.mutated(child, MUTATION))
        if not picks.missing:
            break
    return picks.fill()
