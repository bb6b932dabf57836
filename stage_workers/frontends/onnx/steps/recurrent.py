"""LSTM, GRU and RNN, written out step by step.

The product of the inputs with their weights is one for all steps; what is left in a step is the product with
the state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunemesh.stage_workers.frontends.onnx.graph import Expansion, Graph, Node, unsupported

New = list[Node] | None

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}

MOST_STEPS = 20_000
"""Of one layer that is written out."""

WITH_ALPHA = {
    "LeakyRelu": 0.01,
    "Elu": 1.0,
    "HardSigmoid": 0.2,
    "ThresholdedRelu": 1.0,
    "ScaledTanh": None,
    "Affine": None,
}
WITH_BETA = {"HardSigmoid": 0.5, "ScaledTanh": None, "Affine": None}
PLAIN = ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus")
NAMES = {name.lower(): name for name in (*PLAIN, *WITH_ALPHA)}
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}

Function = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Quantised:
    """Weights that are quantised, and are not to be transposed.

    Attributes:
        scales: of the weights for inputs and for states.
        zeros: their zero points.
        product: a product of floats with such weights: weights, scale, zero point.
    """

    scales: tuple[str, str]
    zeros: tuple[str, str]
    product: Callable[[Expansion, str, str, str, str], str]


def standard(node: Node, graph: Graph) -> New:
    """``LSTM``, ``GRU`` or ``RNN``."""
    return layer(node, graph, None)


def layer(node: Node, graph: Graph, weights: Quantised | None) -> New:
    """The same, with weights of any kind."""
    new = Expansion(graph, node)
    x = node.inputs[0]
    batch_first = bool(node.attributes.get("layout", 0))
    if batch_first:
        x = new("Transpose", x, perm=[1, 0, 2])
    shape = graph.shape(node.inputs[0])
    steps, batch = (shape[1], shape[0]) if batch_first else (shape[0], shape[1])
    if not 0 < steps <= MOST_STEPS:
        raise unsupported(node, f"it has {steps:,} steps; 1 to {MOST_STEPS:,} are supported")
    direction = node.attributes.get("direction", "forward")
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    functions = _activations(node, new, len(ways))
    sides = [
        _Side(node, new, index, backwards, steps, batch, batch_first, functions[index], weights)
        for index, backwards in enumerate(ways)
    ]
    ran = [side.run(x) for side in sides]
    _gather(node, new, ran, steps, batch_first)
    return new.nodes


def _gather(node: Node, new: Expansion, ran: list[_Ran], steps: int, batch_first: bool) -> None:
    """The outputs, of all directions."""
    if node.output(0):
        # [direction][step] of [batch, hidden] to [step, direction, batch, hidden], or with the batch first.
        axis = 1 if batch_first else 0
        turns = []
        for step in range(steps):
            both = [new("Unsqueeze", each.steps[step], new.ints(axis)) for each in ran]
            joined = new("Concat", *both, axis=axis) if len(both) > 1 else both[0]
            turns.append(new("Unsqueeze", joined, new.ints(axis)))
        new("Concat", *turns, to=node.output(0), axis=axis)
    for index, last in ((1, [each.hidden for each in ran]), (2, [each.cell for each in ran])):
        if node.output(index):
            axis = 1 if batch_first else 0
            both = [new("Unsqueeze", each, new.ints(axis)) for each in last]
            new("Concat", *both, to=node.output(index), axis=axis)


@dataclass(frozen=True, slots=True)
class _Ran:
    """What one direction gave: the state after every step, in the order of the input, and at the end."""

    steps: list[str]
    hidden: str
    cell: str


class _Side:
    """One direction of a layer."""

    def __init__(
        self,
        node: Node,
        new: Expansion,
        index: int,
        backwards: bool,
        steps: int,
        batch: int,
        batch_first: bool,
        functions: list[Function],
        quantised: Quantised | None,
    ) -> None:
        self.node, self.new, self.index, self.backwards = node, new, index, backwards
        self.steps, self.batch, self.batch_first = steps, batch, batch_first
        self.functions, self.quantised = functions, quantised
        self.hidden_size = new.graph.shape(node.inputs[2])[1 if quantised else 2]
        self.gates = GATES[node.op]
        self.dtype = new.graph.dtype(node.inputs[0])

    def run(self, x: str) -> _Ran:
        new, node = self.new, self.node
        weights, recurrent = self._of(node.inputs[1]), self._of(node.inputs[2])
        if not self.quantised:
            weights, recurrent = (new("Transpose", each, perm=[1, 0]) for each in (weights, recurrent))
        bias = self._of(node.input(3)) if node.input(3) else ""
        after_reset = self.gates == 3 and bool(node.attributes.get("linear_before_reset", 0))
        width = self.gates * self.hidden_size
        of_input = of_state = ""
        if bias:
            of_input, of_state = (self._part(bias, i * width, width, axis=0) for i in (0, 1))
        if bias and not after_reset:
            of_input, of_state = new("Add", of_input, of_state), ""
        projected = self._product(x, weights, 0)
        if of_input:
            projected = new("Add", projected, of_input)
        hidden = self._state(5)
        cell = self._state(6) if self.gates == 4 else ""
        peepholes = self._of(node.input(7)) if node.input(7) else ""
        lengths = node.input(4)
        results = [""] * self.steps
        for step in reversed(range(self.steps)) if self.backwards else range(self.steps):
            given = new("Gather", projected, new.constant(step, np.int64), axis=0)
            if self.gates == 4:
                made, made_cell = self._lstm(given, hidden, cell, recurrent, peepholes)
            elif self.gates == 3:
                made, made_cell = self._gru(given, hidden, recurrent, of_state, after_reset), ""
            else:
                made, made_cell = self._rnn(given, hidden, recurrent), ""
            results[step] = made
            if lengths and not self._all(lengths):
                goes_on = new("Less", new.constant(step, np.int32), new.cast(lengths, np.int32))
                goes_on = new("Unsqueeze", goes_on, new.ints(1))
                results[step] = new("Where", goes_on, made, new.constant(0, self.dtype))
                made = new("Where", goes_on, made, hidden)
                made_cell = new("Where", goes_on, made_cell, cell) if made_cell else ""
            hidden, cell = made, made_cell
        return _Ran(results, hidden, cell)

    def _all(self, lengths: str) -> bool:
        """Whether every sequence is as long as the input."""
        known = self.new.graph.value(lengths)
        return known is not None and bool((known == self.steps).all())

    def _lstm(self, given: str, hidden: str, cell: str, recurrent: str, peepholes: str) -> tuple[str, str]:
        new, size = self.new, self.hidden_size
        gates = new("Add", given, self._product(hidden, recurrent, 1))
        i, o, f, c = (self._part(gates, k * size, size) for k in range(4))
        if peepholes:
            of_i, of_o, of_f = (self._part(peepholes, k * size, size, axis=0) for k in range(3))
            i = new("Add", i, new("Mul", of_i, cell))
            f = new("Add", f, new("Mul", of_f, cell))
        inner, candidate, outer = self.functions
        i = inner(self._clipped(i))
        f = new("Sub", new.constant(1, self.dtype), i) if self._coupled() else inner(self._clipped(f))
        made_cell = new("Add", new("Mul", f, cell), new("Mul", i, candidate(self._clipped(c))))
        if peepholes:
            o = new("Add", o, new("Mul", of_o, made_cell))
        return new("Mul", inner(self._clipped(o)), outer(made_cell)), made_cell

    def _product(self, value: str, weights: str, which: int) -> str:
        """With the weights for inputs (0) or for states (1)."""
        kind = self.quantised
        if kind is None:
            return self.new("MatMul", value, weights)
        zero = self._of(kind.zeros[which]) if kind.zeros[which] else ""
        return kind.product(self.new, value, weights, self._of(kind.scales[which]), zero)

    def _coupled(self) -> bool:
        return bool(self.node.attributes.get("input_forget", 0))

    def _gru(self, given: str, hidden: str, recurrent: str, bias: str, after_reset: bool) -> str:
        new, size = self.new, self.hidden_size
        update_reset = self._part(recurrent, 0, 2 * size)
        own = self._part(recurrent, 2 * size, size)
        gates = new("Add", self._part(given, 0, 2 * size), new("MatMul", hidden, update_reset))
        if bias:
            gates = new("Add", gates, self._part(bias, 0, 2 * size, axis=0))
        inner, candidate = self.functions
        update, reset = (inner(self._clipped(self._part(gates, k * size, size))) for k in range(2))
        if after_reset:
            state = new("MatMul", hidden, own)
            if bias:
                state = new("Add", state, self._part(bias, 2 * size, size, axis=0))
            state = new("Mul", reset, state)
        else:
            state = new("MatMul", new("Mul", reset, hidden), own)
        fresh = candidate(self._clipped(new("Add", self._part(given, 2 * size, size), state)))
        kept = new("Mul", update, hidden)
        return new("Add", new("Mul", new("Sub", new.constant(1, self.dtype), update), fresh), kept)

    def _rnn(self, given: str, hidden: str, recurrent: str) -> str:
        total = self.new("Add", given, self.new("MatMul", hidden, recurrent))
        return self.functions[0](self._clipped(total))

    def _clipped(self, value: str) -> str:
        clip = self.node.attributes.get("clip")
        if clip is None:
            return value
        new = self.new
        return new("Clip", value, new.constant(-clip, self.dtype), new.constant(clip, self.dtype))

    def _of(self, name: str) -> str:
        """This direction's part of something that all have."""
        return self.new("Gather", name, self.new.constant(self.index, np.int64), axis=0)

    def _part(self, name: str, start: int, size: int, axis: int = 1) -> str:
        ints = self.new.ints
        return self.new("Slice", name, ints(start), ints(start + size), ints(axis))

    def _state(self, index: int) -> str:
        name = self.node.input(index)
        if not name:
            return self.new.constant(np.zeros((self.batch, self.hidden_size), self.dtype))
        position = self.new.constant(self.index, np.int64)
        return self.new("Gather", name, position, axis=1 if self.batch_first else 0)


def _activations(node: Node, new: Expansion, ways: int) -> list[list[Function]]:
    """The functions of each direction."""
    wanted = node.attributes.get("activations") or DEFAULTS[node.op] * ways
    alphas = list(node.attributes.get("activation_alpha") or [])
    betas = list(node.attributes.get("activation_beta") or [])
    each = len(DEFAULTS[node.op])
    if len(wanted) != each * ways:
        raise unsupported(node, f"it names {len(wanted)} activations; it has {each * ways}")
    made = [_activation(node, new, name, alphas, betas) for name in wanted]
    return [made[i * each : (i + 1) * each] for i in range(ways)]


def _activation(node: Node, new: Expansion, wanted: str, alphas: list[float], betas: list[float]) -> Function:
    """One function. Those with parameters take the next that are given."""
    name = NAMES.get(wanted.lower())
    if name is None:
        raise unsupported(node, f"the activation {wanted} is unknown")
    alpha = _next(alphas, WITH_ALPHA[name]) if name in WITH_ALPHA else None
    beta = _next(betas, WITH_BETA[name]) if name in WITH_BETA else None
    if (name in WITH_ALPHA and alpha is None) or (name in WITH_BETA and beta is None):
        raise unsupported(node, f"the activation {name} needs a value that is not given")
    dtype = new.graph.dtype(node.inputs[0])

    def apply(value: str) -> str:
        if name == "Affine":
            scaled = new("Mul", value, new.constant(alpha, dtype))
            return new("Add", scaled, new.constant(beta, dtype))
        if name == "ScaledTanh":
            inner = new("Tanh", new("Mul", value, new.constant(beta, dtype)))
            return new("Mul", inner, new.constant(alpha, dtype))
        attributes: dict[str, Any] = {}
        if alpha is not None:
            attributes["alpha"] = alpha
        if beta is not None:
            attributes["beta"] = beta
        return new(name, value, **attributes)

    return apply


def _next(given: list[float], default: float | None) -> float | None:
    return given.pop(0) if given else default


STEPS = {"LSTM": standard, "GRU": standard, "RNN": standard}
