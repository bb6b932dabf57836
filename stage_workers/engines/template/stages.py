"""What functions of TIR are made of: blocks in loops of their own, and indices that are sums of multiples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tunemesh.stage_workers.engines.template.operators import Combine, Form
from tunemesh.stage_workers.graph import dots
from tunemesh.stage_workers.graph.rewriting import operator_of

COMBINING: dict[str, Combine] = {"Add": "sum", "Max": "max", "Min": "min"}
"""By the name of TIR's operation."""
CHOICES = ("prim.if_then_else", "tirx.if_then_else")


class Unknown(Exception):
    """There is no template for it; says why in a few words."""


class Stage(NamedTuple):
    """A block.

    Attributes:
        axes: its variables, spatial ones and others, with their extents.
        store: what it writes.
        start: what a reduction begins with; ``None`` where nothing is reduced.
        dot: the instruction that could do it, by name; empty where there is none.
    """

    axes: list[tuple[Any, int, bool]]
    store: Any
    start: float | None
    dot: str = ""

    @property
    def reduces(self) -> bool:
        return self.start is not None

    def reduction(self) -> tuple[Combine, Any]:
        """How values become one, and the value.

        Raises:
            Unknown: in no way that is known.
        """
        from tvm import ir, tirx

        value = self.store.value
        for kind, combine in COMBINING.items():
            if isinstance(value, getattr(tirx, kind)):
                for own, other in ((value.a, value.b), (value.b, value.a)):
                    if isinstance(own, ir.TensorLoad) and own.source.same_as(self.store.buffer):
                        return combine, other
        raise Unknown("it reduces in a way that no template knows")


def stages_of(function: Any) -> list[Stage]:
    """The blocks of a function, each in loops of its own.

    Raises:
        Unknown: it is written in another way.
    """
    from tvm import s_tir, tirx

    root = function.body
    if not isinstance(root, s_tir.SBlockRealize):
        raise Unknown("its loops are written by hand")
    body = root.block.body
    return [stage_of(each) for each in (body.seq if isinstance(body, tirx.SeqStmt) else [body])]


def stage_of(statement: Any) -> Stage:
    from tvm import s_tir, tirx

    loops = []
    while isinstance(statement, tirx.For):
        loops.append(statement)
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize):
        raise Unknown("its loops are written by hand")
    block = statement.block
    plain = [value.same_as(loop.loop_var) for value, loop in zip(statement.iter_values, loops, strict=False)]
    if len(loops) != len(block.iter_vars) or not all(plain) or not isinstance(block.body, tirx.BufferStore):
        raise Unknown("its loops are written by hand")
    axes = []
    for each in block.iter_vars:
        if not isinstance(each.dom.extent, tirx.IntImm) or int(each.dom.min) != 0:
            raise Unknown("its shape is not constant")
        axes.append((each.var, int(each.dom.extent), each.iter_type == tirx.IterVar.CommReduce))
    if not any(reduced for _, _, reduced in axes):
        return Stage(axes, block.body, None)
    first = block.init.value if isinstance(block.init, tirx.BufferStore) else None
    if not isinstance(first, tirx.FloatImm | tirx.IntImm):
        raise Unknown("it reduces from something else than a number")
    return Stage(axes, block.body, float(first.value), str(block.annotations.get(dots.MARK, "")))


def choice_of(expression: Any) -> tuple[Any, Any, Any] | None:
    """Condition, value where it holds, and where not."""
    from tvm import tirx

    if isinstance(expression, tirx.Select):
        return expression.condition, expression.true_value, expression.false_value
    if operator_of(expression) in CHOICES:
        condition, one, other = expression.args
        return condition, one, other
    return None


def inlined(stage: Stage, indices: Sequence[Any]) -> Any:
    """What a stage writes at these indices."""
    import tvm
    import tvm_ffi

    places = {}
    for own, index in zip(stage.store.indices, indices, strict=True):
        if isinstance(own, tvm.ir.Var):
            places[hash(own)] = index
        elif not isinstance(own, tvm.tirx.IntImm) or int(own.value) != 0:
            raise Unknown("a tensor is written in an unusual order")
    for variable, extent, _ in stage.axes:
        if hash(variable) not in places and extent > 1:
            raise Unknown("a tensor is written in an unusual order")
    return tvm_ffi.structural_map(stage.store.value, (tvm.ir.Var, lambda each: places.get(hash(each), each)))


def form_of(index: Any, axes: Sequence[tuple[Any, int, bool]]) -> Form:
    """An index as multiples of axes.

    Raises:
        Unknown: it is none.
    """
    import tvm
    from tvm import tirx

    none = (0,) * len(axes)
    if isinstance(index, tirx.IntImm):
        return Form(none, int(index.value))
    if isinstance(index, tvm.ir.Var):
        for number, (variable, _, _) in enumerate(axes):
            if variable.same_as(index):
                return Form(tuple(int(axis == number) for axis in range(len(axes))))
        return Form(none)  # of one element
    if isinstance(index, tirx.Min | tirx.Max):
        for one, other in ((index.a, index.b), (index.b, index.a)):
            form, bound = form_of(one, axes), form_of(other, axes)
            difference = range_of(form_sum(bound, form, -1), axes)
            if difference[0] >= 0 if isinstance(index, tirx.Min) else difference[1] <= 0:
                return form
        raise Unknown("an index has a limit")
    if isinstance(index, tirx.Add | tirx.Sub):
        one, other = form_of(index.a, axes), form_of(index.b, axes)
        return form_sum(one, other, 1 if isinstance(index, tirx.Add) else -1)
    if isinstance(index, tirx.Mul):
        one, other = form_of(index.a, axes), form_of(index.b, axes)
        if any(one.strides):
            one, other = other, one
        if not any(one.strides):
            return Form(tuple(one.offset * stride for stride in other.strides), one.offset * other.offset)
    raise Unknown("an index is no sum of multiples of axes")


def form_sum(one: Form, other: Form, factor: int, more: int = 0) -> Form:
    strides = tuple(a + factor * b for a, b in zip(one.strides, other.strides, strict=True))
    return Form(strides, one.offset + factor * other.offset + more)


def combined(forms: Sequence[Form], shape: Sequence[int]) -> Form:
    """Where an element lies, from its indices."""
    strides, offset, step = [0] * len(forms[0].strides) if forms else [], 0, 1
    for form, length in zip(reversed(forms), reversed(shape), strict=True):
        strides = [total + step * stride for total, stride in zip(strides, form.strides, strict=True)]
        offset += step * form.offset
        step *= length
    return Form(tuple(strides), offset)


def range_of(form: Form, axes: Sequence[tuple[Any, int, bool]]) -> tuple[int, int]:
    """The least and the largest value."""
    ends = [stride * (extent - 1) for stride, (_, extent, _) in zip(form.strides, axes, strict=True)]
    return form.offset + sum(min(end, 0) for end in ends), form.offset + sum(max(end, 0) for end in ends)
