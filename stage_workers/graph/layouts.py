"""Convolutions with channels last, by TVM's ``ConvertLayout``.

The pass asks every operator how it takes another layout, and several answer wrongly: a transposed convolution
becomes one that nothing lowers, a 3-D convolution computes something else, Sum and Mean (a stack and its
reduction) and Dropout raise, and an operand that is a plain number is a null pointer. So only the operators
of :data:`MOVING` are asked. Of the others the pass sees no more than a call from which it learns nothing: in
front of it, it goes back to the model's own layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunemesh.stage_workers.graph import constants
from tunemesh.stage_workers.graph.rewriting import fields_of

CONVOLUTION = "relax.nn.conv2d"
KEPT = "tunemesh_kept_"
"""What a hidden call is called, with its number."""

UNARY = (
    "abs ceil clip cos erf exp floor log negative round rsqrt sigmoid sign sin sqrt square tan tanh astype "
    "nn.relu nn.leakyrelu nn.gelu nn.gelu_tanh nn.silu nn.softplus isnan isinf isfinite logical_not"
)
BINARY = (
    "add subtract multiply divide power maximum minimum mod floor_mod floor_divide equal not_equal greater "
    "greater_equal less less_equal logical_and logical_or logical_xor"
)
OTHERS = (
    "nn.conv2d nn.max_pool2d nn.avg_pool2d nn.adaptive_avg_pool2d nn.batch_norm nn.softmax nn.log_softmax "
    "image.resize2d concat max mean min sum where"
)
MOVING = frozenset(f"relax.{name}" for name in f"{UNARY} {BINARY} {OTHERS}".split())
"""Operators whose own rule for layouts is right for tensors of four dimensions. (``tests`` try each.)"""

IMAGE = 4
"""Dimensions of what has channels."""


def channels_last(module: Any) -> Any:
    """``module`` with its convolutions in NHWC and HWIO, and the transpositions that this takes."""
    import tvm
    from tvm.relax import transform

    hidden = _Hidden()
    changed = transform.ConvertLayout({CONVOLUTION: ["NHWC", "HWIO"]})(hidden.hide(module))
    changed = constants.fold(hidden.show(changed))
    passes = [transform.FoldConstant(), transform.CanonicalizeBindings()]
    return tvm.transform.Sequential(passes)(changed)


class _Hidden:
    """Calls that are taken out of a module's sight, and put back."""

    def __init__(self) -> None:
        self._calls: list[Any] = []

    def hide(self, module: Any) -> Any:
        from tvm import relax

        calls = self._calls

        @relax.expr_functor.mutator
        class Hider(relax.PyExprMutator):  # type: ignore[misc]
            def visit_call_(self, call: Any) -> Any:
                call = _without_numbers(self.visit_expr_post_order(call))
                if _moves(call):
                    return call
                tensors, types = _tensors(call.args), _types(call.ty)
                if not tensors or not types:
                    return call
                calls.append(call)
                return relax.call_dps_packed(f"{KEPT}{len(calls) - 1}", tensors, types)

        return _changed(module, Hider)

    def show(self, module: Any) -> Any:
        from tvm import relax

        calls = self._calls

        @relax.expr_functor.mutator
        class Shower(relax.PyExprMutator):  # type: ignore[misc]
            def visit_call_(self, call: Any) -> Any:
                call = self.visit_expr_post_order(call)
                if str(getattr(call.op, "name", "")) != "relax.call_dps_packed":
                    return call
                symbol = str(call.args[0].global_symbol)
                if not symbol.startswith(KEPT):
                    return call
                kept = calls[int(symbol.removeprefix(KEPT))]
                given = iter(call.args[1].fields)
                arguments = [_with_tensors(each, given) for each in kept.args]
                return relax.Call(kept.op, arguments, attrs=kept.attrs, ty_args=kept.ty_args, span=kept.span)

        return _changed(module, Shower)


def _changed(module: Any, mutator: Any) -> Any:
    changed = module.clone()
    changed["main"] = mutator(changed).visit_expr(module["main"])
    return changed


def _moves(call: Any) -> bool:
    """Whether ``ConvertLayout`` may see a call: it knows the operator, or nothing of it."""
    import tvm

    name = str(getattr(call.op, "name", ""))
    if not isinstance(call.op, tvm.ir.Op) or not name.startswith("relax."):
        return True
    if name not in MOVING:
        return False
    operands = [field for each in call.args for field in (each.fields if _is_tuple(each) else [each])]
    if not all(_is_tensor(each.ty) for each in operands):
        return False
    # Broadcasting over fewer dimensions is understood, more dimensions are not.
    return all(int(each.ty.ndim) <= IMAGE for each in operands)


def _without_numbers(call: Any) -> Any:
    """A call of one of :data:`BINARY` with constants in place of plain numbers."""
    import tvm
    from tvm import relax

    numbers = (tvm.tirx.IntImm, tvm.tirx.FloatImm)
    if str(getattr(call.op, "name", "")).removeprefix("relax.") not in BINARY.split():
        return call
    if not any(isinstance(each, numbers) for each in call.args):
        return call
    arguments = [
        relax.const(each.value, str(each.ty.dtype)) if isinstance(each, numbers) else each
        for each in call.args
    ]
    return relax.Call(call.op, arguments, attrs=call.attrs, ty_args=call.ty_args, span=call.span)


def _is_tuple(expression: Any) -> bool:
    from tvm import relax

    return isinstance(expression, relax.Tuple)


def _is_tensor(ty: Any) -> bool:
    from tvm import relax

    return isinstance(ty, relax.TensorType)


def _tensors(arguments: Sequence[Any]) -> list[Any]:
    """The tensors among the arguments of a call, in order, also those in tuples that stand there."""
    found: list[Any] = []
    for each in arguments:
        if _is_tuple(each):
            found += _tensors(each.fields)
        elif _is_tensor(each.ty):
            found.append(each)
    return found


def _with_tensors(argument: Any, tensors: Any) -> Any:
    """An argument with the next of ``tensors`` in place of its own."""
    from tvm import relax

    if _is_tuple(argument):
        return relax.Tuple([_with_tensors(each, tensors) for each in argument.fields])
    return next(tensors) if _is_tensor(argument.ty) else argument


def _types(ty: Any) -> list[Any]:
    """The types of the tensors that a call gives; none where it gives something else."""
    fields = fields_of(ty)
    return fields if all(_is_tensor(each) and each.shape is not None for each in fields) else []
