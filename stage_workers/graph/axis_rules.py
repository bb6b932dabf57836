"""How operators that work along axes are computed on tensors that lie in another order than the graph says.

Rules as in :mod:`layout_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tunemesh.stage_workers.graph import permutations
from tunemesh.stage_workers.graph.rewriting import sizes_of
from tunemesh.stage_workers.graph.views import Moving, Rule, View


def _along(
    moving: Moving, call: Any, axes: Sequence[int], make: Callable[[Any, list[int]], Any], near: bool = False
) -> View | None:
    """What keeps the axes, and works along some of them.

    Args:
        axes: of the tensor.
        make: the call, from the tensor as it lies and where in memory these axes are.
        near: whether it is slow where these axes are not the innermost.
    """
    view, shape = moving.view(call.args[0]), sizes_of(call.ty)
    if view is None or shape is None:
        return None
    axes = [axis % len(view.order) for axis in axes]
    at = permutations.places(view.order)
    there = [at[axis] for axis in axes]
    if there != sorted(there) or (near and not view.settled and not _innermost(there, len(at))):
        return None
    return View(moving.emit(make(view.value, there)), shape, view.order, view.settled)


def _innermost(axes: Sequence[int], rank: int) -> bool:
    return list(axes) == list(range(rank - len(axes), rank))


def _softmax(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    make = getattr(relax.op.nn, str(call.op.name).removeprefix("relax.nn."))
    axis = int(call.attrs.axis)
    return _along(moving, call, [axis], lambda data, axes: make(data, axes[0]), near=True)


def _layer_norm(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    attributes = call.attrs
    scales = [moving.as_said(each) for each in call.args[1:]]

    def make(data: Any, axes: list[int]) -> Any:
        if "rms" in str(call.op.name):
            return relax.op.nn.rms_norm(data, *scales, axes, float(attributes.epsilon))
        return relax.op.nn.layer_norm(
            data, *scales, axes, float(attributes.epsilon), bool(attributes.center), bool(attributes.scale)
        )

    return _along(moving, call, [int(axis) for axis in attributes.axes], make, near=True)


def _group_norm(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    attributes = call.attrs
    scales = [moving.as_said(each) for each in call.args[1:]]
    view = moving.view(call.args[0])
    if view is None or not view.settled:
        return None
    at = permutations.places(view.order)
    channel = at[int(attributes.channel_axis) % len(at)]
    rest = [float(attributes.epsilon), bool(attributes.center), bool(attributes.scale)]

    def make(data: Any, axes: list[int]) -> Any:
        if "group" in str(call.op.name):
            return relax.op.nn.group_norm(data, *scales, int(attributes.num_groups), channel, axes, *rest)
        return relax.op.nn.instance_norm(data, *scales, channel, axes, *rest)

    return _along(moving, call, [int(axis) for axis in attributes.axes], make)


def _reduction(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    view, shape, attributes = moving.view(call.args[0]), sizes_of(call.ty), call.attrs
    if view is None or shape is None:
        return None
    rank = len(view.order)
    given = attributes.axis
    if given is None:
        axes = list(range(rank))
    else:
        axes = [int(axis) % rank for axis in (given if not hasattr(given, "value") else [given])]
    at = permutations.places(view.order)
    there = sorted(at[axis] for axis in axes)
    if not view.settled and not _innermost(there, rank):
        return None
    make = getattr(relax.op, str(call.op.name).removeprefix("relax."))
    made = moving.emit(make(view.value, there, bool(attributes.keepdims)))
    order = view.order if attributes.keepdims else permutations.without(view.order, axes)
    return View(made, shape, order, view.settled)


def _extreme_place(moving: Moving, call: Any) -> View | None:
    """``argmax`` and ``argmin``."""
    from tvm import relax

    view, shape, attributes = moving.view(call.args[0]), sizes_of(call.ty), call.attrs
    if view is None or shape is None or attributes.axis is None:
        return None
    axis = int(attributes.axis) % len(view.order)
    make = getattr(relax.op, str(call.op.name).removeprefix("relax."))
    made = make(view.value, permutations.places(view.order)[axis], bool(attributes.keepdims))
    order = view.order if attributes.keepdims else permutations.without(view.order, [axis])
    return View(moving.emit(made), shape, order, view.settled)


# -- What puts tensors together, or takes parts of them ------------------------------------------------------


def _concat(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    shape = sizes_of(call.ty)
    if shape is None or not isinstance(call.args[0], relax.Tuple) or call.attrs.axis is None:
        return None
    parts = list(call.args[0].fields)
    shapes = [sizes_of(each.ty) for each in parts]
    views = [view for view in map(moving.view, parts) if view is not None]
    settled = [view for view in views if view.settled]
    if settled:
        view = max(settled, key=lambda view: math.prod(view.shape))
    elif len(views) == len(parts) and len({view.order for view in views}) == 1:
        view = views[0]
    else:
        return None
    if any(each is None for each in shapes):
        return None
    axis = permutations.places(view.order)[int(call.attrs.axis) % len(shape)]
    made = relax.op.concat([moving.take(each, view.order) for each in parts], axis)
    return View(moving.emit(made), shape, view.order, view.settled)


def _split(moving: Moving, call: Any) -> list[View] | None:
    from tvm import relax

    view = moving.view(call.args[0])
    shapes = [sizes_of(field) for field in getattr(call.ty, "fields", [])]
    if view is None or not shapes:
        return None
    given = call.attrs.indices_or_sections
    parts = int(given) if hasattr(given, "value") else [int(each) for each in given]
    axis = permutations.places(view.order)[int(call.attrs.axis) % len(view.order)]
    made = moving.emit(relax.op.split(view.value, parts, axis))
    found = []
    for i, shape in enumerate(shapes):
        if shape is None:
            return None
        found.append(View(moving.emit(relax.TupleGetItem(made, i)), shape, view.order, view.settled))
    return found


def _slice(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    given = [_numbers(each) for each in call.args[1:]]
    if any(each is None for each in given) or not given[0]:
        return None

    def make(data: Any, axes: list[int]) -> Any:
        return relax.op.strided_slice(data, axes, *given[1:], assume_inbound=bool(call.attrs.assume_inbound))

    return _unordered(moving, call, given[0], make)


def _unordered(
    moving: Moving, call: Any, axes: Sequence[int], make: Callable[[Any, list[int]], Any]
) -> View | None:
    """What keeps the axes, and works along some of them one by one."""
    view, shape = moving.view(call.args[0]), sizes_of(call.ty)
    if view is None or shape is None:
        return None
    at = permutations.places(view.order)
    made = make(view.value, [at[axis % len(at)] for axis in axes])
    return View(moving.emit(made), shape, view.order, view.settled)


def _numbers(argument: Any) -> list[int] | None:
    import tvm

    fields = list(getattr(argument, "fields", getattr(argument, "values", [])))
    values = [getattr(field, "value", field) for field in fields]
    return (
        [int(each) for each in values]
        if all(isinstance(each, int | tvm.tirx.IntImm) for each in values)
        else None
    )


def _take(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    view, shape, axis = moving.view(call.args[0]), sizes_of(call.ty), call.attrs.axis
    if view is None or shape is None or axis is None or moving.view(call.args[1]) is not None:
        return None
    axis = int(axis) % len(view.order)
    rank = len(shape) - len(view.order) + 1  # of the indices
    if rank not in (0, 1):
        return None
    at = permutations.places(view.order)[axis]
    made = relax.op.take(view.value, moving.as_said(call.args[1]), at, mode=str(call.attrs.mode))
    order = view.order if rank else permutations.without(view.order, [axis])
    return View(moving.emit(made), shape, order, view.settled)


def _pad(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    attributes = call.attrs
    widths = [int(each) for each in attributes.pad_width]

    def make(data: Any, places: list[int]) -> Any:
        lying = [widths[2 * places.index(at) :][:2] for at in range(len(places))]
        pads = [width for pair in lying for width in pair]
        value = float(getattr(attributes.pad_value, "value", attributes.pad_value))
        return relax.op.nn.pad(data, pads, str(attributes.pad_mode), value)

    return _unordered(moving, call, range(len(widths) // 2), make)


def _broadcast(moving: Moving, call: Any) -> View | None:
    from tvm import relax

    view, shape = moving.view(call.args[0]), sizes_of(call.ty)
    if view is None or shape is None or len(shape) != len(view.order):
        return None
    made = relax.op.broadcast_to(view.value, [shape[axis] for axis in view.order])
    return View(moving.emit(made), shape, view.order, view.settled)


def _prelu(moving: Moving, call: Any) -> View | None:
    def make(data: Any, axes: list[int]) -> Any:
        from tvm import relax

        return relax.op.nn.prelu(data, moving.as_said(call.args[1]), axes[0])

    return _along(moving, call, [int(call.attrs.axis)], make)


RULES: dict[str, Rule] = {
    **{f"relax.{name}": _reduction for name in ("max", "min", "mean", "sum", "prod", "variance", "std")},
    "relax.nn.prelu": _prelu,
    "relax.nn.softmax": _softmax,
    "relax.nn.log_softmax": _softmax,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.rms_norm": _layer_norm,
    "relax.nn.group_norm": _group_norm,
    "relax.nn.instance_norm": _group_norm,
    "relax.argmax": _extreme_place,
    "relax.argmin": _extreme_place,
    "relax.concat": _concat,
    "relax.split": _split,
    "relax.strided_slice": _slice,
    "relax.take": _take,
    "relax.nn.pad": _pad,
    "relax.broadcast_to": _broadcast,
}
"""By the name of the operator."""
