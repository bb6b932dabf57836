"""Branches and loops. What is left of them is what runs: one branch, or each turn of a loop in a row."""

from __future__ import annotations

import numpy as np

from tunemesh.stage_workers.frontends.onnx.graph import Expansion, Graph, Node, unsupported
from tunemesh.stage_workers.frontends.onnx.inference import Invalid
from tunemesh.stage_workers.frontends.onnx.scope import Body

New = list[Node] | None

MOST_TURNS = 20_000
"""Of one loop that is written out."""


def branch(node: Node, graph: Graph) -> New:
    """``If``: the branch that is taken, or where that depends on the data both, and a choice between their
    results. Nothing in a graph has side effects, so that it does no harm to compute both. A branch that
    cannot run on tensors of these shapes is never the one that is taken."""
    condition = graph.value(node.inputs[0])
    then, other = node.attributes["then_branch"], node.attributes["else_branch"]
    if condition is not None:
        chosen: Body = then if bool(condition.reshape(-1)[0]) else other
        return chosen.put(graph, [], node.outputs)
    results, flaw = [], None
    for body in (then, other):
        names = [graph.fresh(name) for name in node.outputs]
        try:
            graph.write(body.put(graph, [], names))
            results.append(names)
        except Invalid as error:
            flaw = error
    if not results and flaw is not None:
        raise flaw
    new = Expansion(graph, node)
    for index, to in enumerate(node.outputs):
        if to:
            new(CHOICE, *node.inputs, *(names[index] for names in results), to=to)
    return new.nodes


CHOICE = "~Choice"
"""Between the results of two branches: made by :func:`branch`, and gone after :func:`choice`."""


def choice(node: Node, graph: Graph) -> New:
    """``Where``, but only between tensors of the same type and shape: another choice would be broadcast."""
    condition, *results = node.inputs
    new = Expansion(graph, node)
    if len(results) == 1:
        new("Identity", *results, to=node.outputs[0])
        return new.nodes
    a, b = (graph.types[name] for name in results)
    if a != b or a.sizes is None:
        raise unsupported(
            node,
            "which of two branches runs depends on the data, and their results differ in type or shape",
            "make the condition a constant when the model is exported",
        )
    new("Where", condition, *results, to=node.outputs[0])
    return new.nodes


def loop(node: Node, graph: Graph) -> New:
    """``Loop``: one turn, and the rest of the loop behind it.

    Between the turns the node carries what is left in attributes of its own: the number of the next turn,
    and the values that the turns before have given.
    """
    body: Body = node.attributes["body"]
    turn: int = node.attributes.get("~turn", 0)
    states = node.inputs[2:]
    outputs = len(node.outputs) - len(states)
    given: list[list[str]] = node.attributes.get("~given") or [[] for _ in range(outputs)]
    limit = graph.value(node.input(0)) if node.input(0) else None
    if node.input(0) and limit is None:
        raise unsupported(
            node,
            "how often the loop runs depends on the data",
            "export the model with a fixed number of turns",
        )
    going = graph.value(node.input(1)) if node.input(1) else np.asarray(True)
    if limit is not None and turn >= int(limit.reshape(-1)[0]):
        going = np.asarray(False)
    elif going is None:
        raise unsupported(
            node, "when the loop ends depends on the data", "export the model with a fixed number of turns"
        )
    new = Expansion(graph, node)
    if not bool(going.reshape(-1)[0]):
        for value, to in zip(states, node.outputs, strict=False):
            if to:
                new("Identity", value, to=to)
        for values, to in zip(given, node.outputs[len(states) :], strict=True):
            if to and not values:
                raise unsupported(node, "it never runs, so that its result is empty")
            if to:
                stack(new, values, to)
        return new.nodes
    if turn >= MOST_TURNS:
        raise unsupported(node, f"it runs more than {MOST_TURNS:,} times")
    results = [new.fresh() for _ in body.proto.output]
    condition = node.input(1) or new.constant(True)
    new.nodes += body.put(graph, [new.constant(turn, np.int64), condition, *states], results)
    given = [[*values, result] for values, result in zip(given, results[1 + len(states) :], strict=True)]
    rest = {"body": body, "~turn": turn + 1, "~given": given}
    inputs = [node.input(0), results[0], *results[1 : 1 + len(states)]]
    new.nodes.append(Node("Loop", inputs, node.outputs, rest, name=node.name))
    return new.nodes


def stack(new: Expansion, values: list[str], to: str, axis: int = 0) -> None:
    """One tensor of values of the same shape, along a new axis."""
    slices = [new("Unsqueeze", value, new.ints(axis)) for value in values]
    new("Concat", *slices, to=to, axis=axis)


def scan(node: Node, graph: Graph) -> New:
    """``Scan``: the number of turns is the length of what it goes through."""
    if node.version < 9:
        raise unsupported(node, "its version 8 is not supported", "export the model with opset 9 or newer")
    body: Body = node.attributes["body"]
    through = node.attributes["num_scan_inputs"]
    states, scanned = node.inputs[:-through], node.inputs[-through:]
    outputs = len(node.outputs) - len(states)
    axes = node.attributes.get("scan_input_axes") or [0] * through
    backwards = node.attributes.get("scan_input_directions") or [0] * through
    out_axes = node.attributes.get("scan_output_axes") or [0] * outputs
    out_backwards = node.attributes.get("scan_output_directions") or [0] * outputs
    turns = graph.shape(scanned[0])[axes[0]]
    if not 0 < turns <= MOST_TURNS:
        raise unsupported(node, f"it runs {turns:,} times; 1 to {MOST_TURNS:,} are supported")
    new = Expansion(graph, node)
    given: list[list[str]] = [[] for _ in range(outputs)]
    for turn in range(turns):
        slices = [
            new("Gather", value, new.constant(turns - 1 - turn if back else turn, np.int64), axis=axis)
            for value, axis, back in zip(scanned, axes, backwards, strict=True)
        ]
        results = [new.fresh() for _ in body.proto.output]
        new.nodes += body.put(graph, [*states, *slices], results)
        states = results[: len(states)]
        for values, result in zip(given, results[len(states) :], strict=True):
            values.append(result)
    for value, to in zip(states, node.outputs, strict=False):
        if to:
            new("Identity", value, to=to)
    for values, to, axis, back in zip(
        given, node.outputs[len(states) :], out_axes, out_backwards, strict=True
    ):
        if to:
            stack(new, values[::-1] if back else values, to, axis)
    return new.nodes


STEPS = {"If": branch, CHOICE: choice, "Loop": loop, "Scan": scan}
