"""Regions of a space of knobs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.stage_workers.engines.template import searches
from tunemesh.stage_workers.engines.template.space import Knob, Space

SPACE = Space(
    (Knob("a", (1, 2)), Knob("b", (4, 8, 16)), Knob("c", (0, 1, 2, 3, 4)), Knob("d", (0, 1, 2, 3))),
    lambda values: values[1] != 8 or values[3] != 2,
)


@given(st.integers(2, 16))
def test_they_are_disjoint_and_leave_nothing_out(count: int) -> None:
    parts = [list(SPACE.within(number, count).all()) for number in range(count)]
    assert sorted(genome for part in parts for genome in part) == list(SPACE.all())
    for number, part in enumerate(parts):
        assert {SPACE.region_of(genome, count) for genome in part} <= {number}


def test_what_is_alike_in_the_first_knobs_is_in_the_same_one() -> None:
    together = {SPACE.region_of((1, 2, 3, last), 3) for last in range(4)}
    assert len(together) == 1


@pytest.mark.parametrize("name", ["random", "annealing", "roulette", "hill-climb", "portfolio"])
def test_a_search_stays_in_its_region_until_that_is_used_up(name: str) -> None:
    space = SPACE.within(1, 4)
    state: bytes | None = None
    found: list[tuple[int, ...]] = []
    results: list[tuple[tuple[int, ...], float]] = []
    while True:
        state, genomes = searches.propose(name, space, state, results, 8, seed=0)
        if not genomes:
            break
        results = [(genome, 1.0 + sum(genome)) for genome in genomes]
        found += genomes
    assert sorted(found) == list(space.all())
