"""The Python interface, without a mesh."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import tunemesh
from examples import make_models
from tests.reports import report
from tests.unit.past import progress
from tunemesh import tuning
from tunemesh.exports import tuned_model
from tunemesh.model_files import ModelFile
from tunemesh.progress_bar import ProgressBar
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import JobEvent, Settings
from tunemesh.tuned import Tuned


class FakeModel:
    loaded: list[Path]

    def __init__(self, folder: Path, _runtime: Path) -> None:
        FakeModel.loaded.append(folder)

    def run(self, inputs: Mapping[str, Any]) -> list[Any]:
        return [inputs]


def test_a_tuned_model_is_loaded_once_however_often_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tuned_model, "TunedModel", FakeModel)
    FakeModel.loaded = []
    tuned = Tuned(tmp_path, report('{"kind": "llvm", "num-cores": 2}'))
    assert [tuned.run({"x": cast(Any, number)}) for number in range(3)] == [[{"x": n}] for n in range(3)]
    assert FakeModel.loaded == [tmp_path]
    assert tuned == Tuned(tmp_path, report('{"kind": "llvm", "num-cores": 2}'))


@pytest.mark.parametrize(
    ("target", "said"),
    [('{"kind": "cuda"}', "for cuda: only models for CPUs"), ("mock", "no model that can run")],
)
def test_what_cannot_run_here_is_refused(tmp_path: Path, target: str, said: str) -> None:
    tuned = Tuned(tmp_path, report(target))
    for use in (lambda: tuned.run({}), lambda: tuned.bind(), lambda: tuned.export("cpp", tmp_path / "to")):
        with pytest.raises(BadInput, match=said):
            use()
    assert not (tmp_path / "to").exists()


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no result"):
        tunemesh.load(tmp_path)
    (tmp_path / "report.json").write_text('{"version": 1}')
    with pytest.raises(BadInput, match="is no report of this version"):
        tunemesh.load(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").touch()
    return tmp_path / "m.onnx"


def test_a_chain_says_what_a_plan_holds(path: Path) -> None:
    base = tunemesh.model(path)
    chain = base.on("mock", device="cpu:0").trials(9).seed(3).engines("toy", "mock").shape("x", 1, 3)
    plan = chain.options("toy", size=3).options("toy", deep=True).options("graph", convolutions="direct").plan
    assert (plan.target, plan.device, plan.level.trials, plan.seed) == ("mock", "cpu:0", 9, 3)
    assert plan.engines == ("toy", "mock")
    assert plan.options == {"toy": {"size": 3, "deep": True}, "graph": {"convolutions": "direct"}}
    assert plan.settings == Settings(shapes={"x": [[1, 3]]})
    assert (base.plan.engines, base.plan.options) == ((), {})


def test_a_chain_says_what_inputs_mean(path: Path) -> None:
    chain = tunemesh.model(path).range("ids", 0, 30_000).range("x", -1, 1).inputs({"ids": np.arange(3)})
    assert chain.plan.settings.ranges == {"ids": (0, 30_000), "x": (-1, 1)}
    assert chain.plan.samples is not None
    assert np.load(io.BytesIO(chain.plan.samples))["ids"].tolist() == [0, 1, 2]


def test_a_chain_says_whose_the_measurements_are(path: Path) -> None:
    chain = tunemesh.model(path).tenant("gold").visibility("all")
    assert (chain.plan.tenant, chain.plan.visibility) == ("gold", "all")
    model = ModelFile(name="m", data=b"data")
    request = tuning.make_request("job", model, chain.plan, None)
    assert (request.tenant, request.visibility) == ("gold", "all")
    with pytest.raises(BadInput, match="is for tenant or all, not 'mine'"):
        chain.visibility("mine")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="a tenant must be letters"):
        chain.tenant("not one")


@pytest.mark.parametrize("number", [0, -1, 1_000_001])
def test_trials_out_of_range_are_refused(path: Path, number: int) -> None:
    with pytest.raises(BadInput, match="trials must be between"):
        tunemesh.model(path).trials(number)


def test_engines_are_all_that_are_served_unless_some_are_named(path: Path) -> None:
    assert tunemesh.model(path).engines("toy").engines().plan.engines == ()
    with pytest.raises(BadInput, match="'Not one' is no name of an engine"):
        tunemesh.model(path).engines("Not one")


def test_all_that_the_interface_has_can_be_imported() -> None:
    for name in tunemesh.__all__:
        assert getattr(tunemesh, name) is not None
    assert issubclass(tunemesh.JobFailed, tunemesh.TunemeshError)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", tunemesh.__version__)
    assert set(tunemesh.__all__) <= set(dir(tunemesh))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda m: m.on(3), "^a target must be text, not 3$"),
        (lambda m: m.on("native", 0), "a device must be text, not 0"),
        (lambda m: m.trials("many"), "^a number of trials must be a whole number, not 'many'$"),
        (lambda m: m.seed(1.5), "^a seed must be a whole number, not 1.5$"),
        (lambda m: m.engines(1), "an engine must be text, not 1"),
        (lambda m: m.shape("x", "1,3"), "a size of x must be a whole number"),
        (lambda m: m.dim("n", [1]), r"a size of n must be a whole number, not \[1\]"),
        (lambda m: m.memory("4"), "memory is a number of GiB above 0, not '4'"),
        (lambda m: m.settings(chunk=9), "^chunk must be 1 to 8, not 9$"),
        (lambda m: m.settings(chnk=9), "there is no setting 'chnk'.*did you mean chunk"),
        (lambda m: m.level(speedup="fast"), "^speedup must be a number above 0"),
        (lambda m: m.through(None, "x"), "must be text, not None"),
        (lambda m: m.memory(float("inf")), "memory is a number of GiB above 0, not inf"),
        (lambda m: m.tenant(None), "^a tenant must be text, not None$"),
        (lambda m: m.inputs([1]), r"^inputs are arrays by name, not \[1\]$"),
        (lambda m: m.inputs({3: 4}), "^the name of an input must be text, not 3$"),
        (lambda m: m.inputs({"x": object()}), "^the input x is no array of numbers: "),
        (lambda m: m.tune(out=3), "^a folder is a path, not 3$"),
        (lambda _: tunemesh.load(3), "^a folder is a path, not 3$"),  # type: ignore[arg-type]
        (lambda _: tunemesh.connect(3, "x"), "must be text, not 3"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_type_gets_one_clear_line(path: Path, wrong: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        wrong(tunemesh.model(path))


@pytest.mark.parametrize(("wrong", "called"), [(42, "builtins.int"), (None, "builtins.NoneType")])
def test_what_is_no_model_is_named(wrong: Any, called: str) -> None:
    known = "a model is a path, bytes, a model of onnx or a module of PyTorch"
    with pytest.raises(BadInput, match=f"^{known}, not {called}$"):
        tunemesh.model(wrong)


def test_a_number_of_numpy_is_a_number(path: Path) -> None:
    assert tunemesh.model(path).trials(cast(Any, np.int64(5))).plan.level.trials == 5


def test_a_model_may_be_bytes_or_of_onnx() -> None:
    network = make_models.tiny_cnn()
    given = tunemesh.model(network).given
    assert isinstance(given, ModelFile)
    assert given.data == network.SerializeToString()
    assert given.name.endswith(".onnx")
    same = tunemesh.model(network.SerializeToString()).given
    assert isinstance(same, ModelFile)
    assert same.data == given.data


def told(callback: Any = None, shown: bool | None = False, text: str = "") -> list[Any]:
    found: list[Any] = []
    job = progress("j", "tuning", trials=3, budget=8)
    with ProgressBar(shown, callback or found.append) as bar:
        bar.note(text)
        bar.event(JobEvent(job="j", kind="accepted", at=1.0))
        bar.event(JobEvent(job="j", kind="progress", at=1.0, progress=job))
    return found


def test_a_function_is_told_of_all_that_happens() -> None:
    (heard,) = told()
    assert (heard.job, heard.trials) == ("j", 3)


def test_a_bar_shows_how_far_a_job_is(capsys: pytest.CaptureFixture[str]) -> None:
    told(shown=True, text="starting \x1b[31m a mesh")
    said = capsys.readouterr().err
    assert "starting ?[31m a mesh" in said
    assert "j: tuning" in said
    assert "3/8 trials" in said
    told()  # nobody looks on
    assert capsys.readouterr().err == ""
