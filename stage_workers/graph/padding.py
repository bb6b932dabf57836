"""Zeros around an image as part of the convolution that reads it.

Some exporters pad in an operator of its own (TensorFlow's SAME with a stride, for one). TVM fuses nothing in
front of a convolution, so that the whole image would be copied for it.
"""

from __future__ import annotations

from typing import Any

from tunemesh.stage_workers.graph import models
from tunemesh.stage_workers.graph.rewriting import operator_of, rewritten

CONVOLUTION = "relax.nn.conv2d"


def gains(module: Any) -> bool:
    """Whether a module pads with zeros anywhere."""
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    return any(_zeros(call) is not None for call in calls)


def into_convolutions(module: Any) -> Any:
    """``module`` with convolutions that pad what they read, where it was padded in front of them."""
    from tvm import relax
    from tvm.relax import transform

    @relax.expr_functor.mutator
    class Merger(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            if operator_of(call) != CONVOLUTION or not isinstance(call.args[0], relax.Var):
                return call
            padded = self.lookup_binding(call.args[0])
            around = _zeros(padded)
            layout = str(call.attrs.data_layout)
            if around is None or len(layout) != len(around):
                return call
            ends = dict(zip(layout, around, strict=True))
            if any(ends[letter] != (0, 0) for letter in layout if letter not in "HW"):
                return call
            more = [ends["H"][0], ends["W"][0], ends["H"][1], ends["W"][1]]
            padding = [int(one) + other for one, other in zip(call.attrs.padding, more, strict=True)]
            return _with_padding(call, padded.args[0], padding)

    return transform.DeadCodeElimination()(rewritten(module, Merger(module).visit_expr))


def _with_padding(call: Any, data: Any, padding: list[int]) -> Any:
    from tvm import relax

    attributes = call.attrs
    return relax.op.nn.conv2d(
        data,
        call.args[1],
        strides=attributes.strides,
        padding=padding,
        dilation=attributes.dilation,
        groups=attributes.groups,
        data_layout=attributes.data_layout,
        kernel_layout=attributes.kernel_layout,
        out_layout=attributes.out_layout,
        out_dtype=attributes.out_dtype or None,
    )


def _zeros(expression: Any) -> list[tuple[int, int]] | None:
    """How many zeros a call puts before and behind each axis; ``None`` where it does something else."""
    if operator_of(expression) != "relax.nn.pad":
        return None
    attributes = expression.attrs
    value = float(getattr(attributes.pad_value, "value", attributes.pad_value))
    widths = [int(each) for each in attributes.pad_width]
    if attributes.pad_mode != "constant" or value != 0.0 or min(widths) < 0:
        return None
    return list(zip(widths[::2], widths[1::2], strict=True))
