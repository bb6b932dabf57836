"""Constants: those without elements, and the simplest operators of others, which are folded with NumPy.

TVM's ``FoldConstant`` compiles every call that it folds, 0.1 s each: 5 s for the biases and limits of a
MobileNetV2. NumPy does those that are nearly all of them in no time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tunemesh.stage_workers.graph.rewriting import is_constant, is_static, operator_of, rewritten, sizes_of
from tunemesh.stage_workers.measuring.comparison import Array, numpy_dtype

Fold = Callable[..., Array]
"""From the call and the values of its arguments to its own."""


def fold(module: Any) -> Any:
    """``module`` with calls of :data:`FOLDS` whose arguments are all constant replaced by what they give."""
    from tvm import relax

    @relax.expr_functor.mutator
    class Folder(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            known = FOLDS.get(operator_of(call))
            if known is None or not is_static(call.ty):
                return call
            given = [self._value(each) for each in call.args if not isinstance(each, relax.ShapeExpr)]
            if not given or any(value is None for value in given):
                return call
            shape = [int(dim.value) for dim in call.ty.shape.values]
            dtype = str(call.ty.dtype)
            with np.errstate(all="ignore"):
                values = np.asarray(known(call, *given)).reshape(shape).astype(numpy_dtype(dtype), copy=False)
            return relax.const(np.asarray(values, order="C"), dtype)

        def _value(self, argument: Any) -> Array | None:
            import tvm

            if isinstance(argument, relax.Var):
                argument = self.lookup_binding(argument)
            if not isinstance(argument, tvm.ir.GenericConst) or not hasattr(argument.value, "numpy"):
                return None
            values: Array = argument.value.numpy()
            return values

    return rewritten(module, Folder(module).visit_expr)


def without_empty(module: Any) -> Any:
    """``module`` with calls that make tensors without elements in place of constants that have none: TVM
    writes those into a library, and cannot read them back."""
    from tvm import relax

    made = False

    @relax.expr_functor.mutator
    class Maker(relax.PyExprMutator):  # type: ignore[misc]
        def visit_generic_const_(self, constant: Any) -> Any:
            nonlocal made
            if not is_constant(constant) or 0 not in (sizes_of(constant.ty) or ()):
                return constant
            made = True
            return self.builder_.emit(relax.op.zeros(constant.ty.shape, str(constant.ty.dtype)))

    changed = rewritten(module, Maker(module).visit_expr)
    return relax.transform.LegalizeOps()(changed) if made else module


def _same(_: Any, values: Array) -> Array:
    """The caller gives it its shape and dtype."""
    return values


def _permute(call: Any, values: Array) -> Array:
    axes = call.attrs.axes
    return values.transpose(None if axes is None else [int(axis) for axis in axes])


def _where(_: Any, condition: Array, one: Array, other: Array) -> Array:
    return np.where(condition, one, other)


def _full(call: Any, value: Array) -> Array:
    """TVM cannot lower those of infinity, with which masks begin."""
    return np.full([int(dim.value) for dim in call.ty.shape.values], value)


FOLDS: dict[str, Fold] = {
    "relax.full": _full,
    "relax.reshape": _same,
    "relax.expand_dims": _same,
    "relax.squeeze": _same,
    "relax.flatten": _same,
    "relax.astype": _same,
    "relax.permute_dims": _permute,
    "relax.isnan": lambda _, values: np.isnan(values),
    "relax.where": _where,
    "relax.add": lambda _, one, other: one + other,
    "relax.subtract": lambda _, one, other: one - other,
    "relax.multiply": lambda _, one, other: one * other,
}
"""By the name of the operator."""
