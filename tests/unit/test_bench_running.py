"""An experiment is finished whatever happens: stopped and gone on with, runs that fail, changed files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import report, table
from benchmarks import work as work_module
from benchmarks.evidence import Bar, Evidence, Measured, TaskCurve, save
from benchmarks.experiment import Experiment
from benchmarks.running import CANDIDATES, REMEASURED, RUNS, Bench, load_results
from benchmarks.simulation_run import run_simulation
from benchmarks.work import RESULT, Candidate, Remeasured, Result, Work
from tests.unit.fake_simulation import fake
from tunemesh.shared.errors import BadInput

SECONDS = {"sequential": 20.0, "interleaved": 10.0}


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.machine.LOOK", 0.0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "a.onnx").touch()
    return Bench(experiment(), tmp_path / "experiment.yaml", tmp_path / "out")


def experiment(trials: int = 8) -> Experiment:
    return Experiment(
        name="test",
        kind="mesh",
        models=["a.onnx"],
        trials=trials,
        repeats=2,
        matrix={"strategy": ["sequential", "interleaved"]},
    )


class Fake:
    """Runs that take no time; ``stop_at`` is the one in whose middle everything is killed."""

    def __init__(self, stop_at: int | None = None, failing: str = "") -> None:
        self.done: list[str] = []
        self.remeasured = 0
        self._stop_at = stop_at
        self._failing = failing

    def __call__(self, work: Work, folder: Path, limit: float) -> Result:
        folder.mkdir(parents=True, exist_ok=True)
        if work.run is None:
            self.remeasured += 1
            return Result(
                remeasured=[
                    Remeasured(model="a", run=run, round=0, latency_s=0.001 * (1 + number))
                    for number, run in enumerate(sorted(work.done))
                ]
            )
        if len(self.done) == self._stop_at:
            raise KeyboardInterrupt
        self.done.append(work.run.id)
        if work.run.id == self._failing:
            return Result(status="timed-out", error="stopped after 1 s")
        seconds = SECONDS[work.run.strategy]
        bars = [
            Bar(worker="b@h:1", resource="build-cpu", job="a", stage="build", started=1, finished=seconds),
            Bar(worker="p@h:2", resource="profile-cpu-1", job="a", stage="profile", started=2, finished=9),
        ]
        measured = [Measured(at=4.0, latency=0.5)]
        curves = [TaskCurve(job="a", task="t", weight=1, untuned=1.0, measured=measured)]
        save(Evidence(makespan=seconds, slots={"build": 1, "profile": 1}, bars=bars, curves=curves), folder)
        candidate = Candidate(
            job="a", task="t00", task_name="conv", hash="ff", winner=True, mesh_s=0.003, confirmed_s=None,
            alone_first_s=0.002, alone_second_s=0.0021, drift=0.0, attempts=1,
        )  # fmt: skip
        result = Result(
            values={"makespan_s": seconds, "steps_s": seconds - 1, "models_ms": json.dumps({"a": 2.0})},
            candidates=[candidate],
        )
        work_module.write(result, folder / RESULT)
        return result


def silent(_text: str) -> None:
    pass


def ids(bench: Bench) -> list[str]:
    return [row["run"] for row in table.read(bench.out / RUNS)]


def test_a_stopped_experiment_goes_on_where_it_was(bench: Bench) -> None:
    first = Fake(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        bench.run_all(first, silent)
    second = Fake()
    bench.run_all(second, silent)
    assert first.done == ["r0-s0-sequential", "r0-s0-interleaved"]
    assert second.done == ["r1-s0-interleaved", "r1-s0-sequential"]
    assert ids(bench) == first.done + second.done


def test_a_finished_experiment_does_nothing_again(bench: Bench) -> None:
    bench.run_all(Fake(), silent)
    again = Fake()
    bench.run_all(again, silent)
    assert again.done == []
    assert again.remeasured == 0


def test_a_run_whose_row_is_half_written_is_done_again(bench: Bench) -> None:
    bench.run_all(Fake(), silent)
    path = bench.out / RUNS
    path.write_bytes(path.read_bytes()[:-20])
    again = Fake()
    bench.run_all(again, silent)
    assert again.done == ["r1-s0-sequential"]
    assert len(ids(bench)) == 4


def test_candidates_of_a_run_without_a_row_are_not_in_the_table(bench: Bench) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench.run_all(Fake(stop_at=1), silent)
    broken = bench.folder("r0-s0-interleaved")
    broken.mkdir(parents=True, exist_ok=True)
    finished = bench.folder("r0-s0-sequential") / RESULT
    (broken / RESULT).write_bytes(finished.read_bytes())
    bench.run_all(Fake(), silent, only=["r1-s0-sequential"])
    assert {row["run"] for row in table.read(bench.out / CANDIDATES)} == {
        "r0-s0-sequential",
        "r1-s0-sequential",
    }


def test_a_run_that_hangs_is_a_row_and_the_others_go_on(bench: Bench) -> None:
    rows = bench.run_all(Fake(failing="r0-s0-interleaved"), silent)
    assert [row["status"] for row in rows] == ["done", "timed-out", "done", "done"]
    assert rows[1]["error"] == "stopped after 1 s"
    assert {row["run"] for row in table.read(bench.out / REMEASURED)} == {
        row["run"] for row in rows if row["status"] == "done"
    }


def test_failed_runs_are_done_again_only_when_asked_for(bench: Bench) -> None:
    bench.run_all(Fake(failing="r0-s0-interleaved"), silent)
    not_asked, asked = Fake(), Fake()
    bench.run_all(not_asked, silent)
    rows = bench.run_all(asked, silent, retry=True)
    assert (not_asked.done, asked.done) == ([], ["r0-s0-interleaved"])
    assert [row["status"] for row in rows] == ["done"] * 4


def test_results_of_a_changed_experiment_are_not_mixed(bench: Bench) -> None:
    bench.run_all(Fake(), silent)
    changed = Bench(experiment(trials=9), bench.source, bench.out)
    with pytest.raises(BadInput, match="differs in trials; give another --out"):
        changed.run_all(Fake(), silent)


def test_only_one_process_writes_to_a_folder(bench: Bench) -> None:
    def second(work: Work, folder: Path, limit: float) -> Result:
        bench.run_all(Fake(), silent)
        return Result()

    with pytest.raises(BadInput, match="another tunemesh bench"):
        bench.run_all(second, silent)


def test_an_unknown_run_is_refused(bench: Bench) -> None:
    with pytest.raises(BadInput, match="no run 'r9'; known: r0-s0-sequential"):
        bench.run_all(Fake(), silent, only=["r9"])


def test_a_row_says_all_that_is_needed_to_repeat_the_run(bench: Bench) -> None:
    row = bench.run_all(Fake(), silent)[0]
    assert row["hash"] == bench.experiment.hash
    assert row["command"].endswith("--only r0-s0-sequential")
    for name in ("seed", "strategy", "models", "engine", "target", "trials", "settings", "cpu_model",
                 "cores", "load_before", "python", "tvm", "started", "duration_s"):  # fmt: skip
        assert row[name], name


# -- The report ----------------------------------------------------------------------------------------------


@pytest.fixture
def rendered(bench: Bench) -> Callable[[], str]:
    def render() -> str:
        return report.render(bench).read_text()

    return render


def test_the_report_compares_with_the_first_strategy(bench: Bench, rendered: Callable[[], str]) -> None:
    bench.run_all(Fake(), silent)
    text = rendered()
    (line,) = [line for line in text.splitlines() if line.startswith("| interleaved | 2 of 2 ")]
    assert "| 10 (10 to 10) | 0.500 |" in line
    assert "| sequential | 2 | 1.500 |" in text  # mesh over alone
    for figure in (bench.out / "figures").iterdir():
        assert f"figures/{figure.name}" in text


def test_the_report_is_made_from_the_tables_alone(bench: Bench, rendered: Callable[[], str]) -> None:
    bench.run_all(Fake(), silent)
    first = rendered()
    again = Bench(load_results(bench.out), bench.source, bench.out)
    assert report.render(again).read_text() == first


def test_the_report_says_what_failed(bench: Bench, rendered: Callable[[], str]) -> None:
    bench.run_all(Fake(failing="r0-s0-interleaved"), silent)
    text = rendered()
    assert "3 of 4 runs done" in text
    assert "stopped after 1 s" in text
    assert "| interleaved | 1 of 2 |" in text


def test_the_report_says_why_the_models_could_not_be_measured_again(
    bench: Bench, rendered: Callable[[], str]
) -> None:
    fake = Fake()

    def execute(work: Work, folder: Path, limit: float) -> Result:
        if work.run is not None:
            return fake(work, folder, limit)
        folder.mkdir()
        result = Result(status="failed", error="validate: crashed")
        work_module.write(result, folder / RESULT)
        return result

    bench.run_all(execute, silent)
    assert "Measuring them again failed: validate: crashed." in rendered()


def test_a_report_of_failures_only_is_still_a_report(bench: Bench, rendered: Callable[[], str]) -> None:
    def fail(work: Work, folder: Path, limit: float) -> Result:
        return Result(status="failed", error="no broker")

    bench.run_all(fail, silent)
    assert "No run was done." in rendered()


def test_a_simulation_is_reported_against_its_lower_bound(tmp_path: Path) -> None:
    def execute(work: Work, folder: Path, _limit: float) -> Result:
        assert work.run is not None
        folder.mkdir(parents=True)
        return run_simulation(work, work.run, folder, fake)

    for name in ("one", "two"):
        (tmp_path / name).touch()
    matrix = {"scenario": ["one", "two"], "strategy": ["sequential", "interleaved"], "seed": [0, 1]}
    bench = Bench(
        Experiment(name="s", kind="simulation", matrix=matrix), tmp_path / "s.yaml", tmp_path / "out"
    )
    bench.run_all(execute, silent)
    text = report.render(bench).read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## one",
        "## two",
        "## All runs",
    ]
    assert "| interleaved | 2 of 2 | 12 (12 to 12) | 1.000 | 1.200 |" in text
    assert "| device of free (s) | device of gold (s) |" in text
    assert (bench.out / "figures" / "gantt-two.svg").exists()


def test_there_is_no_report_without_results(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no results in"):
        load_results(tmp_path)
