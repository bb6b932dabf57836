"""REINFORCE (R. Williams, 1992): a policy that draws every knob by itself, and learns from each batch what to
draw more often. The reward is how fast a kernel is relative to the best; the batch's mean is the baseline; a
bonus on the entropy keeps it from settling too early."""

from __future__ import annotations

import itertools
import random

import numpy as np
from numpy.typing import NDArray

from tunemesh.stage_workers.engines.template.searches.history import History
from tunemesh.stage_workers.engines.template.searches.picking import FIRST, Picks, speeds
from tunemesh.stage_workers.engines.template.space import Genome

Logits = list[NDArray[np.float64]]

RATE = 0.25
"""Of learning, for each trial."""
ENTROPY = 0.01
DRAWS = 200
"""Of the policy for each that is wanted."""


def propose(history: History, want: int, chance: random.Random) -> list[Genome]:
    """See :mod:`.searches`. The policy is what the batches so far make of it."""
    picks = Picks(history, want, chance)
    if len(history.known) < FIRST:
        return picks.begin()
    tables = [_softmax(each).tolist() for each in learned(history)]
    for _ in range(DRAWS * want):
        genome = tuple(chance.choices(range(len(table)), table)[0] for table in tables)
        picks.add(genome)
        if not picks.missing:
            break
    return picks.fill()


def learned(history: History) -> Logits:
    """The policy after all batches, in their order."""
    logits = [np.zeros(len(knob.values)) for knob in history.space.knobs]
    for _, batch in itertools.groupby(history.known, key=lambda each: each.round):
        trials = list(batch)
        rewards = np.array(speeds([each.latency for each in trials]))
        spread = rewards.std()
        if spread == 0:
            continue
        gains = (rewards - rewards.mean()) / spread
        genes = np.array([each.genome for each in trials])
        for knob, logit in enumerate(logits):
            policy = _softmax(logit)
            # The gains add up to nothing, so that what the policy expects cancels out.
            step = np.bincount(genes[:, knob], gains, len(logit))
            surprise = -np.log(policy)
            bonus = policy * (surprise - (policy * surprise).sum())
            logit += RATE * step + ENTROPY * len(trials) * bonus
    return logits


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())
