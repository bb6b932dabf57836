"""The constants of a module apart from its graph.

TVM's JSON has them in base 64: a third more bytes, and several copies of each on the way in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

LEAST = 1024
"""Bytes of a constant that is worth it."""


class Weight(Struct, frozen=True):
    """One constant."""

    data: bytes
    shape: tuple[int, ...]
    dtype: str


def take_out(module: Any) -> tuple[Any, list[Weight]]:
    """``module`` with numbers in place of its constants, and the constants in that order."""
    import tvm

    taken: list[Weight] = []
    numbers: dict[Any, int] = {}

    def out(constant: Any) -> Any:
        value = constant.value
        if not isinstance(value, tvm.runtime.Tensor):
            return constant
        array = value.numpy()
        if array.nbytes < LEAST:
            return constant
        if value not in numbers:
            numbers[value] = len(taken)
            taken.append(Weight(array.tobytes(), tuple(array.shape), str(value.dtype)))
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


def _array(weight: Weight) -> Any:
    import numpy as np

    from tunemesh.stage_workers.measuring.comparison import numpy_dtype

    return np.frombuffer(weight.data, numpy_dtype(weight.dtype)).reshape(weight.shape)


def _with_constants(module: Any, changed: Callable[[Any], Any]) -> Any:
    """``module`` with every constant of its Relax functions changed."""
    import tvm
    import tvm_ffi
    from tvm import relax

    result = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            result[name] = tvm_ffi.structural_map(function, (tvm.ir.GenericConst, changed))
    return result
