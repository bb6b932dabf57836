"""What was tried, and when it was known."""

from __future__ import annotations

from tunemesh.shared.messages import Candidate, Conditions, History, Outcome, Stage, Timing, Trial
from tunemesh.tried import conditions, tried


def trial(number: int, outcome: Outcome = "measured", error: str = "") -> Trial:
    latencies = [number * 1e-3] * 3 if outcome == "measured" else []
    return Trial(
        candidate=Candidate(number, str(number), b""), outcome=outcome, latencies=latencies, error=error
    )


def step(stage: Stage, chunk: int | str, finished: float, size: int = 1, job: str = "j") -> Timing:
    return Timing(
        step=f"{job}/t00/0/{chunk}/{stage}", stage=stage, resource="build-cpu", worker="w",
        started=finished - 1, finished=finished, size=size,
    )  # fmt: skip


def history(trials: list[Trial], *timings: Timing) -> History:
    return History(
        task="t00", round=0, trials=trials, timings=list(timings),
        conditions=[Conditions(device="d", versions="v")],
    )  # fmt: skip


def test_a_trial_is_known_when_its_chunk_was_measured() -> None:
    read = history(
        [trial(1), trial(2, "build-failed", " broken\n"), trial(3)],
        step("model-update", "-", 1.0),
        step("build", 0, 2.0, size=2), step("profile", 0, 9.0),
        step("build", 1, 3.0, size=1), step("profile", 1, 4.0),
    )  # fmt: skip
    found = tried("j", [read])
    assert [(each.at, each.latency_s, each.outcome) for each in found] == [
        (4.0, 3e-3, "measured"), (9.0, 1e-3, "measured"), (9.0, None, "build-failed"),
    ]  # fmt: skip
    assert found[2].error == "broken"


def test_a_chunk_that_nothing_was_built_of_is_known_after_its_build() -> None:
    (found,) = tried("j", [history([trial(1, "build-failed")], step("build", 0, 2.0))])
    assert found.at == 2.0


def test_where_trials_were_lost_the_others_are_known_at_the_end() -> None:
    read = history([trial(1), trial(2)], step("build", 0, 2.0, size=3), step("profile", 0, 5.0, size=3))
    assert [each.at for each in tried("j", [read])] == [5.0, 5.0]


def test_trials_of_all_searches_are_those_of_their_task() -> None:
    timing = Timing(
        step="j/t00.template.1/0/0/build", stage="build", resource="build-cpu", worker="w", started=1.0,
        finished=2.0,
    )  # fmt: skip
    read = History(task="t00.template.1", round=0, trials=[trial(1)], timings=[timing])
    assert [each.task for each in tried("j", [read])] == ["t00"]


def test_what_other_jobs_tried_is_not_ours() -> None:
    theirs = history([trial(1)], step("build", 0, 2.0, job="other"))
    taken = history([trial(1)])
    assert tried("j", [theirs, taken]) == []
    assert conditions("j", [theirs, taken]) == []
    assert len(conditions("j", [history([trial(1)], step("build", 0, 1.0))] * 2)) == 1
