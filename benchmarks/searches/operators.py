"""The operators that searches are compared on, each as a model of one node."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WOODPECKER = "conv1x1-64x56x56-64"
"""The convolution that Woodpecker-DL shows its searches on."""
CONVOLUTIONS: Mapping[str, tuple[int, int, int, int, int, int]] = {
    WOODPECKER: (64, 56, 64, 1, 1, 1),
    "conv1x1-576x14x14-96": (576, 14, 96, 1, 1, 1),
    "conv3x3-128x28x28-128": (128, 28, 128, 3, 1, 1),
    "conv3x3s2-64x56x56-128": (64, 56, 128, 3, 2, 1),
    "depthwise3x3-192x28x28": (192, 28, 192, 3, 1, 192),
}
"""Channels, size of the image, channels out, kernel, stride, groups."""
PRODUCTS: Mapping[str, tuple[int, int, int]] = {"product-128x256-768": (128, 256, 768)}
NAMES = (*CONVOLUTIONS, *PRODUCTS)
CHANNELS_LAST = ("depthwise3x3-192x28x28",)
"""Those that the graph may reorder, as jobs do: in their own order there is next to nothing to choose."""


def model(name: str) -> bytes:
    """The model of an operator, with random weights."""
    chance = np.random.default_rng(0)
    if name in PRODUCTS:
        rows, depth, columns = PRODUCTS[name]
        weight = chance.normal(0, depth**-0.5, (depth, columns))
        return _model("MatMul", weight, (rows, depth), (rows, columns), {})
    channels, size, out, kernel, stride, groups = CONVOLUTIONS[name]
    inner = channels // groups
    weight = chance.normal(0, (inner * kernel**2) ** -0.5, (out, inner, kernel, kernel))
    ends = size // stride
    attributes = {
        "kernel_shape": [kernel] * 2,
        "strides": [stride] * 2,
        "pads": [kernel // 2] * 4,
        "group": groups,
    }
    return _model("Conv", weight, (1, channels, size, size), (1, out, ends, ends), attributes)


def _model(
    kind: str,
    weight: np.ndarray,
    given: tuple[int, ...],
    made: tuple[int, ...],
    attributes: Mapping[str, object],
) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "w"], ["y"], **attributes)],
        "operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 8
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())
