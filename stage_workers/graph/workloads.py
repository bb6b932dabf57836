"""Workloads: one TIR function each, in TVM's JSON, compressed."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterable
from typing import Any

from msgspec import Struct


class Argument(Struct, frozen=True):
    """A tensor that a workload takes. ``output`` when the workload writes it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    output: bool


def pack(module: Any) -> bytes:
    """The bytes of a module with one function, ``main``."""
    import tvm

    return zlib.compress(tvm.ir.save_json(module).encode())


@functools.lru_cache(maxsize=32)
def load(workload: bytes) -> Any:
    """The module of a workload. Modules are immutable, so sharing them is safe."""
    import tvm
    from tvm_ffi.serialization import from_json_graph_str

    text = zlib.decompress(workload).decode()
    try:
        # TVM's own function first writes the text anew, with the names of this release, in Python: ten times
        # as long as to read it.
        return from_json_graph_str(text)
    except Exception:  # what another release wrote
        return tvm.ir.load_json(text)


def of_function(function: Any) -> Any:
    """The module of a function of a model, as the tasks have it that are taken out of the model."""
    import tvm

    if not (function.attrs and "global_symbol" in function.attrs):
        function = function.with_attr("global_symbol", "main")
    return tvm.IRModule({"main": function.with_attr("tirx.noalias", True)})


def structural_hash(module: Any) -> str:
    """Hash of what a module computes and how, whatever its variables are called; equal in all processes."""
    import tvm_ffi

    # TVM gives a signed 64-bit number.
    return f"{tvm_ffi.structural_hash(module) & (2**64 - 1):016x}"


SCHEDULED = "tirx.is_scheduled"
"""TVM's attribute of functions that have a schedule already."""


WEIGHTS = "layout_free_buffers"
"""TVM's attribute with the numbers of the parameters that are constant in the model, so that a schedule may
read them in an order of its own."""


WINOGRAD = "tunemesh.winograd"
"""The attribute of functions around a convolution that may be computed by Winograd's algorithm: the outputs
of a tile in each direction, at most."""


def winograd_of(function: Any) -> int:
    """How large the tiles of Winograd's algorithm may be; 0 where it must not be used."""
    return int((function.attrs or {}).get(WINOGRAD, 0))


def weights_of(function: Any) -> list[int]:
    """The numbers of the parameters that are constant in the model."""
    return [int(number) for number in (function.attrs or {}).get(WEIGHTS, [])]


def is_scheduled(function: Any) -> bool:
    """Whether there is nothing left to tune in a function."""
    return bool(function.attrs and function.attrs.get(SCHEDULED, False))


def called_by(function: Any) -> list[Any]:
    """The variables of functions that a function of TIR or of Relax calls."""
    import tvm
    import tvm_ffi

    found: list[Any] = []
    tvm_ffi.structural_walk(function.body, [(tvm.ir.GlobalVar, found.append)])
    return found


def longest_sum(functions: Iterable[Any]) -> int:
    """Terms of the longest reduction in TIR functions."""
    import tvm
    import tvm_ffi
    from tvm.s_tir import SBlock

    found = [1]

    def visit(block: Any) -> None:
        extents = [
            each.dom.extent for each in block.iter_vars if each.iter_type == tvm.tirx.IterVar.CommReduce
        ]
        found.append(math.prod(int(each.value) for each in extents if isinstance(each, tvm.tirx.IntImm)))

    for function in functions:
        tvm_ffi.structural_walk(function.body, (SBlock, visit))
    return max(found)


LONG_SUM = 32
"""Terms from which it is the innermost loop of a sum that takes the time."""
SMALL_IMAGE = range(2, 9)
"""Rows or columns of an image that LLVM writes out."""


def is_of_small_image(function: Any) -> bool:
    """Whether a function without a schedule has a sum whose innermost loop is long, for each pixel of a small
    image, channels last."""
    import tvm_ffi
    from tvm import tirx
    from tvm.s_tir import SBlock

    found: list[bool] = []

    def visit(block: Any) -> None:
        lengths = [
            int(each.dom.extent.value) if isinstance(each.dom.extent, tirx.IntImm) else 0
            for each in block.iter_vars
        ]
        summed = [each.iter_type == tirx.IterVar.CommReduce for each in block.iter_vars]
        pixels = [length for length, sums in zip(lengths, summed, strict=True) if not sums][1:-1]
        if summed and summed[-1] and lengths[-1] >= LONG_SUM:
            found.append(any(length in SMALL_IMAGE for length in pixels))

    tvm_ffi.structural_walk(function.body, (SBlock, visit))
    return any(found)


def operations(module: Any) -> float:
    """Operations on floats of one run, as TVM counts them in the definition: ``exp`` is one, a multiply-add
    two. 0 where they depend on data."""
    from tvm.s_tir.analysis import estimate_tir_flops

    try:
        found = float(estimate_tir_flops(module))
    except Exception:  # whatever TVM raises: nothing depends on the number
        return 0.0
    return found if math.isfinite(found) and found > 0 else 0.0


def arguments(function: Any) -> list[Argument]:
    """The parameters of a TIR function in order, each with a name of its own.

    Raises:
        ValueError: when one is not a tensor, or has a shape that is not constant.
    """
    written = _written(function)
    named: dict[str, Argument] = {}
    for parameter in function.params:
        # TVM's own names need not differ.
        name, number = str(parameter.name), 0
        while name in named:
            number += 1
            name = f"{parameter.name}_{number}"
        named[name] = _argument(name, parameter, written)
    return list(named.values())


def _argument(name: str, parameter: Any, written: list[Any]) -> Argument:
    import tvm

    if not isinstance(parameter.ty, tvm.tirx.BufferType):
        raise ValueError(f"parameter {name} is not a tensor")
    shape = [dim.value if isinstance(dim, tvm.tirx.IntImm) else None for dim in parameter.shape]
    fixed = tuple(int(dim) for dim in shape if dim is not None)
    if len(fixed) != len(shape):
        raise ValueError(f"parameter {name} has a dynamic shape {tuple(map(str, parameter.shape))}")
    output = any(parameter.same_as(buffer) for buffer in written)
    return Argument(name, fixed, str(parameter.dtype), output)


def _written(function: Any) -> list[Any]:
    import tvm
    import tvm_ffi

    buffers: list[Any] = []

    def visit(store: Any) -> None:
        buffers.append(store.buffer)

    tvm_ffi.structural_walk(function.body, (tvm.tirx.BufferStore, visit))
    return buffers
