"""Models in TVM's JSON come from anybody, and TVM's loader can make any object of TVM: a library to load, a
call to ``system``. So every node is held against the list of what only computes, before TVM sees one.

TVM gets the text that is written again from what was checked, never the text that came: two readers of one
text may understand it differently.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from tunemesh.shared.errors import BadModel
from tunemesh.shared.text import clip, printable
from tunemesh.stage_workers.frontends import limits
from tunemesh.stage_workers.frontends.tvm_vocabulary import (
    ANNOTATIONS,
    ATTRIBUTES,
    CONTAINERS,
    LEAVES,
    NODES,
    OPERATORS,
    SCHEDULE_RULES,
    TVM_VERSION,
)

Node = Mapping[str, Any]

EXPORT = "a model may use only known operators; export it without calls to packed or external functions"

DTYPE = re.compile(r"(bool|u?int\d{1,2}|b?float\d{1,2}(_e\d+m\d+[a-z]*)?)?\Z")
"""Numbers, one at a time; empty where an attribute leaves it open. Neither handles nor vectors."""

SYMBOL = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,199}\Z")
"""Names of functions, which become symbols of the compiled model. TVM puts ``__tvm_ffi_`` in front: with an
underscore at its head, a name could be that of the table of libraries which a loader reads."""

CALLABLE = frozenset({"ir.Op", "ir.GlobalVar", "ir.Var", "relax.expr.DataflowVar", "relax.expr.Function"})
ROOTS = frozenset({"ir.IRModule", "relax.expr.Function", "tirx.PrimFunc"})
FUNCTIONS = frozenset({"relax.expr.Function", "tirx.PrimFunc"})
VISITED_ONCE = FUNCTIONS | {"ir.Var", "relax.expr.DataflowVar", "ir.GlobalVar", "ir.GenericConst"}
"""What TVM's visitors do not follow each time that it is referred to."""

LOOP_KINDS = 5
ITERATION_KINDS = 9
"""Of TVM's enumerations ``ForKind`` and ``IterVarType``."""

TENSOR_MAGIC = 0xDD5E40F096B4A13F
TENSOR_HEAD = struct.Struct("<QQiiiBBH")
"""Magic, reserved, device kind and number, rank; code, bits and lanes of the data type. Then come the shape
and the number of bytes, 8 bytes each, and the bytes."""
CPU = 1
RANK = 32


def checked(model: bytes) -> str:
    """The JSON graph of ``model``, for TVM to read.

    Raises:
        BadModel: when it is not a JSON graph, or holds what is not on the list.
    """
    try:
        graph = json.loads(model)  # not msgspec: TVM writes NaN and Infinity
        nodes, root = graph["nodes"], graph["root_index"]
        version = graph.get("metadata", {}).get("tvm_version", "unknown")
        well_formed = isinstance(nodes, list) and type(root) is int and 0 <= root < len(nodes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        well_formed = False
    if not well_formed:
        raise BadModel(
            "the JSON is not a module of this TVM (as tvm.ir.save_json writes it): it is truncated or damaged"
        )
    limits.require(len(nodes), limits.GRAPH_NODES, "nodes of TVM's JSON")
    _Graph(nodes, clip(printable(str(version)), 40)).check(root)
    return json.dumps({"root_index": root, "nodes": nodes})


class _Graph:
    """The nodes of a JSON graph, and what is known of those that were checked. Operands come before what uses
    them, so that one look in order is enough."""

    def __init__(self, nodes: Sequence[Any], version: str) -> None:
        self._nodes = nodes
        self._version = version
        self._depth = [0] * len(nodes)
        self._unfolded = [1] * len(nodes)
        self._constants = self._constant_bytes = 0
        self._root = 0
        self._functions: set[int] = set()
        """Numbers of the names that the module has functions for."""
        self._rules: dict[str, Callable[[Any], None]] = {
            "DataType": self._check_dtype,
            "ffi.Tensor": self._check_tensor,
            "ir.Call": self._check_call,
            "ir.DictAttrs": self._check_attributes,
            "ir.GlobalVar": self._check_name,
            "ir.IRModule": self._check_module,
            "ir.PrimType": self._check_number_type,
            "ir.Range": self._check_extent,
            "relax.expr.Function": self._check_parameters,
            "relax.expr.ShapeExpr": self._check_shape,
            "relax.ShapeType": self._check_shape,
            "s_tir.SBlock": self._check_annotations,
            "tirx.AllocBuffer": self._check_annotations,
            "tirx.BufferType": self._check_buffer,
            "tirx.For": self._check_loop,
            "tirx.IterVar": self._check_iteration,
            "tirx.PrimFunc": self._check_parameters,
        }

    def check(self, root: int) -> None:
        """Look at every node, whether or not the root refers to it.

        Raises:
            BadModel: see :func:`checked`.
        """
        self._root = root
        self._check_calls()
        if self._kind(root) not in ROOTS:
            raise BadModel(f"the JSON holds a {_short(self._kind(root))}, not a module or function")
        for number, node in enumerate(self._nodes):
            self._check_node(number, node)
        for number, node in enumerate(self._nodes):
            if node["type"] == "ir.GlobalVar" and number not in self._functions:
                name = self._text(node["data"]["name_hint"])
                self._refuse(f"calls {name}, which is not among its functions")

    def _check_calls(self) -> None:
        """First, so that a forbidden call is named as such, and not by what it needs."""
        for number, node in enumerate(self._nodes):
            if not isinstance(node, dict) or not isinstance(node.get("type"), str):
                raise BadModel(f"node {number} of the TVM JSON model has no type: the file is damaged")
            if node["type"] == "ir.Op" and (name := str(node.get("data"))) not in OPERATORS:
                callee = _callee(self._nodes, number)
                self._refuse(f"calls {_short(name)}" + (f" ({callee})" if callee else ""))

    def _check_node(self, number: int, node: Node) -> None:
        kind, data = node["type"], node.get("data")
        if kind in LEAVES:
            if not isinstance(data, LEAVES[kind]):
                raise BadModel(f"node {number} of the TVM JSON model is not a {kind}: the file is damaged")
        elif kind in CONTAINERS:
            self._follow(number, data if isinstance(data, list) else [None])
        elif kind in NODES:
            if not isinstance(data, dict):
                raise BadModel(f"node {number} of the TVM JSON model is not a {kind}: the file is damaged")
            fields = NODES[kind]
            self._follow(number, [value for name, value in data.items() if name in fields])
            for name, value in data.items():
                if name not in fields:
                    self._check_value(kind, name, value)
        elif kind == "relax.expr.ExternFunc":
            self._refuse(f"calls the external function {_symbol(self._nodes, node)}")
        else:
            self._refuse(f"holds a {_short(kind)}")
        if rule := self._rules.get(kind):
            try:
                rule(data)
            except (KeyError, TypeError):  # a field that is missing, or refers to something else
                raise BadModel(f"node {number} of the TVM JSON model is no valid {kind}") from None
        if kind in VISITED_ONCE:
            self._unfolded[number] = 1

    def _follow(self, number: int, references: Sequence[Any]) -> None:
        depth, unfolded = 0, 1
        for each in references:
            if type(each) is not int or not 0 <= each < number:
                raise BadModel(
                    f"node {number} of the TVM JSON model refers to {_short(each)}: the file is damaged"
                )
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
        self._depth[number], self._unfolded[number] = depth + 1, unfolded

    def _check_value(self, kind: str, name: str, value: object) -> None:
        """What is no reference: numbers, and data types."""
        if isinstance(value, str):
            self._check_dtype(value)
        elif not isinstance(value, (bool, int, float)) and value is not None:
            self._refuse(f"has a {kind} with the {name} {_short(value)}")

    def _check_dtype(self, text: str) -> None:
        if not DTYPE.match(text):
            self._refuse(f"uses the data type {_short(text)}")

    def _check_number_type(self, data: Node) -> None:
        if not data["dtype"]:
            self._refuse("uses a handle or a type without values")

    def _check_call(self, data: Node) -> None:
        callee = self._kind(data["op"])
        if callee not in CALLABLE:
            self._refuse(f"calls a {callee}")

    def _check_name(self, data: Node) -> None:
        name = self._text(data["name_hint"])
        if not SYMBOL.match(name):
            self._refuse(f"has a function named {_short(name)}, which is no name of letters, digits, _ and .")

    def _check_module(self, data: Node) -> None:
        if self._kind(self._root) != "ir.IRModule" or self._nodes[self._root]["data"] is not data:
            self._refuse("holds a second module")
        functions = self._items(data["functions"])
        for name, function in functions:
            if self._kind(name) != "ir.GlobalVar" or self._kind(function) not in FUNCTIONS:
                self._refuse(f"has a {self._kind(function)} among its functions")
        self._functions = {name for name, _ in functions}
        names = {number: self._text(name) for name, number in self._items(data["global_var_map_"])}
        if names != {
            number: self._text(self._nodes[number]["data"]["name_hint"]) for number in self._functions
        }:
            self._refuse("has functions without a name, or names without a function")
        if self._items(data["global_infos"]):
            self._refuse("names devices")

    def _check_attributes(self, data: Node) -> None:
        for key, value in self._items(data["__dict__"]):
            name = self._text(key)
            if name not in ATTRIBUTES:
                self._refuse(f"has the attribute {_short(name)}")
            if name == "global_symbol" and not SYMBOL.match(self._text(value)):
                self._refuse(
                    f"has a function named {_short(self._text(value))}, which is no name of letters,"
                    " digits, _ and ."
                )

    def _check_annotations(self, data: Node) -> None:
        for key, value in self._items(data["annotations"]):
            name = self._text(key)
            if name not in ANNOTATIONS:
                self._refuse(f"has the annotation {_short(name)}")
            if name == "schedule_rule" and self._text(value) not in SCHEDULE_RULES:
                self._refuse(f"has the schedule rule {_short(self._text(value))}")

    def _check_parameters(self, data: Node) -> None:
        limits.require(len(self._list(data["params"])), limits.TENSORS, "inputs and outputs")

    def _check_loop(self, data: Node) -> None:
        self._check_annotations(data)
        if not 0 <= data["kind"] < LOOP_KINDS:
            self._refuse(f"has a loop of the unknown kind {_short(data['kind'])}")
        self._check_extent(data)

    def _check_iteration(self, data: Node) -> None:
        if not 0 <= data["iter_type"] < ITERATION_KINDS:
            self._refuse(f"has a block iterator of the unknown kind {_short(data['iter_type'])}")

    def _check_extent(self, data: Node) -> None:
        extent, first = self._constant(data["extent"]), self._constant(data["min"])
        if (extent is not None and not 0 <= extent <= limits.EXTENT) or abs(first or 0) > limits.EXTENT:
            self._refuse(
                f"has a loop or region from {first} of {extent} steps; at most {limits.EXTENT:,} are possible"
            )

    def _check_buffer(self, data: Node) -> None:
        self._check_shape_of(self._list(data["shape"]))
        if self._list(data["allocated_addr"]):
            self._refuse("has a buffer at an address of its own choice")

    def _check_shape(self, data: Node) -> None:
        if self._kind(data["values"]) != "None":
            self._check_shape_of(self._list(data["values"]))

    def _check_shape_of(self, dims: Sequence[int]) -> None:
        sizes = [size for size in map(self._constant, dims) if size is not None]
        if len(dims) > RANK or any(size < 0 for size in sizes) or math.prod(sizes) > limits.EXTENT:
            self._refuse(
                f"has a tensor of the shape {_short(sizes)}; at most {limits.EXTENT:,} elements are possible"
            )

    def _check_tensor(self, data: str) -> None:
        self._constants += 1
        self._constant_bytes += _tensor_bytes(data)
        limits.require(self._constants, limits.CONSTANTS, "constants")
        limits.require(self._constant_bytes, limits.CONSTANT_BYTES, "bytes of constants")

    def _constant(self, number: int) -> int | None:
        """The value of an integer that is one; ``None`` for an expression."""
        node = self._nodes[number]
        if node["type"] != "ir.IntImm":
            return None
        value = self._nodes[node["data"]["value"]]
        if value["type"] != "int":
            raise TypeError
        return int(value["data"])

    def _kind(self, number: int) -> str:
        return str(self._nodes[number]["type"])

    def _text(self, number: int) -> str:
        if self._kind(number) != "ffi.String":
            raise TypeError
        return str(self._nodes[number]["data"])

    def _list(self, number: int) -> list[int]:
        if self._kind(number) != "ffi.Array":
            raise TypeError
        return list(self._nodes[number]["data"])

    def _items(self, number: int) -> list[tuple[int, int]]:
        """Keys and values of a map."""
        flat = self._nodes[number]["data"]
        if self._kind(number) != "ffi.Map" or len(flat) % 2:
            raise TypeError
        return list(zip(flat[::2], flat[1::2], strict=True))

    def _refuse(self, what: str) -> NoReturn:
        other = not self._version.startswith(TVM_VERSION)
        by = f"; it was written by TVM {self._version}, not {TVM_VERSION}" if other else ""
        raise BadModel(f"the TVM JSON model {printable(what)}: {EXPORT}{by}")


def _callee(nodes: Sequence[Any], operator: int) -> str:
    """What the first call of an operator calls by name, where its first operand is a name. For the error
    text, so nothing is expected of the nodes."""
    try:
        call = next(n["data"] for n in nodes if n.get("type") == "ir.Call" and n["data"]["op"] == operator)
        return _symbol(nodes, nodes[nodes[call["args"]]["data"][0]])
    except (StopIteration, LookupError, TypeError, AttributeError):
        return ""


def _symbol(nodes: Sequence[Any], named: Node) -> str:
    try:
        data = named["data"]
        return _short(nodes[data["global_symbol" if "global_symbol" in data else "value"]]["data"])
    except (LookupError, TypeError):
        return ""


def _short(value: object) -> str:
    return clip(printable(str(value)), 80)


def _tensor_bytes(text: str) -> int:
    """Bytes of a constant, by its head, which must agree with what follows.

    Raises:
        BadModel: it does not.
    """
    try:
        head = base64.b64decode(text[: 4 * (TENSOR_HEAD.size + 8 * RANK + 8)], validate=True)
        magic, _, device, _, rank, _, bits, lanes = TENSOR_HEAD.unpack_from(head)
        if magic != TENSOR_MAGIC or device != CPU or not 0 <= rank <= RANK:
            raise ValueError("not a tensor")
        *shape, size = struct.unpack_from(f"<{rank + 1}q", head, TENSOR_HEAD.size)
        if min(shape, default=0) < 0 or size != math.prod(shape) * lanes * ((bits + 7) // 8):
            raise ValueError("the shape does not fit the bytes")
        if (
            len(text) % 4
            or len(text) // 4 * 3 - text[-2:].count("=") != TENSOR_HEAD.size + 8 * rank + 8 + size
        ):
            raise ValueError("truncated")
    except (ValueError, struct.error, binascii.Error):
        raise BadModel("a constant of the TVM JSON model is truncated or damaged") from None
    return int(size)


def check_loaded(module: Any) -> None:
    """Look once more at what TVM made of the text, function by function, with TVM's own visitor.

    Raises:
        BadModel: there is a call of what is no known operator.
    """
    import tvm
    import tvm_ffi

    callees: list[Any] = []  # an exception would come out of TVM as another one

    def visit(call: Any) -> None:
        if not isinstance(call.op, tvm.ir.Op) or str(call.op.name) not in OPERATORS:
            callees.append(call.op)

    functions = module.functions.values() if isinstance(module, tvm.IRModule) else [module]
    for function in functions:
        tvm_ffi.structural_walk(function, [(tvm.ir.Call, visit), (tvm.relax.ExternFunc, callees.append)])
    for callee in callees:
        if isinstance(callee, (tvm.ir.Op, tvm.relax.ExternFunc)):
            name = callee.name if isinstance(callee, tvm.ir.Op) else callee.global_symbol
            raise BadModel(f"the TVM JSON model calls {_short(name)}: {EXPORT}")
