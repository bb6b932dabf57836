"""Layer normalisation in one function.

Exporters write it as some nine operators, of which TVM makes three functions that each read and write the
whole tensor. They are found here and put together again. And TVM's own code for it sums the squares of what
is not centred yet: where the mean is large, little of the variance is left. This one sums the squares of what
is centred.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from msgspec import Struct

from tunemesh.stage_workers.graph import legalising, models
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.rewriting import number_of, operator_of, rewritten, sizes_of
from tunemesh.stage_workers.measuring.comparison import Array

LAYER_NORM = "relax.nn.layer_norm"


class Normalised(Struct, frozen=True):
    """A tensor that is normalised along one axis.

    Attributes:
        data: the variable of the tensor before.
        axis: from 0 on.
        epsilon: added to the variance.
        scale: along the axis; ``None`` for ones.
        shift: likewise, for zeros.
    """

    data: Any
    axis: int
    epsilon: float
    scale: Array | None = None
    shift: Array | None = None


def gains(module: Any) -> bool:
    """Whether a module normalises a layer, written as one operator or as several."""
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    return any(operator_of(call) == LAYER_NORM for call in calls) or any(
        _found(function) for _, function in module.functions_items() if hasattr(function.body, "blocks")
    )


def put_together(module: Any) -> Any:
    """``module`` with one operator for each layer normalisation."""
    from tvm.relax import transform

    return transform.DeadCodeElimination()(rewritten(module, lambda each: _changed(module, each)))


def _changed(module: Any, function: Any) -> Any:
    from tvm import relax

    found = _found(function)
    if not found:
        return function

    @relax.expr_functor.mutator
    class Composer(relax.PyExprMutator):  # type: ignore[misc]
        def visit_var_binding_(self, binding: Any) -> None:
            known = found.get(binding.var)
            if known is None:
                super().visit_var_binding_(binding)
                return
            made = _call(known, self.visit_expr(known.data))
            inside = isinstance(binding.var, relax.DataflowVar)
            emit = self.builder_.emit if inside else self.builder_.emit_output
            self.set_var_remap(binding.var, emit(made))

    return Composer(module).visit_expr(function)


def _call(known: Normalised, data: Any) -> Any:
    from tvm import relax

    dtype = str(known.data.ty.dtype)
    shape = sizes_of(known.data.ty)
    assert shape is not None
    size = shape[known.axis]
    scale = np.ones(size) if known.scale is None else known.scale
    shift = np.zeros(size) if known.shift is None else known.shift
    scales = relax.const(scale.astype(dtype), dtype), relax.const(shift.astype(dtype), dtype)
    return relax.op.nn.layer_norm(data, *scales, [known.axis], known.epsilon)


# -- What is written as several operators --------------------------------------------------------------------


def _found(function: Any) -> dict[Any, Normalised]:
    """The normalised tensors of a function, by their variables."""
    from tvm import relax

    graph: dict[Any, Any] = {}
    found: dict[Any, Normalised] = {}
    for block in function.body.blocks:
        if not isinstance(block, relax.DataflowBlock):
            continue
        for binding in block.bindings:
            if isinstance(binding, relax.VarBinding):
                graph[binding.var] = binding.value
                known = _normalised(graph, binding.value) or _scaled(found, binding)
                if known is not None:
                    found[binding.var] = known
    return found


def _normalised(graph: dict[Any, Any], value: Any) -> Normalised | None:
    """(x - mean) / sqrt(variance + epsilon), or times one over that."""
    if operator_of(value) not in ("relax.divide", "relax.multiply"):
        return None
    pairs = [(value.args[0], value.args[1])]
    if operator_of(value) == "relax.multiply":
        pairs.append((value.args[1], value.args[0]))
    for first, other in pairs:
        centred = _centred(graph, first)
        deviation = other if operator_of(value) == "relax.divide" else _inverted(graph, other)
        variance = _under_root(graph, deviation)
        if centred is None or variance is None:
            continue
        x, axis = centred
        summed = _bound(graph, variance)
        if operator_of(summed) != "relax.add":
            continue
        for squares, epsilon in (list(summed.args), list(summed.args)[::-1]):
            number = number_of(epsilon)
            if number is not None and _is_variance(graph, squares, x, axis):
                return Normalised(x, axis, number)
    return None


def _centred(graph: dict[Any, Any], expression: Any) -> tuple[Any, int] | None:
    """x and the axis, of x - mean(x)."""

    value = _bound(graph, expression)
    if operator_of(value) != "relax.subtract":
        return None
    x, mean = value.args
    axis = _mean_axis(graph, mean, x)
    return (x, axis) if axis is not None else None


def _mean_axis(graph: dict[Any, Any], expression: Any, x: Any) -> int | None:
    """The one axis along which an expression is the mean of x, and keeps it."""
    value = _bound(graph, expression)
    if operator_of(value) != "relax.mean" or not value.args[0].same_as(x) or not value.attrs.keepdims:
        return None
    shape = sizes_of(x.ty)
    axes = value.attrs.axis
    if shape is None or axes is None or len(axes) != 1:
        return None
    return int(axes[0]) % len(shape)


def _is_variance(graph: dict[Any, Any], expression: Any, x: Any, axis: int) -> bool:
    value = _bound(graph, expression)
    if operator_of(value) == "relax.variance":
        axes = value.attrs.axis
        one = axes is not None and len(axes) == 1 and int(axes[0]) % int(x.ty.ndim) == axis
        return bool(one and value.attrs.keepdims and value.args[0].same_as(x))
    if operator_of(value) != "relax.mean":
        return False
    squared = value.args[0]
    if _mean_axis(graph, expression, squared) != axis:
        return False
    square = _bound(graph, squared)
    twice = operator_of(square) == "relax.multiply" and square.args[0].same_as(square.args[1])
    power = operator_of(square) == "relax.power" and number_of(square.args[1]) == 2.0
    if not (twice or power):
        return False
    centred = _centred(graph, square.args[0])
    return centred is not None and centred[0].same_as(x) and centred[1] == axis


def _inverted(graph: dict[Any, Any], expression: Any) -> Any:
    """What an expression is one over, or is the root of; ``None`` where it is neither."""
    value = _bound(graph, expression)
    if operator_of(value) == "relax.divide" and number_of(value.args[0]) == 1.0:
        return value.args[1]
    return expression if operator_of(value) == "relax.rsqrt" else None


def _under_root(graph: dict[Any, Any], expression: Any) -> Any:
    value = _bound(graph, expression)
    half = operator_of(value) == "relax.power" and number_of(value.args[1]) == 0.5
    if half or operator_of(value) in ("relax.sqrt", "relax.rsqrt"):
        return value.args[0]
    return None


def _scaled(found: dict[Any, Normalised], binding: Any) -> Normalised | None:
    """What is normalised, times and plus constants along the axis."""
    from tvm import relax

    value = binding.value
    if operator_of(value) not in ("relax.multiply", "relax.add"):
        return None
    for first, other in (list(value.args), list(value.args)[::-1]):
        known = found.get(first) if isinstance(first, relax.Var) else None
        along = _along(known, other) if known is not None else None
        if known is None or along is None:
            continue
        if operator_of(value) == "relax.multiply" and known.scale is None and known.shift is None:
            return Normalised(known.data, known.axis, known.epsilon, along)
        if operator_of(value) == "relax.add" and known.shift is None:
            return Normalised(known.data, known.axis, known.epsilon, known.scale, along)
    return None


def _along(known: Normalised, expression: Any) -> Array | None:
    """The values of a constant that only depend on the place along the axis."""
    import tvm

    shape = sizes_of(known.data.ty)
    if shape is None or not isinstance(expression, tvm.ir.GenericConst):
        return None
    values: Array = expression.value.numpy()
    whole = [1] * (len(shape) - values.ndim) + list(values.shape)
    wanted = [size if axis == known.axis else 1 for axis, size in enumerate(shape)]
    return values.reshape(-1) if whole == wanted else None


def _bound(graph: dict[Any, Any], expression: Any) -> Any:
    """What a variable is bound to; other expressions, and the function's inputs, are themselves."""
    from tvm import relax

    return graph.get(expression, expression) if isinstance(expression, relax.Var) else expression


# -- As TIR --------------------------------------------------------------------------------------------------


def legalizers(changes: Changes) -> dict[str, Any]:
    """What ``LegalizeOps`` is to ask for the TIR of an operator, where that is not TVM's default."""
    return {LAYER_NORM: legalising.remembered(_legalize)} if changes.composed else {}


def _legalize(builder: Any, call: Any) -> Any:
    attributes = call.attrs
    if not attributes.center or not attributes.scale or str(call.ty.dtype) != "float32":
        return call.op.get_attr("FLegalize")(builder, call)
    rank = int(call.args[0].ty.ndim)
    axes = [int(axis) % rank for axis in attributes.axes]
    return builder.call_te(
        normalise, *call.args, axes, float(attributes.epsilon), primfunc_name_hint="layer_norm"
    )


def normalise(data: Any, scale: Any, shift: Any, axes: list[int], epsilon: float) -> Any:
    """(data - mean) / sqrt(variance + epsilon) * scale + shift, as TE.

    Args:
        data: TE tensor.
        scale: TE tensor, of the axes that are normalised, in their order.
        shift: likewise.
        axes: of ``data``, mean and variance are taken over.
        epsilon: added to the variance.
    """
    from tvm import te, tirx

    rows = [axis for axis in range(len(data.shape)) if axis not in axes]
    count = math.prod(int(data.shape[axis]) for axis in axes)

    def const(number: float) -> Any:
        return tirx.const(number, data.dtype)

    def summed(name: str, term: Any) -> Any:
        over = [te.reduce_axis((0, data.shape[axis]), name=f"k{axis}") for axis in axes]

        def compute(*row: Any) -> Any:
            return te.sum(term(row, over), axis=over)

        return te.compute([data.shape[axis] for axis in rows], compute, name=name)

    def at(row: Any, place: Any) -> Any:
        index = dict(zip(rows, row, strict=True)) | dict(zip(axes, place, strict=True))
        return data[tuple(index[axis] for axis in range(len(data.shape)))]

    total = summed("total", at)

    def centred(row: Any, place: Any) -> Any:
        return at(row, place) - total[tuple(row)] * const(1 / count)

    squares = summed("squares", lambda row, place: centred(row, place) * centred(row, place))

    def compute(*index: Any) -> Any:
        row, place = [index[axis] for axis in rows], [index[axis] for axis in axes]
        inverse = tirx.rsqrt(squares[tuple(row)] * const(1 / count) + const(epsilon))
        return centred(row, place) * inverse * scale[tuple(place)] + shift[tuple(place)]

    return te.compute(data.shape, compute, name="layer_norm")
