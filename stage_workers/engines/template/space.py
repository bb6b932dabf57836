"""What may be chosen of a kernel: knobs, and which of their values go together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

Genome = tuple[int, ...]
"""Which value each knob has, by number."""

LEADING = 4
"""Times as many values as there are regions that decide in which of these a genome is."""


@dataclass(frozen=True)
class Knob:
    """One choice.

    Attributes:
        name: for people, and in what is recorded.
        values: that it may have, in their natural order.
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """All knobs of a kernel.

    Attributes:
        knobs: each with at least one value.
        valid: whether values of all knobs make a kernel.
        promise: what is known of values before anything is measured: more is better. Searches begin with what
            promises much; what they find decides.
    """

    knobs: tuple[Knob, ...]
    valid: Callable[[Sequence[int]], bool]
    promise: Callable[[Sequence[int]], float] = lambda _: 0.0

    @property
    def size(self) -> int:
        """Genomes that there are, valid or not."""
        return math.prod(len(knob.values) for knob in self.knobs)

    def values(self, genome: Genome) -> list[int]:
        """What the knobs are set to."""
        return [knob.values[index] for knob, index in zip(self.knobs, genome, strict=True)]

    def is_valid(self, genome: Genome) -> bool:
        return self.valid(self.values(genome))

    def rank(self, genome: Genome) -> int:
        """The number of a genome, from 0 up to the size."""
        number = 0
        for knob, index in zip(self.knobs, genome, strict=True):
            number = number * len(knob.values) + index
        return number

    def genome(self, rank: int) -> Genome:
        """The genome of a number."""
        indices = []
        for knob in reversed(self.knobs):
            rank, index = divmod(rank, len(knob.values))
            indices.append(index)
        return tuple(reversed(indices))

    def region_of(self, genome: Genome, count: int) -> int:
        """In which of so many regions a genome is: by the first knobs that together have many values."""
        number, values = 0, 1
        for knob, index in zip(self.knobs, genome, strict=True):
            number = number * len(knob.values) + index
            values *= len(knob.values)
            if values >= LEADING * count:
                break
        return number % count

    def within(self, number: int, count: int) -> Space:
        """The same knobs, of which only a region is valid."""

        def valid(values: Sequence[int]) -> bool:
            genome = tuple(knob.values.index(value) for knob, value in zip(self.knobs, values, strict=True))
            return self.region_of(genome, count) == number and self.valid(values)

        return replace(self, valid=valid)

    def all(self) -> Iterator[Genome]:
        """The valid genomes, in the order of their numbers."""
        genomes = itertools.product(*(range(len(knob.values)) for knob in self.knobs))
        return filter(self.is_valid, genomes)


def tiles_worth(
    knobs: Sequence[Knob], promise: Callable[[tuple[int, ...]], float], least: float
) -> tuple[tuple[Knob, ...], frozenset[tuple[int, ...]]]:
    """The values of these knobs that promise at least so much of what the best do, and the knobs with only
    the values among them.

    Args:
        promise: of values; 0 where they make no kernel.
    """
    promised = {each: promise(each) for each in itertools.product(*(knob.values for knob in knobs))}
    best = max(promised.values(), default=0.0)
    worth = frozenset(each for each, value in promised.items() if value > 0.0 and value >= least * best)
    kept = [{each[number] for each in worth} for number in range(len(knobs))]
    return tuple(
        Knob(knob.name, tuple(value for value in knob.values if value in values) or knob.values[:1])
        for knob, values in zip(knobs, kept, strict=True)
    ), worth
