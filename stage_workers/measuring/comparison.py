"""Random inputs, and whether two outputs agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Allowed difference relative to the largest reference value. Tuned kernels sum in another order, which
moves a result by about the rounding error times the square root of the number of terms."""
DEFAULT_TOLERANCE = 0.1
"""For floats of 8 bits and fewer."""
LARGEST_SMALL_INT = 8
SMALL_INTS = frozenset({"int8", "uint8"})


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of a TVM dtype, with the small floats that ``ml_dtypes`` adds."""
    return np.dtype(getattr(ml_dtypes, name, name))


def is_float(dtype: str) -> bool:
    """Whether a TVM dtype can hold NaN."""
    return "float" in dtype


def random_inputs(shapes: Sequence[tuple[tuple[int, ...], str]], seed: int) -> list[Array]:
    """One array for each shape and dtype; the same for the same arguments, on every machine.

    Floats are uniform in [-1, 1). 32- and 64-bit integers may be indices into another input, so they stay
    below its smallest dimension larger than one.
    """
    random = np.random.default_rng(seed)
    dims = [dim for shape, _ in shapes for dim in shape if dim > 1]
    return [_random_array(shape, dtype, min(dims, default=2), random) for shape, dtype in shapes]


def _random_array(shape: tuple[int, ...], dtype: str, bound: int, random: np.random.Generator) -> Array:
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(np.bool_)
    if is_float(dtype):
        return (
            random.uniform(-1, 1, shape)
            .astype(np.float32 if dtype != "float64" else np.float64)
            .astype(numpy_dtype(dtype))
        )
    if dtype in SMALL_INTS:
        least = 0 if dtype.startswith("u") else -LARGEST_SMALL_INT
        return random.integers(least, LARGEST_SMALL_INT, shape).astype(numpy_dtype(dtype))
    return random.integers(0, bound, shape).astype(numpy_dtype(dtype))


def poison(dtype: str, shape: tuple[int, ...], reference: Array | None) -> Array:
    """What an output holds before a run, so that what the kernel does not write is noticed: NaN, or where
    there is none, anything but the ``reference``."""
    if is_float(dtype):
        return np.full(shape, np.nan, np.float32).astype(numpy_dtype(dtype))
    if reference is None:
        return np.zeros(shape, numpy_dtype(dtype))
    return np.asarray(~reference)


def largest_difference(got: Array, reference: Array) -> tuple[float, bool]:
    """The largest absolute difference, and whether it is within the tolerance of the dtype.

    NaN and infinity must be in the same places; elsewhere the difference is infinite.
    """
    if got.shape != reference.shape or got.dtype != reference.dtype:
        return float("inf"), False
    if not reference.size:
        return 0.0, True
    dtype = str(reference.dtype)
    if not is_float(dtype):
        difference = float(np.max(np.abs(got.astype(np.float64) - reference.astype(np.float64))))
        return difference, np.array_equal(got, reference)
    left, right = got.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return float("inf"), False
    if not finite.any():
        return 0.0, True
    difference = float(np.max(np.abs(left[finite] - right[finite])))
    scale = float(np.max(np.abs(right[finite])))
    if np.isnan(difference):
        return float("inf"), False
    return difference, difference <= TOLERANCES.get(dtype, DEFAULT_TOLERANCE) * scale
