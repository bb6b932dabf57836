"""Which operators become one function, and so one task.

TVM fuses by the pattern that it sees in an operator's indices. Two things make functions of which every
candidate fails or is wrong. A Pad that only appends, or a Slice from 0 on, has the indices of an element-wise
operator, so it is fused behind a product, and half of the schedules then lose what lies beyond. And what does
not depend on the product (the Where that makes an attention mask) may come to stand in the same function,
where MetaSchedule has no schedule for it. The first is told what it is. For the second, see :mod:`proving`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from msgspec import Struct

from tunemesh.stage_workers.graph import workloads
from tunemesh.stage_workers.graph.rewriting import is_call_of_tir, operator_of

PATTERN = "op_pattern"
"""TVM's attribute of functions that may be fused, with one of:"""
ELEMENTWISE, BROADCAST, INJECTIVE, REDUCTION, ANCHOR, OPAQUE = 0, 1, 2, 3, 4, 8


class Group(Struct, frozen=True):
    """Calls that are fused into one function.

    Attributes:
        name: of the function that they become.
        parts: structural hashes of the members without the product or reduction, in sets: those that have
            nothing to do with it, those behind it, those in front of it. None is empty.
        odd: whether it is of a kind that TVM is known to have no candidates for, or wrong ones.
    """

    name: str
    parts: list[list[str]]
    odd: bool


def mark(module: Any, apart: Collection[str]) -> Any:
    """``module``, after ``AnnotateTIROpPattern``, with patterns set right, and with functions of the hashes
    ``apart`` that are fused with nothing."""
    import tvm

    changed = module.clone()
    for name, function in module.functions_items():
        if not isinstance(function, tvm.tirx.PrimFunc) or pattern(function) == OPAQUE:
            continue
        if apart and hash_of(function) in apart:
            changed[name] = function.with_attr(PATTERN, OPAQUE)
        elif pattern(function) in (ELEMENTWISE, BROADCAST) and _resizes(function):
            changed[name] = function.with_attr(PATTERN, INJECTIVE)
    return changed


def without_tasks_for_reshapes(module: Any) -> Any:
    """``module``, after ``FuseTIR``, with functions that only give a tensor another shape marked as not to be
    tuned. TVM makes views of such calls, where it still sees what they are: with a schedule of their own they
    would copy."""
    import tvm

    changed = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, tvm.tirx.PrimFunc) and _is_reshape(function):
            changed[name] = function.with_attr(workloads.SCHEDULED, True)
    return changed


def _is_reshape(function: Any) -> bool:
    """Whether a function only gives a tensor another shape. One that takes the first elements of it looks the
    same to TVM."""
    import tvm

    if not tvm.relax.analysis.has_reshape_pattern(function):
        return False
    try:
        sizes = {math.prod(each.shape) for each in workloads.arguments(function)}
    except ValueError:  # of a shape that is not constant: nobody tunes it
        return True
    return len(sizes) == 1


def pattern(function: Any) -> int:
    """The pattern of a function."""
    return int(function.attrs[PATTERN]) if function.attrs and PATTERN in function.attrs else OPAQUE


def hash_of(function: Any) -> str:
    """The structural hash of a function, whatever its pattern."""
    plain = function.without_attr(PATTERN) if function.attrs and PATTERN in function.attrs else function
    return workloads.structural_hash(workloads.of_function(plain))


def groups(module: Any) -> list[Group]:
    """The fused groups of a module after ``FuseOps`` that have a product or a reduction in them."""
    from tvm import relax

    found = []
    for name, function in module.functions_items():
        if isinstance(function, relax.Function) and function.attrs and "Primitive" in function.attrs:
            group = _group(module, str(name.name_hint), function)
            if group is not None:
                found.append(group)
    return found


def _group(module: Any, name: str, function: Any) -> Group | None:
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    members = [(b.var, b.value.args[0], b.value.args[1]) for b in bindings if is_call_of_tir(b.value)]
    of = {variable: module[kernel] for variable, kernel, _ in members}
    anchors = [v for v, kernel in of.items() if pattern(kernel) in (REDUCTION, ANCHOR)]
    if len(members) < 2 or not anchors:
        return None
    behind, before = {anchors[0]}, {anchors[0]}
    for variable, _, arguments in members:
        if any(argument in behind for argument in arguments):
            behind.add(variable)
    for variable, _, arguments in reversed(members):
        if variable in before:
            before |= set(arguments)
    others = [variable for variable, _, _ in members if variable not in anchors]
    beside = [v for v in others if v not in behind and v not in before]
    parts = [beside, [v for v in others if v in behind], [v for v in others if v in before]]
    return Group(
        name=name,
        parts=[sorted({hash_of(of[v]) for v in part}) for part in parts if part],
        odd=bool(beside) or any(_branches(of[v]) for v in others),
    )


def _branches(function: Any) -> bool:
    """Whether there is a condition in a function: MetaSchedule inlines no such block."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    found: list[Any] = []

    def visit(call: Any) -> None:
        if operator_of(call) == "tirx.if_then_else":
            found.append(call)

    tvm_ffi.structural_walk(function.body, [(tirx.Select, found.append), (tvm.ir.Call, visit)])
    return bool(found)


def _resizes(function: Any) -> bool:
    """Whether an input has as many dimensions as the output, and another length of one that is not 1."""
    try:
        arguments = workloads.arguments(function)
    except ValueError:
        return False
    outputs = [argument.shape for argument in arguments if argument.output]
    return any(
        len(argument.shape) == len(output)
        and any(size not in (1, wanted) for size, wanted in zip(argument.shape, output, strict=True))
        for argument in arguments
        for output in outputs
        if not argument.output
    )
