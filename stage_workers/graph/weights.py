"""The constants of a module apart from its graph.

TVM's JSON has them in base 64: a third more bytes, and several copies of each on the way in and out.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from tunemesh.stage_workers.graph.rewriting import rewritten
from tunemesh.stage_workers.measuring import comparison
from tunemesh.stage_workers.measuring.comparison import Array

LEAST = 1024
"""Bytes of a constant that is worth it. One without any is taken out too: TVM cannot read those back."""


class Weight(Struct, frozen=True):
    """One constant."""

    data: memoryview
    """Not bytes: it is read from the message, and written into one, without a copy."""
    shape: tuple[int, ...]
    dtype: str


def take_out(module: Any) -> tuple[Any, list[Weight]]:
    """``module`` with numbers in place of its constants, and the constants in that order."""
    import tvm

    taken: list[Weight] = []
    numbers: dict[Any, int] = {}  # constants may share their tensor

    def out(constant: Any) -> Any:
        value = constant.value
        if not isinstance(value, tvm.runtime.Tensor) or 0 < size(value) < LEAST:
            return constant
        if value not in numbers:
            numbers[value] = len(taken)
            taken.append(Weight(bytes_of(value), tuple(value.shape), str(value.dtype)))
        return tvm.ir.GenericConst(tvm.ir.StringImm(str(numbers[value])), constant.ty)

    return _with_constants(module, out), taken


def put_back(module: Any, weights: Sequence[Weight]) -> Any:
    """The module that :func:`take_out` was given."""
    import tvm

    values: dict[int, Any] = {}

    def back(constant: Any) -> Any:
        if isinstance(constant.value, tvm.runtime.Tensor):
            return constant
        number = int(constant.value.value)
        if number not in values:
            weight = weights[number]
            values[number] = tvm.runtime.empty(weight.shape, weight.dtype)
            values[number].copyfrom(_array(weight))
        return tvm.ir.GenericConst(values[number], constant.ty)

    return _with_constants(module, back)


def _array(weight: Weight) -> Array:
    return np.frombuffer(weight.data, comparison.numpy_dtype(weight.dtype)).reshape(weight.shape)


def size(tensor: Any) -> int:
    """Bytes of a tensor."""
    return math.prod(map(int, tensor.shape)) * comparison.numpy_dtype(str(tensor.dtype)).itemsize


def bytes_of(tensor: Any) -> memoryview:
    """The bytes of a tensor on a CPU, which must outlive them."""
    kind = ctypes.c_uint8 * size(tensor)
    return memoryview(kind.from_address(tensor.data_ptr())).cast("B")


def _with_constants(module: Any, changed: Callable[[Any], Any]) -> Any:
    """``module`` with every constant of its Relax functions changed."""
    import tvm
    import tvm_ffi

    return rewritten(
        module, lambda function: tvm_ffi.structural_map(function, (tvm.ir.GenericConst, changed))
    )
