"""What a run leaves: when things were known, who won, what is measured again, and the figures from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import evidence, fidelity
from benchmarks.evidence import Bar, Evidence, Measured, TaskCurve, TaskTrials
from benchmarks.plots import bars, gantt, progress
from benchmarks.plots import fidelity as fidelity_plot
from benchmarks.work import Candidate as Remeasured
from tunemesh.shared.messages import (
    Blob,
    Candidate,
    Confirmed,
    History,
    Outcome,
    Stage,
    TaskRecords,
    TaskSpec,
    Timing,
    Trial,
)

BLOB = Blob("0" * 64, 0)


def trial(name: str, seconds: float | None, outcome: Outcome = "measured") -> Trial:
    latencies = [seconds] * 3 if seconds is not None else []
    return Trial(candidate=Candidate(0, name, b""), outcome=outcome, latencies=latencies)


def step(chunk: int, finished: float, size: int, stage: Stage = "profile") -> Timing:
    return Timing(
        step=f"job/t00/0/{chunk}/{stage}", stage=stage, resource=stage, worker="w", started=0.0,
        finished=finished, size=size,
    )  # fmt: skip


def task(trials: list[Trial], confirmed: Mapping[str, float] | None = None, name: str = "t00") -> TaskTrials:
    spec = TaskSpec(id=name, name="conv", key="0" * 64, weight=2, workload=BLOB, untuned=BLOB)
    chosen = [Confirmed(hash=key, latencies=[value]) for key, value in (confirmed or {}).items()]
    history = History(task=name, round=0, trials=trials, timings=[step(0, 110.0, len(trials))])
    return TaskTrials(
        job="job", records=TaskRecords(task=spec, history=[], confirmed=chosen), histories=[history]
    )


# -- When what was known ------------------------------------------------


def test_a_trial_is_known_when_its_chunk_is_profiled_whatever_the_order_of_the_chunks() -> None:
    trials = [trial(name, 1.0) for name in "abc"]
    timings = [step(1, 20.0, 1), step(0, 30.0, 2), step(0, 5.0, 2, "build")]
    history = History(task="t", round=0, trials=trials, timings=timings)
    assert evidence.trial_times(history) == [30.0, 30.0, 20.0]


def test_trials_that_fit_no_steps_count_from_the_end_of_the_round() -> None:
    trials = [trial(name, 1.0) for name in "abc"]
    history = History(task="t", round=0, trials=trials, timings=[step(0, 20.0, 1), step(1, 30.0, 1)])
    assert evidence.trial_times(history) == [30.0] * 3


def test_the_best_latency_is_untuned_until_something_better_is_measured() -> None:
    curves = [
        TaskCurve(
            job="a", task="t0", weight=3, untuned=1.0,
            measured=[Measured(at=1.0, latency=2.0), Measured(at=2.0, latency=0.5)],
        ),
        TaskCurve(job="a", task="t1", weight=1, untuned=4.0, measured=[Measured(at=3.0, latency=1.0)]),
    ]  # fmt: skip
    assert progress.best_latency(curves) == [(0.0, 7.0), (2.0, 5.5), (3.0, 2.5)]


def test_the_median_of_several_runs_is_taken_at_every_moment() -> None:
    runs = [[(0.0, 9.0), (1.0, 1.0)], [(0.0, 9.0), (2.0, 3.0)], [(0.0, 9.0), (3.0, 5.0)]]
    assert progress.median_of(runs, 2.5) == [(0.0, 9.0), (1.0, 9.0), (2.0, 3.0), (2.5, 3.0)]


def test_utilisation_is_busy_time_over_slots_from_the_first_step_on() -> None:
    def bar(resource: str, started: float, finished: float) -> Bar:
        return Bar(worker="w", resource=resource, job="j", stage="s", started=started, finished=finished)

    work = [bar("build-cpu", 10, 20), bar("build-cpu", 12, 22), bar("profile-cpu-1", 20, 25)]
    found = evidence.utilisation(
        Evidence(makespan=30.0, slots={"build": 2, "profile": 1, "update": 1}, bars=work)
    )
    assert found == {"build": 0.5, "profile": 0.25, "update": 0.0}


# -- Winners and what is measured again ------------------------------------------------


def test_the_winner_is_the_fastest_that_was_measured() -> None:
    won = task([trial("slow", 2.0), trial("fast", 1.0), trial("wrong", None, "wrong-result")]).winner()
    assert won is not None
    assert won.candidate.hash == "fast"


def test_what_was_confirmed_counts_over_the_first_measurement() -> None:
    trials = [trial("lucky", 1.0), trial("good", 1.1), trial("other", 1.02)]
    won = task(trials, confirmed={"lucky": 1.3, "good": 1.1}).winner()
    assert won is not None
    assert won.candidate.hash == "good"


def test_a_task_without_a_measurement_has_no_winner() -> None:
    assert task([trial("a", None, "build-failed")]).winner() is None


def test_every_winner_is_measured_again_and_others_by_chance_each_once() -> None:
    tasks = [task([trial(f"{name}{n}", 1.0 + n) for n in range(30)], name=name) for name in ("t00", "t01")]
    chosen = fidelity.choose(tasks, 20, "seed")
    names = [each.trial.candidate.hash for each in chosen]
    assert [each.trial.candidate.hash for each in chosen if each.winner] == ["t000", "t010"]
    assert len(names) == len(set(names)) == 22
    assert [each.trial.candidate.hash for each in fidelity.choose(tasks, 20, "seed")] == names
    assert [each.trial.candidate.hash for each in fidelity.choose(tasks, 20, "other")] != names


def test_fewer_candidates_than_wanted_are_all_measured_again() -> None:
    assert len(fidelity.choose([task([trial("a", 1.0), trial("b", 2.0)])], 20, "seed")) == 2


def again(mesh: float, first: float | None, second: float | None, winner: bool = False) -> Remeasured:
    return Remeasured(
        job="j", task="t", task_name="conv", hash="f", winner=winner, mesh_s=mesh, confirmed_s=None,
        alone_first_s=first, alone_second_s=second, drift=0.0, attempts=1,
    )  # fmt: skip


def test_fidelity_is_the_mesh_over_alone_beside_alone_over_alone() -> None:
    figures = fidelity.figures(
        [again(4.0, 1.0, 1.0), again(1.0, 1.0, 1.21, winner=True), again(9.0, None, None)]
    )
    assert figures["fidelity_mean"] == pytest.approx(2.0)
    assert figures["fidelity_worst"] == pytest.approx(4.0)
    assert figures["fidelity_winners"] == pytest.approx(1.0)
    assert figures["noise_mean"] == pytest.approx(1.1)
    assert (figures["fidelity_candidates"], figures["fidelity_failed"]) == (2, 1)


# -- Figures -------------------------------------------------------------------------------------------------


def run(end: float) -> Evidence:
    def bar(resource: str, job: str, stage: str, started: float) -> Bar:
        return Bar(
            worker=f"{resource}@h", resource=resource, job=job, stage=stage, started=started, finished=end - 1
        )

    work = [bar("build-cpu", "resnet", "import", 1), bar("profile-cpu-1", "mixer", "profile", 2)]
    curve = TaskCurve(
        job="mixer", task="t", weight=1, untuned=0.01, measured=[Measured(at=3.0, latency=0.002)]
    )
    return Evidence(makespan=end, slots={"build": 1, "profile": 1}, bars=work, curves=[curve])


def draw(folder: Path) -> dict[str, str]:
    runs = {"sequential": run(20.0), "interleaved": run(10.0)}
    gantt.gantt(folder / "gantt.svg", runs)
    progress.progress(folder / "progress.svg", {label: [each] for label, each in runs.items()})
    bars.makespan(
        folder / "makespan.svg", {label: [each.makespan, 9.0] for label, each in runs.items()}, bound=8.0
    )
    shares = {label: {"use_build": [0.5, 0.6], "use_profile": [0.9]} for label in runs}
    bars.utilisation(folder / "utilisation.svg", shares)
    ratios = {label: ([1.0, 1.5], [1.0, 1.01]) for label in runs}
    fidelity_plot.fidelity(folder / "fidelity.svg", ratios)
    return {path.stem: path.read_text() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return draw(tmp_path_factory.mktemp("figures"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gantt", ["time since the first request (s)", "resnet", "mixer", "import", "sequential: 20 s"]),
        ("progress", ["time since the first request (s)", "best known latency of all models (ms)"]),
        ("makespan", ["makespan (s)", "lower bound", "one run", "median"]),
        ("utilisation", ["busy (% of makespan x slots)", "build", "device"]),
        ("fidelity", ["ratio of latencies (1 = undisturbed)", "noise", "geometric mean"]),
    ],
)
def test_figures_name_their_axes_and_what_is_compared(
    drawn: dict[str, str], name: str, words: list[str]
) -> None:
    for text in [*words, "sequential", "interleaved"]:
        assert text in drawn[name]


def test_the_same_results_give_the_same_files(drawn: dict[str, str], tmp_path: Path) -> None:
    assert draw(tmp_path) == drawn
