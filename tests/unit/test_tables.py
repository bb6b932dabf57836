"""What a person reads about a job that has ended."""

from __future__ import annotations

import msgspec

from tunemesh import tables
from tunemesh.report import JobReport, TaskReport


def report(*ways: str) -> JobReport:
    """Of a job with one task for each way."""
    task = TaskReport(
        id="t0",
        name="conv2d",
        weight=1,
        trials=1,
        outcomes={},
        untuned_s=1.0,
        best_s=0.5,
        last_error="",
        spread=None,
        confirmed=0,
        remeasured=0,
        drift=0.0,
        rounds_ahead=0,
        ended="",
    )
    return JobReport(
        job="j",
        name="network",
        target="llvm",
        trials=1,
        budget=1,
        stopped=False,
        wall_s=1.0,
        tasks=[msgspec.structs.replace(task, way=way) for way in ways],
        resources={},
        timeline=[],
    )


def test_tasks_are_counted_by_the_way_in_which_they_are_computed() -> None:
    by_winograd = "Winograd, tiles of 4x4"
    told = tables.ways(report("direct", by_winograd, "", "direct"))
    assert told == f"tasks by way: 1 {by_winograd}; 2 direct"


def test_where_there_is_one_way_only_nothing_is_told() -> None:
    assert tables.ways(report("", "")) == ""


def test_large_ratios_have_no_exponent() -> None:
    assert [tables.ratio(each) for each in (0.987654, 1.5, 368.2, 999.4, 1611.0)] == [
        "0.988",
        "1.5",
        "368",
        "999",
        "1,611",
    ]
