"""What is said of a job before there is a mesh."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tunemesh import checks, tuning
from tunemesh.checks import check_job_id
from tunemesh.mesh_address import MeshAddress
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Level, Settings

NAME = "m.onnx"


def network() -> bytes:
    """A small ONNX model."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]))
    assert isinstance(model, onnx.ModelProto)
    return model.SerializeToString()


@pytest.mark.parametrize(
    "model",
    [network(), json.dumps({"root": 1}).encode(), b' \n{"x": NaN}', b"\x1c\x00\x00\x00TFL3\x00"],
)
def test_what_may_be_a_model_is_left_to_the_mesh(model: bytes) -> None:
    checks.check_model(NAME, model, ["metaschedule"])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (b"", "m.onnx is empty"),
        (b"just some notes\n", "m.onnx is a text, neither ONNX, nor"),
        ("tasks: [\u00e4]".encode(), "is a text"),
        (("x" * 4095 + "\u00e4" * 100).encode(), "is a text"),
        (b'{"root": [1, 2', "truncated or no valid JSON"),
        (network()[:-3], "m.onnx is truncated or damaged"),
        (network()[:5], "truncated or damaged"),
    ],
)
def test_what_can_be_no_model_is_said_at_once(model: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        checks.check_model(NAME, model, ["metaschedule"])


def test_models_of_the_mock_engine_are_texts() -> None:
    checks.check_model(NAME, b"tasks: []", ["mock"])
    with pytest.raises(BadInput, match="empty"):
        checks.check_model(NAME, b"", ["mock"])


@pytest.mark.parametrize(
    ("target", "engines"),
    [
        ("native", ["metaschedule"]),
        ('{"kind": "llvm", "mcpu": "znver4"}', ["metaschedule"]),
        ('{"tag": "nvidia/nvidia-h100"}', ["metaschedule"]),
        ("mock", ["mock"]),
        ("mock-7", ["metaschedule", "mock"]),
        ("whatever it is", ["toy"]),
    ],
)
def test_an_obvious_target_needs_no_compiler(
    target: str, engines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tunemesh.stage_workers.graph.targets", None)  # an import would fail
    checks.check_target(target, engines)


def test_a_target_that_is_not_the_mock_engines_is_said_at_once() -> None:
    with pytest.raises(BadInput, match="unknown target 'quantum': those of the mock engine start with"):
        checks.check_target("quantum", ["mock"])


def test_an_engine_that_is_not_installed_is_known_to_a_mesh_elsewhere_at_most(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(network())
    plan = tuning.Plan(target="native", level=Level(trials=1), out=tmp_path, engines=("magic",))
    with pytest.raises(BadInput, match=r"there is no engine 'magic'; installed: .*mock"):
        tuning.read_models([tmp_path / "m.onnx"], plan)
    there = MeshAddress(broker="amqp://x", artifacts="/x")
    elsewhere = tuning.Plan(
        target="native", level=Level(trials=1), out=tmp_path, engines=("magic",), address=there
    )
    assert tuning.read_models([tmp_path / "m.onnx"], elsewhere)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"level": Level(trials=8001), "settings": Settings(batch=1)},
            "8,001 trials in batches of 1 are more than 8,000 rounds: take larger",
        ),
        ({"options": {"toy": {"x": 1}}}, "it has options for toy, which is none of its engines"),
        ({"engines": ("mock", "mock")}, "it names an engine twice"),
    ],
)
def test_what_the_coordinator_would_reject_is_said_at_once(
    tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    (tmp_path / "m").write_text("tasks: []")
    values = {"target": "mock", "out": tmp_path, "engines": ("mock",), **fields}
    with pytest.raises(BadInput, match=f"bad request: {said}"):
        tuning.read_models([tmp_path / "m"], tuning.Plan(**values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"seed": -1}, "the seed must be between 0 and"),
        ({"target": ""}, "a target has 1 to 2,000 characters"),
        ({"target": "x" * 2001}, "a target has 1 to 2,000 characters, not 2,001"),
        ({"tenant": "no spaces"}, "a tenant must be letters"),
        ({"priority": 0}, "the priority must be between 1 and 100"),
        ({"engines": tuple("abcdefghi")}, "a job has at most 8 engines, not 9"),
    ],
)
def test_a_plan_out_of_range_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        tuning.Plan(**{"target": "native", "out": Path(), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "no spaces", "-x", "x" * 65, "a.b", "a\n", "*", "\x1b[2J"])
def test_a_mistyped_id_is_not_asked_for(text: str) -> None:
    with pytest.raises(BadInput, match="is no id of a job"):
        check_job_id(text)


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


X = np.ones((1, 4), np.float32)


def test_inputs_that_fit_the_model_are_taken() -> None:
    checks.check_inputs(network(), npz(x=X))
    checks.check_inputs(b'{"root": 1}', npz(anything=X))  # the worker reads it


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"z": X}, "no input z; its inputs are x"),
        ({}, r"the input x is missing; it is float32\[1, 4\]"),
        ({"x": X.astype(np.float64)}, r"x is float64\[1, 4\], the model takes float32\[1, 4\]"),
        ({"x": X[:, :3]}, r"x is float32\[1, 3\], the model takes float32\[1, 4\]"),
        ({"x": X[0]}, r"x is float32\[4\], the model takes float32\[1, 4\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_at_once(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        checks.check_inputs(network(), npz(**arrays))


def test_inputs_are_for_one_model_and_one_set_of_shapes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for path in paths:
        path.write_bytes(network())
    plan = tuning.Plan(target="native", level=Level(trials=1), out=tmp_path, samples=npz(x=X))
    with pytest.raises(BadInput, match="inputs of one model"):
        tuning.read_models(paths, plan)
    with pytest.raises(BadInput, match="inputs of one set of shapes"):
        tuning.read_models(paths[:1], replace(plan, settings=Settings(dims={"n": [1, 2]})))
    assert len(tuning.read_models(paths[:1], plan)) == 1


def test_a_range_without_a_value_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(network())
    plan = tuning.Plan(
        target="native", level=Level(trials=1), out=tmp_path, settings=Settings(ranges={"x": (3, 3)})
    )
    with pytest.raises(BadInput, match="--range x=3,3 has no value"):
        tuning.read_models([tmp_path / "a.onnx"], plan)


@pytest.mark.parametrize("count", [0, 1_000_001])
def test_trials_out_of_range_are_refused(count: int) -> None:
    with pytest.raises(BadInput, match=f"trials must be between 1 and 1,000,000, or auto, not {count}"):
        tuning.trials_of(count)


@pytest.mark.parametrize(
    ("target", "engines", "meant"),
    [
        ("native", ("mock",), "mock"),
        ("mock-2", ("mock",), "mock-2"),
        ("native", ("mock", "metaschedule"), "native"),
        ("native", ("metaschedule",), "native"),
    ],
)
def test_the_mock_engine_has_a_target_of_its_own(target: str, engines: tuple[str, ...], meant: str) -> None:
    assert checks.usual_target(target, engines) == meant
