"""ONNX models as modules of PyTorch, by the tests that the ``onnx`` package has for its operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[dev-torch]'")

from benchmarks import onnx_nodes
from benchmarks.peers.networks import Net
from tunemesh.comparing.torch_graph import OPERATORS, module_of

# PyTorch warns of its own.
pytestmark = pytest.mark.filterwarnings("default")

LEAST_RIGHT = 300
"""Tests that must have been run: fewer would say that nearly everything is refused."""


def test_every_operator_that_is_not_refused_computes_what_it_should(tmp_path: Path) -> None:
    wrong, right = [], 0
    for test in onnx_nodes.tests([]):
        if any(node.op_type not in OPERATORS for node in test.model.graph.node):
            continue
        inputs, outputs = ([onnx_nodes.array_of(value) for value in values] for values in test.data_sets[0])
        try:
            found = computed(test.model, inputs, tmp_path / "model.onnx")
        except Exception:  # it is refused, by this, by ONNX Runtime or by PyTorch
            continue
        if same(found, outputs):
            right += 1
        else:
            wrong.append(test.name)
    assert wrong == []
    assert right > LEAST_RIGHT


def computed(model: Any, inputs: list[Any], path: Path) -> list[Any]:
    """Outputs for ``inputs``, of which whole numbers become constants, as shapes and axes are in practice."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    given, declared = {}, list(model.graph.input)
    del model.graph.input[:]
    for value, array in zip(declared, inputs, strict=True):
        if array.dtype == np.int64 and value.name != "indices":
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        else:
            given[value.name] = array
            model.graph.input.append(value)
    path.write_bytes(model.SerializeToString())
    module = module_of(path, {name: array.shape for name, array in given.items()})
    with torch.no_grad():
        return [
            each.numpy() for each in module(*(torch.from_numpy(array.copy()) for array in given.values()))
        ]


def same(found: list[Any], expected: list[Any]) -> bool:
    return len(found) == len(expected) and all(
        (one.shape, one.dtype) == (other.shape, other.dtype)
        and np.allclose(one.astype(float), other.astype(float), rtol=1e-3, atol=1e-5, equal_nan=True)
        for one, other in zip(found, expected, strict=True)
    )


def test_an_operator_without_a_counterpart_is_named(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Atan", ["x"], ["y"])],
        "odd",
        [onnx.helper.make_tensor_value_info("x", 1, [2])],
        [onnx.helper.make_tensor_value_info("y", 1, [2])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="the operator Atan has no counterpart in PyTorch here"):
        module_of(tmp_path / "m.onnx", {"x": (2,)})


def test_attention_is_written_in_the_form_that_the_compiler_knows(tmp_path: Path) -> None:
    net = Net("attention", seed=1)
    output = net.attention("x", 4, 8, 2)
    model = net.build({"x": (1, [1, 4, 8])}, output, [1, 4, 8])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    module = module_of(tmp_path / "m.onnx", {"x": (1, 4, 8)})
    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    (scaled,) = (node for node in calls if node.target.__name__ == "_divided")
    assert scaled.args[1] == pytest.approx(2.0)
    (exchanged,) = (node for node in calls if node.target is torch.transpose)
    assert exchanged.args[1:] == (-2, -1)

    given = np.random.default_rng(0).standard_normal((1, 4, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        (found,) = module(torch.from_numpy(given))
    np.testing.assert_allclose(found.numpy(), session.run(None, {"x": given})[0], rtol=1e-4, atol=1e-5)
