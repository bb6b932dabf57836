"""How trials are split between two ways to compute a convolution."""

from __future__ import annotations

import pytest

from tunemesh.shared.messages import Candidate, Trial
from tunemesh.stage_workers.engines.metaschedule import ways
from tunemesh.stage_workers.engines.metaschedule.search_state import SearchState

OURS = {f"a{number}" for number in range(100)}
"""Schedules by Winograd's algorithm."""


def state(ours: list[float], others: list[float]) -> SearchState:
    """What is known after trials with these latencies; infinite for those that failed."""
    made = SearchState("workload")
    for letter, latencies in (("a", ours), ("b", others)):
        for number, latency in enumerate(latencies):
            candidate = Candidate(number, f"{letter}{number}", b"")
            made.tried(Trial(candidate=candidate, outcome="measured", latencies=[latency]), latency)
    return made


def test_half_of_the_first_go_each_way() -> None:
    assert ways.by_winograd(state([], []), OURS, 8) == 4
    # A single one goes where most such tasks are fastest.
    assert ways.by_winograd(state([], []), OURS, 1) == 1


@pytest.mark.parametrize(
    ("expected", "of_eight", "of_one"), [(0.5, 6, 1), (0.9, 4, 1), (1.1, 4, 0), (2.0, 2, 0)]
)
def test_the_first_go_where_similar_tasks_were_fastest(expected: float, of_eight: int, of_one: int) -> None:
    assert ways.by_winograd(state([], []), OURS, 8, expected) == of_eight
    assert ways.by_winograd(state([], []), OURS, 1, expected) == of_one
    # What was measured of the task itself counts instead.
    assert ways.by_winograd(state([1.0], [4.0]), OURS, 8, expected) == 8


def test_where_there_is_one_way_all_go_there() -> None:
    assert ways.by_winograd(state([], [1.0]), set(), 8) == 0


@pytest.mark.parametrize(
    ("trials", "ours", "others"),
    [(4, 1.5, 3.0), (8, 1.2, 1.5), (16, 1.05, 1.05)],
)
def test_the_way_that_is_behind_gets_some_as_long_as_it_may_catch_up(
    trials: int, ours: float, others: float
) -> None:
    """The longer it was tried, the closer it has to be."""
    ahead = [1.0] * 4
    for part, slower in ((2, 0.99), (0, 1.01)):
        assert ways.by_winograd(state([ours * slower] * trials, ahead), OURS, 8) == part
        assert ways.by_winograd(state(ahead, [others * slower] * trials), OURS, 8) == 8 - part


def test_a_way_that_only_fails_gets_no_more() -> None:
    failed = [float("inf")] * 4
    assert ways.by_winograd(state(failed, [1.0]), OURS, 8) == 0
    assert ways.by_winograd(state([1.0], failed), OURS, 8) == 8
    assert ways.by_winograd(state(failed, failed), OURS, 8) == 4
