"""The Python interface, without a mesh."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import tunemesh
from tunemesh.report import Report
from tunemesh.session import Tuned
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers.graph import execution


class FakeProgram:
    loaded: list[tuple[Path, Path]]

    def __init__(self, artifact: Path, signature: Path) -> None:
        FakeProgram.loaded.append((artifact, signature))

    def run(self, inputs: Mapping[str, Any]) -> list[Any]:
        return [inputs]


def test_a_tuned_model_is_loaded_once_however_often_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(execution, "Program", FakeProgram)
    FakeProgram.loaded = []
    tuned = Tuned(tmp_path, cast(Report, None))
    assert [tuned.run({"x": cast(Any, number)}) for number in range(3)] == [[{"x": n}] for n in range(3)]
    assert FakeProgram.loaded == [(tmp_path / "model.so", tmp_path / "signature.json")]
    assert tuned == Tuned(tmp_path, cast(Report, None))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").touch()
    return tmp_path / "m.onnx"


def test_a_chain_says_what_a_plan_holds(path: Path) -> None:
    base = tunemesh.model(path)
    chain = base.on("mock", device="cpu:0").trials(9).seed(3).engines("toy", "mock").shape("x", 1, 3)
    plan = (
        chain.options("toy", size=3).options("toy", deep=True).options("graph", convolutions="as-given").plan
    )
    assert (plan.target, plan.device, plan.trials, plan.seed) == ("mock", "cpu:0", 9, 3)
    assert plan.engines == ("toy", "mock")
    assert plan.options == {"toy": {"size": 3, "deep": True}, "graph": {"convolutions": "as-given"}}
    assert plan.settings == Settings(shapes={"x": [[1, 3]]})
    assert (base.plan.engines, base.plan.options) == (("metaschedule",), {})


def test_a_chain_says_what_inputs_mean(path: Path) -> None:
    chain = tunemesh.model(path).range("ids", 0, 30_000).range("x", -1, 1).inputs({"ids": np.arange(3)})
    assert chain.plan.settings.ranges == {"ids": (0, 30_000), "x": (-1, 1)}
    assert chain.plan.samples is not None
    assert np.load(io.BytesIO(chain.plan.samples))["ids"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("number", [0, -1, 1_000_001])
def test_trials_out_of_range_are_refused(path: Path, number: int) -> None:
    with pytest.raises(BadInput, match="trials must be between"):
        tunemesh.model(path).trials(number)


def test_no_engine_is_refused(path: Path) -> None:
    with pytest.raises(BadInput, match="a job has 1 to 8 engines"):
        tunemesh.model(path).engines()
    with pytest.raises(BadInput, match="'Not one' is no name of an engine"):
        tunemesh.model(path).engines("Not one")
