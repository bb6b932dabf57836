"""Small ONNX models for tests, written in few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
FLOAT = TensorProto.FLOAT
node = helper.make_node


def value(name: str, dtype: int = FLOAT, shape: Sequence[int | str] | None = None) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Iterable[Any],
    inputs: Iterable[Any],
    outputs: Iterable[str] = ("y",),
    weights: Mapping[str, Any] | None = None,
    opset: int = 17,
    functions: Sequence[Any] = (),
    domains: Sequence[str] = (),
) -> Any:
    """A model; weights are arrays, or what becomes one."""
    constants = [numpy_helper.from_array(np.asarray(each), name) for name, each in (weights or {}).items()]
    # Outputs without type and shape: both are inferred.
    ends = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", list(inputs), ends, constants)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    made.ir_version = 8
    return made


def expected(made: Any, inputs: Mapping[str, Array]) -> list[Array]:
    """What ONNX Runtime makes of a model, without its optimiser."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(each) for each in session.run(None, dict(inputs))]


def floats(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Values between -1 and 1."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(dtype)
