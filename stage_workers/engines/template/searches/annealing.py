"""Simulated annealing (S. Kirkpatrick et al., 1983): chains that go on by steps of a knob or two. A slower
kernel is taken with a chance of exp(-d / T), where d is the logarithm of how much slower it is, and T falls
with the trials."""

from __future__ import annotations

import math
import random

from tunemesh.stage_workers.engines.template.searches.history import History, Tried
from tunemesh.stage_workers.engines.template.searches.picking import Picks
from tunemesh.stage_workers.engines.template.space import Genome

CHAINS = 8
HOT = 0.3
"""The temperature at the beginning: 1.35 times slower is taken by one of e."""
COOLING = 0.985
"""Of the temperature from trial to trial."""
SECOND = 0.5
"""How often a step is two."""


def propose(history: History, want: int, chance: random.Random) -> list[Genome]:
    """See :mod:`.searches`. Where a chain stands follows from what was tried: the trial of number n belongs
    to chain n modulo their number."""
    picks = Picks(history, want, chance)
    if len(history.known) < 2 * CHAINS:
        return picks.begin()
    chains = [_walked(history.tried[number::CHAINS], number) for number in range(CHAINS)]
    at = len(history.tried)
    for number in range(want):
        now = chains[(at + number) % CHAINS]
        for _ in range(200):
            step = picks.stepped(now.genome) if now is not None else picks.draw()
            if step is not None and chance.random() < SECOND:
                step = picks.stepped(step)
            if step is None or picks.add(step):
                break
    return picks.fill()


def _walked(trials: list[Tried], number: int) -> Tried | None:
    """Where a chain stands after these trials."""
    now: Tried | None = None
    for index, trial in enumerate(trials):
        if not math.isfinite(trial.latency):
            continue
        temperature = HOT * COOLING ** (index * CHAINS)
        if now is None:
            now = trial
            continue
        worse = math.log(trial.latency / now.latency)
        # The same in every process and at every time.
        drawn = random.Random(index * CHAINS + number).random()
        if worse <= 0 or drawn < math.exp(-worse / temperature):
            now = trial
    return now
