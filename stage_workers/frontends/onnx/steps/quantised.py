"""Quantised operators, in terms of products of integers and of rounding.

Sums of products are exact, as those who made the model expect. They are computed in single precision where
that is exact as well, because CPUs are faster at it: where no partial sum can reach :data:`EXACT`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tunemesh.stage_workers.frontends.onnx.graph import Array, Expansion, Graph, Node, count, unsupported
from tunemesh.stage_workers.frontends.onnx.steps import arithmetic

New = list[Node] | None

EXACT = 2**24
"""Up to here single precision has every integer."""

WIDER = {
    **dict.fromkeys(("int2", "int4"), np.int8),
    **dict.fromkeys(("uint2", "uint4"), np.uint8),
    **dict.fromkeys(("float8_e4m3", "float8_e5m2", "float4_e2m1"), np.float32),
}
"""Of weights, what holds all their values; float8 has forms with names of their own, of the same end."""


def centred(new: Expansion, value: str, zero: str, axis: int | None = None) -> tuple[str, Array]:
    """A quantised tensor less its zero point, as int32, and the largest amount of it: one number, or of a
    constant the amounts of all elements."""
    graph = new.graph
    wide = new.cast(value, "int32")
    point = graph.value(zero) if zero else np.zeros((), np.int32)
    limits = np.iinfo(graph.dtype(value))
    if zero and not (point is not None and not point.any()):
        offset = new.cast(zero, "int32")
        if axis is not None and count(graph.shape(zero)) > 1:
            rank = len(graph.shape(value))
            shape = [-1 if i == axis % rank else 1 for i in range(rank)]
            offset = new("Reshape", offset, new.ints(*shape))
        elif graph.shape(zero):
            offset = new("Reshape", offset, new.ints())
        wide = new("Sub", wide, offset)
    known = graph.value(value)
    if known is not None and point is not None:
        shape = [1] * known.ndim
        if axis is not None and point.size > 1:
            shape[axis % known.ndim] = -1
        return wide, np.abs(
            known.astype(np.int64) - point.astype(np.int64).reshape(shape if known.ndim else [])
        )
    if point is not None:
        low, high = int(point.min(initial=0)), int(point.max(initial=0))
        return wide, np.asarray(max(limits.max - low, high - limits.min))
    return wide, np.asarray(limits.max - limits.min)


def product(new: Expansion, op: str, a: str, b: str, bound: float, to: str = "", **attributes: Any) -> str:
    """``op`` of two int32 tensors, of which no partial sum is larger than ``bound``."""
    if bound >= EXACT:
        return new(op, a, b, to=to, **attributes)
    single = new(op, new.cast(a, "float32"), new.cast(b, "float32"), **attributes)
    return new.cast(single, "int32", to=to)


def matmul_bound(graph: Graph, a: str, b: str, amount_a: Array, amount_b: Array) -> float:
    """The largest partial sum of a product of two matrices."""
    depth = graph.shape(a)[-1]
    if amount_b.ndim >= 1:
        axis = -2 if amount_b.ndim > 1 else -1
        return float(amount_b.sum(axis).max(initial=0)) * float(amount_a.max(initial=0))
    if amount_a.ndim >= 1:
        return float(amount_a.sum(-1).max(initial=0)) * float(amount_b.max(initial=0))
    return depth * float(amount_a) * float(amount_b)


def convolution_bound(graph: Graph, weight: str, amount_x: Array, amount_w: Array) -> float:
    """The largest partial sum of a convolution."""
    shape = graph.shape(weight)
    largest = float(amount_x.max(initial=0))
    if amount_w.ndim:
        return float(amount_w.reshape(shape[0], -1).sum(1).max(initial=0)) * largest
    return count(shape[1:]) * float(amount_w) * largest


def matmul_integer(node: Node, graph: Graph) -> New:
    """``MatMulInteger``: exact, in int32."""
    new = Expansion(graph, node)
    _integer_matmul(new, node.input(0), node.input(1), node.input(2), node.input(3), node.outputs[0])
    return new.nodes


def _integer_matmul(new: Expansion, a: str, b: str, zero_a: str, zero_b: str, to: str = "") -> str:
    graph = new.graph
    wide_a, amount_a = centred(new, a, zero_a, -2)
    wide_b, amount_b = centred(new, b, zero_b, -1)
    bound = matmul_bound(graph, a, b, amount_a, amount_b)
    return product(new, "MatMul", wide_a, wide_b, bound, to)


def conv_integer(node: Node, graph: Graph) -> New:
    """``ConvInteger``: exact, in int32. What pads is the zero point, which is 0 once that is taken away."""
    new = Expansion(graph, node)
    _integer_conv(
        new,
        node,
        node.input(0),
        node.input(1),
        node.input(2),
        node.input(3),
        node.attributes,
        node.outputs[0],
    )
    return new.nodes


def _integer_conv(
    new: Expansion,
    node: Node,
    x: str,
    w: str,
    zero_x: str,
    zero_w: str,
    attributes: dict[str, Any],
    to: str = "",
) -> str:
    wide_x, amount_x = centred(new, x, zero_x)
    wide_w, amount_w = centred(new, w, zero_w, 0)
    bound = convolution_bound(new.graph, w, amount_x, amount_w)
    return product(new, "Conv", wide_x, wide_w, bound, to, **attributes)


def qlinear_matmul(node: Node, graph: Graph) -> New:
    """``QLinearMatMul``: the exact product, brought to the scale of the result."""
    a, scale_a, zero_a, b, scale_b, zero_b, scale_y, zero_y = node.inputs
    new = Expansion(graph, node)
    total = _integer_matmul(new, a, b, zero_a, zero_b)
    rows = _aligned(new, scale_a, len(graph.shape(a)), -2)
    columns = _aligned(new, scale_b, len(graph.shape(b)), -1)
    _requantise(new, total, new("Mul", rows, columns), scale_y, zero_y, node.outputs[0])
    return new.nodes


def qlinear_conv(node: Node, graph: Graph) -> New:
    """``QLinearConv``, in the same way."""
    x, scale_x, zero_x, w, scale_w, zero_w, scale_y, zero_y = node.inputs[:8]
    new = Expansion(graph, node)
    total = _integer_conv(new, node, x, w, zero_x, zero_w, node.attributes)
    rank = len(graph.shape(w))
    if node.input(8):
        bias = new("Reshape", node.input(8), new.ints(1, -1, *[1] * (rank - 2)))
        total = new("Add", total, bias)
    scale = new("Mul", _aligned(new, scale_x, rank, 1), _aligned(new, scale_w, rank, 1))
    _requantise(new, total, scale, scale_y, zero_y, node.outputs[0])
    return new.nodes


def _aligned(new: Expansion, scale: str, rank: int, axis: int) -> str:
    """One scale, or one for each index of an axis."""
    shape = new.graph.shape(scale)
    if count(shape) == 1:
        return new("Reshape", scale, new.ints()) if shape else scale
    if len(shape) > 1:
        return scale
    return new("Reshape", scale, new.ints(*[-1 if i == axis % rank else 1 for i in range(rank)]))


def _requantise(new: Expansion, total: str, scale: str, scale_y: str, zero_y: str, to: str) -> None:
    graph = new.graph
    single = new.cast(total, "float32")
    scale = new.cast(scale, "float32")
    factor = new("Div", scale, new.cast(_scalar(new, scale_y), "float32"))
    quantise(new, new("Mul", single, factor), _scalar(new, zero_y), graph.dtype(zero_y), to)


def _scalar(new: Expansion, name: str) -> str:
    shape = new.graph.shape(name)
    return new("Reshape", name, new.ints()) if shape and count(shape) == 1 else name


def quantise(new: Expansion, scaled: str, zero: str, dtype: np.dtype[Any], to: str) -> None:
    """Round to even, shift by the zero point, and keep to what the dtype can say."""
    limits = np.iinfo(dtype)
    shifted = new("Round", scaled)
    if zero:
        shifted = new("Add", shifted, new.cast(zero, "float32"))
    low, high = new.constant(limits.min, np.float32), new.constant(limits.max, np.float32)
    new.cast(new("Clip", shifted, low, high), str(dtype), to=to)


def quantize_linear(node: Node, graph: Graph) -> New:
    """``QuantizeLinear`` for one scale, one for each index of an axis, or one for each block."""
    x, scale, zero = node.input(0), node.input(1), node.input(2)
    if zero:
        dtype = graph.dtype(zero)
    else:
        number = node.attributes.get("output_dtype") or onnx.TensorProto.UINT8
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number))
    _require_plain(node, dtype)
    new = Expansion(graph, node)
    scale, zero = _spread(new, node, x, scale, zero)
    single = new.cast(x, "float32")
    scaled = new("Div", single, new.cast(scale, "float32"))
    quantise(new, scaled, zero, dtype, node.outputs[0])
    return new.nodes


def dequantize_linear(node: Node, graph: Graph) -> New:
    """``DequantizeLinear``. The difference is taken in int32, where it cannot overflow. Weights may have
    fewer than 8 bits, or be floats of 8."""
    scale = node.input(1)
    wanted = node.attributes.get("output_dtype") or graph.types[scale].dtype
    new = Expansion(graph, node)
    x, zero = (_widened(new, name) for name in (node.input(0), node.input(2)))
    exact = "float32" if graph.dtype(x).kind == "f" else "int32"
    if x == node.input(0):
        _require_plain(node, graph.dtype(x))
    scale, zero = _spread(new, node, x, scale, zero)
    wide = new.cast(x, exact)
    if zero:
        wide = new("Sub", wide, new.cast(zero, exact))
    result = new("Mul", new.cast(wide, "float32"), new.cast(scale, "float32"))
    new.several("Cast", [result], node.outputs, to=wanted)
    return new.nodes


def _widened(new: Expansion, name: str) -> str:
    """A constant of a type that only quantised weights have, in the nearest one that can be computed with."""
    value = new.graph.value(name) if name else None
    wide = None if value is None else WIDER.get(value.dtype.name.rstrip("fnuz"))
    return name if wide is None else new.constant(value, wide)


def _require_plain(node: Node, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iu" or dtype.itemsize > 4:
        raise unsupported(node, f"numbers of the type {dtype} are not supported", "quantise to int8 or uint8")


def _spread(new: Expansion, node: Node, x: str, scale: str, zero: str) -> tuple[str, str]:
    """Scale and zero point, so that they broadcast to the tensor."""
    graph = new.graph
    shape, given = graph.shape(x), graph.shape(scale)
    axis = node.attributes.get("axis", 1) % max(len(shape), 1)
    block = node.attributes.get("block_size", 0)
    pair = []
    for name in (scale, zero):
        if not name:
            pair.append("")
        elif count(given) == 1:
            pair.append(new("Reshape", name, new.ints()) if given else name)
        elif block:
            each = new("Unsqueeze", name, new.ints(axis + 1))
            wide = [*given[: axis + 1], block, *given[axis + 1 :]]
            flat = [*given[:axis], given[axis] * block, *given[axis + 1 :]]
            whole = new("Reshape", new("Expand", each, new.ints(*wide)), new.ints(*flat))
            pair.append(new("Slice", whole, new.ints(0), new.ints(shape[axis]), new.ints(axis)))
        else:
            pair.append(new("Reshape", name, new.ints(*[-1 if i == axis else 1 for i in range(len(shape))])))
    return pair[0], pair[1]


def dynamic_quantize_linear(node: Node, graph: Graph) -> New:
    """``DynamicQuantizeLinear``: as ONNX defines it, and of a tensor of zeros without a division by 0."""
    new = Expansion(graph, node)
    x = node.inputs[0]
    y, scale, zero = (node.output(i) for i in range(3))
    nothing, one = new.constant(0, np.float32), new.constant(1, np.float32)
    low = new("Min", new("ReduceMin", x, keepdims=0, **arithmetic.FINITE), nothing)
    high = new("Max", new("ReduceMax", x, keepdims=0, **arithmetic.FINITE), nothing)
    steps = new.constant(255, np.float32)
    width = new("Div", new("Sub", high, low), steps)
    width = new("Where", new("Equal", width, nothing), one, width)
    point = new("Clip", new("Round", new("Div", new("Sub", nothing, low), width)), nothing, steps)
    if scale:
        new("Identity", width, to=scale)
    if zero:
        new.cast(point, "uint8", to=zero)
    shifted = new("Add", new("Round", new("Div", x, width)), point)
    if y:
        new.cast(new("Clip", shifted, nothing, steps), "uint8", to=y)
    return new.nodes


STEPS = {
    "MatMulInteger": matmul_integer,
    "ConvInteger": conv_integer,
    "QLinearMatMul": qlinear_matmul,
    "QLinearConv": qlinear_conv,
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
}
