"""Products and convolutions in a narrower element type than the model's, where a person asks for it.

Both factors are rounded to it, and multiplied and summed by an instruction of the CPU, in single precision:
what comes out is single precision again. Weights are rounded once, and take half of the memory. What stands
between is as it was, so the rounding of what a product reads goes into the function that computes it. Where
only element by element is something else computed of that, as where a residual is added, it is read rounded
there, too: so it is written once, in half of the memory.

Only products whose second factor is constant are changed, of sizes that the instruction takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tunemesh.shared.errors import BadTarget
from tunemesh.shared.messages import Precision
from tunemesh.stage_workers.graph import dot_planes, dots, layout_rules, targets
from tunemesh.stage_workers.graph.rewriting import (
    is_constant,
    is_static,
    operator_of,
    rewritten,
    variables_of,
)
from tunemesh.stage_workers.measuring import comparison
from tunemesh.stage_workers.measuring.comparison import Array

WIDE = "float32"
NARROW = "bfloat16"


def require(precision: Precision, target: str) -> None:
    """Whether a target has what a precision needs.

    Raises:
        BadTarget: it has not.
    """
    if precision == "f32":
        return
    name = targets.name(target)
    if precision == "fp16":
        raise BadTarget(
            f"--precision fp16: {name} has no instruction that multiplies fp16 and sums in f32 (those of"
            " avx512_fp16 sum in fp16); there is bf16, for CPUs with avx512_bf16"
        )
    if targets.is_gpu(target):
        raise BadTarget(f"--precision {precision} is for CPUs, and {name} is none")
    if not dots.BFLOAT16[0].runs_on(target):
        raise BadTarget(f"--precision bf16: {name} has no avx512_bf16")


def tolerated(narrow: bool) -> float:
    """Times the tolerance of single precision that outputs may be off, where products are ``narrow``."""
    return comparison.NOISE[NARROW] / comparison.NOISE[WIDE] if narrow else 1.0


def narrowed(module: Any) -> Any:
    """``module`` with products and convolutions of rounded factors, whose results are single precision."""
    from tvm import relax

    @relax.expr_functor.mutator
    class Narrower(relax.PyExprMutator):  # type: ignore[misc]
        rounded: dict[Any, Any] | None = None
        """What products read, by what it was before, in this block: it is not known outside of it."""
        only: frozenset[Any] = frozenset()
        """Of that, as it is in the module, what is to be read rounded everywhere."""

        def visit_dataflow_block_(self, block: Any) -> Any:
            self.rounded, self.only = {}, _read_as_elements(block)
            made = super().visit_dataflow_block_(block)
            self.rounded, self.only = None, frozenset()
            return made

        def visit_call_(self, call: Any) -> Any:
            given, call = call, self.visit_expr_post_order(call)
            make = MAKERS.get(operator_of(call))
            if self.rounded is None:
                return call
            if make is not None and _fits(call):
                data, weights = call.args
                return make(call, self.round(data), relax.const(_rounded(weights.value.numpy()), NARROW))
            if self.only.isdisjoint(given.args):
                return call
            read = [
                relax.op.astype(self.round(data), WIDE) if old in self.only else data
                for old, data in zip(given.args, call.args, strict=True)
            ]
            made = relax.Call(call.op, read, attrs=call.attrs, ty_args=call.ty_args, span=call.span)
            return self.builder_.normalize(made)

        def round(self, data: Any) -> Any:
            assert self.rounded is not None
            if data not in self.rounded:
                self.rounded[data] = self.builder_.emit(relax.op.astype(data, NARROW))
            return self.rounded[data]

    return rewritten(module, Narrower(module).visit_expr)


def _read_as_elements(block: Any) -> frozenset[Any]:
    """What products of a block read, and besides only what computes element by element, and is computed in
    this block itself."""
    import tvm
    from tvm import relax

    bound, read, other = set[Any](), set[Any](), set[Any]()
    for binding in block.bindings:
        value = binding.value
        if isinstance(binding, relax.VarBinding) and isinstance(binding.var, relax.DataflowVar):
            bound.add(binding.var)
        narrow = operator_of(value) in MAKERS and _fits(value)
        if narrow:
            read.add(value.args[0])
        elif not isinstance(value, tvm.ir.Call) or operator_of(value) not in layout_rules.ELEMENTWISE:
            other.update(variables_of(value))
    return frozenset((bound & read) - other)


def _product(call: Any, data: Any, weights: Any) -> Any:
    from tvm import relax

    return relax.op.matmul(data, weights, out_dtype=WIDE)


def _convolution(call: Any, data: Any, weights: Any) -> Any:
    from tvm import relax

    attributes = call.attrs
    return relax.op.nn.conv2d(
        data,
        weights,
        strides=attributes.strides,
        padding=attributes.padding,
        dilation=attributes.dilation,
        groups=attributes.groups,
        data_layout=attributes.data_layout,
        kernel_layout=attributes.kernel_layout,
        out_layout=attributes.out_layout,
        out_dtype=WIDE,
    )


MAKERS: dict[str, Callable[[Any, Any, Any], Any]] = {dots.PRODUCT: _product, dots.CONVOLUTION: _convolution}
"""From a call, and its rounded factors, to what takes its place."""


def _fits(call: Any) -> bool:
    """Whether a call is one that an instruction can do with rounded factors."""
    data, weights = call.args
    if not is_constant(weights) or not is_static(data.ty) or not is_static(call.ty):
        return False
    if {str(each.ty.dtype) for each in (data, weights, call)} != {WIDE}:
        return False
    sizes = dots.sizes(call)
    return any(dot_planes.of(call, each) if sizes is None else each.fits(*sizes) for each in dots.BFLOAT16)


def _rounded(weights: Array) -> Array:
    with np.errstate(all="ignore"):
        return weights.astype(comparison.numpy_dtype(NARROW))
