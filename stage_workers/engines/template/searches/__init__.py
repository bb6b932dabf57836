"""How the next genomes are found. All searches are pure functions of the same kind, exchangeable by name, for
every engine that has knobs; ``docs/searches.md`` describes each. Other packages bring searches of their own
by entry points of the group :data:`GROUP`; they are loaded where engines are, in the sandbox."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from importlib import metadata

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.engines.template.searches import (
    annealing,
    portfolio,
    random_search,
)
from tunemesh.stage_workers.engines.template.searches import history as histories
from tunemesh.stage_workers.engines.template.searches.history import WAITING as WAITING
from tunemesh.stage_workers.engines.template.searches.history import History as History
from tunemesh.stage_workers.engines.template.searches.history import Tried as Tried
from tunemesh.stage_workers.engines.template.searches.picking import Picks as Picks
from tunemesh.stage_workers.engines.template.searches.portfolio import Propose
from tunemesh.stage_workers.engines.template.space import Genome, Space

GROUP = "tunemesh.searches"
SINGLE: dict[str, Propose] = {
    "random": random_search.propose,
    "annealing": annealing.propose,
    **portfolio.ARMS,
}
PORTFOLIO = "portfolio"
OWN = (*SINGLE, PORTFOLIO)
"""Names of the searches that come with Tunemesh."""


def names() -> tuple[str, ...]:
    """Names of all searches: Tunemesh's own, then those of other packages that are installed here."""
    others = {point.name for point in metadata.entry_points(group=GROUP)}
    return (*OWN, *sorted(others - set(OWN)))


@functools.cache
def load(name: str) -> Propose:
    """A search of this name, the portfolio excepted.

    Raises:
        BadInput: there is none, or two; or it cannot be imported.
    """
    if name in SINGLE:
        return SINGLE[name]
    found = list(metadata.entry_points(group=GROUP, name=name))
    if not found:
        raise BadInput(f"there is no search {name!r}; there are {', '.join(names())}")
    if len(found) > 1:
        raise BadInput(f"several packages have a search {name!r}; uninstall all but one")
    try:
        search = found[0].load()
    except MemoryError:
        raise
    except Exception as error:  # whatever somebody else's package raises when it is imported
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(f"the search {name!r} ({found[0].value}) cannot be loaded: {cause}") from error
    if not callable(search):
        raise BadInput(f"the search {name!r} ({found[0].value}) is no function")
    return search  # type: ignore[no-any-return]


def check(name: str) -> None:
    """Check that there is a search of this name.

    Raises:
        BadInput: there is none that can be used.
    """
    if name != PORTFOLIO:
        load(name)


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
        name: one of :func:`names`.
        space: that genomes are from.
        state: what the last call gave; ``None`` at the beginning.
        results: latencies in seconds of genomes that are new, infinite where they failed, NaN where it is
            only known that they were tried.
        want: how many. There are fewer where the space has no others.
        seed: of all chance.
        hints: that were good elsewhere: those that are valid and new are tried first.

    Raises:
        BadInput: there is no such search.
        ValueError: one from another package proposes what is not valid, or not new.
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
        checked = Picks(history, want, chance)
        for genome in load(name)(history, want, chance):
            if not checked.add(genome):
                raise ValueError(
                    f"the search {name!r} proposed {genome}, which is invalid, not new, or too many"
                )
            proposed.append((name, genome))
    history.tried += [Tried(genome, WAITING, number, maker) for maker, genome in proposed]
    return histories.encode(history), [*first.genomes, *(genome for _, genome in proposed)]
