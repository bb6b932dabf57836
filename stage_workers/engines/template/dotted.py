"""Sums of products of small numbers, as :mod:`stage_workers.graph.dots` has them, as sums of products of
elements of 32 bits: what the instruction takes at once is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunemesh.stage_workers.engines.template.operators import Blocks, Form, Operand, Window
from tunemesh.stage_workers.engines.template.stages import Unknown, combined
from tunemesh.stage_workers.graph.dots import Dot
from tunemesh.stage_workers.graph.rewriting import operator_of

Axes = Sequence[tuple[Any, int, bool]]


def factors(value: Any) -> tuple[Any, Any]:
    """The loads of data and of weights in a product that is summed up."""
    from tvm import ir, tirx

    if isinstance(value, tirx.Mul) and isinstance(value.a, tirx.Cast) and isinstance(value.b, tirx.Cast):
        data, weights = plain(value.a.value), value.b.value
        if isinstance(data, ir.TensorLoad) and isinstance(weights, ir.TensorLoad):
            return data, weights
    raise Unknown("it multiplies small numbers in an unusual way")


def plain(value: Any) -> Any:
    """What has the same bits as another type."""
    return value.args[0] if operator_of(value).endswith("reinterpret") else value


def channels(indices: Sequence[Any], dot: Dot, axes: Axes) -> tuple[int, int]:
    """Numbers of the axes of outputs and inputs in the indices of packed weights."""
    from tvm import tirx

    found = []
    for kind, at, divisor in (
        (tirx.FloorDiv, 0, dot.lanes), (tirx.FloorMod, -2, dot.lanes),
        (tirx.FloorDiv, -3, dot.group), (tirx.FloorMod, -1, dot.group),
    ):  # fmt: skip
        index = indices[at]
        number = next(
            (
                number
                for number, (variable, _, _) in enumerate(axes)
                if isinstance(index, kind) and variable.same_as(index.a) and int(index.b) == divisor
            ),
            None,
        )
        if number is None:
            raise Unknown("its weights are packed in an unusual way")
        found.append(number)
    outputs, other, inputs, another = found
    if (outputs, inputs) != (other, another):
        raise Unknown("its weights are packed in an unusual way")
    return outputs, inputs


def weights(
    parameter: int, shape: Sequence[int], taps: Sequence[Form], axes: int, lane: int, depth: int, dot: Dot
) -> Operand:
    """Packed weights, of a shape (blocks, …, groups, lanes, group).

    Args:
        taps: their indices but for the blocks and the last three.
        axes: how many there are.
        lane: the axis of outputs.
        depth: and of inputs.
    """
    words = math.prod(shape[1:-1])
    inner = combined(taps, shape[1:-3]) if taps else Form((0,) * axes)
    strides = [stride * shape[-3] * dot.lanes for stride in inner.strides]
    strides[lane], strides[depth] = 1, dot.lanes
    return Operand(
        parameter=parameter,
        form=Form(tuple(strides), inner.offset * shape[-3] * dot.lanes),
        windows=(),
        weight=False,
        size=shape[0] * words,
        blocks=Blocks(dot.lanes, words),
    )


def in_words(operand: Operand, depth: int, group: int) -> Operand:
    """Data, whose elements along an axis become one where an instruction takes them at once."""

    def form(each: Form) -> Form:
        others = [stride for axis, stride in enumerate(each.strides) if axis != depth]
        if each.strides[depth] != 1 or any(number % group for number in (*others, each.offset)):
            raise Unknown("what is multiplied at once does not lie side by side")
        strides = [1 if axis == depth else stride // group for axis, stride in enumerate(each.strides)]
        return Form(tuple(strides), each.offset // group)

    def window(each: Window) -> Window:
        if not each.form.uses(depth):
            return replace(each, place=form(each.place), end=each.end // group)
        if each.length % group:
            raise Unknown("what is multiplied at once is padded in part")
        return Window(form(each.form), each.length // group, form(each.place), each.end // group)

    return replace(
        operand,
        form=form(operand.form),
        windows=tuple(map(window, operand.windows)),
        size=operand.size // group,
    )
