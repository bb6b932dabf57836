"""The form of TVM's JSON: a list of nodes, each with a kind and data that may hold the numbers of others.

What a node means is looked at in :mod:`~stage_workers.frontends.trusted`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.shared.text import clip, printable
from tunemesh.stage_workers.frontends import limits

Node = Mapping[str, Any]

TENSOR_MAGIC = 0xDD5E40F096B4A13F
TENSOR_HEAD = struct.Struct("<QQiiiBBH")
"""Magic, reserved, device kind and number, rank; code, bits and lanes of the data type. Then come the shape
and the number of bytes, 8 bytes each, and the bytes."""
CPU = 1
RANK = 32
"""Dimensions of one tensor, at most."""


class Graph:
    """The nodes of a model's JSON. Each stands after those that it refers to, as ``tvm.ir.save_json`` writes
    them, so that one look in order is enough and nothing is a circle.

    Raises:
        BadModel: the text is no such graph.
    """

    def __init__(self, model: bytes) -> None:
        try:
            graph = json.loads(model)  # not msgspec: TVM writes NaN and Infinity
            nodes, root = graph["nodes"], graph["root_index"]
            version = graph.get("metadata", {}).get("tvm_version", "unknown")
            well_formed = isinstance(nodes, list) and type(root) is int and 0 <= root < len(nodes)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            well_formed = False
        if not well_formed:
            raise BadModel(
                "the JSON is not a module of this TVM (as tvm.ir.save_json writes it):"
                " it is truncated or damaged"
            )
        limits.require(len(nodes), limits.GRAPH_NODES, "nodes of TVM's JSON")
        for number, node in enumerate(nodes):
            if not isinstance(node, dict) or not isinstance(node.get("type"), str):
                raise damaged(number, "has no type")
        self.nodes: list[Node] = nodes
        self.root: int = root
        self.version = short(version)
        """Of the TVM that wrote it, by its own account."""
        self._depth = [0] * len(nodes)
        self._unfolded = [1] * len(nodes)

    def encode(self) -> str:
        """The text of the graph, and of nothing else that the model's text had in it."""
        return json.dumps({"root_index": self.root, "nodes": self.nodes})

    def follow(self, number: int, references: Sequence[Any], *, shared: bool) -> None:
        """Take down what a node refers to.

        Args:
            number: of the node.
            references: numbers of nodes, if the file is right.
            shared: whether TVM's visitors go into it only once, however often it is referred to.

        Raises:
            BadModel: they are none, or stand later, or are together too deep or too large.
        """
        depth, unfolded = 0, 1
        for each in references:
            if type(each) is not int or not 0 <= each < number:
                raise damaged(number, f"refers to {short(each)}")
            depth = max(depth, self._depth[each])
            unfolded += self._unfolded[each]
        if depth >= limits.DEPTH:
            raise BadModel(
                f"an expression of the TVM JSON model is more than {limits.DEPTH} deep:"
                " split it into several bindings"
            )
        limits.require(
            unfolded, limits.UNFOLDED, "nodes in one expression, where what is shared counts each time"
        )
        self._depth[number] = depth + 1
        self._unfolded[number] = 1 if shared else unfolded

    # What follows is asked of nodes whose form was looked at. TypeError: one is of another kind.

    def kind(self, number: int) -> str:
        """The kind of a node."""
        return str(self.nodes[number]["type"])

    def text(self, number: int) -> str:
        """The text of a string."""
        return str(self._data(number, "ffi.String"))

    def array(self, number: int) -> list[int]:
        """The numbers of what an array holds."""
        return list(self._data(number, "ffi.Array"))

    def items(self, number: int) -> list[tuple[int, int]]:
        """The numbers of keys and values of a map."""
        flat = self._data(number, "ffi.Map")
        if len(flat) % 2:
            raise TypeError
        return list(zip(flat[::2], flat[1::2], strict=True))

    def constant(self, number: int) -> int | None:
        """The value of an integer that is one; ``None`` for an expression."""
        if self.kind(number) != "ir.IntImm":
            return None
        return int(self._data(self.nodes[number]["data"]["value"], "int"))

    def _data(self, number: int, kind: str) -> Any:
        if self.kind(number) != kind:
            raise TypeError
        return self.nodes[number]["data"]

    # For error texts, so that nothing is expected of the nodes.

    def callee(self, operator: int) -> str:
        """What the first call of an operator calls by name, where its first operand is a name."""
        calls = (node["data"] for node in self.nodes if node["type"] == "ir.Call")
        try:
            call = next(call for call in calls if call["op"] == operator)
            return self.symbol(self.nodes[self.nodes[call["args"]]["data"][0]])
        except (StopIteration, LookupError, TypeError):
            return ""

    def symbol(self, named: Node) -> str:
        """The text of a string constant, or the name of an external function."""
        try:
            data = named["data"]
            return short(self.nodes[data["global_symbol" if "global_symbol" in data else "value"]]["data"])
        except (LookupError, TypeError):
            return ""


def short(value: object) -> str:
    """Something of the model, fit to be printed in a line."""
    return clip(" ".join(printable(str(value)).split()), 80)


def damaged(number: int, what: str) -> BadModel:
    """The error of a node that no TVM writes."""
    return BadModel(f"node {number} of the TVM JSON model {what}: the file is damaged")


def tensor_bytes(text: str) -> int:
    """Bytes of a constant, by its head, which must agree with what follows.

    Raises:
        BadModel: it does not.
    """
    head_size = TENSOR_HEAD.size + 8
    try:
        head = base64.b64decode(text[: 4 * (head_size + 8 * RANK)], validate=True)
        magic, _, device, _, rank, _, bits, lanes = TENSOR_HEAD.unpack_from(head)
        if magic != TENSOR_MAGIC or device != CPU or not 0 <= rank <= RANK:
            raise ValueError("not a tensor")
        *shape, size = struct.unpack_from(f"<{rank + 1}q", head, TENSOR_HEAD.size)
        if min(shape, default=0) < 0 or size != math.prod(shape) * lanes * ((bits + 7) // 8):
            raise ValueError("the shape does not fit the bytes")
        there = len(text) // 4 * 3 - text[-2:].count("=")
        if len(text) % 4 or there != head_size + 8 * rank + size:
            raise ValueError("truncated")
    except (ValueError, struct.error, binascii.Error):
        raise BadModel("a constant of the TVM JSON model is truncated or damaged") from None
    return int(size)
