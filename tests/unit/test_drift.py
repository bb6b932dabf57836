"""Whether the device is as fast as usual, and what is measured again when it is not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.world import BLOB
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import Settings, Step, ValidateWork
from tunemesh.stage_workers.devices.drift import AT_FIRST, THRESHOLD, WINDOW, Drift
from tunemesh.stage_workers.platforms.protocol import Platform, ProfileOutcome, ReferenceOutcome
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages import trust
from tunemesh.stage_workers.stages.context import Context, DeviceFault
from tunemesh.stage_workers.stages.trust import Measured, Watch

USUAL = 1.4e-3


def idle(draw: random.Random) -> list[float]:
    """Five repeats on a calm machine."""
    return [USUAL * draw.uniform(0.99, 1.03) for _ in range(5)]


def shared(draw: random.Random) -> list[float]:
    """A compiler has half of the core, in slices of 3 ms: some repeats of 2 ms meet none of it."""
    return [USUAL * draw.choice([1.0, 1.0, 2.5, 2.5, 1.8]) for _ in range(5)]


def watched(levels: Sequence[list[float]]) -> list[float]:
    drift = Drift()
    return [drift.seen(level, float(at)) for at, level in enumerate(levels)]


def test_a_calm_machine_does_not_drift() -> None:
    draw = random.Random(0)
    assert max(watched([idle(draw) for _ in range(2000)])) < THRESHOLD


def test_a_compiler_on_the_same_core_is_seen_at_once() -> None:
    draw = random.Random(0)
    seen = 0
    for _ in range(200):
        levels = [idle(draw) for _ in range(10)] + [shared(draw)]
        seen += watched(levels)[-1] > THRESHOLD
    assert seen >= 195


def test_a_lasting_change_becomes_the_usual() -> None:
    draw = random.Random(0)
    slower = [[1.2 * each for each in idle(draw)] for _ in range(2 * WINDOW)]
    drifts = watched([idle(draw) for _ in range(WINDOW)] + slower)
    assert drifts[WINDOW] > THRESHOLD
    assert max(drifts[-WINDOW // 2 :]) < THRESHOLD


@given(st.lists(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=5), min_size=1, max_size=100))
def test_drift_is_a_number_of_at_least_nothing(levels: list[list[float]]) -> None:
    assert all(0 <= drift < 1e12 for drift in watched(levels))


def test_time_for_measuring_again_is_earned_and_runs_out() -> None:
    drift = Drift()
    assert drift.can_afford
    drift.spend(AT_FIRST + 4.0)
    assert not drift.can_afford
    drift.earn(11.0)
    assert not drift.can_afford
    drift.earn(2.0)
    assert drift.can_afford


class Device:
    """A sandbox whose reference shows what ``slower`` says; candidates are measured on it too."""

    def __init__(self, slower: Callable[[int], float]) -> None:
        self.looks = 0
        self._slower = slower

    def call(self, callee: str, method: Callable[..., Any], record: object, timeout: float) -> Any:
        assert method is Platform.reference
        self.looks += 1
        return ReferenceOutcome(latencies=[USUAL * self._slower(self.looks)] * 5)


def watch(device: object, tmp_path: Path, drift: Drift | None = None) -> Watch:
    work = ValidateWork(tuned=BLOB, untuned=BLOB, signature=BLOB)
    step = Step(
        id="j/t/0/0/profile", job="j", engines=["mock"], target="mock", seed=0, settings=Settings(), work=work
    )
    context = Context(device, ArtifactStore(str(tmp_path)), "cpu", drift or Drift())  # type: ignore[arg-type]
    return Watch(step, "cpu", context)


def measured(*attempts: list[float]) -> tuple[Measured, list[list[float]]]:
    left = list(attempts)
    return Measured(lambda: [ProfileOutcome(outcome="measured", latencies=left.pop(0))]), left


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(trust, "WARM_UP", 0.0)
    monkeypatch.setattr(trust, "CALM_LIMIT", 0.0)


def test_on_a_calm_device_every_candidate_is_measured_once(tmp_path: Path) -> None:
    device = Device(lambda look: 1.0)
    candidates = [measured([1.0, 1.01, 1.0])[0] for _ in range(8)]
    watch(device, tmp_path).measure(candidates)
    assert [each.attempts for each in candidates] == [1] * 8
    assert device.looks == 2


def test_what_was_measured_during_a_disturbance_is_measured_again(tmp_path: Path) -> None:
    device = Device(lambda look: 1.5 if look in (2, 3) else 1.0)
    candidate, _ = measured([2.0, 2.1, 2.0], [1.0, 1.0, 1.0])
    watch(device, tmp_path).measure([candidate])
    assert candidate.attempts == 2
    assert candidate.outcomes[0].latencies == [1.0, 1.0, 1.0]
    assert candidate.drift < THRESHOLD


def test_what_a_disturbance_cannot_have_hidden_is_not_measured_again(tmp_path: Path) -> None:
    def one(latency: float) -> Measured:
        attempts = [[latency], [latency]]
        return Measured(
            lambda: [ProfileOutcome(outcome="measured", latencies=attempts.pop(0))],
            lambda outcomes, drift: outcomes[0].latencies[0] < 1.0 + drift,
        )

    slow, close = one(2.0), one(1.4)
    watch(Device(lambda look: 1.5 if look in (2, 3) else 1.0), tmp_path).measure([slow, close])
    assert (slow.attempts, close.attempts) == (1, 2)
    assert slow.drift == pytest.approx(0.5)


def test_a_single_spike_of_the_reference_is_not_believed(tmp_path: Path) -> None:
    device = Device(lambda look: 3.0 if look == 2 else 1.0)
    candidate, _ = measured([1.0, 1.0, 1.0])
    watch(device, tmp_path).measure([candidate])
    assert candidate.attempts == 1


def test_a_disturbance_that_does_not_end_is_waited_for_once_and_reported(tmp_path: Path) -> None:
    device = Device(lambda look: 1.0 if look == 1 else 1.5)
    candidate, left = measured(*[[2.0, 2.0, 2.0]] * 5)
    watch(device, tmp_path).measure([candidate])
    assert candidate.attempts == 1
    assert len(left) == 4
    assert candidate.drift > THRESHOLD


def test_a_disturbance_that_gets_less_costs_two_more_attempts(tmp_path: Path) -> None:
    device = Device(lambda look: 1.0 if look == 1 else 2.0 - look / 40)
    candidate, _ = measured([2.0, 2.0, 2.0], [1.7, 1.7, 1.7], [1.5, 1.5, 1.5], [1.0, 1.0, 1.0])
    watch(device, tmp_path).measure([candidate])
    assert candidate.attempts == 3
    assert candidate.outcomes[0].latencies == [1.5, 1.5, 1.5]
    assert candidate.drift > THRESHOLD


def test_calm_is_waited_for_no_longer_than_measuring_again_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "CALM_LIMIT", 60.0)

    def measure() -> list[ProfileOutcome]:
        time.sleep(0.05)
        return [ProfileOutcome(outcome="measured", latencies=[2.0])]

    candidate = Measured(measure)
    began = time.monotonic()
    watch(Device(lambda look: 1.0 if look == 1 else 1.5), tmp_path).measure([candidate])
    assert time.monotonic() - began < 30
    assert candidate.attempts == 1
    # A device that is calm before that is worth it.
    device = Device(lambda look: 1.5 if look in range(2, 50) else 1.0)
    candidate = Measured(measure)
    watch(device, tmp_path).measure([candidate])
    assert (candidate.attempts, candidate.drift) == (2, 0.0)


def test_nothing_is_measured_again_when_there_is_no_time_left_for_it(tmp_path: Path) -> None:
    drift = Drift()
    drift.spend(1000.0)
    candidate, _ = measured([2.0, 2.0, 2.0])
    watch(Device(lambda look: 1.0 if look == 1 else 1.5), tmp_path, drift).measure([candidate])
    assert candidate.attempts == 1
    assert candidate.drift > THRESHOLD


def test_a_device_that_is_slow_at_first_is_kept_busy_until_it_is_as_fast_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As cores that have been idle are."""
    monkeypatch.setattr(trust, "WARM_UP", 60.0)
    drift = Drift()
    drift.seen([USUAL] * 5, -1e9)
    device = Device(lambda look: max(1.0, 1.2 - look / 50))
    candidate, _ = measured([1.0, 1.0, 1.0])
    watch(device, tmp_path, drift).measure([candidate])
    assert (candidate.attempts, candidate.drift < THRESHOLD) == (1, True)
    assert device.looks == 8 + 1


def test_warming_up_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "WARM_UP", 0.05)
    drift = Drift()
    drift.seen([USUAL] * 5, -1e9)
    candidate, _ = measured([1.0, 1.0, 1.0])
    watch(Device(lambda _: 1.2), tmp_path, drift).measure([candidate])
    assert candidate.drift == pytest.approx(0.2)


def test_a_candidate_whose_repeats_differ_is_measured_again_and_the_steadiest_attempt_counts(
    tmp_path: Path,
) -> None:
    candidate, _ = measured([1.0, 2.0, 2.1], [1.0, 1.3, 1.3], [1.0, 1.5, 1.5])
    watch(Device(lambda look: 1.0), tmp_path).measure([candidate])
    assert candidate.attempts == 3
    assert candidate.outcomes[0].latencies == [1.0, 1.3, 1.3]


@pytest.mark.parametrize("latencies", [[1.0, 2.0, 1.0], [1.0, 2.0, 1.1, 1.0, 3.0, 1.0]])
def test_repeats_that_do_not_move_the_median_are_no_reason_to_measure_again(
    tmp_path: Path, latencies: list[float]
) -> None:
    candidate, _ = measured(latencies)
    watch(Device(lambda look: 1.0), tmp_path).measure([candidate])
    assert candidate.attempts == 1


def test_a_candidate_that_waited_for_its_core_is_measured_again(tmp_path: Path) -> None:
    outcomes = [
        ProfileOutcome(outcome="measured", latencies=[2.0, 2.0], waited=0.5),
        ProfileOutcome(outcome="measured", latencies=[1.0, 1.05], waited=0.001),
    ]
    candidate = Measured(lambda: [outcomes.pop(0)])
    watch(Device(lambda look: 1.0), tmp_path).measure([candidate])
    assert candidate.attempts == 2
    assert candidate.outcomes[0].latencies == [1.0, 1.05]


def test_a_failed_candidate_is_not_tried_again(tmp_path: Path) -> None:
    failed = Measured(lambda: [ProfileOutcome(outcome="run-failed", error="x")])
    watch(Device(lambda look: 1.0 if look == 1 else 1.5), tmp_path).measure([failed])
    assert failed.attempts == 1


def test_a_device_whose_reference_fails_in_a_fresh_process_too_does_not_work(tmp_path: Path) -> None:
    class Broken:
        renewed = 0

        def renew(self) -> None:
            self.renewed += 1

        def call(self, *_: object) -> CallFailure:
            return CallFailure("crashed", "killed by SIGSEGV")

    broken, (candidate, _) = Broken(), measured([1.0, 1.0, 1.0])
    with pytest.raises(DeviceFault, match="its reference kernel crashed: killed by SIGSEGV"):
        watch(broken, tmp_path).measure([candidate])
    assert broken.renewed == 1
