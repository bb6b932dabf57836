"""Older versions of the standard operators, brought up to :data:`.graph.DIALECT`.

Most of what changed is a list of numbers that was an attribute and is an input now. ONNX has a converter of
its own, which works on whole models, with all weights, and gives up on the first operator that it has no
adapter for.
"""

from __future__ import annotations

import numpy as np
import onnx

from tunemesh.stage_workers.frontends.onnx.graph import Expansion, Graph, Node, Step, count, unsupported

New = list[Node] | None


def _as_input(attribute: str, position: int) -> Step:
    """The step that makes an input of an attribute."""

    def step(node: Node, graph: Graph) -> New:
        if attribute not in node.attributes:
            return None
        new = Expansion(graph, node)
        inputs = node.inputs + [""] * (position - len(node.inputs))
        value = node.attributes.pop(attribute)
        inputs.insert(position, new.ints(*(value if isinstance(value, list) else [value])))
        return _again(node, new, inputs)

    return step


def _again(node: Node, new: Expansion, inputs: list[str]) -> list[Node]:
    """The node with other inputs, in today's version."""
    new.several(node.op, inputs, node.outputs, **node.attributes)
    new.nodes[-1].name = node.name
    return new.nodes


def _elementwise(node: Node, graph: Graph) -> New:
    """Before version 7 the second operand was broadcast only where that was asked for, from an axis on."""
    if node.version >= 7 or not (node.attributes.pop("broadcast", 0)):
        node.attributes.pop("axis", None)
        return None
    a, b = node.inputs
    rank, given = len(graph.shape(a)), graph.shape(b)
    axis = node.attributes.pop("axis", rank - len(given))
    new = Expansion(graph, node)
    missing = rank - axis - len(given)
    wide = new("Reshape", b, new.ints(*given, *[1] * missing)) if missing > 0 else b
    return _again(node, new, [a, wide])


def _softmax(node: Node, graph: Graph) -> New:
    """Before version 13 the input was a matrix, flattened at the axis."""
    if node.version >= 13:
        return None
    shape = graph.shape(node.inputs[0])
    axis = node.attributes.get("axis", 1)
    axis += len(shape) if axis < 0 else 0
    if axis >= len(shape) - 1 and shape:
        node.attributes["axis"] = -1
        return None
    new = Expansion(graph, node)
    flat = new("Reshape", node.inputs[0], new.ints(count(shape[:axis]), count(shape[axis:])))
    result = new(node.op, flat, axis=-1)
    new("Reshape", result, new.ints(*shape), to=node.outputs[0])
    return new.nodes


def _slice(node: Node, graph: Graph) -> New:
    if "starts" not in node.attributes:
        return None
    starts, ends = node.attributes["starts"], node.attributes["ends"]
    axes = node.attributes.get("axes") or list(range(len(starts)))
    new = Expansion(graph, node)
    new("Slice", node.inputs[0], new.ints(*starts), new.ints(*ends), new.ints(*axes), to=node.outputs[0])
    return new.nodes


def _pad(node: Node, graph: Graph) -> New:
    pads = node.attributes.get("pads") or node.attributes.get("paddings")
    if pads is None:
        return None
    new = Expansion(graph, node)
    value = new.constant(node.attributes.get("value", 0.0), graph.dtype(node.inputs[0]))
    mode = node.attributes.get("mode", "constant")
    new("Pad", node.inputs[0], new.ints(*pads), value, to=node.outputs[0], mode=mode)
    return new.nodes


def _clip(node: Node, graph: Graph) -> New:
    if node.version >= 11:
        return None
    new = Expansion(graph, node)
    dtype = graph.dtype(node.inputs[0])
    bounds = [
        new.constant(node.attributes[key], dtype) if key in node.attributes else "" for key in ("min", "max")
    ]
    new("Clip", node.inputs[0], *bounds, to=node.outputs[0])
    return new.nodes


def _top_k(node: Node, graph: Graph) -> New:
    if node.version >= 10:
        return None
    new = Expansion(graph, node)
    k = new.ints(node.attributes["k"])
    new.several("TopK", [node.inputs[0], k], node.outputs, axis=node.attributes.get("axis", -1))
    return new.nodes


def _batch_norm(node: Node, graph: Graph) -> New:
    if node.version < 9 and not node.attributes.pop("spatial", 1):
        raise unsupported(node, "statistics for every element (spatial=0) are not supported")
    if node.version < 7 and not node.attributes.get("is_test", 0):
        raise unsupported(node, "it trains (is_test=0)", "export the model for inference")
    for name in ("is_test", "consumed_inputs"):
        node.attributes.pop(name, None)
    # Further outputs are the statistics, for training.
    if node.version < 14:
        del node.outputs[1:]
    return None


def _dropout(node: Node, graph: Graph) -> New:
    """What it drops while training is not dropped in inference."""
    if node.version >= 12:
        return None
    if node.version < 7 and not node.attributes.get("is_test", 0):
        raise unsupported(node, "it trains (is_test=0)", "export the model for inference")
    new = Expansion(graph, node)
    new.several("Dropout", node.inputs[:1], node.outputs)
    return new.nodes


def _upsample(node: Node, graph: Graph) -> New:
    new = Expansion(graph, node)
    if "scales" in node.attributes:
        scales = new.constant(node.attributes["scales"], np.float32)
    elif "height_scale" in node.attributes:
        given = [1.0, 1.0, node.attributes["height_scale"], node.attributes["width_scale"]]
        scales = new.constant(given, np.float32)
    else:
        scales = node.inputs[1]
    return _old_resize(node, new, scales)


def _resize(node: Node, graph: Graph) -> New:
    if node.version >= 11:
        return None
    return _old_resize(node, Expansion(graph, node), node.inputs[1])


def _old_resize(node: Node, new: Expansion, scales: str) -> New:
    mode = node.attributes.get("mode", "nearest")
    new(
        "Resize",
        node.inputs[0],
        "",
        scales,
        to=node.outputs[0],
        mode="linear" if mode == "bilinear" else mode,
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    return new.nodes


def _cast(node: Node, graph: Graph) -> New:
    to = node.attributes.get("to")
    if isinstance(to, str):
        node.attributes["to"] = onnx.TensorProto.DataType.Value(to)
    return None


def _scatter(node: Node, graph: Graph) -> New:
    new = Expansion(graph, node)
    new("ScatterElements", *node.inputs, to=node.outputs[0], axis=node.attributes.get("axis", 0))
    return new.nodes


def _group_norm(node: Node, graph: Graph) -> New:
    """Before version 21 scale and bias were one for each group, not for each channel."""
    if node.version >= 21:
        return None
    new = Expansion(graph, node)
    x, scale, bias = node.inputs
    groups, channels = node.attributes["num_groups"], graph.shape(x)[1]
    each = [
        new(
            "Reshape",
            new(
                "Expand",
                new("Reshape", given, new.ints(groups, 1)),
                new.ints(groups, channels // groups),
            ),
            new.ints(channels),
        )
        for given in (scale, bias)
    ]
    return _again(node, new, [x, *each])


def _dft(node: Node, graph: Graph) -> New:
    if node.version >= 20:
        return None
    new = Expansion(graph, node)
    axis = node.attributes.pop("axis", 1)
    inputs = [node.input(0), node.input(1), new.constant(axis, np.int64)]
    return _again(node, new, inputs)


def _tile(node: Node, graph: Graph) -> New:
    if node.version >= 6:
        return None
    raise unsupported(node, "its version 1 is not supported", "export the model with opset 13 or newer")


STEPS: dict[str, Step] = {
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less", "PRelu"),
        _elementwise,
    ),
    **{
        op: _as_input("axes", 1)
        for op in (
            *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
            *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "Squeeze", "Unsqueeze"),
        )
    },
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    "Split": _as_input("split", 1),
    "Reshape": _as_input("shape", 1),
    "Slice": _slice,
    "Pad": _pad,
    "Clip": _clip,
    "TopK": _top_k,
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "Upsample": _upsample,
    "Resize": _resize,
    "Cast": _cast,
    "Scatter": _scatter,
    "GroupNormalization": _group_norm,
    "DFT": _dft,
    "Tile": _tile,
}
