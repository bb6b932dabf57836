"""A real model through a real mesh, from Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import tunemesh
from examples import make_models
from tunemesh.shared.errors import BadInput, BadModel, JobFailed

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny_cnn.onnx").write_bytes(make_models.tiny_cnn().SerializeToString())
    return folder


def test_a_model_is_tuned_runs_and_computes_the_same(models: Path, tmp_path: Path) -> None:
    path = models / "tiny_cnn.onnx"
    # MetaSchedule's database has no form for kernels by Winograd's algorithm.
    plan = tunemesh.model(path).on("native").trials(20).seed(7).options("graph", convolutions="direct")
    tuned = plan.tune(tmp_path)
    assert tuned.report.trials == 20
    assert tuned.speedup > 1
    assert 0 < tuned.latency_ms < 1e3
    # Both engines that come with Tunemesh have searched, and each task has one winner.
    searches = [each for task in tuned.report.tasks for each in task.searches]
    assert {each.engine for each in searches} == {"metaschedule", "template"}
    assert 0 < len(tuned.records) <= sum(each.trials for each in searches if each.engine == "metaschedule")
    assert sum(map(len, tuned.winners.values())) == len(tuned.report.tasks)
    assert all(task.engine == name for name, tasks in tuned.winners.items() for task in tasks if task.engine)

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    array = np.random.default_rng(0).standard_normal(given.shape).astype(np.float32)
    (expected,) = session.run(None, {given.name: array})
    (got,) = tuned.run({given.name: array})
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)

    with pytest.raises(BadInput, match="is missing"):
        tuned.run({})
    with pytest.raises(BadInput, match="the model takes float32"):
        tuned.run({given.name: array.astype(np.float64)})
    assert tuned.save(tmp_path / "copy.so").read_bytes() == (tuned.folder / "model.so").read_bytes()


def test_a_model_that_is_no_model_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"this is no model")
    with pytest.raises(BadModel, match="neither ONNX, nor TFLite, nor TVM's JSON"):
        tunemesh.model(path).trials(1).tune(tmp_path / "out")


def test_a_model_that_cannot_be_imported_fails_with_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "strange.onnx"
    model = make_models.tiny_cnn()
    model.graph.node[1].op_type, model.graph.node[1].domain = "FancyNorm", "acme"
    onnx.save(model, str(path))
    with pytest.raises(JobFailed, match=r"import: .*FancyNorm"):
        tunemesh.model(path).trials(1).tune(tmp_path / "out")


def test_every_step_of_the_chain_is_a_new_value(models: Path) -> None:
    base = tunemesh.model(models / "tiny_cnn.onnx")
    assert base.trials(5).plan.level.trials == 5
    assert base.plan.level.trials == 0
    with pytest.raises(BadInput, match="trials must be between 1 and"):
        base.trials(0)
    with pytest.raises(BadInput, match="no setting 'speed'"):
        base.settings(speed=9)
    with pytest.raises(BadInput, match="there is no model"):
        tunemesh.model("nowhere.onnx")
