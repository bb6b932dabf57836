"""Accesses of TIR functions outside of their buffers.

What such a function computes depends on what happens to lie beside the buffer in memory: the reference kernel
and a candidate find different things there, and no schedule is right. TVM's own check
(``tvm.s_tir.analysis.OOBChecker``) knows no conditions, so that it refuses padding. To refuse a function that
is right is worse than to tune one that is not. So only a *witness* counts here: values of the loops for which
every condition around an access holds and one of its indices lies outside. Few loops are run through; of many
there are the corners and random places. What depends on data, or on a dimension that is not constant, is left
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.graph.places import (
    Budget,
    Exhausted,
    Loop,
    Meanings,
    Numbers,
    Places,
    Unknown,
    choice,
)

NODES = 200_000
"""Nodes of a function that are looked at. What comes behind them is left alone."""
GRID = 2**16
"""Places up to which all are tried."""
SAMPLES = 2**14
"""Random places that are tried where there are more."""
CORNERS = 12
"""Loops of which all corners are tried."""
FAR = 2**50
"""A bound beyond it is none."""

Conditions = tuple[tuple[Any, bool], ...]
"""What is true and what is false where something happens."""


Visits = list[tuple[Any, Conditions]]
"""Nodes to look at, and what holds there."""


class _Access(NamedTuple):
    """A load or a store, and the conditions on which it happens."""

    verb: str
    buffer: Any
    indices: list[Any]
    conditions: Conditions


def check(module: Any) -> None:
    """Refuse TIR functions that reach outside of their buffers.

    Args:
        module: with functions of TIR among others, or one function.

    Raises:
        BadModel: an access has a witness. The text names the function, the access, and the shape.
    """
    import tvm

    if isinstance(module, tvm.IRModule):
        functions = [(str(name.name_hint), function) for name, function in module.functions_items()]
    else:
        functions = [(str((module.attrs or {}).get("global_symbol", "main")), module)]
    for name, function in functions:
        if isinstance(function, tvm.tirx.PrimFunc) and (found := outside(function)):
            raise BadModel(f"the function {name} {found}: correct its loops, or guard the access")


def outside(function: Any) -> str:
    """What a TIR function does outside of a buffer: "reads a[0, 2], outside of its shape (1, 2)". Empty where
    there is no witness."""
    walk = _Walk(function)
    budget = Budget()
    try:
        for access in walk.accesses:
            for dimension in range(len(access.indices)):
                if found := _witness(walk, access, dimension, budget):
                    return found
    except (Exhausted, RecursionError):  # an expression may have more levels than Python has frames
        pass
    return ""


def _witness(walk: _Walk, access: _Access, dimension: int, budget: Budget) -> str:
    """What an access does where one of its indices lies outside."""
    size = _constant(access.buffer.shape[dimension])
    index = access.indices[dimension]
    if size is None or walk.inside(index, size):
        return ""
    loops = walk.meanings.loops_of([index, *(condition for condition, _ in access.conditions)])
    if any(not -FAR < each.low <= each.high < FAR for each in loops.values()):
        return ""
    values = _values(loops)
    places = Places(walk.meanings, values, _count(values), budget)
    try:
        found = places.numbers(index)
    except Unknown:
        return ""
    wrong = (found < 0) | (found >= size)
    for condition, wanted in access.conditions:
        if not wrong.any():
            return ""
        wrong &= places.certain(condition, wanted)
    if not wrong.any():
        return ""
    first = int(np.argmax(wrong))
    there = Places(walk.meanings, {loop: each[first : first + 1] for loop, each in values.items()}, 1, budget)
    indices = ", ".join(_told(there, each) for each in access.indices)
    shape = ", ".join(map(str, access.buffer.shape)) + ("," if len(access.indices) == 1 else "")
    return f"{access.verb} {access.buffer.name}[{indices}], outside of its shape ({shape})"


def _told(there: Places, index: Any) -> str:
    try:
        return str(there.numbers(index)[0])
    except Unknown:
        return "?"


def _count(values: dict[int, Numbers]) -> int:
    return next((len(each) for each in values.values()), 1)


def _values(loops: dict[int, Loop]) -> dict[int, Numbers]:
    """Places to try."""
    lows = np.array([each.low for each in loops.values()], np.int64)
    sizes = [each.high - each.low + 1 for each in loops.values()]
    if not loops:
        return {}
    if (count := math.prod(sizes)) <= GRID:
        steps = np.stack(np.unravel_index(np.arange(count), sizes))
    else:
        highest = np.array(sizes, np.int64)[:, None] - 1
        random = np.random.default_rng(0)
        anywhere = random.integers(0, highest, (len(sizes), SAMPLES), endpoint=True)
        choice = random.integers(0, 3, anywhere.shape)
        steps = np.where(choice == 0, 0, np.where(choice == 1, highest, anywhere))
        corners = np.array(np.unravel_index(np.arange(2 ** min(CORNERS, len(sizes))), [2] * len(sizes)))
        steps = np.concatenate([corners * highest, steps], axis=1)
    return {loop: low + step for loop, low, step in zip(loops, lows, steps, strict=True)}


def _and(held: Conditions, condition: Any, wanted: bool) -> Conditions:
    return held if _constant(condition) == wanted else (*held, (condition, wanted))


def _constant(expression: Any) -> int | None:
    import tvm

    return int(expression.value) if isinstance(expression, tvm.tirx.IntImm) else None


class _Walk:
    """One way through a function.

    Attributes:
        accesses: its loads and stores.
        meanings: of its variables.
    """

    def __init__(self, function: Any) -> None:
        import tvm
        from tvm import ir, tirx
        from tvm.s_tir import SBlockRealize
        from tvm.sym import Analyzer

        self.accesses: list[_Access] = []
        self.meanings = Meanings()
        self._analyzer = Analyzer()
        # Each notes what there is to note, and gives the children, each with the conditions that hold there.
        visits: dict[type, Callable[[Any, Conditions], Visits]] = {
            tirx.For: self._loop,
            SBlockRealize: self._block,
            tirx.Bind: self._bind,
            tirx.Let: self._let,
            tirx.IfThenElse: self._branch,
            tirx.While: self._while,
            tirx.BufferStore: self._store,
            ir.TensorLoad: self._load,
            ir.Call: self._call,
            tirx.Select: self._call,
            tirx.And: lambda node, held: [(node.a, held), (node.b, _and(held, node.a, True))],
            tirx.Or: lambda node, held: [(node.a, held), (node.b, _and(held, node.a, False))],
            tirx.SeqStmt: lambda node, held: [(each, held) for each in node.seq],
            tirx.Evaluate: lambda node, held: [(node.value, held)],
            tirx.Cast: lambda node, held: [(node.value, held)],
            tirx.Not: lambda node, held: [(node.a, held)],
        }
        # No recursion: there may be more nodes inside one another than Python has frames.
        stack: list[tuple[Any, Conditions]] = [(function.body, ())]
        for _ in range(NODES):
            if not stack:
                break
            node, held = stack.pop()
            if visit := visits.get(type(node)):
                stack += reversed(visit(node, held))
            elif isinstance(node, (tvm.ir.prim.BinaryOpExpr, tvm.ir.prim.CmpExpr)):
                stack += [(node.b, held), (node.a, held)]

    def inside(self, index: Any, size: int) -> bool:
        """Whether TVM can tell that an index is never outside."""
        found = self._analyzer.const_int_bound(index)
        return int(found.min_value) >= 0 and int(found.max_value) < size

    def _mean(self, variable: Any, meaning: Any) -> None:
        """Note what a variable is."""
        from tvm.sym import ConstIntBound

        self.meanings.add(variable, meaning)
        low, high = (meaning.low, meaning.high) if isinstance(meaning, Loop) else self._bounds(meaning)
        self._analyzer.update(variable, ConstIntBound(low, high), True)

    def _bounds(self, expression: Any) -> tuple[int, int]:
        found = self._analyzer.const_int_bound(expression)
        return int(found.min_value), int(found.max_value)

    def _loop(self, loop: Any, held: Conditions) -> Visits:
        from tvm import tirx

        visits = [(loop.min, held), (loop.extent, held)]
        end = loop.min + loop.extent
        low, high = self._bounds(loop.min)[0], self._bounds(end)[1] - 1
        if high < low:  # it has no steps
            return visits
        if loop.step is None or _constant(loop.step) == 1:
            self._mean(loop.loop_var, Loop(low, high))
        if _constant(loop.min) is None or _constant(loop.extent) is None:
            held = (*held, (tirx.GE(loop.loop_var, loop.min), True), (tirx.LT(loop.loop_var, end), True))
        return [*visits, (loop.body, held)]

    def _block(self, realize: Any, held: Conditions) -> Visits:
        block = realize.block
        visits = [(each, held) for each in (*realize.iter_values, realize.predicate)]
        for iteration, value in zip(block.iter_vars, realize.iter_values, strict=True):
            self._mean(iteration.var, value)
        held = _and(held, realize.predicate, True)
        return visits + [(each, held) for each in (block.init, block.body) if each is not None]

    def _bind(self, node: Any, held: Conditions) -> Visits:
        self._mean(node.var, node.value)
        return [(node.value, held)]

    def _let(self, node: Any, held: Conditions) -> Visits:
        return [*self._bind(node, held), (node.body, held)]

    def _branch(self, node: Any, held: Conditions) -> Visits:
        visits = [(node.condition, held), (node.then_case, _and(held, node.condition, True))]
        if node.else_case is not None:
            visits.append((node.else_case, _and(held, node.condition, False)))
        return visits

    def _while(self, node: Any, held: Conditions) -> Visits:
        return [(node.condition, held), (node.body, _and(held, node.condition, True))]

    def _store(self, node: Any, held: Conditions) -> Visits:
        self.accesses.append(_Access("writes", node.buffer, list(node.indices), held))
        return [(each, held) for each in (*node.indices, node.value)]

    def _load(self, node: Any, held: Conditions) -> Visits:
        self.accesses.append(_Access("reads", node.source, list(node.indices), held))
        return [(each, held) for each in node.indices]

    def _call(self, node: Any, held: Conditions) -> Visits:
        """A choice, or another call. A ``Select`` may load for both, but then drops what is wrong."""
        if (parts := choice(node)) is None:
            return [(each, held) for each in node.args]
        condition, one, other = parts
        return [
            (condition, held),
            (one, _and(held, condition, True)),
            (other, _and(held, condition, False)),
        ]
