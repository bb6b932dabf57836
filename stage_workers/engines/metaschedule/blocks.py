"""What rules of our own need to know of blocks, and how MetaSchedule takes such a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

ROOT = "root"
"""The name of the block around all others."""
TAKEN = "schedule_rule"
"""Attribute of blocks that no other rule may change; MetaSchedule knows it."""
CONDITIONAL = "prim.if_then_else"


def python_rule(apply: Callable[[Any, Any], list[Any]]) -> Any:
    """A rule as MetaSchedule takes it: from a schedule and a block to schedules."""
    from tvm.s_tir.meta_schedule.schedule_rule import schedule_rule

    def made() -> Any:
        # PyScheduleRule, the public base class, would only wrap this one.
        return schedule_rule._PyScheduleRule(lambda context: None, apply, made)

    return made()


def take(schedule: Any, taken: Iterable[Any]) -> None:
    """Keep all other rules from blocks, and from the root, whose rules are for all loops."""
    for block in (*taken, schedule.get_sblock(ROOT)):
        schedule.annotate(block, TAKEN, "tunemesh")


def stages(schedule: Any) -> list[Any]:
    """The blocks of a schedule; none where they are not in a root, as where loops were written by hand."""
    from tvm.s_tir.schedule import ScheduleError

    try:
        root = schedule.get_sblock(ROOT)
    except ScheduleError:
        return []
    return list(schedule.get_child_blocks(root))


def is_fixed(node: Any) -> bool:
    """Whether all axes of a block have constant extents."""
    import tvm

    return all(isinstance(each.dom.extent, tvm.tirx.IntImm) for each in node.iter_vars)


def extents(axes: Iterable[Any]) -> list[int]:
    """Of axes that are constant."""
    return [int(each.dom.extent) for each in axes]


def bits(dtype: Any) -> int:
    """Of an element."""
    import tvm

    return int(tvm.DataType(str(dtype)).bits)


def uses(expression: Any, variable: Any) -> bool:
    """Whether a variable is part of an expression."""
    import tvm
    import tvm_ffi

    found: list[Any] = []
    tvm_ffi.structural_walk(expression, (tvm.ir.Var, found.append))
    return any(each.same_as(variable) for each in found)


def reads(region: Any, variable: Any) -> bool:
    """Whether it depends on a variable which elements are read."""
    return any(uses(each.min, variable) for each in region.region)


def is_tested(node: Any, variable: Any) -> bool:
    """Whether a condition in a block depends on a variable."""
    import tvm
    import tvm_ffi

    found: list[Any] = []
    tvm_ffi.structural_walk(node.body, (tvm.ir.Call, found.append))
    calls = [call for call in found if str(getattr(call.op, "name", "")) == CONDITIONAL]
    return any(uses(call.args[0], variable) for call in calls)


def are(indices: Sequence[Any], axes: Sequence[Any]) -> bool:
    """Whether indices are the variables of axes, one by one; of an axis of one element they may be zero."""
    import tvm

    def is_axis(index: Any, axis: Any) -> bool:
        one = isinstance(axis.dom.extent, tvm.tirx.IntImm) and int(axis.dom.extent) == 1
        return index.same_as(axis.var) or (one and isinstance(index, tvm.tirx.IntImm))

    return len(indices) == len(axes) and all(map(is_axis, indices, axes))


def is_in_order(region: Any, variable: Any, still: Sequence[Any]) -> bool:
    """Whether neighbours along an axis lie side by side in what is read, or are the same element.

    Args:
        still: variables that are always zero.
    """
    from tvm.tirx import Add

    *others, last = (each.min for each in region.region)
    if any(uses(each, variable) for each in others):
        return False
    while isinstance(last, Add) and (rest := _beside(last, still)) is not None:
        last = rest
    return bool(last.same_as(variable)) or not uses(last, variable)


def _beside(total: Any, still: Sequence[Any]) -> Any:
    """What is added to a variable that is always zero; ``None`` where there is none."""
    for zero, rest in ((total.a, total.b), (total.b, total.a)):
        if any(zero.same_as(each) for each in still):
            return rest
    return None
