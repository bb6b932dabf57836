"""Schedules of other tasks, made to fit: what needs no compiler."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.stage_workers.engines.metaschedule.proposing import _mixed
from tunemesh.stage_workers.engines.metaschedule.refitting import perfect_tile
from tunemesh.stage_workers.engines.metaschedule.similarity import Shape, distance

CONVOLUTION = Shape("conv2d_nhwc", "ssssrrr", ("add",), (1, 14, 14, 256, 3, 3, 128))


@pytest.mark.parametrize(
    ("present", "wanted", "fitted"),
    [
        ([1, 1, 1, 56], [2, 7, 2, 4], [1, 7, 2, 4]),
        ([1, 1, 1, 14], [2, 7, 2, 4], [1, 7, 1, 2]),
        ([1, 96], [3, 64], [2, 48]),
        ([7, 1], [1, 16], [1, 7]),
        ([5, 1, 1], [2, 8], [1, 1, 5]),
    ],
)
def test_inner_tiles_stay_as_they_are_as_far_as_they_divide(
    present: list[int], wanted: list[int], fitted: list[int]
) -> None:
    found = perfect_tile(present, wanted)
    assert math.prod(found) == math.prod(present)
    assert found[-len(wanted) + 1 :] == fitted[-len(wanted) + 1 :]


@given(st.integers(1, 512), st.lists(st.integers(1, 64), min_size=2, max_size=4))
def test_a_tile_always_fits(extent: int, wanted: list[int]) -> None:
    found = perfect_tile([extent] + [1] * (len(wanted) - 1), wanted)
    assert math.prod(found) == extent
    assert len(found) == len(wanted)


def test_a_task_is_nearest_to_itself_then_to_one_of_other_size_then_to_one_with_more_axes() -> None:
    larger = Shape("conv2d_nhwc", "ssssrrr", ("add",), (1, 28, 28, 256, 3, 3, 128))
    more = Shape("conv2d_nhwc", "sssssrrr", ("relu",), (2, 1, 28, 28, 256, 3, 3, 128))
    pool = Shape("pool_max", "ssssrr", (), (1, 14, 14, 256, 3, 3))
    found = [distance(CONVOLUTION, each) for each in (CONVOLUTION, larger, more, pool)]
    assert found == sorted(found)
    assert (found[0], found[1], found[3]) == (0.0, 2.0, math.inf)


def test_candidates_from_similar_tasks_come_first_and_by_turns() -> None:
    drawn, borrowed = {"a": b"", "b": b"", "c": b""}, {"x": b"", "y": b""}
    assert list(_mixed(drawn, borrowed, 5)) == ["x", "a", "y", "b", "c"]
    assert list(_mixed(drawn, borrowed, 1)) == ["x"]
    assert list(_mixed(drawn, {}, 2)) == ["a", "b"]
