"""What `make demo` tells of its results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from examples import check_demo

ROOT = Path(__file__).resolve().parents[2]


def test_slower_than_onnx_runtime_is_said() -> None:
    told = check_demo.beside_onnxruntime(ours_s=150e-6, theirs_s=120e-6)
    assert "0.150 ms here" in told
    assert "0.120 ms" in told
    assert "1.25x SLOWER than ONNX Runtime" in told


def test_faster_than_onnx_runtime_is_said() -> None:
    told = check_demo.beside_onnxruntime(ours_s=100e-6, theirs_s=120e-6)
    assert told.endswith("1.20x faster")


def test_runs_take_turns_and_the_median_counts() -> None:
    order: list[str] = []

    def run(name: str) -> list[check_demo.Array]:
        order.append(name)
        return []

    medians = check_demo.take_turns((lambda: run("ours"), lambda: run("theirs")))
    one_turn = ["ours"] * check_demo.RUNS + ["theirs"] * check_demo.RUNS
    assert order == one_turn * check_demo.TURNS
    assert all(0 < seconds < 0.01 for seconds in medians)


def test_a_difference_is_relative_to_the_largest_output() -> None:
    expected = [np.array([1.0, -4.0]), np.array([2.0])]
    got = [np.array([1.0, -4.0]), np.array([2.5])]
    assert check_demo.difference(got, expected) == (0.5, 0.125)


def test_only_the_models_that_are_named_are_made(tmp_path: Path) -> None:
    command = [sys.executable, "examples/make_models.py", str(tmp_path), "tiny_cnn", "tiny_mlp_mixer"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny_cnn.onnx", "tiny_mlp_mixer.onnx"}
    demo = (ROOT / "examples" / "demo.sh").read_text()
    assert 'make_models.py "$OUT/models" tiny_cnn tiny_mlp_mixer\n' in demo
