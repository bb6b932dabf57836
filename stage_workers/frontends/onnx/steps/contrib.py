"""Operators of ONNX Runtime (``com.microsoft``), in terms of standard ones.

ONNX Runtime's own optimiser and its tools for quantisation write them into models. Definitions:
``docs/ContribOperators.md`` of ONNX Runtime.

Longer than other files: one function per operator, which share nothing but what is below them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tunemesh.stage_workers.frontends.onnx.graph import (
    Array,
    Expansion,
    Graph,
    Node,
    Step,
    count,
    unsupported,
)
from tunemesh.stage_workers.frontends.onnx.steps import recurrent

New = list[Node] | None

DOMAIN = "com.microsoft"


def dynamic_product(new: Expansion, x: str, weight: str, scale: str, zero: str, to: str = "") -> str:
    """A product of floats with quantised weights: the floats are quantised by what they range over, too."""
    quantised_x, scale_x, zero_x = new.several("DynamicQuantizeLinear", [x], [new.fresh() for _ in range(3)])
    total = new("MatMulInteger", quantised_x, weight, zero_x, zero)
    return new("Mul", new.cast(total, np.float32), new("Mul", scale_x, scale), to=to)


def dynamic_quantize_matmul(node: Node, graph: Graph) -> New:
    """``DynamicQuantizeMatMul``."""
    new = Expansion(graph, node)
    a, b, scale, zero, bias = (node.input(i) for i in range(5))
    made = dynamic_product(new, a, b, scale, zero)
    _with_bias(new, made, bias, node.outputs[0])
    return new.nodes


def matmul_integer_to_float(node: Node, graph: Graph) -> New:
    """``MatMulIntegerToFloat``."""
    new = Expansion(graph, node)
    a, b, scale_a, scale_b, zero_a, zero_b, bias = (node.input(i) for i in range(7))
    total = new("MatMulInteger", a, b, zero_a, zero_b)
    if graph.shape(scale_a) not in ((), (1,)):
        scale_a = new("Unsqueeze", scale_a, new.ints(-1))
    single = new.cast(total, graph.dtype(scale_a))
    made = new("Mul", single, new("Mul", scale_a, scale_b))
    _with_bias(new, made, bias, node.outputs[0])
    return new.nodes


def _with_bias(new: Expansion, value: str, bias: str, to: str) -> None:
    if bias:
        new("Add", value, bias, to=to)
    else:
        new("Identity", value, to=to)


def dynamic_quantize_lstm(node: Node, graph: Graph) -> New:
    """``DynamicQuantizeLSTM``: an LSTM whose weights are quantised, and transposed."""
    if graph.value(node.inputs[1]) is None or graph.value(node.inputs[2]) is None:
        raise unsupported(node, "its weights are not constant")
    weights = recurrent.Quantised(
        scales=(node.input(8), node.input(10)), zeros=(node.input(9), node.input(11)), product=dynamic_product
    )
    return recurrent.layer(
        Node("LSTM", node.inputs[:8], node.outputs, node.attributes, name=node.name), graph, weights
    )


def fused_matmul(node: Node, graph: Graph) -> New:
    """``FusedMatMul`` and ``TransposeMatMul``: a product of transposed matrices, times a number."""
    new = Expansion(graph, node)
    sides = []
    for name, letter in zip(node.inputs[:2], "AB", strict=True):
        rank = len(graph.shape(name))
        order = list(range(rank))
        if node.attributes.get(f"transBatch{letter}", 0) and rank > 2:
            order = [*order[1:-1], 0, order[-1]]
        if node.attributes.get(f"trans{letter}", 0) and rank > 1:
            order[-2:] = [order[-1], order[-2]]
        sides.append(new("Transpose", name, perm=order) if order != sorted(order) else name)
    alpha = node.attributes.get("alpha", 1.0)
    if alpha == 1.0:
        new("MatMul", *sides, to=node.outputs[0])
    else:
        made = new("MatMul", *sides)
        new("Mul", made, new.constant(alpha, graph.dtype(node.inputs[0])), to=node.outputs[0])
    return new.nodes


def _activate(new: Expansion, node: Node, value: str, name: str, parameters: list[float], to: str) -> None:
    """What follows a fused product or convolution."""
    if not name:
        new("Identity", value, to=to)
    elif name in ("Relu", "Tanh", "Sigmoid", "Softplus"):
        new(name, value, to=to)
    elif name == "LeakyRelu":
        new(name, value, to=to, alpha=parameters[0] if parameters else 0.01)
    elif name == "HardSigmoid":
        alpha, beta = parameters or (0.2, 0.5)
        new(name, value, to=to, alpha=alpha, beta=beta)
    elif name == "Clip" and len(parameters) == 2:
        dtype = new.graph.dtype(node.inputs[0])
        new("Clip", value, *(new.constant(bound, dtype) for bound in parameters), to=to)
    else:
        raise unsupported(node, f"the activation {name} is not supported")


def fused_conv(node: Node, graph: Graph) -> New:
    """``FusedConv``: convolution, sum with another tensor, activation."""
    new = Expansion(graph, node)
    attributes = dict(node.attributes)
    activation = attributes.pop("activation", "")
    parameters = list(attributes.pop("activation_params", []))
    made = new("Conv", *node.inputs[:3], **attributes)
    if node.input(3):
        made = new("Add", made, node.input(3))
    _activate(new, node, made, activation, parameters, node.outputs[0])
    return new.nodes


def fused_gemm(node: Node, graph: Graph) -> New:
    """``FusedGemm``: ``Gemm`` and an activation."""
    new = Expansion(graph, node)
    attributes = dict(node.attributes)
    activation = attributes.pop("activation", "")
    parameters = [
        attributes.pop(f"activation_{name}")
        for name in ("alpha", "beta", "gamma")
        if f"activation_{name}" in attributes
    ]
    made = new("Gemm", *node.inputs, **attributes)
    _activate(new, node, made, activation, parameters, node.outputs[0])
    return new.nodes


def gelu(node: Node, graph: Graph) -> New:
    """``Gelu``, ``BiasGelu`` and ``FastGelu``: the last one by tanh."""
    new = Expansion(graph, node)
    x = node.inputs[0]
    if node.input(1):
        x = new("Add", x, node.input(1))
    new("Gelu", x, to=node.outputs[0], approximate="tanh" if node.op == "FastGelu" else "none")
    return new.nodes


def quick_gelu(node: Node, graph: Graph) -> New:
    """``QuickGelu``: x sigmoid(alpha x)."""
    new = Expansion(graph, node)
    x = node.inputs[0]
    alpha = new.constant(node.attributes.get("alpha", 1.702), graph.dtype(x))
    new("Mul", x, new("Sigmoid", new("Mul", x, alpha)), to=node.outputs[0])
    return new.nodes


def skip_layer_norm(node: Node, graph: Graph) -> New:
    """``SkipLayerNormalization``: the sum of two tensors (and a bias), normalised. The simplified one has no
    mean and no shift."""
    new = Expansion(graph, node)
    simple = node.op.startswith("SkipSimplified")
    x, skip, gamma = node.inputs[:3]
    beta, bias = ("", node.input(3)) if simple else (node.input(3), node.input(4))
    if any(node.output(i) for i in (1, 2)):
        raise unsupported(node, "its outputs for training are not supported")
    total = new("Add", x, skip)
    if bias:
        total = new("Add", total, bias)
    if node.output(3):
        new("Identity", total, to=node.output(3))
    _normalise(new, total, gamma, beta, node.attributes.get("epsilon", 1e-12), simple, node.outputs[0])
    return new.nodes


def _normalise(new: Expansion, x: str, gamma: str, beta: str, epsilon: float, simple: bool, to: str) -> None:
    if simple:
        new("RMSNormalization", x, gamma, to=to, axis=-1, epsilon=epsilon)
    else:
        new("LayerNormalization", x, gamma, beta, to=to, axis=-1, epsilon=epsilon)


def layer_norm(node: Node, graph: Graph) -> New:
    """``SimplifiedLayerNormalization``, which is ``RMSNormalization``."""
    new = Expansion(graph, node)
    if node.output(1):
        raise unsupported(node, "its output for training is not supported")
    attributes = {key: node.attributes[key] for key in ("axis", "epsilon") if key in node.attributes}
    new("RMSNormalization", *node.inputs[:2], to=node.outputs[0], **attributes)
    return new.nodes


def embed_layer_norm(node: Node, graph: Graph) -> New:
    """``EmbedLayerNormalization``: word, position and segment embeddings, summed and normalised."""
    new = Expansion(graph, node)
    ids, segments, words, positions, segment_table, gamma, beta, mask, given = (
        node.input(i) for i in range(9)
    )
    batch, length = graph.shape(ids)
    total = new("Gather", words, ids, axis=0)
    if given:
        placed = new("Gather", positions, given, axis=0)
    else:
        placed = new("Slice", positions, new.ints(0), new.ints(length), new.ints(0))
    total = new("Add", total, placed)
    if segments:
        total = new("Add", total, new("Gather", segment_table, segments, axis=0))
    if node.output(1):
        if not mask:
            new("Identity", new.constant(np.zeros(batch, np.int32)), to=node.output(1))
        else:
            summed = new("ReduceSum", mask, new.ints(1), keepdims=0)
            new.cast(summed, np.int32, to=node.output(1))
    if node.output(2):
        new("Identity", total, to=node.output(2))
    _normalise(new, total, gamma, beta, node.attributes.get("epsilon", 1e-12), False, node.outputs[0])
    return new.nodes


def attention(node: Node, graph: Graph) -> New:
    """``Attention`` of BERT: projections, heads, masked softmax."""
    new = Expansion(graph, node)
    x, weight, bias, mask, past, extra = (node.input(i) for i in range(6))
    odd = [
        name
        for name in ("unidirectional", "qkv_hidden_sizes", "do_rotary", "past_present_share_buffer")
        if node.attributes.get(name)
    ]
    if past or node.output(1) or odd:
        raise unsupported(node, f"{odd[0] if odd else 'a cache of past states'} is not supported")
    batch, length, _ = graph.shape(x)
    hidden = graph.shape(weight)[1] // 3
    heads = node.attributes["num_heads"]
    size = hidden // heads
    dtype = graph.dtype(x)
    projected = new("MatMul", x, weight)
    if bias:
        projected = new("Add", projected, bias)
    split = new("Reshape", projected, new.ints(batch, length, 3, heads, size))
    turned = new("Transpose", split, perm=[2, 0, 3, 1, 4])
    q, k, v = (new("Gather", turned, new.constant(i, np.int64), axis=0) for i in range(3))
    scale = node.attributes.get("scale") or 1 / math.sqrt(size)
    scores = new("MatMul", new("Mul", q, new.constant(scale, dtype)), new("Transpose", k, perm=[0, 1, 3, 2]))
    if mask:
        shape = graph.shape(mask)
        if len(shape) == 2:
            mask = new("Reshape", mask, new.ints(shape[0], 1, 1, shape[1]))
        elif len(shape) == 3:
            mask = new("Unsqueeze", mask, new.ints(1))
        else:
            raise unsupported(node, f"a mask of {len(shape)} dimensions is not supported")
        lowest = node.attributes.get("mask_filter_value", -10000.0)
        missing = new("Sub", new.constant(1, dtype), new.cast(mask, dtype))
        scores = new("Add", scores, new("Mul", missing, new.constant(lowest, dtype)))
    if extra:
        scores = new("Add", scores, extra)
    mixed = new("MatMul", new("Softmax", scores, axis=-1), v)
    joined = new("Transpose", mixed, perm=[0, 2, 1, 3])
    new("Reshape", joined, new.ints(batch, length, hidden), to=node.outputs[0])
    return new.nodes


def qlinear_binary(op: str) -> Step:
    """``QLinearAdd`` and ``QLinearMul``."""

    def step(node: Node, graph: Graph) -> New:
        new = Expansion(graph, node)
        a, scale_a, zero_a, b, scale_b, zero_b, scale, zero = (node.input(i) for i in range(8))
        sides = [new("DequantizeLinear", *each) for each in ((a, scale_a, zero_a), (b, scale_b, zero_b))]
        new("QuantizeLinear", new(op, *sides), scale, zero, to=node.outputs[0])
        return new.nodes

    return step


def qlinear_unary(op: str) -> Step:
    """Operators that are done in floats between two scales: ``QLinearSigmoid``, ``QLinearLeakyRelu`` and
    pools."""

    def step(node: Node, graph: Graph) -> New:
        new = Expansion(graph, node)
        x, scale_x, zero_x, scale, zero = (node.input(i) for i in range(5))
        attributes: dict[str, Any] = dict(node.attributes)
        last = bool(attributes.pop("channels_last", 0))
        attributes.pop("opset", None)
        single = new("DequantizeLinear", x, scale_x, zero_x)
        rank = len(graph.shape(x))
        if last:
            single = new("Transpose", single, perm=[0, rank - 1, *range(1, rank - 1)])
        made = new(op, single, **attributes)
        if last:
            made = new("Transpose", made, perm=[0, *range(2, rank), 1])
        new("QuantizeLinear", made, scale, zero, to=node.outputs[0])
        return new.nodes

    return step


def qlinear_concat(node: Node, graph: Graph) -> New:
    """``QLinearConcat``: each input has its own scale."""
    new = Expansion(graph, node)
    scale, zero, *rest = node.inputs
    parts = [new("DequantizeLinear", *rest[i : i + 3]) for i in range(0, len(rest), 3)]
    joined = new("Concat", *parts, axis=node.attributes["axis"])
    new("QuantizeLinear", joined, scale, zero, to=node.outputs[0])
    return new.nodes


def qgemm(node: Node, graph: Graph) -> New:
    """``QGemm``: a product of quantised matrices plus an int32 bias, as floats or quantised again."""
    new = Expansion(graph, node)
    a, scale_a, zero_a, b, scale_b, zero_b, bias, scale, zero = (node.input(i) for i in range(9))
    if node.attributes.get("alpha", 1.0) != 1.0:
        raise unsupported(node, "the attribute alpha is not supported")
    if node.attributes.get("transA", 0):
        a = new("Transpose", a, perm=[1, 0])
    if node.attributes.get("transB", 0):
        b = new("Transpose", b, perm=[1, 0])
    total = new("MatMulInteger", a, b, zero_a, zero_b)
    if bias:
        total = new("Add", total, bias)
    made = new("Mul", new.cast(total, np.float32), new("Mul", scale_a, scale_b))
    if scale:
        new("QuantizeLinear", made, scale, zero, to=node.outputs[0])
    else:
        new("Identity", made, to=node.outputs[0])
    return new.nodes


def standard(node: Node, graph: Graph) -> New:
    """An operator that has become a standard one, with the same inputs and attributes."""
    new = Expansion(graph, node)
    new.several(node.op, node.inputs, node.outputs, **node.attributes)
    return new.nodes


def matmul_nbits(node: Node, graph: Graph) -> New:
    """``MatMulNBits``: weights of 4 or 8 bits, with a scale for each block. They are constant, and unpacked
    now."""
    bits, block = node.attributes.get("bits", 4), node.attributes["block_size"]
    depth, columns = node.attributes["K"], node.attributes["N"]
    packed, scales = graph.value(node.inputs[1]), graph.value(node.inputs[2])
    zeros = graph.value(node.input(3)) if node.input(3) else None
    if packed is None or scales is None or (node.input(3) and zeros is None) or bits not in (4, 8):
        raise unsupported(node, "only constant weights of 4 or 8 bits are supported")
    if node.input(4):
        raise unsupported(node, "an order of groups (g_idx) is not supported")
    blocks = -(-depth // block)
    values = _unpacked(packed.reshape(columns, blocks, -1), bits)[..., :block].astype(np.float32)
    if zeros is None:
        offset: Array = np.asarray(1 << (bits - 1), np.float32)
    elif zeros.dtype == np.uint8:
        offset = _unpacked(zeros.reshape(columns, -1), bits)[:, :blocks, None].astype(np.float32)
    else:
        offset = zeros.reshape(columns, blocks, 1).astype(np.float32)
    weights = (values - offset) * scales.reshape(columns, blocks, 1).astype(np.float32)
    weights = weights.reshape(columns, -1)[:, :depth].T
    new = Expansion(graph, node)
    made = new(
        "MatMul", node.inputs[0], new.constant(np.ascontiguousarray(weights), graph.dtype(node.inputs[0]))
    )
    _with_bias(new, made, node.input(5), node.outputs[0])
    return new.nodes


def _unpacked(packed: Array, bits: int) -> Array:
    """Numbers of 4 bits from bytes, the lower half first."""
    if bits == 8:
        return packed
    both = np.stack([packed & 15, packed >> 4], axis=-1)
    return both.reshape(*packed.shape[:-1], count(packed.shape[-1:]) * 2)


STEPS: dict[str, Step] = {
    "DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "MatMulIntegerToFloat": matmul_integer_to_float,
    "DynamicQuantizeLSTM": dynamic_quantize_lstm,
    "FusedMatMul": fused_matmul,
    "TransposeMatMul": fused_matmul,
    "FusedConv": fused_conv,
    "FusedGemm": fused_gemm,
    "Gelu": gelu,
    "BiasGelu": gelu,
    "FastGelu": gelu,
    "QuickGelu": quick_gelu,
    "SkipLayerNormalization": skip_layer_norm,
    "SkipSimplifiedLayerNormalization": skip_layer_norm,
    "EmbedLayerNormalization": embed_layer_norm,
    "Attention": attention,
    "QLinearAdd": qlinear_binary("Add"),
    "QLinearMul": qlinear_binary("Mul"),
    "QLinearSigmoid": qlinear_unary("Sigmoid"),
    "QLinearLeakyRelu": qlinear_unary("LeakyRelu"),
    "QLinearAveragePool": qlinear_unary("AveragePool"),
    "QLinearGlobalAveragePool": qlinear_unary("GlobalAveragePool"),
    "QLinearSoftmax": qlinear_unary("Softmax"),
    "QLinearConcat": qlinear_concat,
    "QGemm": qgemm,
    "MatMulNBits": matmul_nbits,
    "QuantizeLinear": standard,
    "DequantizeLinear": standard,
}

STANDARD_IN_NAME: dict[str, Step] = {"SimplifiedLayerNormalization": layer_norm}
"""Those that ONNX Runtime has put into the standard domain."""
