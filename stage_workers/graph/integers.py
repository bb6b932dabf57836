"""Products and convolutions of quantised networks in integers.

A quantised model, as it is read, multiplies floats: data of 8 bits less their zero point, times their scale,
with weights that are small integers times a scale. That is a product of integers, times both scales. Here it
becomes one, where the CPU has an instruction for it: exact sums in int32, of which the float follows. What
stands behind it (a bias, the rounding to 8 bits) is as it was, so the results are those of the model, but for
the rounding of the sums that are no more.

The instruction takes data without a sign: signed ones are moved by 128, and so is their zero point. The zero
point is taken off the sums: times the sum of the weights, which is constant.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from tunemesh.stage_workers.graph import dots, models, variants
from tunemesh.stage_workers.graph.dots import Dot
from tunemesh.stage_workers.graph.rewriting import is_constant, is_static, operator_of
from tunemesh.stage_workers.measuring.comparison import Array

SMALL = {"uint8": 0, "int8": 128}
"""Dtypes of data, and by how much they are moved to have no sign."""
MOVES = frozenset({"relax.permute_dims", "relax.reshape"})
"""Operators that change where numbers lie, and not the numbers."""
MOST = 128
"""The largest amount of a weight: that of -128."""
LOOKED_AT = 64
"""Weights of an output from which a scale is guessed, before all of them are looked at."""
OFF = 1e-3
"""How far a weight may be from an integer times the scale: single precision has rounded it."""
FEWEST = 8
"""Weights of an output that all are such by chance: next to never."""


class Data(NamedTuple):
    """What a product reads: ``(values - zero) * scale``, moved.

    Attributes:
        values: of 8 bits.
        moves: calls that give it other axes, the last one first.
        zero: the zero point.
        scale: 1 where there is none.
    """

    values: Any
    moves: list[Any]
    zero: int
    scale: float


def gains(module: Any, target: str) -> bool:
    """Whether a module has data of 8 bits, and the target an instruction for them."""
    import tvm
    from tvm import relax

    return any(each.runs_on(target) for each in dots.INTEGERS) and any(
        isinstance(node, tvm.ir.Call)
        and operator_of(node) == "relax.astype"
        and isinstance(node.args[0].ty, relax.TensorType)
        and str(node.args[0].ty.dtype) in SMALL
        for node in models.nodes(module)
    )


def multiplied(module: Any, target: str) -> Any:
    """``module`` with products and convolutions of quantised data and weights in integers."""
    from tvm import relax

    there = [each for each in dots.INTEGERS if each.runs_on(target)]
    if not there:
        return module

    @relax.expr_functor.mutator
    class Multiplier(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            if operator_of(call) not in (dots.PRODUCT, dots.CONVOLUTION):
                return call
            found = _read(call, self.lookup_binding, there)
            return call if found is None else _emit(self.builder_, call, *found)

    mutator = Multiplier(module)
    for name in variants.entries_of(module):
        variable = module.get_global_var(name)
        mutator.builder_.update_func(variable, mutator.visit_expr(module[variable]))
    return relax.transform.DeadCodeElimination(variants.entries_of(module))(mutator.builder_.get())


def _read(call: Any, binding: Any, there: list[Dot]) -> tuple[Dot, Data, Array, Array] | None:
    """The instruction for a call, its data, and its weights as integers with the scale of each output; or
    ``None``."""
    _, weights = call.args
    if not is_constant(weights) or not is_static(call.ty) or str(call.ty.dtype) not in ("float32", "int32"):
        return None
    sizes = dots.sizes(call)
    dot = next((each for each in there if sizes is not None and each.fits(*sizes)), None)
    data = _data(call.args[0], binding)
    if dot is None or data is None:
        return None
    floats = str(call.ty.dtype) == "float32"
    found = scaled(weights.value.numpy()) if floats else _plain(weights.value.numpy(), data)
    if found is None or largest_sum(found[0]) > np.iinfo(np.int32).max:
        return None
    return dot, data, *found


def largest_sum(weights: Array) -> int:
    """What a sum of products with weights of shape (…, outputs) may come to."""
    flat = weights.reshape(-1, weights.shape[-1]).astype(np.int64)
    return int(np.abs(flat).sum(0).max()) * np.iinfo(np.uint8).max


def _data(expression: Any, binding: Any) -> Data | None:
    """What an expression makes of data of 8 bits; ``None`` where it does something else."""
    from tvm import relax

    def of(each: Any) -> Any:
        return binding(each) if isinstance(each, relax.Var) else each

    def constant(call: Any, number: int) -> float | None:
        value = call.args[number]
        if not is_constant(value):
            return None
        array = value.value.numpy()
        return float(array.reshape(-1)[0]) if array.size == 1 else None

    made, moves, scale, zero = of(expression), list[Any](), 1.0, 0.0
    while operator_of(made) in MOVES:
        moves.append(made)
        made = of(made.args[0])
    if operator_of(made) == "relax.multiply":
        known = constant(made, 1)
        if known is None:
            return None
        made, scale = of(made.args[0]), known
    if operator_of(made) == "relax.astype" and str(made.ty.dtype) == "float32":
        made = of(made.args[0])
    if operator_of(made) == "relax.subtract" and str(made.ty.dtype) == "int32":
        known = constant(made, 1)
        if known is None:
            return None
        made, zero = of(made.args[0]), known
    if operator_of(made) != "relax.astype" or str(made.ty.dtype) not in ("int32", "float32"):
        return None
    values = made.args[0]
    dtype = str(values.ty.dtype)
    fits = dtype in SMALL and is_static(values.ty) and 0 <= zero + SMALL[dtype] <= 255
    return Data(values, moves, int(zero), scale) if fits else None


def scaled(weights: Array) -> tuple[Array, Array] | None:
    """Weights of shape (…, outputs) as int8, and the scale of each output; ``None`` where they are no such
    integers times such a scale."""
    flat = weights.reshape(-1, weights.shape[-1]).astype(np.float64)
    if len(flat) < FEWEST or not np.isfinite(flat).all():
        return None
    largest = np.abs(flat).max(0)
    few = flat[np.linspace(0, len(flat) - 1, min(len(flat), LOOKED_AT)).astype(int)]
    scales = np.where(largest > 0, 0.0, 1.0)
    # The least amount that the largest can have: all others are multiples of it.
    for most in range(1, MOST + 1):
        guess = np.where(largest > 0, largest / most, 1.0)
        open_: Array = np.equal(scales, 0.0)
        if not open_.any():
            break
        near = np.asarray(open_ & _whole(few, guess))
        near[near] = _whole(flat[:, near], guess[near])
        scales = np.where(near, guess, scales)
    if not scales.all():
        return None
    whole = np.rint(flat / scales)
    if whole.max() == MOST:
        return None
    return whole.astype(np.int8).reshape(weights.shape), scales


def _plain(weights: Array, data: Data) -> tuple[Array, Array] | None:
    """The weights of a product of integers as int8, all of scale 1."""
    whole = weights.astype(np.int8)
    fits = data.scale == 1.0 and np.array_equal(whole, weights)
    return (whole, np.ones(weights.shape[-1])) if fits else None


def _whole(values: Array, scales: Array) -> Array:
    """Of which columns all values are integers times the scale."""
    parts = values / scales
    return np.asarray((np.abs(parts - np.rint(parts)) < OFF).all(0))


def _emit(builder: Any, call: Any, dot: Dot, data: Data, weights: Array, scales: Array) -> Any:
    """The float, or the integer, that a call gives, by a product of integers."""
    import tvm
    from tvm import relax

    moved = SMALL[str(data.values.ty.dtype)]
    values, zero = data.values, data.zero + moved
    if moved:
        wide = builder.emit(relax.op.add(relax.op.astype(values, "int32"), relax.const(moved, "int32")))
        values = builder.emit(relax.op.astype(wide, dot.data))
    for each in reversed(data.moves):
        values = builder.emit(tvm.ir.Call(each.op, [values, *each.args[1:]], each.attrs))
    packed = relax.const(dot.packed(weights), dot.weights)
    sums = _sums(builder, call, dot, values, packed, zero)
    if zero:
        own = zero * weights.reshape(-1, weights.shape[-1]).astype(np.int64).sum(0)
        sums = builder.emit(relax.op.subtract(sums, relax.const(own.astype(np.int32))))
    if str(call.ty.dtype) == dot.total:
        return sums
    single = builder.emit(relax.op.astype(sums, "float32"))
    return relax.op.multiply(single, relax.const((scales * data.scale).astype(np.float32)))


def _sums(builder: Any, call: Any, dot: Dot, values: Any, packed: Any, zero: int) -> Any:
    if operator_of(call) == dots.PRODUCT:
        return builder.emit_te(
            functools.partial(dots.product, dot=dot),
            values,
            packed,
            primfunc_name_hint=f"product_{dot.short}",
        )
    attributes = call.attrs
    return builder.emit_te(
        functools.partial(dots.convolution, dot=dot, pad_value=zero),
        values,
        packed,
        [int(each) for each in attributes.strides],
        [int(each) for each in attributes.padding],
        [int(each) for each in attributes.dilation],
        primfunc_name_hint=f"conv2d_{dot.short}",
    )
