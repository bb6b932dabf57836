"""A simulation that simulates nothing: what one gives back, in numbers that are easy to check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.matrix import Run
from benchmarks.simulation_run import Simulated, Slot


@dataclass(frozen=True)
class FakeSlot:
    resource: str = "profile-0"
    worker: str = "p0"
    job: str = "a"
    stage: str = "profile"
    started: float = 1.0
    finished: float = 10.0


@dataclass(frozen=True)
class FakeOutcome:
    makespan: float = 12.0
    lower_bound: float = 10.0
    utilisation: Mapping[str, float] = field(default_factory=lambda: {"profile-0": 0.75, "build": 0.5})
    completions: Mapping[str, float] = field(default_factory=lambda: {"a": 12.0})
    decision_seconds: Sequence[float] = (1e-6, 3e-6)
    device_seconds: Mapping[str, float] = field(default_factory=lambda: {"gold": 6.0, "free": 3.0})
    timeline: Sequence[Slot] = (FakeSlot(),)


def fake(_run: Run, _source: Path) -> Simulated:
    return FakeOutcome()
