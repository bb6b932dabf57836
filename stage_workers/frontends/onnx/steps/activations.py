"""Activations and functions of one number: of operators that layouts and fusion see through, and in every
float that a model may have."""

from __future__ import annotations

from typing import Any

import numpy as np

from tunemesh.stage_workers.frontends.onnx.graph import Array, Expansion, Graph, Node

New = list[Node] | None


def clip(node: Node, graph: Graph) -> New:
    """``Clip``: a maximum and a minimum. A bound that is no number is none."""
    x = node.inputs[0]
    new = Expansion(graph, node)
    bounds = [(op, node.input(i)) for op, i in (("Max", 1), ("Min", 2)) if node.input(i)]
    given = [(op, name) for op, name in bounds if not _is_nan(graph.value(name))]
    for op, name in given:
        x = new(op, x, name)
    new("Identity", x, to=node.outputs[0])
    return new.nodes


def _is_nan(value: Array | None) -> bool:
    return value is not None and value.dtype.kind == "f" and bool(np.isnan(value).all())


def hard_sigmoid(node: Node, graph: Graph) -> New:
    """``HardSigmoid``: a line between 0 and 1."""
    new = Expansion(graph, node)
    alpha, beta = node.attributes.get("alpha", _single(0.2)), node.attributes.get("beta", 0.5)
    _hard_sigmoid(new, node.inputs[0], alpha, beta, node.outputs[0])
    return new.nodes


def _hard_sigmoid(new: Expansion, x: str, alpha: float, beta: float, to: str = "") -> str:
    dtype = new.graph.dtype(x)
    line = new("Add", new("Mul", x, new.constant(alpha, dtype)), new.constant(beta, dtype))
    return new("Min", new("Max", line, new.constant(0, dtype)), new.constant(1, dtype), to=to)


def hard_swish(node: Node, graph: Graph) -> New:
    """``HardSwish``: x times a line between 0 and 1."""
    new = Expansion(graph, node)
    x = node.inputs[0]
    new("Mul", x, _hard_sigmoid(new, x, _single(1 / 6), 0.5), to=node.outputs[0])
    return new.nodes


def leaky_relu(node: Node, graph: Graph) -> New:
    """``LeakyRelu`` and ``PRelu``: the part above 0 as it is, the part below times a slope."""
    new = Expansion(graph, node)
    x = node.inputs[0]
    dtype = graph.dtype(x)
    if dtype.kind in "iu":
        return None
    slope = node.input(1) or new.constant(node.attributes.get("alpha", _single(0.01)), dtype)
    zero = new.constant(0, dtype)
    below = new("Mul", new("Min", x, zero), slope)
    new("Add", new("Max", x, zero), below, to=node.outputs[0])
    return new.nodes


def elu(node: Node, graph: Graph) -> New:
    """``Elu`` of other floats than TVM's importer knows: x above 0, alpha (exp(x) - 1) below."""
    return None if _is_single(node, graph) else _exponential(node, graph, node.attributes.get("alpha", 1.0))


def celu(node: Node, graph: Graph) -> New:
    """``Celu``: x above 0, alpha (exp(x / alpha) - 1) below."""
    alpha = node.attributes.get("alpha", 1.0)
    return _exponential(node, graph, alpha, alpha)


def selu(node: Node, graph: Graph) -> New:
    """``Selu`` of other floats than TVM's importer knows: ``Elu`` times gamma."""
    if _is_single(node, graph):
        return None
    alpha, gamma = (node.attributes.get(name, value) for name, value in SELU.items())
    return _exponential(node, graph, alpha * gamma, 1.0, gamma)


def _exponential(
    node: Node, graph: Graph, alpha: float, width: float = 1.0, slope: float = 1.0
) -> list[Node]:
    """``slope`` x above 0, ``alpha`` (exp(x / ``width``) - 1) below."""
    new = Expansion(graph, node)
    dtype = graph.dtype(node.inputs[0])
    # In half precision next to nothing is left of the difference for a small x.
    kind = np.float32 if dtype.itemsize < 4 else dtype
    x = node.inputs[0] if kind == dtype else new.cast(node.inputs[0], kind)
    zero, one = new.constant(0, kind), new.constant(1, kind)
    below = new("Min", x, zero)
    below = below if width == 1.0 else new("Div", below, new.constant(width, kind))
    low = new("Mul", new.constant(alpha, kind), new("Sub", new("Exp", below), one))
    high = new("Max", x, zero)
    high = high if slope == 1.0 else new("Mul", high, new.constant(slope, kind))
    whole = kind == dtype
    made = new("Add", high, low, to=node.outputs[0] if whole else "")
    if not whole:
        new.cast(made, dtype, to=node.outputs[0])
    return new.nodes


def thresholded_relu(node: Node, graph: Graph) -> New:
    """``ThresholdedRelu`` of other floats than TVM's importer knows: x above alpha, 0 below."""
    if _is_single(node, graph):
        return None
    new = Expansion(graph, node)
    x = node.inputs[0]
    alpha, zero = (new.constant(value, graph.dtype(x)) for value in (node.attributes.get("alpha", 1.0), 0))
    new("Where", new("Greater", x, alpha), x, zero, to=node.outputs[0])
    return new.nodes


def in_single(node: Node, graph: Graph) -> New:
    """What TVM has not got in half precision, or not exactly enough: in single precision."""
    dtype = graph.dtype(node.inputs[0])
    if dtype.itemsize >= 4:
        return None
    new = Expansion(graph, node)
    wide = [new.cast(each, np.float32) if graph.dtype(each) == dtype else each for each in node.inputs]
    new.cast(new(node.op, *wide, **node.attributes), dtype, to=node.outputs[0])
    return new.nodes


def _single(value: float) -> float:
    """What an attribute has where a model says nothing: attributes are in single precision."""
    return float(np.float32(value))


def _is_single(node: Node, graph: Graph) -> bool:
    return bool(graph.dtype(node.inputs[0]) == np.float32)


SELU = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}
"""What ONNX takes where a model says nothing."""

STEPS: dict[str, Any] = {
    "Celu": celu,
    "Clip": clip,
    "Elu": elu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "PRelu": leaky_relu,
    "Selu": selu,
    "ThresholdedRelu": thresholded_relu,
    **dict.fromkeys(
        (
            "Acos",
            "Acosh",
            "Asin",
            "Asinh",
            "Atan",
            "Atanh",
            "Cos",
            "Cosh",
            "GridSample",
            "LRN",
            "MeanVarianceNormalization",
            "Sin",
            "Sinh",
            "Tan",
        ),
        in_single,
    ),
}
