"""Workloads of the kinds that public reports on TVM name, as functions of TIR. Names have the number of a
report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import te, topi

Tensors = list[Any]
"""What a function takes, then what it gives."""


def tensor(name: str, *shape: int, dtype: str = "float32") -> Any:
    return te.placeholder(shape, dtype, name=name)


def broadcast_17947() -> Tensors:
    x, like = (tensor(name, *shape, dtype="int32") for name, shape in (("x", (4, 1, 6)), ("like", (4, 5, 6))))
    return [x, like, topi.broadcast_to(x, (4, 5, 6))]


def expand_like_17947() -> Tensors:
    x, like = (tensor(name, *shape, dtype="int32") for name, shape in (("x", (4, 6)), ("like", (4, 5, 6))))
    return [x, like, topi.expand_like(x, like, [1])]


def log_softmax_17935() -> Tensors:
    x = tensor("x", 8, 16, 64, dtype="float16")
    return [x, topi.nn.log_softmax(x)]


def layer_norm_17977() -> Tensors:
    x = tensor("x", 4, 8, 16, 32, dtype="float16")
    scale, bias = (tensor(name, 32, dtype="float16") for name in ("scale", "bias"))
    return [x, scale, bias, topi.nn.layer_norm(x, scale, bias, [3], 1e-5)]


def gather_18424() -> Tensors:
    x, places = tensor("x", 6, 10, 3), tensor("places", 6, 10, 3, dtype="int64")
    return [x, places, topi.gather(x, 1, places)]


def reverse_sequence_18423() -> Tensors:
    x, lengths = tensor("x", 12, 9), tensor("lengths", 9, dtype="int32")
    return [x, lengths, topi.reverse_sequence(x, lengths, 0, 1)]


def maximum_18380() -> Tensors:
    x = tensor("x", 7, 11, 5)
    return [x, topi.max(x, axis=[0, 2])]


def maximum_of_all_18380() -> Tensors:
    x = tensor("x", 4, 8, 8, 3)
    return [x, topi.max(x)]


def search_17960() -> Tensors:
    ascending, values = tensor("ascending", 64, dtype="int32"), tensor("values", 16, dtype="int32")
    return [ascending, values, topi.searchsorted(ascending, values, right=False)]


def tensor_product_17949() -> Tensors:
    a, b = tensor("a", 1, 2, 3, 4), tensor("b", 2, 3, 4)
    return [a, b, topi.tensordot(a, b, axes=3)]


def tensor_product_that_does_not_fit_17949() -> Tensors:
    """TVM does not compare the shapes, and takes the loops from ``b``."""
    a, b = tensor("a", 1, 2, 3, 4), tensor("b", 4, 3, 2)
    return [a, b, topi.tensordot(a, b, axes=3)]


def gradient_of_pooling_17934() -> Tensors:
    gradient, data = tensor("gradient", 1, 4, 4, 4), tensor("data", 1, 4, 8, 8)
    found = topi.nn.pool_grad(gradient, data, (2, 2), (2, 2), (0, 0, 0, 0), "max", False, True)
    return [gradient, data, found]


def condition_15204() -> Tensors:
    x = tensor("x", 3, 5)
    k = te.reduce_axis((0, 3), name="k")
    zero = tvm.tirx.const(0, "float32")
    padded = te.compute(
        x.shape, lambda i, j: tvm.tirx.if_then_else(tvm.tirx.any(i < 2, j < 1), x[i, j], zero), name="padded"
    )
    return [x, te.compute(x.shape, lambda i, j: te.sum(padded[k, j], axis=k), name="summed")]


def depthwise_convolution() -> Tensors:
    x, kernels = tensor("x", 1, 64, 28, 28), tensor("kernels", 64, 1, 3, 3)
    return [x, kernels, topi.nn.depthwise_conv2d_nchw(x, kernels, 1, 1, 1)]


def place_of_the_largest() -> Tensors:
    x = tensor("x", 64, 1000)
    return [x, topi.argmax(x, axis=1)]


def cumulated() -> Tensors:
    x = tensor("x", 64, 1000)
    return [x, topi.cumsum(x, axis=1)]


def without_elements_17994() -> Tensors:
    x = tensor("x", 0, 8)
    return [x, te.compute(x.shape, lambda i, j: x[i, j] * 2.0, name="doubled")]


def sorted_rows() -> Tensors:
    """It calls a function outside of TIR, which could be any."""
    x = tensor("x", 64, 100)
    return [x, topi.sort(x, axis=1)]


FUNCTIONS: list[Callable[[], Tensors]] = [
    broadcast_17947,
    expand_like_17947,
    log_softmax_17935,
    layer_norm_17977,
    gather_18424,
    reverse_sequence_18423,
    maximum_18380,
    maximum_of_all_18380,
    search_17960,
    tensor_product_17949,
    gradient_of_pooling_17934,
    condition_15204,
    depthwise_convolution,
    place_of_the_largest,
    cumulated,
]
"""Those that can be tuned."""


def model(function: Callable[[], Tensors]) -> bytes:
    """A module of one function, in TVM's JSON."""
    made = te.create_prim_func(function()).with_attr("global_symbol", "main")
    return str(tvm.ir.save_json(tvm.IRModule({"main": made}))).encode()
