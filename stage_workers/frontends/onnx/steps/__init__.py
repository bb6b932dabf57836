"""What takes the place of an operator: one function for each, which can be tried alone.

A step gets a node and the graph so far, in which the types and shapes of the node's inputs stand, and their
values where they are constant. It returns the nodes that take its place, or ``None`` where it stays.
"""

from __future__ import annotations

from typing import Any

import onnx

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends.onnx import conversion, inference
from tunemesh.stage_workers.frontends.onnx.graph import Graph, Node, Step, to_proto
from tunemesh.stage_workers.frontends.onnx.steps import (
    activations,
    arithmetic,
    contrib,
    control_flow,
    layers,
    quantised,
    recurrent,
    shaping,
    spectral,
)

STANDARD: dict[str, Step] = {
    **activations.STEPS,
    **arithmetic.STEPS,
    **control_flow.STEPS,
    **layers.STEPS,
    **quantised.STEPS,
    **recurrent.STEPS,
    **shaping.STEPS,
    **spectral.STEPS,
    **contrib.STANDARD_IN_NAME,
}
"""Of the standard operators."""

DOMAINS: dict[str, dict[str, Step]] = {"": STANDARD, contrib.DOMAIN: contrib.STEPS}
"""By domain. ONNX Runtime's is the only other one whose operators models in use have."""


def find(node: Node) -> Step | None:
    """The step for a node.

    Raises:
        BadModel: its operator belongs to a domain that nobody here knows.
    """
    known = DOMAINS.get(node.domain, {})
    if node.op not in known and node.domain:
        raise BadModel(
            f"{node}: the operator {node.op} of the domain {node.domain} is none of ONNX's;"
            " export the model with standard operators, or with a function that defines it"
        )
    return known.get(node.op)


def definition(node: Node, graph: Graph) -> Any | None:
    """What ONNX itself defines an operator as, in terms of others: a ``FunctionProto``. ``None`` where it has
    no such definition, or the operator can be converted as it is."""
    if node.op in conversion.KNOWN:
        return None
    schema = inference.schema_of(node)
    if schema is None:
        return None
    if schema.has_function:
        body = onnx.FunctionProto()
        body.CopyFrom(schema.function_body)
        for name, attribute in schema.attributes.items():
            if attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
                body.attribute_proto.append(attribute.default_value)
                body.attribute_proto[-1].name = name
        return body
    if schema.has_context_dependent_function:
        types = [
            inference.to_type_proto(graph.types[name]).SerializeToString() if name else b""
            for name in node.inputs
        ]
        made = schema.get_context_dependent_function(to_proto(node).SerializeToString(), types)
        return onnx.FunctionProto.FromString(made)
    return None
