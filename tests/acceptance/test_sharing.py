"""A search that takes over what another job has tried, with MetaSchedule."""

from __future__ import annotations

from tests.acceptance import direct
from tunemesh.shared.messages import Trial
from tunemesh.stage_workers.platforms.protocol import ExtractedTask


def test_a_search_that_goes_on_from_another_jobs_trials_repeats_none_of_them(
    convolution: ExtractedTask, target: str, first_round: tuple[bytes, list[Trial]]
) -> None:
    tried = {trial.candidate.hash for trial in first_round[1]}
    # With the same seed one that knows of nothing would begin with the same candidates.
    assert {name for name, _ in direct.update(convolution.workload, target, None, [], 6).schedules} == tried
    heir = direct.update(convolution.workload, target, None, first_round[1], 6)
    new = {name for name, _ in heir.schedules}
    assert len(new) == 6
    assert not new & tried
    # Nor does it later, when its own are measured.
    measured = direct.measure(convolution, target, heir.schedules)
    later = {
        name for name, _ in direct.update(convolution.workload, target, heir.search, measured, 6).schedules
    }
    assert not later & (new | tried)
