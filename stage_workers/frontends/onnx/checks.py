"""What is looked at in an ONNX model before TVM sees it: its size, and that it reads no file.

A tensor may name a file that holds its data, and whoever converts it to an array opens that file: any file
that the worker may read. Tensors stand in many places (weights, sparse weights, attributes of nodes, graphs
in attributes, functions), so the whole message is walked, whatever its fields are called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import limits
from tunemesh.stage_workers.frontends.onnx import tensors
from tunemesh.stage_workers.frontends.onnx.graph import shown

NO_FILES: Mapping[str, Path] = MappingProxyType({})

INSIDE = frozenset(
    {"GraphProto", "FunctionProto", "NodeProto", "AttributeProto", "TensorProto", "SparseTensorProto"}
    | {"TrainingInfoProto"}
)
"""Kinds of messages that are a tensor or may have one inside."""


@dataclass(frozen=True, slots=True)
class Part:
    """A message of the model, and the one that it stands in."""

    message: Any
    parent: Part | None = None
    field: str = ""
    graphs: int = 0
    """Graphs that it stands in."""

    @property
    def kind(self) -> str:
        return str(self.message.DESCRIPTOR.name)


def check(model: Any, files: Mapping[str, Path] = NO_FILES) -> None:
    """Look at a parsed ``ModelProto``.

    Args:
        files: what came with it.

    Raises:
        BadModel: it is too large, a name is not UTF-8, or the data of a tensor lies in a file that did not
            come with it.
    """
    operators = constants = size = 0
    for part in parts(model):
        if part.kind == "NodeProto":
            operators += 1
            limits.require(operators, limits.OPERATORS, "operators")
        elif part.kind == "TensorProto":
            constants += 1
            size += _require_here(part, files)
            limits.require(constants, limits.CONSTANTS, "constants")
            limits.require(size, limits.CONSTANT_BYTES, "bytes of constants")
        elif part.kind == "GraphProto":
            limits.require(part.graphs, limits.SUBGRAPHS, "graphs inside one another")
            limits.require(len(part.message.input), limits.TENSORS, "inputs")
            limits.require(len(part.message.output), limits.TENSORS, "outputs")


def parts(model: Any) -> Iterator[Part]:
    """All messages of the kinds :data:`INSIDE`, wherever they stand."""
    waiting = [Part(model)]
    while waiting:
        part = waiting.pop()
        yield part
        for field, value in part.message.ListFields():
            if field.type == field.TYPE_STRING:
                _require_text(field.name, value)
            if field.message_type is None or field.message_type.name not in INSIDE:
                continue
            graphs = part.graphs + (field.message_type.name == "GraphProto")
            for each in [value] if hasattr(value, "ListFields") else value:
                waiting.append(Part(each, part, field.name, graphs))


def _require_text(field: str, value: Any) -> None:
    """Protobuf hands out what is no UTF-8 as bytes, with which nobody reckons.

    Raises:
        BadModel: a name is not UTF-8.
    """
    for each in [value] if isinstance(value, str | bytes) else value:
        if isinstance(each, bytes):
            raise BadModel(f"the ONNX file is damaged: the {field} {shown(repr(each))} is not UTF-8")


def _require_here(part: Part, files: Mapping[str, Path]) -> int:
    """The bytes of a tensor.

    Raises:
        BadModel: its data is not here, or its shape is none.
    """
    tensor = part.message
    if any(size < 0 for size in tensor.dims):
        raise BadModel(f"{_described(part)} has the shape {shown(str(list(tensor.dims)))}")
    if not tensors.is_external(tensor):
        return tensors.stored(tensor)
    where = tensors.location(tensor)
    if where not in files:
        raise BadModel(
            f"{_described(part)} lies outside the ONNX file, in {shown(where)!r}, which did not come with it"
        )
    return tensors.size(tensor)


def _described(part: Part) -> str:
    """Which tensor it is: by its name, or by the node and the attribute that hold it."""
    of = part.parent
    if of is not None and of.kind == "SparseTensorProto":
        return f"the part {part.field} of {_described(of)}"
    if of is not None and of.kind == "AttributeProto" and of.parent is not None:
        node = of.parent.message
        if of.parent.kind != "NodeProto":
            return f"the default of {shown(of.message.name)} in the function {shown(node.name)}"
        return (
            f"the {shown(of.message.name)} of the {shown(node.op_type)} node {shown(*node.output, node.name)}"
        )
    if part.kind == "SparseTensorProto":
        return f"the sparse weight {shown(part.message.values.name)}"
    return f"the weight {shown(part.message.name)}"
