"""Sums of half precision on a CPU, in single precision.

A CPU multiplies and adds in single precision whatever it reads, but TVM rounds after every term where the
operands are half precision: a sum of 4,096 terms loses all but two digits, and takes ten times as long. Every
other framework sums in single precision and rounds once.
"""

from __future__ import annotations

import inspect
from typing import Any

from tunemesh.stage_workers.graph import targets
from tunemesh.stage_workers.graph.rewriting import operator_of, rewritten

HALF = frozenset({"float16", "bfloat16"})

PRODUCTS = frozenset(
    {"conv1d", "conv2d", "conv3d", "conv1d_transpose", "conv2d_transpose", "conv3d_transpose", "matmul"}
)
"""Operators that can give another dtype than they take: operands are cast as they are read."""
SUMS = frozenset(
    {"relax.sum", "relax.mean", "relax.variance", "relax.std", "relax.prod", "relax.cumsum", "relax.cumprod"}
    | {"relax.nn.softmax", "relax.nn.log_softmax", "relax.nn.layer_norm", "relax.nn.group_norm"}
    | {"relax.nn.instance_norm", "relax.nn.rms_norm", "relax.nn.batch_norm", "relax.nn.attention"}
    | {"relax.nn.avg_pool1d", "relax.nn.avg_pool2d", "relax.nn.avg_pool3d"}
    | {f"relax.nn.adaptive_avg_pool{dimensions}d" for dimensions in (1, 2, 3)}
)
"""Operators whose operands are cast before."""


def sum_in_single(module: Any, target: str) -> Any:
    """``module`` with the sums of half precision computed in single precision, on a CPU."""
    if targets.is_gpu(target):
        return module
    from tvm import relax

    @relax.expr_functor.mutator
    class Widener(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            name = operator_of(call)
            if name in SUMS:
                return self._cast_before(call)
            kind = name.removeprefix("relax.").removeprefix("nn.")
            if kind in PRODUCTS and _is_half(call.args[0]) and not call.attrs.out_dtype:
                return self._cast_inside(call, kind)
            return call

        def _cast_inside(self, call: Any, kind: str) -> Any:
            make = relax.op.matmul if kind == "matmul" else getattr(relax.op.nn, kind)
            names = list(inspect.signature(make).parameters)[len(call.args) :]
            given = {name: getattr(call.attrs, name) for name in names if name != "out_dtype"}
            single = self.builder_.emit(make(*call.args, **given, out_dtype="float32"))
            return relax.op.astype(single, call.args[0].ty.dtype)

        def _cast_before(self, call: Any) -> Any:
            halves = [each for each in call.args if _is_half(each)]
            if not halves or not isinstance(call.ty, relax.TensorType | relax.TupleType):
                return call
            before = str(halves[0].ty.dtype)
            arguments = [
                self.builder_.emit(relax.op.astype(each, "float32")) if _is_half(each) else each
                for each in call.args
            ]
            wide = self.builder_.emit(
                relax.Call(call.op, arguments, attrs=call.attrs, ty_args=call.ty_args, span=call.span)
            )
            if isinstance(wide.ty, relax.TensorType):
                return relax.op.astype(wide, before)
            fields = [self.builder_.emit(relax.TupleGetItem(wide, i)) for i in range(len(wide.ty.fields))]
            return relax.Tuple([self.builder_.emit(relax.op.astype(each, before)) for each in fields])

    return rewritten(module, Widener(module).visit_expr)


def _is_half(expression: Any) -> bool:
    from tvm import relax

    ty = expression.ty
    return isinstance(ty, relax.TensorType) and str(ty.dtype) in HALF
