"""A simulation that simulates nothing: what one gives back, in numbers that are easy to check."""

from __future__ import annotations

from pathlib import Path

from benchmarks.matrix import Run
from tunemesh.coordinator.simulation import Outcome, Slot


def fake(_run: Run, _source: Path) -> Outcome:
    return Outcome(
        strategy="interleaved",
        seed=0,
        makespan=12.0,
        lower_bound=10.0,
        completions={"a": 12.0},
        completion_mean=12.0,
        completion_p95=12.0,
        utilisation={"profile:cpu": 0.75, "build-cpu": 0.5},
        steps=1,
        lost=0,
        decisions=2,
        decision_us=2.0,
        core_us=100.0,
        device_seconds={"gold": 6.0, "free": 3.0},
        timeline=[Slot("profile-0", "p0", "a", "t00", "profile", 1.0, 10.0)],
    )
