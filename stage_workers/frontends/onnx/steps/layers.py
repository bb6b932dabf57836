"""Single operators, in terms of others that do the same."""

from __future__ import annotations

import numpy as np
import onnx

from tunemesh.stage_workers.frontends.onnx import tensors
from tunemesh.stage_workers.frontends.onnx.graph import Expansion, Graph, Node, unsupported

New = list[Node] | None


def constant(node: Node, graph: Graph) -> New:
    """``Constant``, in whatever form its value has."""
    (given,) = [(k, v) for k, v in node.attributes.items()][:1] or [("", None)]
    kind, value = given
    if isinstance(value, onnx.TensorProto):
        array = tensors.load(value, tensors.Files())
    elif kind in ("value_float", "value_floats"):
        array = np.asarray(value, np.float32)
    elif kind in ("value_int", "value_ints"):
        array = np.asarray(value, np.int64)
    else:
        raise unsupported(node, f"a constant given as {kind or 'nothing'} is not supported")
    graph.add_constant(array, node.outputs[0])
    return []


def shape(node: Node, graph: Graph) -> New:
    """``Shape``: all shapes that do not depend on the data are known by now."""
    found = graph.types[node.inputs[0]]
    if found.sizes is None:
        return None
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    graph.add_constant(np.asarray(found.sizes[start:end], np.int64), node.outputs[0])
    return []


def size(node: Node, graph: Graph) -> New:
    """``Size``, in the same way."""
    found = graph.types[node.inputs[0]]
    if found.sizes is None:
        return None
    graph.add_constant(np.asarray(int(np.prod(found.sizes, dtype=np.int64)), np.int64), node.outputs[0])
    return []


def dropout(node: Node, graph: Graph) -> New:
    """``Dropout`` drops nothing in inference."""
    training = graph.value(node.input(2)) if node.input(2) else np.asarray(False)
    if training is None or bool(training.reshape(-1)[0]):
        raise unsupported(node, "it drops values, as in training", "export the model for inference")
    new = Expansion(graph, node)
    new("Identity", node.inputs[0], to=node.outputs[0])
    if node.output(1):
        kept = new.constant(np.ones((), np.bool_))
        new("Expand", kept, new.ints(*graph.shape(node.inputs[0])), to=node.output(1))
    return new.nodes


def roi_align(node: Node, graph: Graph) -> New:
    """``RoiAlign`` of regions in the image's own scale: TVM's importer moves them by half a pixel before it
    scales them. Its maxima are of something else in every implementation."""
    if node.attributes.get("mode", "avg") == "max":
        raise unsupported(node, "mode=max is not supported")
    scale = node.attributes.pop("spatial_scale", 1.0)
    if scale == 1.0:
        return None
    x, regions, images = node.inputs
    new = Expansion(graph, node)
    scaled = new("Mul", regions, new.constant(scale, graph.dtype(regions)))
    new(node.op, x, scaled, images, to=node.outputs[0], **node.attributes)
    return new.nodes


def max_pool(node: Node, graph: Graph) -> New:
    """``MaxPool`` whose second output, the places of the maxima, nobody uses."""
    if node.output(1):
        raise unsupported(node, "the places of the maxima (its second output) are not supported")
    node.outputs = node.outputs[:1]
    node.attributes.pop("storage_order", None)
    return None


STEPS = {
    "RoiAlign": roi_align,
    "MaxPool": max_pool,
    "Constant": constant,
    "Shape": shape,
    "Size": size,
    "Dropout": dropout,
}
