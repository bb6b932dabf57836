"""From expressions of TIR to the steps of an epilogue."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from tunemesh.stage_workers.engines.template import elements, epilogues
from tunemesh.stage_workers.engines.template.operators import FLOAT, Step
from tunemesh.stage_workers.engines.template.stages import Unknown, choice_of
from tunemesh.stage_workers.graph import fast_math, vector_code
from tunemesh.stage_workers.graph.rewriting import operator_of

INTEGER = "int32"


class Expressions(ABC):
    """Attributes:
    fast: whether functions such as exp are computed as arithmetic.
    steps: what was read so far.
    """

    def __init__(self, fast: bool) -> None:
        self.fast = fast
        self.steps: list[Step] = []

    @abstractmethod
    def load(self, load: Any) -> int:
        """The number of the step that has what is read from a tensor."""

    def step(self, kind: Any, **given: Any) -> int:
        """The number of a step, which may be there already."""
        step = Step(kind, **given)
        if step not in self.steps:
            self.steps.append(step)
        return self.steps.index(step)

    def until(self, last: int) -> tuple[Step, ...]:
        """The steps that the value of one needs, which is the last of them: what was simplified leaves
        others, which would cost a compiler as much as these."""
        kept = epilogues.needed(self.steps, last)
        return tuple(
            replace(step, arguments=tuple(map(kept.index, step.arguments)))
            for step in (self.steps[number] for number in kept)
        )

    def value(self, expression: Any) -> int:
        """The number of the step that has the value of an expression."""
        from tvm import ir, tirx

        if isinstance(expression, tirx.FloatImm) and str(expression.ty.dtype) == FLOAT:
            return self.step("constant", value=float(expression.value))
        if isinstance(expression, tirx.IntImm) and str(expression.ty.dtype) == INTEGER:
            return self.step("constant", value=float(expression.value), dtype=INTEGER)
        if isinstance(expression, tirx.Cast):
            return self._cast(expression)
        if isinstance(expression, ir.TensorLoad):
            return self.load(expression)
        if choice := choice_of(expression):
            self._check(choice[1])
            return self._call("select", *choice)
        if (name := epilogues.OPERATORS.get(type(expression).__name__)) is not None:
            a, b = (expression.a, None) if name == "not" else (expression.a, expression.b)
            if name not in epilogues.LOGIC:
                self._check(a, whole=name in epilogues.OF_INTEGERS)
            return self._call(name, a, *([] if b is None else [b]))
        name = operator_of(expression).removeprefix("tirx.")
        if name in epilogues.FUNCTIONS:
            self._check(expression)
            if self.fast and f"tirx.{name}" in fast_math.REPLACED:
                return self._fast(name, expression)
            return self._call(name, *expression.args)
        raise Unknown(f"it ends in {name or type(expression).__name__}, which no template knows")

    def _fast(self, name: str, call: Any) -> int:
        """As :mod:`.fast_math` has it."""
        if name == "pow":
            count = fast_math.small_whole(call.args[1])
            if count:
                return self._call(f"fast_pow{count}", call.args[0])
        if f"fast_{name}" not in epilogues.FAST:
            raise Unknown(f"it ends in {name}, which no template knows")
        return self._call(f"fast_{name}", *call.args)

    def _check(self, expression: Any, whole: bool = False) -> None:
        """That an expression is in single precision, or, where ``whole``, an integer of 32 bits."""
        dtype = str(expression.ty.dtype)
        if dtype != FLOAT and not (whole and dtype == INTEGER):
            raise Unknown(f"it ends in arithmetic of {dtype}")

    def _cast(self, expression: Any) -> int:
        value = self.value(expression.value)
        to, of = str(expression.ty.dtype), self.steps[value].dtype
        if (of, to) not in elements.CASTS:
            raise Unknown(f"it ends in {of} as {to}, which no template knows")
        return self.step("call", name=epilogues.CAST, arguments=(value,), dtype=to)

    def _call(self, name: str, *arguments: Any) -> int:
        numbers = tuple(self.value(each) for each in arguments)
        if self.fast and name in ("add", "div"):
            name, numbers = self._simplified(name, numbers)
        dtype = self.steps[numbers[-1]].dtype
        return self.step("call", name=name, arguments=numbers, dtype=dtype)

    def _simplified(self, name: str, numbers: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """1 + erf in one, and a product for a quotient, as :mod:`.fast_math` has them."""
        for one, other in (numbers, numbers[::-1]):
            constant, rest = self.steps[one], self.steps[other]
            if constant.kind != "constant":
                continue
            if name == "add" and constant.value == 1.0 and rest.name == "fast_erf":
                return "fast_one_plus_erf", rest.arguments
            inverse = fast_math.TINY <= abs(constant.value) <= 1 / fast_math.TINY
            if name == "div" and one == numbers[1] and inverse:
                return "mul", (
                    other,
                    self.step("constant", value=vector_code.single(1 / constant.value)),
                )
        return name, numbers
