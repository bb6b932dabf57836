"""What the soak makes of what it has seen."""

from __future__ import annotations

from benchmarks.soak import Sample, panels, report


def sample(at: float, ended: int, memory: int) -> Sample:
    return Sample(
        at=at,
        ended=ended,
        memory={"coordinator": memory},
        descriptors={"coordinator": 7},
        ready=0,
        held=ended,
        queues=12,
        disk={"broker": 1_000_000},
        artifacts=5,
    )


def test_growth_is_told_by_the_jobs_that_came_meanwhile_and_the_start_does_not_count() -> None:
    """It takes 90 MB to start, and then 2 MB for each hundred jobs."""
    samples = [
        sample(10.0 * n, 100 * n, 100_000_000 + 2_000_000 * n if n > 1 else 10_000_000) for n in range(13)
    ]
    lines = report(samples).splitlines()
    assert lines[0].startswith("| 1200 jobs in 2.0 min |")
    memory = next(line for line in lines if "memory of coordinator" in line)
    assert memory == "| memory of coordinator (MB) | 109.0 | 121.0 | +20.0 |"
    assert "| descriptors of coordinator | 7.0 | 7.0 | +0.0 |" in lines


def test_what_is_drawn_has_a_value_for_every_moment() -> None:
    samples = [sample(10.0 * n, n, 10) for n in range(4)]
    for lines in panels(samples).values():
        assert lines
        assert all(len(values) == 4 for values in lines.values())
