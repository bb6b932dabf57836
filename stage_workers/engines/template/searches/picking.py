"""What all searches need to pick genomes."""

from __future__ import annotations

import math
import random

from tunemesh.stage_workers.engines.template.searches.history import History
from tunemesh.stage_workers.engines.template.space import Genome

FIRST = 16
"""Trials that a search begins with before it learns from them."""
HEATS = 8
"""Random genomes of which one is begun with."""
DRAWS = 3000
"""Of a random genome, until one is valid and new."""
ENUMERATED = 2**17
"""The largest space whose last genomes are looked for one by one."""


class Picks:
    """Genomes to propose: valid ones, each of which is new.

    Attributes:
        genomes: so far.
    """

    def __init__(self, history: History, want: int, chance: random.Random) -> None:
        self.space = history.space
        self.want = want
        self.chance = chance
        self.genomes: list[Genome] = []
        self._taken = {each.genome for each in history.tried}
        self._left: list[Genome] | None = None

    @property
    def missing(self) -> int:
        """How many are still wanted."""
        return self.want - len(self.genomes)

    def is_new(self, genome: Genome) -> bool:
        """Whether it is valid, and was never proposed."""
        return genome not in self._taken and self.space.is_valid(genome)

    def add(self, genome: Genome) -> bool:
        """Take a genome if it is new and wanted; whether it was."""
        if not self.missing or not self.is_new(genome):
            return False
        self._taken.add(genome)
        self.genomes.append(genome)
        return True

    def draw(self) -> Genome | None:
        """A random one that is new; ``None`` where there is none, or it is not found."""
        for _ in range(DRAWS if self._left is None else 0):
            genome = self.space.genome(self.chance.randrange(self.space.size))
            if self.is_new(genome):
                return genome
        if self.space.size > ENUMERATED:
            return None
        # They are hard to find: looked for once, and not again.
        known = self.space.all() if self._left is None else self._left
        self._left = [genome for genome in known if genome not in self._taken]
        return self.chance.choice(self._left) if self._left else None

    def fill(self) -> list[Genome]:
        """All, with random ones for what is missing."""
        while self.missing and (genome := self.draw()) is not None:
            self.add(genome)
        return self.genomes

    def begin(self) -> list[Genome]:
        """All: of every few random ones the one that promises most."""
        while self.missing:
            drawn = [genome for _ in range(HEATS) if (genome := self.draw()) is not None]
            if not drawn:
                break
            self.add(max(drawn, key=lambda genome: self.space.promise(self.space.values(genome))))
        return self.genomes

    def mutated(self, genome: Genome, rate: float) -> Genome:
        """With each gene drawn again at this rate."""
        return tuple(
            self.chance.randrange(len(knob.values)) if self.chance.random() < rate else gene
            for gene, knob in zip(genome, self.space.knobs, strict=True)
        )

    def stepped(self, genome: Genome) -> Genome:
        """With one knob, of those that have a choice, at a neighbouring value."""
        free = [number for number, knob in enumerate(self.space.knobs) if len(knob.values) > 1]
        if not free:
            return genome
        number = self.chance.choice(free)
        last = len(self.space.knobs[number].values) - 1
        gene = genome[number] + self.chance.choice((-1, 1))
        gene = min(max(gene, 0), last) if 0 <= gene <= last else genome[number] + (1 if gene < 0 else -1)
        return (*genome[:number], gene, *genome[number + 1 :])


def speeds(latencies: list[float]) -> list[float]:
    """How fast each is, relative to the fastest, from 0 (failed) to 1."""
    best = min((each for each in latencies if math.isfinite(each)), default=1.0)
    return [best / each if math.isfinite(each) else 0.0 for each in latencies]
