"""Searches over knobs: what they propose is valid, new, and the same every time."""

from __future__ import annotations

import math
import os
import random
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.engines.template import TemplateEngine, searches
from tunemesh.stage_workers.engines.template.searches import portfolio, reinforce
from tunemesh.stage_workers.engines.template.searches.history import History, Tried
from tunemesh.stage_workers.engines.template.space import Genome, Knob, Space

LEARNING = [name for name in searches.OWN if name != "random"]

spaces = st.builds(
    lambda counts, modulus: Space(
        tuple(Knob(f"knob{number}", tuple(range(count))) for number, count in enumerate(counts)),
        lambda values: sum(values) % modulus != 1,
    ),
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.integers(2, 5),
)


def wide() -> Space:
    """Eight knobs, of which the sum of two is limited."""
    counts = (4, 12, 4, 6, 7, 7, 2, 2)
    knobs = tuple(Knob(f"knob{number}", tuple(range(count))) for number, count in enumerate(counts))
    return Space(knobs, lambda values: values[0] + values[1] < 13)


def slope(genome: Genome) -> float:
    """A latency with one best place and knobs that depend on each other."""
    a, b, c, d, e, f, g, h = genome
    apart = (a - 2) ** 2 * 0.15 + abs(b - 8) * 0.05 * (1 + 0.3 * a) + abs(c - 1) * 0.05 + abs(d - 2) * 0.04
    return 1e-4 * (1 + apart + abs(e - f + 1) * 0.06 + (g != h) * 0.2)


def rounds(
    name: str,
    space: Space,
    latency: Callable[[Genome], float],
    count: int,
    want: int = 16,
    seed: int = 0,
) -> list[list[Genome]]:
    """What is proposed round by round."""
    state, results, proposed = None, list[tuple[Genome, float]](), []
    for _ in range(count):
        state, genomes = searches.propose(name, space, state, results, want, seed)
        results = [(genome, latency(genome)) for genome in genomes]
        proposed.append(genomes)
    return proposed


@pytest.mark.parametrize("name", searches.OWN)
@settings(max_examples=8, deadline=None)
@given(space=spaces, want=st.integers(1, 20), seed=st.integers(0, 5))
def test_every_proposal_is_valid_and_new_until_there_is_none_left(
    name: str, space: Space, want: int, seed: int
) -> None:
    def latency(genome: Genome) -> float:
        return math.inf if sum(genome) % 7 == 3 else 1e-3 + 1e-4 * sum(genome)

    everything = set(space.all())
    left, state, results = set(everything), None, list[tuple[Genome, float]]()
    for _ in range(4):
        state, genomes = searches.propose(name, space, state, results, want, seed)
        assert len(genomes) == len(set(genomes)) == min(want, len(left))
        assert set(genomes) <= left
        left -= set(genomes)
        results = [(genome, latency(genome)) for genome in genomes]


@pytest.mark.parametrize("name", searches.OWN)
@settings(max_examples=4, deadline=None)
@given(space=spaces, want=st.integers(1, 20), seed=st.integers(0, 5), order=st.randoms())
def test_same_seed_and_same_results_give_the_same_proposals_in_whatever_order_they_come(
    name: str, space: Space, want: int, seed: int, order: random.Random
) -> None:
    state, results = None, list[tuple[Genome, float]]()
    for _ in range(4):
        mixed = order.sample(results, len(results))
        first, again = (searches.propose(name, space, state, each, want, seed) for each in (results, mixed))
        assert first == again
        state, genomes = first
        results = [(genome, 1e-3 + 1e-4 * sum(genome)) for genome in genomes]


@pytest.mark.parametrize("name", searches.OWN)
def test_another_seed_gives_other_proposals(name: str) -> None:
    assert rounds(name, wide(), slope, 1, seed=1) != rounds(name, wide(), slope, 1)


def test_other_processes_propose_the_same() -> None:
    names = [name for name in searches.OWN if name != "portfolio"]  # which is made of the others
    here = repr([rounds(name, wide(), slope, 4) for name in names])
    program = (
        "from tests.unit.test_template_searches import rounds, slope, wide\n"
        f"print([rounds(name, wide(), slope, 4) for name in {names}])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert there.stdout.strip() == here


@pytest.mark.parametrize("name", LEARNING)
def test_what_a_search_that_learns_proposes_in_the_end_is_faster_than_chance(name: str) -> None:
    def last(search: str) -> float:
        batches = [batch for seed in range(3) for batch in rounds(search, wide(), slope, 14, seed=seed)[-3:]]
        return statistics.mean(slope(genome) for batch in batches for genome in batch)

    assert last(name) < 0.95 * last("random")


@pytest.mark.parametrize("name", searches.OWN)
def test_what_is_known_of_a_thousand_trials_is_some_kilobytes(name: str) -> None:
    space = wide()
    state, results = None, list[tuple[Genome, float]]()
    for _ in range(4):
        state, genomes = searches.propose("random", space, state, results, 250, 0)
        results = [(genome, slope(genome)) for genome in genomes]
    state, genomes = searches.propose(name, space, state, results, 16, 0)
    assert len(genomes) == 16
    assert len(state) < 10_000


def test_results_may_come_late_in_parts_and_of_others() -> None:
    space = wide()
    state, genomes = searches.propose("hill-climb", space, None, [], 16, 0)
    results = [(genome, slope(genome)) for genome in genomes]
    state, more = searches.propose("hill-climb", space, state, results[:5], 16, 0)
    other = next(genome for genome in space.all() if genome not in {*genomes, *more})
    state, last = searches.propose("hill-climb", space, state, [*results[5:], (other, 1e-5)], 16, 0)
    assert len({*genomes, *more, other, *last}) == 49


def test_what_others_have_tried_is_not_proposed_again_and_hints_come_first() -> None:
    space = Space((Knob("a", tuple(range(6))), Knob("b", tuple(range(4)))), lambda values: values[0] != 5)
    seen, known, hint, invalid = (0, 0), (1, 1), (3, 2), (5, 0)
    results = [(known, 2e-3), (seen, math.nan)]
    hints = [invalid, known, hint]
    state, genomes = searches.propose("surrogate", space, None, results, 4, 0, hints)
    assert genomes[0] == hint
    assert len(genomes) == 4
    # Nothing is forgotten when the same is said again.
    _, rest = searches.propose("surrogate", space, state, [(hint, 1e-3), (known, math.nan)], 20, 0)
    assert {*genomes, *rest} == set(space.all()) - {seen, known}
    assert len(rest) == 14


def test_where_everything_fails_the_search_goes_on() -> None:
    for name in searches.OWN:
        proposed = rounds(name, wide(), lambda _: math.inf, 6)
        assert [len(batch) for batch in proposed] == [16] * 6


def test_the_policy_learns_which_values_are_fast() -> None:
    space = Space((Knob("good", (0, 1)), Knob("idle", (0, 1, 2))), lambda _: True)
    tried = [
        Tried((good, idle), 1.0 if good else 2.0, batch, "reinforce")
        for batch in range(4)
        for good in range(2)
        for idle in range(3)
    ]
    good, idle = reinforce.learned(History(space, tried))
    assert good[1] > good[0] + 1
    assert idle.max() - idle.min() < 0.5


def test_the_portfolio_gives_most_trials_to_the_search_that_gains() -> None:
    space, arms = wide(), list(portfolio.ARMS)
    genomes = random.Random(0).sample(list(space.all()), 20 * len(arms))
    tried = [
        Tried(
            genome,
            1e-4 if arms[number % len(arms)] == "roulette" else 1e-3 + 1e-6 * number,
            number // 16,
            maker,
        )
        for number, genome in enumerate(genomes)
        for maker in (arms[number % len(arms)],)
    ]
    made = Counter(maker for maker, _ in portfolio.propose(History(space, tried), 32, random.Random(0)))
    assert made.total() == 32
    assert made.most_common(1)[0][0] == "roulette"


@pytest.mark.parametrize("name", LEARNING)
def test_searches_begin_with_what_promises_much(name: str) -> None:
    plain = wide()
    space = Space(plain.knobs, plain.valid, lambda values: float(values[4]))
    promised = [sum(genome[4] for genome in rounds(name, each, slope, 1)[0]) for each in (space, plain)]
    assert promised[0] > 1.3 * promised[1]


def test_every_search_can_be_asked_for_and_no_other() -> None:
    engine = TemplateEngine()
    for name in searches.OWN:
        engine.check_options({"search": name})
    with pytest.raises(BadInput, match=r"there is no search 'luck'; there are random, .*portfolio"):
        engine.check_options({"search": "luck"})
    with pytest.raises(BadInput, match="template has no option 'knobs'"):
        engine.check_options({"knobs": "9"})


def test_a_search_of_another_package_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "others.py").write_text("def again(history, want, chance):\n    return [(0, 0)] * want\n")
    about = tmp_path / "others-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: others\nVersion: 1\n")
    points = ["again = others:again", "gone = others:gone", "text = others:__name__", "random = others:again"]
    (about / "entry_points.txt").write_text("\n".join([f"[{searches.GROUP}]", *points]))
    monkeypatch.syspath_prepend(tmp_path)
    assert searches.names() == (*searches.OWN, "again", "gone", "text")
    space = Space((Knob("a", (0, 1)), Knob("b", (0, 1))), lambda _: True)
    # Its first genome is fine.
    state, genomes = searches.propose("again", space, None, [], 1, 0)
    assert genomes == [(0, 0)]
    for known, want in ((state, 1), (None, 2)):
        with pytest.raises(
            ValueError, match=r"the search 'again' proposed \(0, 0\), which is invalid, not new"
        ):
            searches.propose("again", space, known, [], want, 0)
    with pytest.raises(
        BadInput, match=r"'gone' \(others:gone\) cannot be loaded: AttributeError: module 'oth"
    ):
        searches.check("gone")
    with pytest.raises(BadInput, match=r"'text' \(others:__name__\) is no function"):
        searches.check("text")
    # A name of Tunemesh's own cannot be taken.
    assert searches.load("random") is searches.SINGLE["random"]
    searches.load.cache_clear()


def test_genomes_have_numbers() -> None:
    space = wide()
    for rank in (0, 1, 4711, space.size - 1):
        assert space.rank(space.genome(rank)) == rank
    assert space.values(space.genome(space.size - 1)) == [knob.values[-1] for knob in space.knobs]
