"""How operators are computed on tensors that lie in another order of axes than the graph says.

A rule takes what rewrites the module (:class:`.views.Moving`) and a call. It gives how the result lies, or
``None``: the call is then computed as the graph says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunemesh.stage_workers.graph import axis_rules, permutations, transposed, turning
from tunemesh.stage_workers.graph.permutations import Order
from tunemesh.stage_workers.graph.rewriting import axes_of, is_constant, operator_of, sizes_of
from tunemesh.stage_workers.graph.views import Moving, Rule, View

UNARY = (
    "abs acos acosh asin asinh atan atanh bitwise_not ceil clip cos cosh erf exp floor log negative round "
    "rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc astype isnan isinf isfinite logical_not "
    "nn.relu nn.relu6 nn.leakyrelu nn.gelu nn.gelu_tanh nn.selu nn.silu nn.softplus"
)
SEVERAL = (
    "add subtract multiply divide power maximum minimum mod floor_mod floor_divide equal not_equal greater "
    "greater_equal less less_equal logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor "
    "left_shift right_shift log_add_exp atan2 where"
)
ELEMENTWISE = frozenset(f"relax.{name}" for name in f"{UNARY} {SEVERAL}".split())
"""Operators that compute each element of what they give from one element of each operand."""
IMAGE = 4
"""Axes of an image."""
THIN = 8
"""Channels of an image that a convolution reads as it lies, at most."""
SPACE = {1: "W", 2: "HW", 3: "DHW"}
"""Letters of the axes of space, by their number."""


def apply(moving: Moving, value: Any) -> View | list[View] | None:
    """How the result of an expression lies, where that is not as the graph says."""
    import tvm
    from tvm import relax

    if isinstance(value, relax.TupleGetItem):
        fields = moving.fields(value.tuple_value)
        return fields[int(value.index)] if fields is not None else None
    if not isinstance(value, tvm.ir.Call):
        return None
    name = operator_of(value)
    rule = _elementwise if name in ELEMENTWISE else RULES.get(name)
    return rule(moving, value) if rule is not None else None


# -- What has an order of its own ----------------------------------------------------------------------------


def _convolution(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    attributes = call.attrs
    layouts = (
        attributes.data_layout,
        attributes.kernel_layout,
        attributes.out_layout or attributes.data_layout,
    )
    rank, shape = int(call.args[0].ty.ndim), sizes_of(call.ty)
    if any(len(layout) != rank for layout in layouts) or shape is None or sizes_of(call.args[0].ty) is None:
        return None
    if sizes_of(call.args[1].ty) is None:
        return None
    space = SPACE[rank - 2]
    data, kernel = f"N{space}C", f"{space}IO"
    if not (
        sorted(layouts[0]) == sorted(layouts[2]) == sorted(data) and sorted(layouts[1]) == sorted(kernel)
    ):
        return None
    order = _order(layouts[0], data)
    as_it_is = rank == IMAGE and _is_thin(moving, call.args[0], order) and int(attributes.groups) == 1
    made = getattr(relax.op.nn, f"conv{rank - 2}d")(
        moving.as_said(call.args[0]) if as_it_is else moving.take(call.args[0], order),
        moving.take(call.args[1], _order(layouts[1], kernel)),
        strides=attributes.strides,
        padding=attributes.padding,
        dilation=attributes.dilation,
        groups=attributes.groups,
        data_layout=layouts[0] if as_it_is else data,
        kernel_layout=kernel,
        out_layout=data,
        out_dtype=attributes.out_dtype or None,
    )
    return View(moving.emit(made), shape, _order(layouts[2], data), True)


def _is_thin(moving: Moving, argument: Any, order: Order) -> bool:
    """Whether an image lies as the graph says, has to be moved, and has few channels. A convolution reads one
    value of it at a time, wherever that lies: it takes longer to move it."""
    shape = sizes_of(argument.ty)
    return (
        shape is not None
        and moving.view(argument) is None
        and shape[order[-1]] <= THIN
        and permutations.moves(shape, permutations.identity(len(shape)), order)
    )


def _order(layout: str, wanted: str) -> Order:
    return tuple(layout.index(letter) for letter in wanted)


def _transposed_convolution(moving: Moving, call: Any) -> View | None:
    shape = sizes_of(call.ty)
    found = transposed.read(call)
    if found is None or shape is None:
        return None
    order = (0, *range(2, len(shape)), 1)
    return View(found.emit(moving.emit, moving.take(call.args[0], order)), shape, order, True)


def _pool(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    view, shape, attributes = moving.view(call.args[0]), sizes_of(call.ty), call.attrs
    if view is None or shape is None or attributes.out_layout != attributes.layout:
        return None
    layout = f"N{SPACE[len(shape) - 2]}C"
    if sorted(attributes.layout) != sorted(layout):
        return None
    order = _order(attributes.layout, layout)
    if not view.settled and view.order != order:
        return None
    name = str(call.op.name).removeprefix("relax.nn.")
    make, data = getattr(relax.op.nn, name), moving.take(call.args[0], order)
    if name.startswith("adaptive"):
        made = make(data, attributes.output_size, layout=layout)
    else:
        made = make(
            data,
            pool_size=attributes.pool_size,
            strides=attributes.strides,
            padding=attributes.padding,
            dilation=attributes.dilation,
            ceil_mode=attributes.ceil_mode,
            count_include_pad=attributes.count_include_pad,
            layout=layout,
        )
    return View(moving.emit(made), shape, order, view.settled)


def _resize(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    view, shape, attributes = moving.view(call.args[0]), sizes_of(call.ty), call.attrs
    if view is None or shape is None or not view.settled:
        return None
    layout = f"N{SPACE[len(shape) - 2]}C"
    if sorted(attributes.layout) != sorted(layout):
        return None
    order = _order(attributes.layout, layout)
    made = getattr(relax.op.image, str(call.op.name).removeprefix("relax.image."))(
        moving.take(call.args[0], order),
        call.args[1],
        roi=attributes.roi,
        layout=layout,
        method=attributes.method,
        coordinate_transformation_mode=attributes.coordinate_transformation_mode,
        rounding_method=attributes.rounding_method,
        cubic_alpha=attributes.cubic_alpha,
        cubic_exclude=attributes.cubic_exclude,
        extrapolation_value=attributes.extrapolation_value,
        out_dtype=attributes.out_dtype or None,
    )
    return View(moving.emit(made), shape, order, True)


# -- What moves axes -----------------------------------------------------------------------------------------


def _transposition(moving: Moving, call: Any) -> View | None:
    shape, before = sizes_of(call.ty), sizes_of(call.args[0].ty)
    if shape is None or before is None or is_constant(call.args[0]):
        return None
    axes = axes_of(call)
    view = moving.view(call.args[0])
    order = view.order if view is not None else permutations.identity(len(shape))
    value = moving.take(call.args[0], order)
    return View(value, shape, permutations.turned(order, axes), view is not None and view.settled)


def _reshape(moving: Moving, call: Any) -> View | None:
    """All that only gives another shape, or more or fewer axes of length 1."""
    from tvm import relax

    view, shape = moving.view(call.args[0]), sizes_of(call.ty)
    if view is None or shape is None:
        return None
    order = view.order
    after = permutations.reshaped(view.shape, order, shape)
    if after is None:
        if not view.settled:
            return None
        order = permutations.before_reshape(view.shape, order, shape)
        after = permutations.reshaped(view.shape, order, shape)
        if after is None:
            return None
    made = relax.op.reshape(moving.take(call.args[0], order), [shape[axis] for axis in after])
    return View(moving.emit(made), shape, after, view.settled)


def _pixel_shuffle(moving: Moving, call: Any) -> View | None:
    """From (N, C r r, H, W) to (N, C, H r, W r)."""
    from tvm import relax

    view, shape = moving.view(call.args[0]), sizes_of(call.ty)
    if view is None or shape is None or len(shape) != 4 or not view.settled:
        return None
    factor = int(call.attrs.upscale_factor)
    images, channels, height, width = shape
    lying = [images, height // factor, width // factor, channels, factor, factor]
    value = moving.emit(relax.op.reshape(moving.take(call.args[0], (0, 2, 3, 1)), lying))
    value = moving.emit(relax.op.permute_dims(value, [0, 1, 4, 2, 5, 3]))
    made = relax.op.reshape(value, [images, height, width, channels])
    return View(moving.emit(made), shape, (0, 2, 3, 1), True)


# -- What works on single elements ---------------------------------------------------------------------------


def _elementwise(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    shape = sizes_of(call.ty)
    tensors = [each for each in call.args if _is_tensor(each)]
    if shape is None or any(sizes_of(each.ty) is None for each in tensors):
        return None
    view = _shared(moving, tensors, shape)
    if view is None:
        return None
    arguments = [_spread(moving, each, view.order) if _is_tensor(each) else each for each in call.args]
    made = relax.Call(call.op, arguments, attrs=call.attrs, ty_args=call.ty_args, span=call.span)
    return View(moving.emit(made), shape, view.order, view.settled)


def _shared(moving: Moving, tensors: Sequence[Any], shape: tuple[int, ...]) -> View | None:
    """The one of some tensors whose order the others are to take."""
    views = [view for view in map(moving.view, tensors) if view is not None and len(view.shape) == len(shape)]
    settled = [view for view in views if view.settled]
    whole = [each for each in tensors if sizes_of(each.ty) == shape and not is_constant(each)]
    if any(moving.view(each) is None for each in whole) and all(map(moving.is_plain, whole)):
        return None  # nothing has to be moved
    # The largest: the others are moved with less effort.
    if settled:
        return max(settled, key=lambda view: math.prod(view.shape))
    lying = [moving.view(each) for each in whole]
    if not lying or any(view is None or view.order != (lying[0] or view).order for view in lying):
        return None
    return lying[0]


def _spread(moving: Moving, argument: Any, order: Order) -> Any:
    """An operand that is broadcast to what lies in this order."""
    from tvm import relax

    shape = sizes_of(argument.ty)
    assert shape is not None
    if math.prod(shape) == 1 and moving.view(argument) is None:
        return moving.as_said(argument)
    if len(shape) == len(order):
        return moving.take(argument, order)
    whole = [1] * (len(order) - len(shape)) + list(shape)
    if is_constant(argument):
        values = argument.value.numpy().reshape(whole).transpose(order)
        return relax.const(np.ascontiguousarray(values), str(argument.ty.dtype))
    # All axes that it has not got are outermost, and of length 1.
    wide = moving.emit(relax.op.reshape(moving.as_said(argument), whole))
    axes = list(order)
    if permutations.moves(whole, permutations.identity(len(order)), order):
        return moving.emit(relax.op.permute_dims(wide, axes))
    return moving.emit(relax.op.reshape(wide, [whole[axis] for axis in axes]))


def _is_tensor(expression: Any) -> bool:
    from tvm import relax

    return isinstance(getattr(expression, "ty", None), relax.TensorType)


RULES: dict[str, Rule] = {
    **axis_rules.RULES,
    **{f"relax.nn.conv{rank}d": _convolution for rank in SPACE},
    **{f"relax.nn.conv{rank}d_transpose": _transposed_convolution for rank in SPACE},
    **{f"relax.nn.{kind}_pool{rank}d": _pool for kind in ("max", "avg", "adaptive_avg") for rank in SPACE},
    **{f"relax.image.resize{rank}d": _resize for rank in (2, 3)},
    **{f"relax.{name}": _reshape for name in ("reshape", "flatten", "squeeze", "expand_dims")},
    turning.TRANSPOSITION: _transposition,
    "relax.nn.batch_flatten": _reshape,
    "relax.nn.pixel_shuffle": _pixel_shuffle,
}
"""By the name of the operator."""
