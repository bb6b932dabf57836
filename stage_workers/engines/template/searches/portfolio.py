"""Trials go to whichever search is gaining: a bandit with upper confidence bounds (UCB1, P. Auer et al.,
2002), whose reward is that a trial is among the best tenth of all so far."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from tunemesh.stage_workers.engines.template.searches import (
    hill_climb,
    reinforce,
    roulette,
    surrogate,
    three_parents,
)
from tunemesh.stage_workers.engines.template.searches.history import History, Tried
from tunemesh.stage_workers.engines.template.searches.picking import FIRST, Picks
from tunemesh.stage_workers.engines.template.space import Genome

Propose = Callable[[History, int, random.Random], list[Genome]]

ARMS: dict[str, Propose] = {
    "surrogate": surrogate.propose,
    "hill-climb": hill_climb.propose,
    "reinforce": reinforce.propose,
    "three-parents": three_parents.propose,
    "roulette": roulette.propose,
}
BEST = 0.1
"""The part of all trials that is a success to be among."""
RECENT = 48
"""Trials of a search that count: what gained once need not gain now."""
CURIOSITY = 0.3
"""How much an unsure estimate counts for."""


def propose(history: History, want: int, chance: random.Random) -> list[tuple[str, Genome]]:
    """Genomes, each with the search that it came from."""
    if len(history.known) < FIRST:
        return [("", genome) for genome in Picks(history, want, chance).begin()]
    proposed: list[tuple[str, Genome]] = []
    # What one search proposes is no more there for the next one.
    seen = History(history.space, list(history.tried))
    for name, count in _shares(history, want).items():
        for genome in ARMS[name](seen, count, chance):
            proposed.append((name, genome))
            seen.tried.append(Tried(genome, math.nan, history.round, name))
    return proposed


def _shares(history: History, want: int) -> dict[str, int]:
    """How many each search is to propose."""
    measured = history.measured
    limit = measured[max(int(BEST * len(measured)) - 1, 0)].latency if measured else 0.0
    tries, wins = {}, {}
    for name in ARMS:
        own = [each for each in history.known if each.maker == name][-RECENT:]
        tries[name] = float(len(own))
        wins[name] = float(sum(each.latency <= limit for each in own))
    shares = dict.fromkeys(ARMS, 0)
    for _ in range(want):
        total = sum(tries.values()) + 1

        def bound(name: str, total: float = total) -> float:
            count = tries[name] + 1
            return (wins[name] + 0.5) / count + CURIOSITY * math.sqrt(math.log(total) / count)

        name = max(ARMS, key=bound)
        shares[name] += 1
        # Until it is known, it counts as what it is expected to be.
        wins[name] += (wins[name] + 0.5) / (tries[name] + 1)
        tries[name] += 1
    return {name: count for name, count in shares.items() if count}
