"""Formulas over vectors of numbers, written down as text of LLVM.

TVM has no place for them: an expression whose parts have names is taken apart by its analyser at every pass,
which takes minutes for three functions within each other.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

SINGLE, DOUBLE, INTEGER, LONG, TRUTH = "float", "double", "i32", "i64", "i1"
"""Kinds of elements, as LLVM calls them."""
FLOATS = (SINGLE, DOUBLE)
BITS = {SINGLE: INTEGER, DOUBLE: LONG}
"""The integer as wide as a float."""


@dataclass(frozen=True)
class Value:
    """A vector, or one number where the code is for one lane. Operators write code that computes with it, and
    take Python's numbers as constants. Arithmetic is plain: nothing is reordered; LLVM may fuse a product and
    a sum where the CPU can.

    Attributes:
        code: where it is computed.
        kind: of its elements.
        name: in the text.
    """

    code: Code
    kind: str
    name: str

    def __add__(self, other: Value | float) -> Value:
        return self._with("fadd" if self._floats else "add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._with("fsub" if self._floats else "sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._with("fmul" if self._floats else "mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._with("fdiv", other)

    def __rshift__(self, other: int) -> Value:
        """With the sign."""
        return self._with("ashr", other)

    def __lshift__(self, other: int) -> Value:
        return self._with("shl", other)

    def __and__(self, other: Value) -> Value:
        return self._with("and", other)

    def __or__(self, other: Value) -> Value:
        return self._with("or", other)

    def __neg__(self) -> Value:
        return self.code.emit(self.kind, f"fneg {self.code.type_of(self.kind)} {self.name}")

    def __invert__(self) -> Value:
        """Of what is true or not."""
        return self._with("xor", 1)

    def __lt__(self, other: Value | float) -> Value:
        return self._compared("olt" if self._floats else "slt", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._compared("ogt" if self._floats else "sgt", other)

    def equals(self, other: Value | float) -> Value:
        """Whether they are equal; NaN is equal to nothing."""
        return self._compared("oeq" if self._floats else "eq", other)

    def differs(self, other: Value | float) -> Value:
        """Whether they are not equal, nor NaN."""
        return self._compared("one" if self._floats else "ne", other)

    def abs(self) -> Value:
        kind = self.code.type_of(self.kind)
        name = f"@llvm.fabs.{self.code.suffix(self.kind)}"
        self.code.declare(f"declare {kind} {name}({kind})")
        return self.code.emit(self.kind, f"call {kind} {name}({kind} {self.name})")

    def bits(self) -> Value:
        """The bits of a float, as an integer."""
        return self._cast("bitcast", BITS[self.kind])

    def from_bits(self) -> Value:
        """The float with these bits."""
        return self._cast("bitcast", SINGLE if self.kind == INTEGER else DOUBLE)

    def to_float(self) -> Value:
        """An integer as the float that is as wide."""
        return self._cast("sitofp", SINGLE if self.kind == INTEGER else DOUBLE)

    def to_double(self) -> Value:
        return self._cast("fpext", DOUBLE)

    def to_single(self) -> Value:
        return self._cast("fptrunc", SINGLE)

    def where(self, condition: Value, other: Value | float) -> Value:
        """This where the condition holds, the other elsewhere."""
        return self.code.select(condition, self, other)

    @property
    def _floats(self) -> bool:
        return self.kind in FLOATS

    def _with(self, operation: str, other: Value | float) -> Value:
        kind, right = self.code.type_of(self.kind), self.code.operand(other, self.kind)
        return self.code.emit(self.kind, f"{operation} {kind} {self.name}, {right}")

    def _compared(self, how: str, other: Value | float) -> Value:
        operation = "fcmp" if self._floats else "icmp"
        kind, right = self.code.type_of(self.kind), self.code.operand(other, self.kind)
        return self.code.emit(TRUTH, f"{operation} {how} {kind} {self.name}, {right}")

    def _cast(self, how: str, kind: str) -> Value:
        given, wanted = self.code.type_of(self.kind), self.code.type_of(kind)
        return self.code.emit(kind, f"{how} {given} {self.name} to {wanted}")


@dataclass
class Code:
    """The body of a function over vectors of so many lanes.

    Attributes:
        lanes: 1 for numbers.
    """

    lanes: int
    _lines: list[str] = field(default_factory=list)
    _declarations: dict[str, None] = field(default_factory=dict)

    def parameter(self, number: int) -> Value:
        """The argument of that number, in single precision."""
        return Value(self, SINGLE, f"%x{number}")

    def select(self, condition: Value, one: Value | float, other: Value | float) -> Value:
        """``one`` where the condition holds, ``other`` elsewhere. One of them is a value."""
        kind = next(each.kind for each in (one, other) if isinstance(each, Value))
        of, truth = self.type_of(kind), self.type_of(TRUTH)
        left, right = self.operand(one, kind), self.operand(other, kind)
        return self.emit(kind, f"select {truth} {condition.name}, {of} {left}, {of} {right}")

    def constant(self, value: float, kind: str) -> Value:
        return Value(self, kind, self.operand(value, kind))

    def emit(self, kind: str, operation: str) -> Value:
        """The result of one instruction."""
        name = f"%t{len(self._lines)}"
        self._lines.append(f"  {name} = {operation}")
        return Value(self, kind, name)

    def declare(self, declaration: str) -> None:
        """What the module needs beside its functions."""
        self._declarations[declaration] = None

    def function(self, name: str, result: Value, parameters: int) -> tuple[str, list[str]]:
        """The text of the function that gives ``result``, and its declarations."""
        kind = self.type_of(SINGLE)
        given = ", ".join(f"{kind} %x{number}" for number in range(parameters))
        lines = [f"define {kind} @{name}({given}) {{", *self._lines, f"  ret {kind} {result.name}", "}"]
        return "\n".join(lines), list(self._declarations)

    def type_of(self, kind: str) -> str:
        return kind if self.lanes == 1 else f"<{self.lanes} x {kind}>"

    def suffix(self, kind: str) -> str:
        """Of the names of LLVM's own functions."""
        short = {SINGLE: "f32", DOUBLE: "f64"}[kind]
        return short if self.lanes == 1 else f"v{self.lanes}{short}"

    def operand(self, value: Value | float, kind: str) -> str:
        if isinstance(value, Value):
            return value.name
        text = _constant(value, kind)
        return text if self.lanes == 1 else f"<{', '.join([f'{kind} {text}'] * self.lanes)}>"


def single(value: float) -> float:
    """The nearest number of single precision."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def _constant(value: float, kind: str) -> str:
    """LLVM writes floats of both precisions by the bits of a double."""
    if kind not in FLOATS:
        return str(int(value))
    exact = single(value) if kind == SINGLE and math.isfinite(value) else float(value)
    return f"0x{int.from_bytes(struct.pack('<d', exact), 'little'):016X}"
