"""What is computed of sums, as expressions of Halide: exactly what the task's own expression says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import halide as hl

from tunemesh.stage_workers.engines.template import epilogues
from tunemesh.stage_workers.engines.template.operators import Step
from tunemesh.stage_workers.graph.vector_code import INTEGER, SINGLE, TRUTH, Code, Value

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "max": hl.max,
    "min": hl.min,
    "pow": hl.pow,
}
UNARY: dict[str, Callable[[Any], Any]] = {
    "not": lambda a: ~a,
    "exp": hl.exp,
    "log": hl.log,
    "tanh": hl.tanh,
    "erf": hl.erf,
    "fabs": hl.abs,
    "floor": hl.floor,
    "ceil": hl.ceil,
    "nearbyint": hl.round,  # halves to even numbers
    "sqrt": hl.sqrt,
    "rsqrt": lambda a: single(1.0) / hl.sqrt(a),
    "sigmoid": lambda a: single(1.0) / (single(1.0) + hl.exp(-a)),
}
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "fadd": lambda a, b: a + b,
    "fsub": lambda a, b: a - b,
    "fmul": lambda a, b: a * b,
    "fdiv": lambda a, b: a / b,
    # Halide takes no integer for one that overflows.
    "add": lambda a, b: _signed(_unsigned(a) + _unsigned(b)),
    "sub": lambda a, b: _signed(_unsigned(a) - _unsigned(b)),
    "ashr": lambda a, b: a >> b,
    "shl": lambda a, b: _signed(_unsigned(a) << _unsigned(b)),
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "olt": lambda a, b: a < b,
    "slt": lambda a, b: a < b,
    "ogt": lambda a, b: a > b,
    "sgt": lambda a, b: a > b,
    "oeq": lambda a, b: a == b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "one": lambda a, b: (a < b) | (a > b),  # neither is NaN
}
"""Of :class:`.Value`, as LLVM calls them."""


def objection(steps: Sequence[Step]) -> str:
    """Why these steps cannot be computed; empty where they can."""
    known = {*BINARY, *UNARY, *epilogues.FAST, "select"}
    unknown = sorted({step.name for step in steps if step.kind == "call"} - known)
    return f"it ends in {unknown[0]}" if unknown else ""


def _unsigned(integer: Any) -> Any:
    return hl.reinterpret(hl.UInt(32), integer)


def _signed(integer: Any) -> Any:
    return hl.reinterpret(hl.Int(32), integer)


def single(value: float) -> Any:
    """A constant of single precision."""
    if math.isnan(value) or math.isinf(value):
        bits = 0x7FC00000 if math.isnan(value) else 0x7F800000 if value > 0 else 0xFF800000
        return hl.reinterpret(hl.Float(32), hl.cast(hl.UInt(32), bits))
    return hl.f32(value)


def value_of(steps: Sequence[Step], sums: Any, load: Callable[[Step], Any]) -> Any:
    """The expression of an epilogue.

    Args:
        sums: what it is computed of.
        load: what a step reads from a parameter.
    """
    values: list[Any] = []
    for step in steps:
        given = [values[number] for number in step.arguments]
        if step.kind == "acc":
            values.append(sums)
        elif step.kind == "constant":
            values.append(single(step.value))
        elif step.kind == "load":
            values.append(load(step))
        else:
            values.append(_called(step.name, given))
    # Else Halide would put the terms of formulas into another order, in which they are not exact.
    return hl.strict_float(values[-1])


def _called(name: str, given: Sequence[Any]) -> Any:
    if name in epilogues.FAST:
        code = Expressions(1)
        result = epilogues.FAST[name](*(code.value(each) for each in given))
        assert isinstance(result, Expression)
        return result.expression
    if name == "select":
        return hl.select(*given)
    if name in BINARY:
        return BINARY[name](*given)
    return UNARY[name](*given)


@dataclass(frozen=True)
class Expression(Value):
    """A value that is an expression of Halide; the name says nothing."""

    expression: Any

    def __neg__(self) -> Value:
        return self._of(self.kind, -self.expression)

    def __invert__(self) -> Value:
        return self._of(self.kind, ~self.expression)

    def abs(self) -> Value:
        return self._of(SINGLE, hl.abs(self.expression))

    def _with(self, operation: str, other: Value | float) -> Value:
        right = _expression(other, self.kind)
        return self._of(self.kind, OPERATIONS[operation](self.expression, right))

    def _compared(self, how: str, other: Value | float) -> Value:
        return self._of(TRUTH, OPERATIONS[how](self.expression, _expression(other, self.kind)))

    def _cast(self, how: str, kind: str) -> Value:
        type_ = hl.Float(32) if kind == SINGLE else hl.Int(32)
        convert = hl.reinterpret if how == "bitcast" else hl.cast
        return self._of(kind, convert(type_, self.expression))

    def _of(self, kind: str, expression: Any) -> Value:
        return Expression(self.code, kind, "", expression)


class Expressions(Code):
    """Formulas that are expressions."""

    def value(self, expression: Any) -> Value:
        return Expression(self, SINGLE, "", expression)

    def constant(self, value: float, kind: str) -> Value:
        return Expression(self, kind, "", _expression(value, kind))

    def select(self, condition: Value, one: Value | float, other: Value | float) -> Value:
        assert isinstance(condition, Expression)
        kind = next(each.kind for each in (one, other) if isinstance(each, Value))
        chosen = hl.select(condition.expression, _expression(one, kind), _expression(other, kind))
        return Expression(self, kind, "", chosen)


def _expression(value: Value | float, kind: str) -> Any:
    if isinstance(value, Expression):
        return value.expression
    assert isinstance(value, int | float)
    if kind != INTEGER:
        return single(value)
    return _signed(hl.cast(hl.UInt(32), int(value) % 2**32))
