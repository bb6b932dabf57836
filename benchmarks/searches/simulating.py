"""Searches on a table: thousands of trials a second, so that many seeds can be compared."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from pathlib import Path

from msgspec import Struct

from benchmarks import lines
from benchmarks.searches import table
from benchmarks.searches.running import BATCH
from benchmarks.searches.table import Table
from tunemesh.stage_workers.engines.template import searches
from tunemesh.stage_workers.engines.template.space import Genome


class Simulated(Struct, frozen=True, kw_only=True):
    """One search on a table, as it is kept: a line of JSON.

    Attributes:
        operator: that the table is of.
        search: by name.
        seed: of all chance.
        plain: whether the template's promises were hidden, so that all begin with chance alone.
        shares: the share of the best known after each batch: its latency by the lowest so far.
    """

    operator: str
    search: str
    seed: int
    plain: bool
    shares: list[float]


def latencies(world: Table, search: str, seed: int) -> Iterator[float]:
    """The latency of each trial, in seconds, until the table is used up."""
    state: bytes | None = None
    results: list[tuple[Genome, float]] = []
    while True:
        state, genomes = searches.propose(search, world.space, state, results, BATCH, seed)
        if not genomes:
            return
        results = [(genome, world.latencies[genome]) for genome in genomes]
        yield from (latency for _, latency in results)


def shares(world: Table, search: str, seed: int, trials: int) -> list[float]:
    """See :attr:`Simulated.shares`."""
    best = list(accumulate(islice(latencies(world, search, seed), trials), min))
    ends = range(BATCH - 1, len(best), BATCH)
    return [round(world.best / best[end], 4) if math.isfinite(best[end]) else 0.0 for end in ends]


def hidden(world: Table) -> Table:
    """The same without the template's promises."""
    return replace(world, space=replace(world.space, promise=lambda _: 0.0))


def load(path: Path) -> list[Simulated]:
    """What is in a file of :func:`run`."""
    return lines.read(path, Simulated)


def run(
    operators: Sequence[str],
    names: Sequence[str],
    seeds: Sequence[int],
    plain: bool,
    trials: int,
    out: Path,
    limit: float,
) -> int:
    """Run what is not in the file yet, and add it there, until ``limit`` seconds are over. How many are left
    is returned."""
    until = time.monotonic() + limit
    done = {(each.operator, each.search, each.seed) for each in load(out) if each.plain == plain}
    wanted = [(operator, name, seed) for operator in operators for seed in seeds for name in names]
    left = [each for each in wanted if each not in done]
    worlds = {name: table.load(table.FOLDER / f"{name}.npz") for name in operators}
    if plain:
        worlds = {name: hidden(world) for name, world in worlds.items()}
    for number, (operator, name, seed) in enumerate(left):
        if time.monotonic() > until:
            return len(left) - number
        found = shares(worlds[operator], name, seed, trials)
        lines.add(out, [Simulated(operator=operator, search=name, seed=seed, plain=plain, shares=found)])
    return 0
