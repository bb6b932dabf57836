"""Integer expressions of TIR, computed for many places at once.

A place is a value for each loop around an expression. Conditions know three answers: a place where something
depends on data neither holds nor fails.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

WORK = 2**28
"""Numbers that may be computed for one function: about a second."""
SAFE = 2**62
"""Two numbers below it can be added without overflow."""

Numbers = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


class Unknown(Exception):
    """An expression depends on data, or on what is not computed here."""


class Exhausted(Exception):
    """:data:`WORK` is spent."""


class Loop(Struct, frozen=True):
    """The values of a loop's variable: from ``low`` to ``high``. Where these depend on loops further out,
    they are the outermost ones."""

    low: int
    high: int


class Meanings:
    """What the variables of a function are, by TVM's hash: loops, or names of expressions."""

    def __init__(self) -> None:
        self._found: dict[int, Any] = {}

    def add(self, variable: Any, meaning: Any) -> None:
        """Note what a variable is. One that is two things is unknown."""
        number = hash(variable)
        self._found[number] = None if number in self._found else meaning

    def of(self, variable: Any) -> Any:
        """A :class:`Loop`, an expression, or ``None`` where it is not known."""
        return self._found.get(hash(variable))

    def loops_of(self, expressions: list[Any]) -> dict[int, Loop]:
        """The loops that expressions depend on."""
        import tvm
        import tvm_ffi

        found: dict[int, Loop] = {}
        seen: set[int] = set()
        left = list(expressions)

        def visit(variable: Any) -> None:
            number = hash(variable)
            meaning = None if number in seen else self._found.get(number)
            seen.add(number)
            if isinstance(meaning, Loop):
                found[number] = meaning
            elif meaning is not None:
                left.append(meaning)

        while left:
            tvm_ffi.structural_walk(left.pop(), (tvm.ir.Var, visit))
        return found


class Budget:
    """Numbers that may still be computed."""

    def __init__(self) -> None:
        self._left = WORK

    def spend(self, numbers: int) -> None:
        """Count numbers.

        Raises:
            Exhausted: they are more than are left.
        """
        self._left -= numbers
        if self._left < 0:
            raise Exhausted


class Places:
    """Places, and what expressions are there.

    Args:
        meanings: of the variables.
        values: of the loops' variables, by TVM's hash, one for each place.
        count: how many places there are.
    """

    def __init__(self, meanings: Meanings, values: Mapping[int, Numbers], count: int, budget: Budget) -> None:
        self._meanings = meanings
        self._values = values
        self._count = count
        self._budget = budget

    def numbers(self, expression: Any) -> Numbers:
        """The values of an expression. A truth is 0 or 1.

        Raises:
            Unknown: they depend on data, overflow, or are not computed here.
            Exhausted: there was too much to compute.
        """
        self._budget.spend(self._count)
        kind = type(expression)
        node = _nodes()
        if kind is node.integer:
            return np.full(self._count, int(expression.value), np.int64)
        if kind is node.variable:
            return self._variable(expression)
        if compute := node.arithmetic.get(kind):
            a, b = self.numbers(expression.a), self.numbers(expression.b)
            return _within(compute(a, b), expression)
        if kind in node.truths:
            return self._truth(expression)
        if kind is node.let:
            return self.numbers(expression.body)
        if kind is node.cast:
            return _within(self.numbers(expression.value), expression)
        if parts := choice(expression):
            condition, one, other = parts
            return np.where(self._truth(condition) != 0, self.numbers(one), self.numbers(other))
        raise Unknown

    def certain(self, condition: Any, wanted: bool) -> Truths:
        """Where a condition is certainly true, or certainly false, as ``wanted``.

        Raises:
            Exhausted: there was too much to compute.
        """
        kind = type(condition)
        node = _nodes()
        if kind in (node.both, node.either):
            one, other = (self.certain(each, wanted) for each in (condition.a, condition.b))
            return one & other if (kind is node.both) == wanted else one | other
        if kind is node.negation:
            return self.certain(condition.a, not wanted)
        if kind is node.call and str(condition.op.name) == "prim.likely":
            return self.certain(condition.args[0], wanted)
        try:
            if compare := node.comparisons.get(kind):
                found: Truths = compare(self.numbers(condition.a), self.numbers(condition.b))
            else:
                found = self.numbers(condition) != 0
        except Unknown:
            return np.zeros(self._count, np.bool_)
        return np.asarray(found == wanted)

    def _truth(self, condition: Any) -> Numbers:
        holds = self.certain(condition, True)
        if not (holds | self.certain(condition, False)).all():
            raise Unknown
        return holds.astype(np.int64)

    def _variable(self, variable: Any) -> Numbers:
        meaning = self._meanings.of(variable)
        if meaning is None:
            raise Unknown
        if isinstance(meaning, Loop):
            # Where nothing depends on it, any value does.
            found = self._values.get(hash(variable))
            return np.full(self._count, meaning.low, np.int64) if found is None else found
        return self.numbers(meaning)


def choice(expression: Any) -> tuple[Any, Any, Any] | None:
    """The condition and the alternatives of a choice."""
    node = _nodes()
    if type(expression) is node.select:
        return expression.condition, expression.true_value, expression.false_value
    if type(expression) is node.call and str(expression.op.name) == "prim.if_then_else":
        condition, one, other = expression.args
        return condition, one, other
    return None


def _within(values: Numbers, expression: Any) -> Numbers:
    """``values``, if the type of the expression has them."""
    dtype = str(expression.ty.dtype)
    if dtype == "bool":
        return values
    if not dtype.startswith("int") or not dtype[3:].isdigit():
        raise Unknown
    limit = min(2 ** (int(dtype[3:]) - 1), SAFE)
    if values.size and not (-limit <= int(values.min()) and int(values.max()) < limit):
        raise Unknown
    return values


def _multiplied(a: Numbers, b: Numbers) -> Numbers:
    if a.size and int(np.abs(a).max()) * int(np.abs(b).max()) >= SAFE:
        raise Unknown
    return a * b


def _shifted_left(a: Numbers, b: Numbers) -> Numbers:
    if b.size and not (int(b.min()) >= 0 and int(b.max()) < SAFE.bit_length()):
        raise Unknown
    return _multiplied(a, np.left_shift(1, b))


def _shifted_right(a: Numbers, b: Numbers) -> Numbers:
    if b.size and not (int(b.min()) >= 0 and int(b.max()) < SAFE.bit_length()):
        raise Unknown
    return np.right_shift(a, b)


def _dividing(divide: Callable[[Numbers, Numbers], Numbers]) -> Callable[[Numbers, Numbers], Numbers]:
    def checked(a: Numbers, b: Numbers) -> Numbers:
        if not b.all():
            raise Unknown
        return divide(a, b)

    return checked


def _truncated(a: Numbers, b: Numbers) -> Numbers:
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)))


class _Nodes:
    """TVM's classes of expressions, and what they compute."""

    def __init__(self) -> None:
        from tvm import ir, tirx

        self.integer, self.variable, self.call = tirx.IntImm, ir.Var, ir.Call
        self.let, self.cast, self.select = tirx.Let, tirx.Cast, tirx.Select
        self.both, self.either, self.negation = tirx.And, tirx.Or, tirx.Not
        self.arithmetic: dict[type, Callable[[Numbers, Numbers], Numbers]] = {
            tirx.Add: np.add,
            tirx.Sub: np.subtract,
            tirx.Mul: _multiplied,
            tirx.FloorDiv: _dividing(np.floor_divide),
            tirx.FloorMod: _dividing(np.mod),
            tirx.Div: _dividing(_truncated),
            tirx.Mod: _dividing(np.fmod),
            tirx.Min: np.minimum,
            tirx.Max: np.maximum,
            tirx.BitwiseAnd: np.bitwise_and,
            tirx.BitwiseOr: np.bitwise_or,
            tirx.BitwiseXor: np.bitwise_xor,
            tirx.LShift: _shifted_left,
            tirx.RShift: _shifted_right,
        }
        self.comparisons: dict[type, Callable[[Numbers, Numbers], Truths]] = {
            tirx.EQ: np.equal,
            tirx.NE: np.not_equal,
            tirx.LT: np.less,
            tirx.LE: np.less_equal,
            tirx.GT: np.greater,
            tirx.GE: np.greater_equal,
        }
        self.truths = {self.both, self.either, self.negation, *self.comparisons}


@functools.cache
def _nodes() -> _Nodes:
    return _Nodes()
