"""What is computed of sums, as text of C: exactly what the task's own expression says, element by element."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunemesh.stage_workers.engines.template import elements
from tunemesh.stage_workers.engines.template.operators import FLOAT, Step
from tunemesh.stage_workers.engines.template.text import CCode
from tunemesh.stage_workers.graph import polynomials
from tunemesh.stage_workers.graph.vector_code import INTEGER, SINGLE, TRUTH, Value

OPERATORS = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Max": "max",
    "Min": "min",
    "LT": "lt",
    "LE": "le",
    "GT": "gt",
    "GE": "ge",
    "EQ": "eq",
    "NE": "ne",
    "And": "and",
    "Or": "or",
    "Not": "not",
}
"""Of TIR."""
SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
RELATIONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
LOGIC = {"and": "&", "or": "|", "not": "~"}
OF_INTEGERS = frozenset({"add", "sub", "mul", "max", "min", *RELATIONS})
"""What is computed of integers, too."""
CAST = "cast"
LIBRARY = {
    "exp": "__builtin_expf",
    "log": "__builtin_logf",
    "tanh": "__builtin_tanhf",
    "erf": "__builtin_erff",
    "pow": "__builtin_powf",
    "fabs": "__builtin_fabsf",
    "floor": "__builtin_floorf",
    "ceil": "__builtin_ceilf",
}
"""Of the C library, one lane at a time."""
FUNCTIONS = frozenset({*LIBRARY, "sqrt", "rsqrt", "sigmoid", "nearbyint"})
FAST = {
    "fast_exp": polynomials.exp,
    "fast_log": polynomials.log,
    "fast_tanh": polynomials.tanh,
    "fast_sigmoid": polynomials.sigmoid,
    "fast_erf": polynomials.erf,
    "fast_one_plus_erf": polynomials.one_plus_erf,
    **{f"fast_pow{count}": polynomials.product(count) for count in range(1, polynomials.LARGEST_PRODUCT + 1)},
}
"""As arithmetic."""
LONG = 12
"""Steps from which on an epilogue stands in a loop, and not once for every register."""


def is_long(steps: Sequence[Step]) -> bool:
    """Whether it is so much code that it should be there once."""
    own = sum(3 if step.name == "select" else 1 for step in steps if step.kind == "call")
    fast = any(step.name in FAST or step.name in FUNCTIONS for step in steps)
    return fast or own > LONG


def needed(steps: Sequence[Step], last: int, given: Sequence[int] = ()) -> list[int]:
    """Numbers of the steps that one is computed of, and its own, where some are given."""
    found, open_ = set[int](), [last]
    while open_:
        number = open_.pop()
        if number not in found:
            found.add(number)
            open_ += [] if number in given else steps[number].arguments
    return sorted(found)


def library(steps: Sequence[Step]) -> str:
    """The functions that go through the lanes."""
    lines = []
    inner = {"sigmoid": "exp"}
    for name in sorted({inner.get(step.name, step.name) for step in steps} & set(LIBRARY)):
        inputs = ("x", "y") if name == "pow" else ("x",)
        given = ", ".join(f"vec {each}" for each in inputs)
        lanes = ", ".join(f"{each}[i]" for each in inputs)
        lines.append(
            f"INLINE vec lanes_{name}({given}) {{ vec r; "
            f"for (int i = 0; i < LANES; ++i) r[i] = {LIBRARY[name]}({lanes}); return r; }}\n"
        )
    return "".join(lines)


def rounds(steps: Sequence[Step]) -> bool:
    """Whether an epilogue ends in rounding to bfloat16, which is part of writing the result."""
    last = steps[-1]
    return last.name == CAST and last.dtype == "bfloat16" and steps[last.arguments[0]].dtype == FLOAT


def together(
    steps: Sequence[Step], sums: Sequence[str], loads: Sequence[Sequence[str]]
) -> tuple[list[str], list[str]]:
    """The same as :func:`body` for several vectors, step by step of all of them: one vector's steps wait for
    each other, and a core looks only some hundred instructions ahead for others.

    Compilers put what is used once where it is used, unless it is held in a register in between.
    """
    pieces, results = [], []
    for number, (each, loaded) in enumerate(zip(sums, loads, strict=True)):
        lines, result = body(steps, each, loaded, f"t{number}_")
        pieces.append(_pieces(lines))
        results.append(result)
    return [line for each in zip(*pieces, strict=True) for piece in each for line in piece], results


def _pieces(lines: Sequence[str]) -> list[list[str]]:
    """Lines in groups, each of which ends with a sum that is held in a register. A product is no end: it is
    one instruction with the sum that it goes into."""
    found: list[list[str]] = [[]]
    for line in lines:
        kind, name, value = line.removeprefix("const ").removesuffix(";").replace(" = ", " ", 1).split(" ", 2)
        if kind == "vec" and re.fullmatch(r"\S+ [+-] \S+", value):
            found[-1] += [f"{kind} {name} = {value};", f"IN_REGISTER({name});"]
            found.append([])
        else:
            found[-1].append(line)
    return found


def body(steps: Sequence[Step], sums: str, loads: Sequence[str], names: str = "t") -> tuple[list[str], str]:
    """The lines that compute an epilogue, and the name of what they give: before it is rounded, where
    :func:`rounds` says so.

    Args:
        sums: the name of the sums.
        loads: what is loaded by each step that loads; of others empty.
        names: what the names of values begin with.
    """
    code = CCode(names=names)
    values: list[Value] = []
    done = len(steps) - 1 if rounds(steps) else len(steps)
    for step, loaded in zip(steps[:done], loads[:done], strict=True):
        kind = elements.VECTORS[step.dtype]
        if step.kind == "acc":
            value = code.value(kind, sums)
        elif step.kind == "constant" and kind == INTEGER:
            value = code.emit(INTEGER, f"(ivec){{}} + {int(step.value)}")
        elif step.kind == "constant":
            value = code.constant(step.value, SINGLE)
        elif step.kind == "load":
            value = code.emit(kind, loaded)
        elif step.name == CAST:
            (number,) = step.arguments
            how = elements.CASTS[steps[number].dtype, step.dtype]
            value = code.emit(kind, how.format(values[number].name))
        else:
            value = _called(code, step.name, [values[number] for number in step.arguments])
        values.append(value)
    return code.lines, values[-1 if done == len(steps) else steps[-1].arguments[0]].name


def _called(code: CCode, name: str, given: list[Value]) -> Value:
    names, kind = [each.name for each in given], given[-1].kind
    if name in FAST:
        return FAST[name](*given)
    if name in SYMBOLS:
        return code.emit(kind, f"{names[0]} {SYMBOLS[name]} {names[1]}")
    if name in RELATIONS:
        return code.emit(TRUTH, f"{names[0]} {RELATIONS[name]} {names[1]}")
    if name == "not":
        return code.emit(TRUTH, f"~{names[0]}")
    if name in LOGIC:
        return code.emit(TRUTH, f"{names[0]} {LOGIC[name]} {names[1]}")
    if name in ("max", "min") and kind == INTEGER:
        sign = ">" if name == "max" else "<"
        return code.emit(kind, f"(ivec)blend({names[0]} {sign} {names[1]}, (vec){names[0]}, (vec){names[1]})")
    if name in ("max", "min"):
        # As TVM and x86: the second one where either is NaN.
        return code.emit(SINGLE, f"{name}({names[0]}, {names[1]})")
    if name == "select":
        return code.emit(SINGLE, f"blend({names[0]}, {names[1]}, {names[2]})")
    if name == "nearbyint":
        return code.emit(SINGLE, f"nearest({names[0]})")
    if name == "sqrt":
        return code.emit(SINGLE, f"root({names[0]})")
    if name == "rsqrt":
        return code.emit(SINGLE, f"all(1.0f) / root({names[0]})")
    if name == "sigmoid":
        return code.emit(SINGLE, f"all(1.0f) / (all(1.0f) + lanes_exp(-{names[0]}))")
    return code.emit(SINGLE, f"lanes_{name}({', '.join(names)})")
