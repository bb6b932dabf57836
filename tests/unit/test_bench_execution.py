"""A piece of work in a process of its own, and how the mesh is laid out for what is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import matrix
from benchmarks.execution import in_child
from benchmarks.experiment import Experiment
from benchmarks.simulation_run import run_simulation
from benchmarks.work import Work
from tests.unit.fake_simulation import fake
from tunemesh import following, layout, tuning
from tunemesh.shared.messages import Level


def work(tmp_path: Path, **fields: object) -> Work:
    experiment = Experiment(name="x", **{"kind": "simulation", "scenario": "none.yaml", **fields})  # type: ignore[arg-type]
    run = matrix.runs(experiment)[0]
    return Work(experiment=experiment, models={}, source=tmp_path / "x.yaml", run=run)


def test_what_is_wrong_in_a_child_comes_back_in_words(tmp_path: Path) -> None:
    result = in_child(work(tmp_path, scenario="gone.yaml"), tmp_path / "run", 30.0)
    assert result.status == "failed"
    assert result.error


def test_a_child_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    result = in_child(work(tmp_path), tmp_path / "run", 0.05)
    assert (result.status, result.error) == (
        "timed-out",
        "stopped after 0.05 s, the limit_s of the experiment",
    )


def test_a_child_that_dies_leaves_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.execution.WORK", "elsewhere.json")
    result = in_child(work(tmp_path), tmp_path / "run", 30.0)
    assert result.status == "failed"
    assert result.error.startswith("exit status 1: ")
    assert "work.json" in result.error


def test_what_was_left_in_the_folder_is_not_taken_for_a_result(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text('{"status": "done"}')
    assert in_child(work(tmp_path), folder, 0.05).status == "timed-out"


def test_a_simulation_becomes_a_row(tmp_path: Path) -> None:
    given = work(tmp_path)
    assert given.run is not None
    result = run_simulation(given, given.run, tmp_path, fake)
    assert result.values["makespan_s"] == 12.0
    assert result.values["ratio"] == pytest.approx(1.2)
    assert result.values["use_profile"] == 0.75
    assert result.values["device_s"] == '{"gold":6.0,"free":3.0}'


# -- The layout of uncontrolled ------------------------------------------------


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3})


@pytest.mark.usefixtures("four_cores")
def test_apart_nothing_else_runs_on_the_cores_of_the_device() -> None:
    made = layout.plan("cpu:3")
    assert (made.other_cpus, made.builders, made.updaters) == ({0, 1, 2}, 2, 1)
    assert made.apart
    assert not made.shared


@pytest.mark.usefixtures("four_cores")
def test_not_apart_every_core_builds_and_updates_the_devices_included() -> None:
    made = layout.plan("cpu:3", apart=False)
    assert (made.device_cpus, made.other_cpus) == ({3}, {0, 1, 2, 3})
    assert (made.builders, made.updaters) == (4, 4)
    assert made.shared


def test_on_a_single_core_steps_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {3})
    made = layout.plan(None)
    assert made.device_cpus == made.other_cpus == {3}
    assert layout.fitting(made, "predictive") == "sequential"
    assert layout.fitting(layout.plan(None, apart=False), "uncontrolled") == "uncontrolled"


@pytest.mark.usefixtures("four_cores")
def test_a_device_that_has_all_cores_takes_turns_with_the_rest_of_the_mesh() -> None:
    made = layout.plan("cpu:0-3")
    assert made.device_cpus == made.other_cpus == {0, 1, 2, 3}
    assert (made.builders, made.updaters) == (3, 1)
    assert layout.fitting(made, "interleaved") == "sequential"


@pytest.mark.parametrize(
    ("strategy", "apart"),
    [("interleaved", True), ("fair:gold=3,free=1", True), ("uncontrolled", False), ("uncontrolled:x", False)],
)
def test_only_uncontrolled_is_not_kept_apart(strategy: str, apart: bool) -> None:
    assert layout.keeps_apart(strategy) == apart


class NoMesh(Exception):
    """Instead of starting one."""


@pytest.mark.parametrize(("strategy", "warned"), [("uncontrolled", True), ("interleaved", False)])
def test_tune_warns_loudly_that_uncontrolled_disturbs_what_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, warned: bool
) -> None:
    laid_out: list[layout.Layout] = []

    def mesh(made: layout.Layout, *_: object, **__: object) -> None:
        laid_out.append(made)
        raise NoMesh

    class Notes(following.Watcher):
        def __init__(self) -> None:
            self.text = ""

        def note(self, text: str) -> None:
            self.text += text

    monkeypatch.setattr("tunemesh.tuning.LocalMesh", mesh)
    (tmp_path / "m.yaml").write_text("tasks: []")
    notes = Notes()
    plan = tuning.Plan(
        target="mock", level=Level(trials=1), out=tmp_path, engines=("mock",), strategy=strategy
    )
    with pytest.raises(NoMesh):
        tuning.tune([tmp_path / "m.yaml"], plan, notes)
    assert ("MEASUREMENTS WILL BE DISTURBED" in notes.text) == warned
    assert laid_out[0].apart != warned
