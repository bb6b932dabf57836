"""Models in TVM's JSON come from anybody, and TVM's loader can make any object of TVM: a library to load, a
call to ``system``. So every node is held against the list of what only computes, before TVM sees one.

TVM gets the text that is written again from what was checked, never the text that came: two readers of one
text may understand it differently.

What this cannot see is where a loop of TIR reads and writes: a kernel that goes past the end of its buffers
is for the sandbox to hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import limits
from tunemesh.stage_workers.frontends.json_graph import RANK, Graph, Node, damaged, short, tensor_bytes
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

EXPORT = "a model may use only known operators; export it without calls to packed or external functions"

DTYPE = re.compile(r"(bool|u?int\d{1,2}|b?float\d{1,2}(_e\d+m\d+[a-z]*)?)?\Z")
"""Numbers, one at a time; empty where an attribute leaves it open. Neither handles nor vectors."""

SYMBOL = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,199}\Z")
"""Names of functions, which become symbols of the compiled model. TVM puts ``__tvm_ffi_`` in front: with an
underscore at its head, a name could be that of the table of libraries which a loader reads."""

VARIABLE = re.compile(r"[\w.:/@ -]{0,1000}\Z")
"""Names of variables and buffers of TIR, which become names in the source of a GPU's kernel."""

CALLABLE = frozenset({"ir.Op", "ir.GlobalVar", "ir.Var", "relax.expr.DataflowVar", "relax.expr.Function"})
ROOTS = frozenset({"ir.IRModule", "relax.expr.Function", "tirx.PrimFunc"})
FUNCTIONS = frozenset({"relax.expr.Function", "tirx.PrimFunc"})
VISITED_ONCE = FUNCTIONS | {"ir.Var", "relax.expr.DataflowVar", "ir.GlobalVar", "ir.GenericConst"}
"""What TVM's visitors do not follow each time that it is referred to."""

LOOP_KINDS = 5
ITERATION_KINDS = 9
"""Of TVM's enumerations ``ForKind`` and ``IterVarType``."""


def checked(model: bytes) -> str:
    """The JSON graph of ``model``, for TVM to read.

    Raises:
        BadModel: when it is not a JSON graph, or holds what is not on the list.
    """
    graph = Graph(model)
    _Check(graph).run()
    return graph.encode()


class _Check:
    """One look at all nodes of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._constants = self._constant_bytes = 0
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
            "ir.Var": self._check_variable,
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

    def run(self) -> None:
        """Look at every node, whether or not the root refers to it.

        Raises:
            BadModel: see :func:`checked`.
        """
        graph = self._graph
        self._check_operators()
        if graph.kind(graph.root) not in ROOTS:
            raise BadModel(f"the JSON holds a {short(graph.kind(graph.root))}, not a module or function")
        for number, node in enumerate(graph.nodes):
            self._check_node(number, node)
        for number, node in enumerate(graph.nodes):
            # Whoever runs it would look for the function elsewhere: among those of the process.
            if node["type"] == "ir.GlobalVar" and number not in self._functions:
                name = graph.text(node["data"]["name_hint"])
                self._refuse(f"calls {name}, which is not among its functions")

    def _check_operators(self) -> None:
        """First, so that a forbidden call is named as such, and not by what it needs."""
        for number, node in enumerate(self._graph.nodes):
            if node["type"] == "ir.Op" and (name := str(node.get("data"))) not in OPERATORS:
                callee = self._graph.callee(number)
                self._refuse(f"calls {short(name)}" + (f" ({callee})" if callee else ""))

    def _check_node(self, number: int, node: Node) -> None:
        kind, data = node["type"], node.get("data")
        if kind in LEAVES:
            if not isinstance(data, LEAVES[kind]):
                raise damaged(number, f"is not a {kind}")
        elif kind in CONTAINERS:
            self._graph.follow(number, data if isinstance(data, list) else [None], shared=False)
        elif kind in NODES:
            if not isinstance(data, dict):
                raise damaged(number, f"is not a {kind}")
            fields = NODES[kind]
            references = [value for name, value in data.items() if name in fields]
            self._graph.follow(number, references, shared=kind in VISITED_ONCE)
            for name, value in data.items():
                if name not in fields:
                    self._check_value(kind, name, value)
        elif kind == "relax.expr.ExternFunc":
            self._refuse(f"calls the external function {self._graph.symbol(node)}")
        else:
            self._refuse(f"holds a {short(kind)}")
        if rule := self._rules.get(kind):
            try:
                rule(data)
            except (KeyError, TypeError):  # a field that is missing, or refers to something else
                raise damaged(number, f"is no valid {kind}") from None

    def _check_value(self, kind: str, name: str, value: object) -> None:
        """What is no reference: numbers, and data types."""
        if isinstance(value, str):
            self._check_dtype(value)
        elif not isinstance(value, (bool, int, float)) and value is not None:
            self._refuse(f"has a {kind} with the {short(name)} {short(value)}")

    def _check_dtype(self, text: str) -> None:
        if not DTYPE.match(text):
            self._refuse(f"uses the data type {short(text)}")

    def _check_number_type(self, data: Node) -> None:
        if not data["dtype"]:
            self._refuse("uses a handle or a type without values")

    def _check_call(self, data: Node) -> None:
        callee = self._graph.kind(data["op"])
        if callee not in CALLABLE:
            self._refuse(f"calls a {callee}")

    def _check_name(self, data: Node) -> None:
        self._check_symbol(self._graph.text(data["name_hint"]))

    def _check_symbol(self, name: str) -> None:
        if not SYMBOL.match(name):
            self._refuse(f"has a function named {short(name)}, which is no name of letters, digits, _ and .")

    def _check_variable(self, data: Node) -> None:
        name = self._graph.text(data["name"])
        if self._graph.kind(data["ty"]) in ("ir.PrimType", "tirx.BufferType") and not VARIABLE.match(name):
            self._refuse(f"has a variable named {short(name)}, which is no name")

    def _check_module(self, data: Node) -> None:
        graph = self._graph
        if graph.nodes[graph.root].get("data") is not data:
            self._refuse("holds a second module")
        functions = graph.items(data["functions"])
        for name, function in functions:
            if graph.kind(name) != "ir.GlobalVar" or graph.kind(function) not in FUNCTIONS:
                self._refuse(f"has a {graph.kind(function)} among its functions")
        self._functions = {name for name, _ in functions}
        names = {number: graph.text(name) for name, number in graph.items(data["global_var_map_"])}
        if names != {each: graph.text(graph.nodes[each]["data"]["name_hint"]) for each in self._functions}:
            self._refuse("has functions without a name, or names without a function")
        if graph.items(data["global_infos"]):
            self._refuse("names devices")

    def _check_attributes(self, data: Node) -> None:
        for key, value in self._graph.items(data["__dict__"]):
            name = self._graph.text(key)
            if name not in ATTRIBUTES:
                self._refuse(f"has the attribute {short(name)}")
            if name == "global_symbol":
                self._check_symbol(self._graph.text(value))

    def _check_annotations(self, data: Node) -> None:
        for key, value in self._graph.items(data["annotations"]):
            name = self._graph.text(key)
            if name not in ANNOTATIONS:
                self._refuse(f"has the annotation {short(name)}")
            if name == "schedule_rule" and self._graph.text(value) not in SCHEDULE_RULES:
                self._refuse(f"has the schedule rule {short(self._graph.text(value))}")

    def _check_parameters(self, data: Node) -> None:
        limits.require(len(self._graph.array(data["params"])), limits.TENSORS, "inputs and outputs")

    def _check_loop(self, data: Node) -> None:
        self._check_annotations(data)
        if not 0 <= data["kind"] < LOOP_KINDS:
            self._refuse(f"has a loop of the unknown kind {short(data['kind'])}")
        self._check_extent(data)

    def _check_iteration(self, data: Node) -> None:
        if not 0 <= data["iter_type"] < ITERATION_KINDS:
            self._refuse(f"has a block iterator of the unknown kind {short(data['iter_type'])}")

    def _check_extent(self, data: Node) -> None:
        extent, first = self._graph.constant(data["extent"]), self._graph.constant(data["min"])
        if (extent is not None and not 0 <= extent <= limits.EXTENT) or abs(first or 0) > limits.EXTENT:
            self._refuse(
                f"has a loop or region from {first} of {extent} steps; at most {limits.EXTENT:,} are possible"
            )

    def _check_buffer(self, data: Node) -> None:
        self._check_dims(self._graph.array(data["shape"]))
        if self._graph.array(data["allocated_addr"]):
            self._refuse("has a buffer at an address of its own choice")

    def _check_shape(self, data: Node) -> None:
        if self._graph.kind(data["values"]) != "None":
            self._check_dims(self._graph.array(data["values"]))

    def _check_dims(self, dims: Sequence[int]) -> None:
        sizes = [size for size in map(self._graph.constant, dims) if size is not None]
        if len(dims) > RANK or any(size < 0 for size in sizes) or math.prod(sizes) > limits.EXTENT:
            self._refuse(
                f"has a tensor of the shape {short(sizes)}; at most {limits.EXTENT:,} elements are possible"
            )

    def _check_tensor(self, data: str) -> None:
        self._constants += 1
        self._constant_bytes += tensor_bytes(data)
        limits.require(self._constants, limits.CONSTANTS, "constants")
        limits.require(self._constant_bytes, limits.CONSTANT_BYTES, "bytes of constants")

    def _refuse(self, what: str) -> NoReturn:
        version = self._graph.version
        by = (
            "" if version.startswith(TVM_VERSION) else f"; it was written by TVM {version}, not {TVM_VERSION}"
        )
        raise BadModel(f"the TVM JSON model {what}: {EXPORT}{by}")


def check_loaded(module: Any) -> None:
    """Look once more at what TVM made of the text, function by function, with TVM's own visitor.

    Raises:
        BadModel: there is a call of what is no known operator.
    """
    import tvm
    import tvm_ffi

    refused: list[str] = []  # an exception would come out of TVM as another one

    def visit_call(call: Any) -> None:
        if isinstance(call.op, tvm.ir.Op) and str(call.op.name) not in OPERATORS:
            refused.append(str(call.op.name))

    def visit_external(function: Any) -> None:
        refused.append(str(function.global_symbol))

    functions = module.functions.values() if isinstance(module, tvm.IRModule) else [module]
    for function in functions:
        tvm_ffi.structural_walk(function, [(tvm.ir.Call, visit_call), (tvm.relax.ExternFunc, visit_external)])
    if refused:
        raise BadModel(f"the TVM JSON model calls {short(refused[0])}: {EXPORT}")
