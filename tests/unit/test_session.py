"""The Python interface, without a mesh."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import tunemesh
from tests.reports import report
from tunemesh import tuning
from tunemesh.exports import tuned_model
from tunemesh.model_files import ModelFile
from tunemesh.session import Tuned
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Settings


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
    assert (base.plan.engines, base.plan.options) == (("metaschedule",), {})


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


def test_no_engine_is_refused(path: Path) -> None:
    with pytest.raises(BadInput, match="a job has 1 to 8 engines"):
        tunemesh.model(path).engines()
    with pytest.raises(BadInput, match="'Not one' is no name of an engine"):
        tunemesh.model(path).engines("Not one")
