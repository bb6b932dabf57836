"""How the next genomes are found. All searches are pure functions of the same kind, exchangeable by name, for
every engine that has knobs; ``docs/searches.md`` describes each."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tunemesh.stage_workers.engines.template.searches import (
    annealing,
    portfolio,
    random_search,
)
from tunemesh.stage_workers.engines.template.searches import history as histories
from tunemesh.stage_workers.engines.template.searches.history import WAITING as WAITING
from tunemesh.stage_workers.engines.template.searches.history import Tried
from tunemesh.stage_workers.engines.template.searches.picking import Picks
from tunemesh.stage_workers.engines.template.space import Genome, Space

SINGLE: dict[str, portfolio.Propose] = {
    "random": random_search.propose,
    "annealing": annealing.propose,
    **portfolio.ARMS,
}
PORTFOLIO = "portfolio"
NAMES = (*SINGLE, PORTFOLIO)


def propose(
    name: str,
    space: Space,
    state: bytes | None,
    results: Iterable[tuple[Genome, float]],
    want: int,
    seed: int,
    hints: Iterable[Genome] = (),
) -> tuple[bytes, list[Genome]]:
    """The new state, and genomes to try: valid ones, none of which was proposed before. Equal calls give
    equal answers, in every process.

    Args:
        name: one of :data:`NAMES`.
        space: that genomes are from.
        state: what the last call gave; ``None`` at the beginning.
        results: latencies in seconds of genomes that are new, infinite where they failed, NaN where it is
            only known that they were tried.
        want: how many. There are fewer where the space has no others.
        seed: of all chance.
        hints: that were good elsewhere: those that are valid and new are tried first.
    """
    history = histories.decode(space, state)
    history.note(results)
    number = history.round
    chance = random.Random(f"{seed}/{number}/{len(history.tried)}/{name}")
    first = Picks(history, want, chance)
    for genome in hints:
        first.add(genome)
    history.tried += [Tried(genome, WAITING, number, "") for genome in first.genomes]
    want -= len(first.genomes)
    proposed: list[tuple[str, Genome]] = []
    if want and name == PORTFOLIO:
        proposed = portfolio.propose(history, want, chance)
    elif want:
        proposed = [(name, genome) for genome in SINGLE[name](history, want, chance)]
    history.tried += [Tried(genome, WAITING, number, maker) for maker, genome in proposed]
    return histories.encode(history), [*first.genomes, *(genome for _, genome in proposed)]
