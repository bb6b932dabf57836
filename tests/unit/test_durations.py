"""Learned durations, and the heap whose keys change."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.coordinator.scheduling.durations import (
    GUESS,
    LONGEST_STEP,
    PACES_KEPT,
    Durations,
    seconds_of,
)
from tunemesh.coordinator.scheduling.heap import ChangingHeap
from tunemesh.coordinator.scheduling.recent import Recent
from tunemesh.shared.messages import Stage, Timing


def timing(stage: Stage, seconds: float, size: int = 1, resource: str = "build-cpu") -> Timing:
    return Timing(
        step="s",
        stage=stage,
        resource=resource,
        worker="w",
        started=100.0,
        finished=100.0 + seconds,
        size=size,
    )


def test_without_experience_a_step_takes_as_long_as_guessed_and_then_as_others_of_its_stage() -> None:
    durations = Durations()
    assert durations.seconds("build", "t", 4) == 4 * GUESS
    durations.learn(timing("build", 2.0, size=4), "t")
    assert durations.seconds("build", "t", 8) == pytest.approx(4.0)
    assert durations.seconds("build", "another", 8) == pytest.approx(4.0)


def test_a_model_update_takes_as_long_whatever_the_number_of_candidates() -> None:
    durations = Durations()
    durations.learn(timing("model-update", 3.0, size=32), "t")
    assert durations.seconds("model-update", "t", 8) == pytest.approx(3.0)


def test_a_change_is_learned_within_some_steps() -> None:
    durations = Durations()
    for seconds in [1.0] * 10 + [3.0] * 12:
        durations.learn(timing("build", seconds), "t")
    assert durations.seconds("build", "t") == pytest.approx(3.0, rel=0.05)


def test_the_slowness_of_devices_is_told_apart_from_the_pace_of_tasks() -> None:
    durations = Durations()
    draw = random.Random(1)
    paces = {"small": 0.1, "large": 1.0}
    slowness = {"profile-a": 0.5, "profile-b": 1.5}
    for _ in range(300):
        key, queue = draw.choice(list(paces)), draw.choice(list(slowness))
        seconds = paces[key] * slowness[queue] * draw.uniform(0.95, 1.05)
        durations.learn(timing("profile", seconds, resource=queue), key)
    assert durations.slowness("profile", "profile-b") / durations.slowness("profile", "profile-a") == (
        pytest.approx(3.0, rel=0.1)
    )
    assert durations.seconds("profile", "large") == pytest.approx(1.0, rel=0.15)
    assert durations.seconds("profile", "small") == pytest.approx(0.1, rel=0.15)


def test_noise_makes_no_device_slower_and_slower() -> None:
    durations = Durations()
    draw = random.Random(2)
    for _ in range(3000):
        durations.learn(
            timing("profile", draw.lognormvariate(0, 0.5), resource=f"profile-{draw.randrange(4)}"), "t"
        )
    for number in range(4):
        assert 0.5 < durations.slowness("profile", f"profile-{number}") < 2.0


def test_what_a_ledger_kept_is_taken_over_unless_more_is_known() -> None:
    durations = Durations()
    durations.learn(timing("build", 2.0), "t")
    durations.recall("t", {"build": 9.0, "profile": 5.0})
    assert durations.known("t") == {"build": pytest.approx(2.0), "profile": 5.0}


def test_what_a_step_takes_is_told_apart_from_what_its_candidates_take() -> None:
    durations = Durations()
    assert durations.cost("profile", "t") is None
    seen = timing("profile", 3.2, size=4, resource="profile-a")
    for _ in range(40):
        durations.learn(seen, "t", elapsed=3.25, each=[0.5, 0.5, 0.5, 1.5])
    cost = durations.cost("profile", "t")
    assert cost is not None
    assert cost.step == pytest.approx(0.05 + 0.2, rel=1e-3)
    assert cost.each == pytest.approx(0.75)
    assert durations.seconds("profile", "t", 8) == pytest.approx(0.2 + 8 * 0.75)
    assert durations.longest("profile") == pytest.approx(2.0)


def test_an_update_that_closes_a_task_is_no_measure_of_those_that_propose() -> None:
    durations = Durations()
    durations.learn(timing("model-update", 8.0), "t")
    assert durations.closing("t") == pytest.approx(0.8)
    assert durations.confirmed is None
    durations.learn_closing(timing("model-update", 0.5), 3)
    assert (durations.closing("t"), durations.seconds("model-update", "t")) == (0.5, 8.0)
    assert durations.confirmed == 3


def test_what_is_done_once_is_learned_by_what_it_was_reckoned_to_take() -> None:
    durations = Durations()
    assert durations.again("validate") is None
    # The mean of the ratios would be 50.
    for seconds, reckoned in ((1.0, 0.01), (1.0, 0.99)):
        durations.learn_again("validate", seconds, reckoned)
    assert durations.again("validate") == pytest.approx(2.0)
    for _ in range(200):
        durations.learn_again("validate", 3.0, 1.0)
    assert durations.again("validate") == pytest.approx(3.0, rel=0.02)


ANY_TIME = st.floats(allow_nan=True, allow_infinity=True)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["build", "profile", "model-update"]),
            st.sampled_from(["profile-a", "profile-b", "profile-c"]),
            ANY_TIME,
            ANY_TIME,
            st.integers(0, 10**9),
            st.none() | ANY_TIME,
            st.lists(ANY_TIME, max_size=3),
        ),
        min_size=1,
    ),
    pace=ANY_TIME,
)
def test_whatever_clocks_say_predictions_stay_sound(
    steps: list[tuple[Stage, str, float, float, int, float | None, list[float]]], pace: float
) -> None:
    durations = Durations()
    durations.recall("t", {"build": pace})
    for stage, resource, started, finished, size, elapsed, each in steps:
        seen = Timing(
            step="s",
            stage=stage,
            resource=resource,
            worker="w",
            started=started,
            finished=finished,
            size=size,
        )
        durations.learn(seen, "t", elapsed, each)
        assert 0 <= seconds_of(seen) <= LONGEST_STEP
    for stage in ("build", "profile", "model-update"):
        assert 0 <= durations.seconds(stage, "t", 8) < 1e9
        for resource in ("profile-a", "profile-b", "profile-c", "other"):
            assert 1e-6 < durations.slowness(stage, resource) < 1e6
        cost = durations.cost(stage, "t")
        assert cost is None or (0 <= cost.step < 1e9 and 0 <= cost.each < 1e9)


def test_a_clock_that_went_back_teaches_no_negative_time() -> None:
    durations = Durations()
    durations.learn(timing("build", -3600.0), "t")
    assert durations.seconds("build", "t") == 0.0
    assert seconds_of(timing("build", -3600.0)) == 0.0


def test_what_is_learned_is_bounded_and_what_is_used_stays() -> None:
    durations = Durations()
    durations.learn(timing("build", 7.0), "first")
    for number in range(PACES_KEPT + 100):
        durations.learn(timing("build", 2.0, resource=f"profile-{number}"), str(number))
        if number % 1000 == 0:
            assert durations.known("first") == {"build": 7.0}
    assert durations.known("0") == {}
    assert durations.known("first") == {"build": 7.0}
    assert durations.slowness("build", "profile-0") == 1.0
    assert durations.slowness("build", f"profile-{PACES_KEPT}") == pytest.approx(1.0)


def test_recent_keeps_as_many_as_it_may_and_tells_what_had_to_go() -> None:
    recent: Recent[str, int] = Recent(2)
    assert (recent.put("a", 1), recent.put("b", 2), recent.get("a")) == (None, None, 1)
    assert recent.put("c", 3) == 2
    assert (recent.get("a"), recent.get("b"), recent.get("c"), len(recent)) == (1, None, 3, 2)
    assert recent.put("a", 4) is None
    recent.drop("a")
    recent.drop("never there")
    assert len(recent) == 1


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 5))))
def test_the_least_of_a_changing_heap_is_always_the_least(changes: list[tuple[int, int | None]]) -> None:
    heap: ChangingHeap[int] = ChangingHeap()
    model: dict[int, int] = {}
    for item, key in changes:
        if key is None:
            heap.remove(item)
            model.pop(item, None)
        else:
            heap.put(item, key)
            model[item] = key
        least = heap.least()
        assert (least is None) == (not model)
        assert least is None or model[least] == min(model.values())
        assert len(heap) == len(model)


def test_a_changing_heap_stays_linear_in_its_items() -> None:
    tracemalloc.start()
    heap: ChangingHeap[int] = ChangingHeap()
    for turn in range(20_000):
        heap.put(turn % 10, turn)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(heap) == 10
    assert used < 50_000  # an entry that is kept takes 100 bytes and more
