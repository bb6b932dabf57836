"""What is looked at in an ONNX model before TVM sees it: its size, and that it reads no file.

A tensor may name a file that holds its data, and whoever converts it to an array opens that file: any file
that the worker may read. Tensors stand in many places (weights, sparse weights, attributes of nodes, graphs
in attributes, functions), so the whole message is walked, whatever its fields are called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.shared.text import clip, printable
from tunemesh.stage_workers.frontends import limits

INSIDE = frozenset(
    {"GraphProto", "FunctionProto", "NodeProto", "AttributeProto", "TensorProto", "SparseTensorProto"}
    | {"TrainingInfoProto"}
)
"""Kinds of messages that are a tensor or may have one inside."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A message of the model, and the one that it stands in."""

    message: Any
    parent: _Part | None = None
    field: str = ""
    graphs: int = 0
    """Graphs that it stands in."""

    @property
    def kind(self) -> str:
        return str(self.message.DESCRIPTOR.name)


def check(model: Any) -> None:
    """Look at a parsed ``ModelProto``.

    Raises:
        BadModel: it is too large, or the data of a tensor lies outside the file.
    """
    operators = constants = size = 0
    for part in _parts(model):
        if part.kind == "NodeProto":
            operators += 1
            limits.require(operators, limits.OPERATORS, "operators")
        elif part.kind == "TensorProto":
            _require_inside(part)
            constants += 1
            size += part.message.ByteSize()
            limits.require(constants, limits.CONSTANTS, "constants")
            limits.require(size, limits.CONSTANT_BYTES, "bytes of constants")
        elif part.kind == "GraphProto":
            limits.require(part.graphs, limits.SUBGRAPHS, "graphs inside one another")
            limits.require(len(part.message.input), limits.TENSORS, "inputs")
            limits.require(len(part.message.output), limits.TENSORS, "outputs")


def _parts(model: Any) -> Iterator[_Part]:
    """All messages of the kinds :data:`INSIDE`, wherever they stand."""
    waiting = [_Part(model)]
    while waiting:
        part = waiting.pop()
        yield part
        for field, value in part.message.ListFields():
            if field.message_type is None or field.message_type.name not in INSIDE:
                continue
            graphs = part.graphs + (field.message_type.name == "GraphProto")
            for each in [value] if hasattr(value, "ListFields") else value:
                waiting.append(_Part(each, part, field.name, graphs))


def _require_inside(part: _Part) -> None:
    import onnx

    tensor = part.message
    # Either alone makes some reader look for a file.
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise BadModel(f"{_described(part)} lies outside the ONNX file: save all in one file")


def _described(part: _Part) -> str:
    """Which tensor it is: by its name, or by the node and the attribute that hold it."""
    of = part.parent
    if of is not None and of.kind == "SparseTensorProto":
        return f"the part {part.field} of {_described(of)}"
    if of is not None and of.kind == "AttributeProto" and of.parent is not None:
        node = of.parent.message
        if of.parent.kind != "NodeProto":
            return f"the default of {_name(of.message.name)} in the function {_name(node.name)}"
        return (
            f"the {_name(of.message.name)} of the {_name(node.op_type)} node {_name(*node.output, node.name)}"
        )
    if part.kind == "SparseTensorProto":
        return f"the sparse weight {_name(part.message.values.name)}"
    return f"the weight {_name(part.message.name)}"


def _name(*names: str) -> str:
    """The first that is one, fit to be printed."""
    return next((clip(" ".join(printable(name).split()), 80) for name in names if name), "without a name")
