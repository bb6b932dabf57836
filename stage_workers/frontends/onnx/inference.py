"""Types and shapes of a node's outputs, by ONNX's own shape inference."""

from __future__ import annotations

import math
from typing import Any

import onnx

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import limits
from tunemesh.stage_workers.frontends.onnx.graph import DIALECT, SMALL, Graph, Node, Type, shown, to_proto
from tunemesh.stage_workers.graph.errors import first_line

_OPSETS = [onnx.helper.make_opsetid("", DIALECT)]


class Invalid(BadModel):
    """A node that cannot run on what it is given."""


def schema_of(node: Node) -> Any | None:
    """The definition of a node's operator; ``None`` where there is none."""
    try:
        return onnx.defs.get_schema(node.op, DIALECT, node.domain)
    except onnx.defs.SchemaError:
        return None


def infer(node: Node, graph: Graph) -> dict[str, Type]:
    """The types of a node's outputs, as far as they follow from those of its inputs and from constants.

    Raises:
        Invalid: the node cannot run on its inputs.
        BadModel: its operator has no definition.
    """
    schema = schema_of(node)
    if schema is None:
        raise BadModel(f"{node}: there is no such operator in ONNX {onnx.__version__}")
    types = {name: to_type_proto(graph.types[name]) for name in node.inputs if name}
    data = {
        name: onnx.numpy_helper.from_array(graph.constants[name])
        for name in node.inputs
        if name in graph.constants and graph.constants[name].size <= SMALL
    }
    try:
        found = onnx.shape_inference.infer_node_outputs(schema, to_proto(node), types, data, None, _OPSETS)
    except Exception as error:  # InferenceError, and what pybind makes of C++'s
        text = first_line(error).replace("[ShapeInferenceError]", "").replace("[TypeInferenceError]", "")
        raise Invalid(f"{node} is not valid: {' '.join(text.split())}") from None
    return {name: from_type_proto(found[name], name, node) for name in node.outputs if name in found}


def to_type_proto(of: Type) -> Any:
    """A type as ONNX writes it."""
    return onnx.helper.make_tensor_type_proto(of.dtype, of.shape)


def from_type_proto(proto: Any, name: str, of: object) -> Type:
    """A type from what ONNX writes.

    Raises:
        BadModel: it is no tensor.
    """
    kind = proto.WhichOneof("value")
    if kind not in ("tensor_type", None):
        raise BadModel(f"{of}: {shown(name)} is no tensor, but a value of the kind {kind[:-5]}")
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return Type(tensor.elem_type, None)
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    if math.prod(size for size in shape if size is not None) > limits.EXTENT:
        found = f"{of}: {shown(name)} has the shape {list(shape)}"
        raise BadModel(f"{found}; at most {limits.EXTENT:,} elements are possible")
    return Type(tensor.elem_type, shape)
