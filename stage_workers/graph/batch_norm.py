"""Fold batch norms into the convolution before them.

TVM's own pass (``FoldBatchnormToConv2D``) does not see through the bias of a convolution, and leaves the
new weights as expressions that ``FoldConstant`` then compiles one by one: 5 s for a ResNet-18. NumPy computes
them in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunemesh.stage_workers.measuring.comparison import Array


def fold_batch_norms(module: Any) -> Any:
    """``module`` with every batch norm of constant statistics after a convolution of constant weights folded
    into weights and bias. Other batch norms stay as they are."""
    from tvm.relax import dpl

    main = module["main"]
    for biased in (True, False):
        pattern = _Pattern(biased)
        main = dpl.rewrite_call(pattern.whole, pattern.rewrite, main)
    folded = module.clone()
    folded["main"] = main
    return folded


class _Pattern:
    """A convolution, its bias where it has one, and the batch norm after it."""

    def __init__(self, biased: bool) -> None:
        from tvm.relax import dpl

        self.weight, self.bias = dpl.is_const(), dpl.is_const()
        self.statistics = [dpl.is_const() for _ in range(4)]
        self.input = dpl.wildcard()
        self.convolution = dpl.is_op("relax.nn.conv2d")(self.input, self.weight)
        summed = self.convolution
        if biased:
            self.added = self.bias | dpl.is_op("relax.reshape")(self.bias, dpl.wildcard())
            summed = dpl.is_op("relax.add")(summed, self.added)
        self.biased = biased
        self.batch_norm = dpl.is_op("relax.nn.batch_norm")(summed, *self.statistics)
        self.whole = dpl.TupleGetItemPattern(self.batch_norm, 0)

    def rewrite(self, original: Any, matches: Mapping[Any, Any]) -> Any:
        from tvm import relax

        convolution, batch_norm = matches[self.convolution], matches[self.batch_norm]
        if convolution.attrs.kernel_layout != "OIHW" or batch_norm.attrs.axis != 1:
            return original
        if self.biased and not _is_per_channel(matches[self.added].ty.shape.values):
            return original
        weight = _values(matches[self.weight])
        scale, shift, mean, variance = (_values(matches[s]).astype(np.float64) for s in self.statistics)
        bias = _values(matches[self.bias]).astype(np.float64).reshape(-1) if self.biased else 0.0
        # batch_norm(y) = scale * (y - mean) / sqrt(variance + epsilon) + shift
        factor = scale / np.sqrt(variance + float(batch_norm.attrs.epsilon))
        new_weight = (weight * factor[:, None, None, None]).astype(weight.dtype)
        new_bias = ((bias - mean) * factor + shift).astype(weight.dtype)
        return relax.op.add(
            relax.Call(
                convolution.op, [matches[self.input], relax.const(new_weight)], attrs=convolution.attrs
            ),
            relax.const(new_bias[None, :, None, None]),
        )


def _is_per_channel(shape: Sequence[Any]) -> bool:
    """Whether what has this shape, added to the output of a convolution, is one value per channel, or one for
    all of them."""
    from_the_last = zip((3, 2, 1, 0), reversed(shape), strict=False)
    return all(int(length) == 1 for axis, length in from_the_last if axis != 1)


def _values(constant: Any) -> Array:
    values: Array = constant.value.numpy()
    return values
