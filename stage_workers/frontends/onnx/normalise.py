"""From an ONNX model with fixed shapes to a graph that is easy to import.

One pass over the nodes, in order. For each, what is known of its inputs (values, types, shapes) is exact, and
the first of these that applies is done:

- what only the model's version of the operators knows is brought up to date (:mod:`.legacy`);
- functions that the model brings along are put in place;
- an operator that can be written in terms of others is, and what takes its place is looked at in turn
  (:mod:`.steps`, and the definitions that ONNX itself has as functions);
- what depends on constants only is computed (:mod:`.folding`);
- otherwise the node stays, and its outputs get the types that ONNX's inference gives.

Only then is the rest of the model looked at, so that a shape that was computed from other shapes, a branch
whose condition is now known and the length of a loop are all plain constants when they are needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import onnx

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import limits
from tunemesh.stage_workers.frontends.onnx import folding, inference, legacy, scope, steps, tensors
from tunemesh.stage_workers.frontends.onnx.graph import (
    DIALECT,
    Graph,
    Node,
    Type,
    Unknown,
    shown,
    unsupported,
)
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error

PLAIN = (int, float, str, list)
"""Attributes that can be compared; others are tensors and graphs."""


class Normaliser:
    """Rewrites one model.

    Args:
        model: a ``ModelProto``, checked. Its own weights are taken out of it.
        shapes: of all inputs, by name.
        files: what came with the model.
    """

    def __init__(self, model: Any, shapes: Mapping[str, list[int]], files: tensors.Files) -> None:
        self.graph = Graph()
        self.graph.write = self._write
        self._files = files
        self._done = 0
        self._computed: dict[tuple[Any, ...], list[str]] = {}
        self._aliases: dict[str, str] = {}
        self._functions = {(f.domain, f.name): f for f in model.functions}
        opsets = {each.domain: each.version for each in model.opset_import}
        self._scope = scope.Scope(opsets, files=files)
        self._model = model
        self._take_weights()
        for value in model.graph.input:
            if value.name not in self.graph.constants:
                self._take_input(value, shapes)
        self.graph.outputs = [value.name for value in model.graph.output]

    def run(self) -> Graph:
        """Rewrite all nodes.

        Raises:
            BadModel: something cannot be imported; it is named.
        """
        self._write(self._scope.node(proto) for proto in self._model.graph.node)
        # The message may be large, even without its weights: whoever keeps the graph need not keep it.
        self.graph.write = self.graph.nodes_as_they_are
        for index, name in enumerate(self.graph.outputs):
            self.graph.outputs[index] = self._resolved(name, "an output of the model")
        _drop_unused(self.graph)
        return self.graph

    def _write(self, nodes: Iterable[Node]) -> None:
        waiting = deque(nodes)
        while waiting:
            self._done += 1
            limits.require(
                self._done, limits.OPERATORS, "operators once its functions and loops are written out"
            )
            node = waiting.popleft()
            node.inputs = [self._resolved(name, node) for name in node.inputs]
            node.outputs = list(node.outputs)
            try:
                replaced = self._replaced(node)
            except Unknown as error:
                todo = "end the model before it, and do what follows in a program of your own"
                raise unsupported(node, str(error), todo) from None
            except BadModel:
                raise
            except Exception as error:  # a step finds too few inputs, or an attribute of another type
                reraise_memory_error(error)
                what = f"{type(error).__name__}: {first_line(error)}"
                raise BadModel(f"{node} does not fit its operator's definition: {what}") from None
            if replaced is not None:
                waiting.extendleft(reversed(replaced))

    def _take_weights(self) -> None:
        graph = self._model.graph
        for weight in graph.initializer:
            if weight.name in self.graph.constants:
                raise BadModel(f"the ONNX file is damaged: two weights are called {shown(weight.name)}")
            self.graph.add_constant(tensors.load(weight, self._files), weight.name)
        for sparse in graph.sparse_initializer:
            self.graph.add_constant(scope.dense(sparse, self._files), sparse.values.name)
        # They are held as arrays now, and a second time in the message.
        graph.ClearField("initializer")
        graph.ClearField("sparse_initializer")

    def _take_input(self, value: Any, shapes: Mapping[str, list[int]]) -> None:
        declared = inference.from_type_proto(value.type, value.name, "the model's input")
        if declared.dtype == onnx.TensorProto.STRING:
            raise BadModel(f"the input {shown(value.name)} holds strings, which cannot be computed with")
        self.graph.types[value.name] = Type(declared.dtype, tuple(shapes[value.name]))
        self.graph.inputs.append(value.name)

    def _resolved(self, name: str, user: object) -> str:
        seen = name
        while name in self._aliases:
            name = self._aliases[name]
        if name and name not in self.graph.types:
            raise BadModel(f"{user} takes {shown(seen)}, which nothing before it makes")
        return name

    def _replaced(self, node: Node) -> list[Node] | None:
        """What is to be looked at in place of a node; ``None`` when it is finished."""
        graph = self.graph
        if self._known(node):
            return None
        if (function := self._functions.get((node.domain, node.op))) is not None:
            return scope.put_function(function, graph, node, self._files)
        if not node.domain and node.version < DIALECT:
            if (step := legacy.STEPS.get(node.op)) is not None and (new := step(node, graph)) is not None:
                return list(new)
            node.version = DIALECT
        if node.op == "Identity" and not node.domain:
            self._alias(node.outputs[0], node.inputs[0])
            return None
        if (step := steps.find(node)) is not None and (new := step(node, graph)) is not None:
            return list(new)
        graph.types |= inference.infer(node, graph)
        if (values := folding.fold(node, graph)) is not None:
            for name, value in zip([name for name in node.outputs if name], values, strict=True):
                graph.add_constant(value, name)
            return None
        if (body := steps.definition(node, graph)) is not None:
            return scope.put_function(body, graph, node, self._files)
        graph.nodes.append(node)
        return None

    def _known(self, node: Node) -> bool:
        """Whether the same was computed before: its results are those then. The weights of a layer that is
        written out step by step are prepared once in this way."""
        if not all(isinstance(value, PLAIN) for value in node.attributes.values()):
            return False
        attributes = tuple(sorted((key, repr(value)) for key, value in node.attributes.items()))
        key = (node.domain, node.op, tuple(node.inputs), len(node.outputs), attributes, node.version)
        before = self._computed.setdefault(key, node.outputs)
        if before == node.outputs or any(a and not b for a, b in zip(node.outputs, before, strict=True)):
            return False
        for new, old in zip(node.outputs, before, strict=True):
            self._alias(new, old)
        return True

    def _alias(self, name: str, of: str) -> None:
        """Where a damaged model makes a name twice, it may be one for itself, which would never end."""
        while of in self._aliases:
            of = self._aliases[of]
        if name and name != of:
            self._aliases[name] = of


def _drop_unused(graph: Graph) -> None:
    """Leave out nodes and constants on which no output depends."""
    used = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if used.intersection(node.outputs):
            kept.append(node)
            used.update(node.inputs)
    graph.nodes = kept[::-1]
    graph.constants = {name: value for name, value in graph.constants.items() if name in used}
