"""MetaSchedule itself, as the mesh is compared with it: a few trials of a small product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import matrix
from benchmarks.evidence import load
from benchmarks.execution import in_child
from benchmarks.experiment import Experiment
from benchmarks.work import Work
from examples import make_models
from tunemesh.exporting import runtime_folder
from tunemesh.exports.tuned_model import TunedModel

pytestmark = pytest.mark.alone


def test_metaschedule_tunes_the_same_tasks_and_its_model_runs(tmp_path: Path) -> None:
    path = tmp_path / "matmul_128.onnx"
    path.write_bytes(make_models.matmul_128().SerializeToString())
    experiment = Experiment(
        name="versus",
        kind="mesh",
        models=["matmul_128"],
        trials=4,
        cores=1,
        matrix={"tuner": ["metaschedule-warm", "tunemesh"]},
    )
    run = matrix.runs(experiment)[0]
    work = Work(experiment=experiment, models={"matmul_128": path}, source=tmp_path / "e.yaml", run=run)
    result = in_child(work, tmp_path / "run", limit=300)
    assert (result.status, result.error) == ("done", "")
    assert result.values["trials_done"] == 4
    found = load(tmp_path / "run")
    assert found is not None
    assert len(found.curves[0].measured) == result.values["measured"]
    folder = tmp_path / "run" / "tuned" / "matmul_128"
    ones = np.ones((128, 128), np.float32)
    (logits,) = TunedModel(folder, runtime_folder()).run({"image": ones})
    assert logits.shape == (128, 128)
    assert np.isfinite(logits).all()
