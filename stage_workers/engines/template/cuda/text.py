"""What kernels of CUDA C++ are made of: indices, loads, and epilogues of single numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunemesh.stage_workers.engines.template import epilogues
from tunemesh.stage_workers.engines.template.operators import Axis, Form, Operand, Step
from tunemesh.stage_workers.graph.vector_code import single

KERNEL = "kernel"
"""The name of the function of a program."""
LIMIT_X, LIMIT_Y = 2**31 - 1, 65535
"""Blocks along the first direction of a grid, and along the others."""
INTEGERS = 2**31
"""Indices are below it."""
FUNCTIONS = {
    "exp": "expf", "log": "logf", "tanh": "tanhf", "erf": "erff", "pow": "powf", "fabs": "fabsf",
    "floor": "floorf", "ceil": "ceilf", "sqrt": "sqrtf", "nearbyint": "nearbyintf", "fast_exp": "expf",
    "fast_log": "logf", "fast_tanh": "tanhf", "fast_erf": "erff",
}  # fmt: skip
SIGMOID = ("sigmoid", "fast_sigmoid")
LOGIC = {"and": "&&", "or": "||"}
POWER = "fast_pow"


OTHERS = {*SIGMOID, *LOGIC, "not", "max", "min", "select", "rsqrt", "fast_one_plus_erf"}
"""Steps that are written down in a way of their own."""


@dataclass(frozen=True)
class Program:
    """A kernel and how it is launched.

    Attributes:
        text: of CUDA C++, with a function :data:`KERNEL` that takes the tensors in their order.
        grid: blocks along each of three directions.
        threads: of a block.
        shared: bytes of a block's memory, which the text declares.
    """

    text: str
    grid: tuple[int, int, int]
    threads: int
    shared: int


def objection(steps: Sequence[Step]) -> str:
    """Why these steps cannot be computed; empty where they can."""
    known = {*FUNCTIONS, *epilogues.SYMBOLS, *epilogues.RELATIONS, *OTHERS}
    names = {step.name for step in steps if step.kind == "call"}
    unknown = sorted(name for name in names - known if not name.startswith(POWER))
    return f"it ends in {unknown[0]}" if unknown else ""


def number(value: float) -> str:
    """A constant of single precision, exactly."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    exact = single(value)
    return f"{exact!r}f"


def name(axis: int) -> str:
    """The variable of an axis."""
    return f"a{axis}"


def place(form: Form, axes: Sequence[int], offset: bool = True) -> str:
    """The part of a form that these axes make."""
    terms = [
        name(axis) if form.strides[axis] == 1 else f"{name(axis)} * {form.strides[axis]}"
        for axis in axes
        if form.strides[axis]
    ]
    if offset and form.offset:
        terms.append(str(form.offset))
    return f"({' + '.join(terms)})" if terms else "0"


def split(value: str, axes: Sequence[int], extents: Mapping[int, int]) -> list[str]:
    """The variables of axes, of which ``value`` is the number; the last one is the fastest."""
    lines, inner = [], 1
    for at in range(len(axes) - 1, -1, -1):
        axis = axes[at]
        whole = value if inner == 1 else f"{value} / {inner}"
        lines.append(f"const int {name(axis)} = {whole}{f' % {extents[axis]}' if at else ''};")
        inner *= extents[axis]
    return lines


def inside(operand: Operand, axes: Sequence[int]) -> str:
    """The condition that an element is there, and not beyond the ends of what is padded; empty: it is."""
    return " && ".join(
        f"(unsigned)({place(window.form, axes)}) < {window.length}u" for window in operand.windows
    )


def is_aligned(form: Form, axis: int, extents: Sequence[Axis], width: int) -> bool:
    """Whether so many elements along an axis can be read at once: they lie side by side, and each such
    piece begins at a multiple of them."""
    return (
        form.strides[axis] == 1
        and form.offset % width == 0
        and extents[axis].extent % width == 0
        and all(stride % width == 0 for other, stride in enumerate(form.strides) if other != axis)
    )


def signature(parameters: int, threads: int) -> str:
    """The head of a kernel."""
    given = ", ".join(f"const float *__restrict__ p{number}" for number in range(parameters - 1))
    return (
        f'extern "C" __global__ void __launch_bounds__({threads}) {KERNEL}({given}, float *__restrict__ out)'
    )


def epilogue(steps: Sequence[Step], acc: Sequence[str], axes: Sequence[int], prefix: str = "e") -> list[str]:
    """The lines that compute steps; the last one declares ``<prefix>``.

    Args:
        acc: what each earlier value is, by the step's parameter.
        axes: whose variables are there.
    """
    lines: list[str] = []
    names: list[str] = []
    for at, step in enumerate(steps):
        if step.kind == "acc":
            text = acc[step.parameter]
        elif step.kind == "constant":
            text = number(step.value)
        elif step.kind == "load":
            text = f"p{step.parameter}[{place(step.form, axes)}]"
        else:
            text = _called(step.name, [names[each] for each in step.arguments])
        truth = step.name in epilogues.RELATIONS or step.name in epilogues.LOGIC
        names.append(f"{prefix}{at}")
        lines.append(f"const {'bool' if truth else 'float'} {names[-1]} = {text};")
    lines.append(f"const float {prefix} = {names[-1]};")
    return lines


def _called(step: str, given: Sequence[str]) -> str:
    if step in epilogues.SYMBOLS:
        return f"{given[0]} {epilogues.SYMBOLS[step]} {given[1]}"
    if step in epilogues.RELATIONS:
        return f"{given[0]} {epilogues.RELATIONS[step]} {given[1]}"
    if step in LOGIC:
        return f"{given[0]} {LOGIC[step]} {given[1]}"
    if step == "not":
        return f"!{given[0]}"
    if step in ("max", "min"):
        # As TVM on CPUs: the second one where either is NaN.
        return f"{given[0]} {'>' if step == 'max' else '<'} {given[1]} ? {given[0]} : {given[1]}"
    if step == "select":
        return f"{given[0]} ? {given[1]} : {given[2]}"
    if step == "rsqrt":
        return f"1.0f / sqrtf({given[0]})"
    if step in SIGMOID:
        return f"1.0f / (1.0f + expf(-{given[0]}))"
    if step == "fast_one_plus_erf":
        return f"1.0f + erff({given[0]})"
    if step.startswith(POWER):
        return " * ".join([given[0]] * int(step.removeprefix(POWER)))
    return f"{FUNCTIONS[step]}({', '.join(given)})"


def reduced(kind: str, total: str, value: str) -> str:
    """The statement that adds a value to what is reduced."""
    if kind in ("product", "sum"):
        return f"{total} += {value};"
    return f"{total} = {value} {'>' if kind == 'max' else '<'} {total} ? {value} : {total};"
