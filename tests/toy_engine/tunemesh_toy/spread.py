"""A small search: what is far from all that was tried so far."""

from __future__ import annotations

import random

from tunemesh.stage_workers.engines.template.searches import History, Picks
from tunemesh.stage_workers.engines.template.space import Genome

DRAWS = 16
"""Random genomes of which the farthest is proposed."""


def propose(history: History, want: int, chance: random.Random) -> list[Genome]:
    """``want`` genomes, or as many as there are left, valid and new: :class:`Picks` sees to that."""
    picks = Picks(history, want, chance)
    tried = [each.genome for each in history.tried]
    while picks.missing:
        drawn = [genome for _ in range(DRAWS) if (genome := picks.draw()) is not None]
        if not drawn:
            break
        farthest = max(drawn, key=lambda genome: min((_apart(genome, each) for each in tried), default=0))
        picks.add(farthest)
        tried.append(farthest)
    return picks.genomes


def _apart(one: Genome, other: Genome) -> int:
    return sum(abs(gene - another) for gene, another in zip(one, other, strict=True))
