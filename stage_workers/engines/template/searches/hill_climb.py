"""From the best on by one step of one knob; where there is no better one, from the next best."""

from __future__ import annotations

import random

from tunemesh.stage_workers.engines.template.searches.history import History
from tunemesh.stage_workers.engines.template.searches.picking import FIRST, Picks
from tunemesh.stage_workers.engines.template.space import Genome

RESTARTS = 0.1
"""Of all, that are random later."""
STEPS = 24
"""Neighbours of one that are tried to find."""


def propose(history: History, want: int, chance: random.Random) -> list[Genome]:
    """See :mod:`.searches`."""
    picks = Picks(history, want, chance)
    if len(history.known) < FIRST:
        return picks.begin()
    for _ in range(sum(chance.random() < RESTARTS for _ in range(want))):
        if (genome := picks.draw()) is not None:
            picks.add(genome)
    for best in history.measured:
        for _ in range(STEPS):
            if not picks.missing:
                return picks.genomes
            picks.add(picks.stepped(best.genome))
    return picks.fill()
