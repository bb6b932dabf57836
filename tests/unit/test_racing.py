"""How often the untuned and the tuned model run when they are compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tunemesh.shared.messages import Settings
from tunemesh.stage_workers.graph import validation


def runs(seconds: float) -> tuple[list[float], Callable[[], float]]:
    """A model that takes so long, and the runs that were made of it."""
    made: list[float] = []

    def run() -> float:
        made.append(seconds)
        return seconds

    return made, run


@pytest.mark.parametrize(
    ("before", "after", "turns_before"),
    [
        # A second or more each: 165 times as fast as untuned is no question of noise.
        (1.6, 0.01, 0),
        (0.4, 0.01, 2),
        (0.04, 0.001, 9),
        # Here it is one.
        (1.6, 1.5, 6),
        (5.0, 4.0, 3),
    ],
)
def test_a_model_that_is_slow_without_tuning_is_run_as_often_as_it_matters(
    before: float, after: float, turns_before: int
) -> None:
    (slow, run_before), (fast, run_after) = runs(before), runs(after)
    settings = Settings(repeats=3, min_repeat_ms=50)
    first = run_before()
    latencies_before, latencies_after, _ = validation._race(run_before, run_after, settings, first)
    each = max(1, int(0.05 / before))
    # One run of each to see how long they take: where it takes that long, the very first is all there is.
    assert len(slow) == (1 if turns_before == 0 else 2 + turns_before * each)
    assert latencies_before == [before] * max(turns_before, 1)
    assert len(latencies_after) >= max(3, turns_before)
    assert len(fast) == 1 + len(latencies_after) * max(1, int(0.05 / after))
