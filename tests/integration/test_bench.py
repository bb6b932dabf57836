"""``tunemesh bench`` as a person runs it, with the mock engine on a real mesh."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import table
from benchmarks.running import CANDIDATES, REMEASURED, RUNS
from tunemesh.broker_config.node import installed

MODEL = """
tasks:
  - {name: conv, weight: 2}
  - {name: dense}
durations: {build: 0.01, profile: 0.01}
"""
EXPERIMENT = """
name: small
kind: mesh
models: [model.yaml]
engine: mock
target: mock
device: cpu:0
trials: 16
settings: {batch: 8, chunk: 4}
fidelity: 2
remeasure: 1
limit_s: 100
"""


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunemesh", "bench", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False
    )


@pytest.mark.skipif(not installed(), reason="needs rabbitmq-server")
def test_an_experiment_on_a_real_mesh_ends_in_tables_and_a_report(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(MODEL)
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    out = tmp_path / "out"
    ended = bench(tmp_path / "experiment.yaml", "--out", out)
    assert ended.returncode == 0, ended.stderr + ended.stdout

    (run,) = table.read(out / RUNS)
    assert (run["status"], run["trials_done"], run["measured"]) == ("done", "16", "16")
    assert 0 < float(run["steps_s"]) <= float(run["makespan_s"]) < float(run["total_s"])
    assert 0 < float(run["use_build"]) <= 1
    # The mock engine measures the same in the mesh and alone.
    assert float(run["fidelity_mean"]) == pytest.approx(1.0)
    candidates = table.read(out / CANDIDATES)
    assert [each["winner"] for each in candidates] == ["yes", "yes", "no", "no"]
    (turn,) = table.read(out / REMEASURED)
    assert float(turn["latency_s"]) * 1e3 == pytest.approx(json.loads(run["models_ms"])["model"], rel=1e-4)
    assert not (out / "runs" / run["run"] / "mesh").exists()
    first = (out / "report.md").read_text()

    again = bench(tmp_path / "experiment.yaml", "--out", out, "--render-only")
    assert again.returncode == 0, again.stderr
    assert (out / "report.md").read_text() == first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (EXPERIMENT, "no model file"),
        (EXPERIMENT + "matrix: {strategy: []}\n", "strategy is empty"),
        (EXPERIMENT + "colour: red\n", "colour"),
        (EXPERIMENT + "strategy: best\n", "unknown strategy 'best'"),
    ],
)
def test_a_malformed_experiment_is_one_line_and_exit_code_2(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "experiment.yaml").write_text(text)
    ended = bench(tmp_path / "experiment.yaml", "--out", tmp_path / "out")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert "experiment.yaml" in line
