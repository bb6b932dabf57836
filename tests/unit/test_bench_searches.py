"""The operators that searches are compared on."""

from __future__ import annotations

import onnx
import pytest

from benchmarks.searches import operators


@pytest.mark.parametrize("name", operators.NAMES)
def test_every_operator_is_one_node_with_the_shapes_of_its_name(name: str) -> None:
    graph = onnx.shape_inference.infer_shapes(
        onnx.load_from_string(operators.model(name)), strict_mode=True, data_prop=True
    ).graph
    assert len(graph.node) == 1
    shape = [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim]
    if name in operators.PRODUCTS:
        rows, _, columns = operators.PRODUCTS[name]
        assert shape == [rows, columns]
    else:
        _, size, out, _, stride, _ = operators.CONVOLUTIONS[name]
        assert shape == [1, out, size // stride, size // stride]
