"""Sizes of tiles that a GPU can run: what needs no compiler."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.stage_workers.engines.metaschedule import thread_tiles
from tunemesh.stage_workers.engines.metaschedule.sketches import Sketch
from tunemesh.stage_workers.engines.metaschedule.thread_tiles import Copy, Limits, Plan

LIMITS = Limits(threads=256, shared=8 * 1024)


def sketch(rows: int, columns: int) -> Sketch:
    """Of a product's two axes, each cut into blocks, virtual threads, threads, and what a thread does."""
    return Sketch(
        [
            ["GetSBlock", [], ["product", "main"], ["b0"]],
            ["GetLoops", ["b0"], [], ["l1", "l2"]],
            ["SamplePerfectTile", ["l1"], [4, 64], ["v1", "v2", "v3", "v4"]],
            ["Split", ["l1", "v1", "v2", "v3", "v4"], [True, False], ["l11", "l12", "l13", "l14"]],
            ["SamplePerfectTile", ["l2"], [4, 64], ["v5", "v6", "v7", "v8"]],
            ["Split", ["l2", "v5", "v6", "v7", "v8"], [True, False], ["l21", "l22", "l23", "l24"]],
            ["Fuse", ["l12", "l22"], [True], ["l30"]],
            ["Bind", ["l30"], ["vthread.x"], []],
            ["Fuse", ["l13", "l23"], [True], ["l31"]],
            ["Bind", ["l31"], ["threadIdx.x"], []],
            ["Annotate", ["b0", 32], ["meta_schedule.thread_extent_low_inclusive"], []],
        ],
        {2: [rows, 1, 1, 1], 4: [columns, 1, 1, 1]},
    )


def planned(rows: int, columns: int) -> Plan:
    """Each block copies a number for each of its rows, and 16 for each of its columns."""
    copies = [Copy(4, [[(2, 1)]]), Copy(64, [[(4, 1)]])]
    return thread_tiles.plan(sketch(rows, columns), None)._replace(copies=copies)


def test_what_threads_there_are_follows_from_the_sizes() -> None:
    plan = thread_tiles.plan(sketch(64, 96), None)
    assert plan.extents == {2: 64, 4: 96}
    assert plan.bound == [("vthread.x", [(2, 1), (4, 1)]), ("threadIdx.x", [(2, 2), (4, 2)])]
    assert plan.least == 32


@given(st.integers(0, 10_000))
def test_drawn_sizes_can_be_run(seed: int) -> None:
    plan = planned(1024, 384)
    sizes = thread_tiles.fitting(plan, LIMITS, random.Random(seed))
    assert sizes is not None
    assert [math.prod(each) for each in sizes.values()] == [1024, 384]
    assert 32 <= sizes[2][2] * sizes[4][2] <= LIMITS.threads
    assert sizes[2][1] * sizes[4][1] <= thread_tiles.MOST_VIRTUAL
    rows, columns = (math.prod(each[1:]) for each in sizes.values())
    assert 4 * rows + 64 * columns <= LIMITS.shared
    assert max(sizes[2][-1], sizes[4][-1]) <= 64


def test_a_sketch_without_enough_threads_is_given_up() -> None:
    assert thread_tiles.fitting(thread_tiles.plan(sketch(5, 3), None), LIMITS, random.Random(0)) is None


@pytest.mark.parametrize(
    ("inner", "size"),
    [({0: 4, 1: 3}, 4 * (1 + 2 * 3 + 2)), ({0: 1, 1: 1}, 4)],
)
def test_windows_that_overlap_are_copied_once(inner: dict[int, int], size: int) -> None:
    assert Copy(4, [[(0, 2), (1, 1)]]).size(inner) == size
