"""Names: the bodies of functions, branches and loops, put into the graph that they are used in.

Every time that a body is put somewhere, what it defines gets names that nothing else has. So all tensors of a
graph that is being rewritten have different names, however deep they came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends.onnx import tensors
from tunemesh.stage_workers.frontends.onnx.graph import Graph, Node, shown


@dataclass(frozen=True, slots=True)
class Scope:
    """Where nodes of a model stand.

    Attributes:
        opsets: versions of the operators by domain.
        names: what the names that its nodes use are called in the graph; others stay as they are.
        attributes: of the node that calls a function, for the nodes of its body that refer to them.
        files: where the weights are that lie outside the model.
    """

    opsets: Mapping[str, int]
    names: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] | None = None
    files: tensors.Files = field(default_factory=tensors.Files)

    def name(self, name: str) -> str:
        return self.names.get(name, name)

    def node(self, proto: Any) -> Node:
        """A node of the model as it stands in the graph."""
        attributes = {}
        for attribute in proto.attribute:
            if attribute.ref_attr_name:
                referred = (self.attributes or {}).get(attribute.ref_attr_name)
                if referred is not None:
                    attributes[attribute.name] = referred
            else:
                attributes[attribute.name] = self._value(attribute)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        return Node(
            proto.op_type,
            [self.name(name) for name in proto.input],
            [self.name(name) for name in proto.output],
            attributes,
            domain,
            proto.name,
            self.opsets.get(domain, self.opsets.get("ai.onnx", 1) if not domain else 1),
        )

    def _value(self, attribute: Any) -> Any:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        if isinstance(value, onnx.GraphProto):
            return Body(value, self)
        if isinstance(value, onnx.TensorProto):
            return tensors.inside(value, self.files)
        if isinstance(value, onnx.SparseTensorProto):
            return onnx.numpy_helper.from_array(dense(value, self.files))
        if isinstance(value, list):
            return [each.decode(errors="replace") if isinstance(each, bytes) else each for each in value]
        return list(value) if hasattr(value, "__iter__") and not hasattr(value, "ListFields") else value


@dataclass(frozen=True, slots=True)
class Body:
    """A branch, or what a loop repeats: it sees what the scope sees that it stands in."""

    proto: Any
    scope: Scope
    constants: dict[str, str] = field(default_factory=dict)
    """Its own weights, once they are in the graph."""

    @property
    def inputs(self) -> list[str]:
        return [value.name for value in self.proto.input]

    def put(self, graph: Graph, inputs: list[str], outputs: list[str]) -> list[Node]:
        """The nodes of the body for these inputs, with the results under these names."""
        if len(inputs) > len(self.inputs) or len(outputs) > len(self.proto.output):
            raise BadModel(f"a graph inside the model has {len(self.inputs)} inputs, not {len(inputs)}")
        if not self.constants:
            for weight in self.proto.initializer:
                self.constants[weight.name] = graph.add_constant(
                    tensors.load(weight, self.scope.files), graph.fresh(weight.name)
                )
        names = {**self.scope.names, **self.constants}
        names |= zip(self.inputs, inputs, strict=False)
        return _put(self.proto, graph, self.scope, names, [o.name for o in self.proto.output], outputs)


def put_function(function: Any, graph: Graph, node: Node, files: tensors.Files) -> list[Node]:
    """The nodes of a ``FunctionProto`` that ``node`` calls."""
    if len(node.inputs) > len(function.input) or len(node.outputs) > len(function.output):
        raise BadModel(f"{node} has more inputs or outputs than the function {shown(function.name)}")
    inputs = node.inputs + [""] * (len(function.input) - len(node.inputs))
    opsets = {each.domain: each.version for each in function.opset_import}
    defaults = Scope(opsets, files=files)
    attributes = {a.name: defaults._value(a) for a in function.attribute_proto} | node.attributes
    scope = Scope(opsets, attributes=attributes, files=files)
    names = dict(zip(function.input, inputs, strict=True))
    return _put(function, graph, scope, names, list(function.output), node.outputs)


def _put(
    body: Any, graph: Graph, scope: Scope, names: dict[str, str], own: list[str], outputs: list[str]
) -> list[Node]:
    for proto in body.node:
        for name in proto.output:
            if name:
                names[name] = graph.fresh(name.partition("~")[0])
    inner = Scope(scope.opsets, names, scope.attributes, scope.files)
    nodes = [inner.node(proto) for proto in body.node]
    nodes += [
        Node("Identity", [inner.name(name)], [wanted])
        for name, wanted in zip(own, outputs, strict=False)
        if wanted
    ]
    return nodes


def dense(sparse: Any, files: tensors.Files) -> np.ndarray[Any, Any]:
    """The array that a ``SparseTensorProto`` stands for."""
    values, indices = tensors.load(sparse.values, files), tensors.load(sparse.indices, files)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    try:
        if indices.ndim == 1:
            array.reshape(-1)[indices] = values
        else:
            array[tuple(indices.T)] = values
    except (IndexError, ValueError):
        raise BadModel(f"the sparse weight {shown(sparse.values.name)} does not fit its shape") from None
    return array
