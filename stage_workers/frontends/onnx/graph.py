"""An ONNX graph while it is rewritten: nodes as plain values, constants as arrays, the types of all tensors.

Everything is in one version of the operators, :data:`DIALECT`. What a model has in older ones is brought up
to it node by node (:mod:`.legacy`), so that no other step and no converter has to know versions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tunemesh.shared.errors import BadModel
from tunemesh.shared.text import clip, printable

Array = NDArray[Any]

DIALECT = 28
"""Version of the standard operators that all nodes are brought to."""

ALIKE = 1024
"""Bytes up to which constants of the same value are one."""

SMALL = 4096
"""Elements up to which a constant counts as a value that shapes may depend on."""


def numpy_dtype(number: int) -> np.dtype[Any]:
    """The dtype of a ``TensorProto.DataType``."""
    found: np.dtype[Any] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number))
    return found


@dataclass(frozen=True, slots=True)
class Type:
    """Of a tensor.

    Attributes:
        dtype: a number of ``onnx.TensorProto.DataType``.
        shape: ``None`` for what depends on the data; no tuple where not even the rank is known.
    """

    dtype: int
    shape: tuple[int | None, ...] | None

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The shape where all of it is known."""
        if self.shape is None:
            return None
        known = tuple(size for size in self.shape if size is not None)
        return known if len(known) == len(self.shape) else None

    @property
    def numpy(self) -> np.dtype[Any]:
        return numpy_dtype(self.dtype)


@dataclass(slots=True)
class Node:
    """One operator. Attributes are Python values: numbers, texts, lists of them, ``TensorProto``, and
    a :class:`.scope.Body` for what ONNX calls a graph."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    name: str = ""
    version: int = DIALECT

    def input(self, index: int) -> str:
        """The name of an input; empty where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def output(self, index: int) -> str:
        """The name of an output; empty where nobody wants it."""
        return self.outputs[index] if index < len(self.outputs) else ""

    def __str__(self) -> str:
        """For people: operator and name."""
        kind = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"the {shown(kind)} node {shown(self.name, *self.outputs)}"


def shown(*names: str) -> str:
    """The first name that is one, fit to be printed."""
    return next((clip(" ".join(printable(name).split()), 80) for name in names if name), "without a name")


def to_proto(node: Node) -> Any:
    """The same as a message."""
    made = onnx.helper.make_node(node.op, node.inputs, node.outputs, node.name, domain=node.domain)
    for name, value in node.attributes.items():
        if value is not None and not (isinstance(value, list) and not value):
            made.attribute.append(onnx.helper.make_attribute(name, value))
        elif value is not None:
            made.attribute.append(onnx.helper.make_attribute(name, value, attr_type=onnx.AttributeProto.INTS))
    return made


class Graph:
    """What is known of the tensors of a graph, and the nodes that are finished.

    Attributes:
        constants: arrays, by the names of their tensors.
        types: of every tensor, constants among them.
        nodes: in an order in which they can run.
        inputs: names of the inputs.
        outputs: names of the outputs.
        write: rewrites nodes and adds what comes of them, for steps that need to know that before they
            decide.
    """

    def __init__(self) -> None:
        self.write: Callable[[Sequence[Node]], None] = self.nodes_as_they_are
        self.constants: dict[str, Array] = {}
        self.types: dict[str, Type] = {}
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.alike: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        """Small constants that steps have made, by value."""
        self._made = 0

    def nodes_as_they_are(self, nodes: Sequence[Node]) -> None:
        """Add nodes without a look at them."""
        self.nodes.extend(nodes)

    def fresh(self, hint: str = "") -> str:
        """A name that no tensor has."""
        self._made += 1
        return f"{hint}~{self._made}"

    def add_constant(self, value: Array, name: str = "") -> str:
        """A constant tensor; its name."""
        name = name or self.fresh("constant")
        self.constants[name] = value
        dtype = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        self.types[name] = Type(dtype, value.shape)
        return name

    def value(self, name: str) -> Array | None:
        """The value of a tensor that is constant."""
        return self.constants.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            Unknown: it depends on the data.
        """
        found = self.types.get(name)
        if found is None or found.sizes is None:
            raise Unknown(f"the shape of {shown(name)} depends on the data")
        return found.sizes

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of a tensor."""
        return self.types[name].numpy


class Unknown(BadModel):
    """A step needs something that is only known when the model runs."""


class Expansion:
    """The nodes that take the place of one.

    >>> new = Expansion(graph, node)  # doctest: +SKIP
    >>> new("Relu", new("Add", a, b), to=node.outputs[0])  # doctest: +SKIP
    """

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self._of = node

    def __call__(self, op: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """Add a node with one output, whose name is ``to``, or a new one; returns it."""
        return self.several(op, inputs, [to or self.graph.fresh(self._hint())], **attributes)[0]

    def several(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> list[str]:
        """Add a node with these outputs."""
        inputs = list(inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        name = self._of.name or self._hint()
        self.nodes.append(Node(op, inputs, list(outputs), attributes, name=name))
        return list(outputs)

    def cast(self, value: str, dtype: Any, to: str = "") -> str:
        """Add a conversion to a dtype of NumPy."""
        number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.several("Cast", [value], [to or self.fresh()], to=number)[0]

    def fresh(self) -> str:
        """A name for an output."""
        return self.graph.fresh(self._hint())

    def constant(self, value: Any, dtype: Any = None) -> str:
        """A constant tensor. Small ones are the same tensor where they are the same."""
        array = np.asarray(value, dtype)
        if array.nbytes > ALIKE:
            return self.graph.add_constant(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.graph.alike:
            self.graph.alike[key] = self.graph.add_constant(array)
        return self.graph.alike[key]

    def ints(self, *values: int) -> str:
        """A list of integers, as axes and sizes are given."""
        return self.constant(values, np.int64)

    def _hint(self) -> str:
        return next((name for name in self._of.outputs if name), self._of.op).partition("~")[0]


Step = Callable[[Node, Graph], "Sequence[Node] | None"]
"""Looks at one node: what takes its place, or ``None`` where it stays. It may raise :class:`BadModel`."""

Steps = Mapping[str, Step]
"""By operator."""


def unsupported(node: Node, what: str, todo: str = "") -> BadModel:
    """The error for something that cannot be imported: names the node and says what to do."""
    return BadModel(f"{node}: {what}" + (f"; {todo}" if todo else ""))


def count(shape: Sequence[int]) -> int:
    """Elements of a tensor."""
    return math.prod(shape)
