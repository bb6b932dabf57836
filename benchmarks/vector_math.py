"""How far exp, log, tanh, sigmoid, erf and pow are off, and how long they take: by arithmetic on whole
vectors (``--math fast``) and by the C library, one by one (``--math exact``).

    python -m benchmarks.vector_math
    python -m benchmarks.vector_math --every 1 --only exp

A kernel computes the function of every number of single precision, or of every so many; NumPy computes it in
double precision, and the C library erf. Errors are in units in the last place of the right result: the
distance of the two numbers of single precision around it.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import markdown
from tunemesh.stage_workers.graph import compilation, fast_math, targets, workloads
from tunemesh.stage_workers.measuring import loading

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

BLOCK = 1 << 20
"""Numbers that a kernel takes at once."""
EVERY = 251
"""Of so many numbers of single precision one is taken, where nobody says otherwise: 17 million are left."""
PAIRS = 16
"""Blocks of random pairs for pow."""
TIMED = 4096
"""Numbers in a timed run: they stay in the first cache."""
RUNS = 200
NO_FMA = json.dumps({"kind": "llvm", "mcpu": "x86-64"})
"""A CPU that cannot fuse a product and a sum."""


@dataclass(frozen=True, slots=True)
class Error:
    """How far a kernel is off.

    Attributes:
        units: the largest error, in units in the last place.
        at: for which input.
        special: NaN and infinities that should not be there, or are missing.
    """

    units: float
    at: float
    special: int


def _sigmoid(x: Doubles) -> Doubles:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, small, 1.0) / (1.0 + small))


def _erf(x: Doubles) -> Doubles:
    """The C library's in double precision."""
    result = np.empty_like(x)
    call(kernel("erf", targets.resolve("native"), x.size, fast=False, dtype="float64"), x, result)
    return result


RIGHT: dict[str, Callable[..., Doubles]] = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "pow": np.power,
    "cube": lambda x: x**3,
    "fourth": lambda x: x**4,
}
"""Who says what is right. ``cube`` and ``fourth`` are pow with a constant."""


@functools.cache
def kernel(name: str, target: str, size: int, fast: bool, dtype: str = "float32") -> Any:
    """A function of TVM over arrays of ``size`` numbers, compiled as tuned kernels are.

    Args:
        target: canonical.
    """
    from tvm import te, tirx

    base = te.placeholder((size,), dtype, name="base")
    exponent = te.placeholder((size,), dtype, name="exponent")
    compute: dict[str, Callable[[Any], Any]] = {
        "pow": lambda i: te.power(base[i], exponent[i]),
        "one_plus_erf": lambda i: te.erf(base[i]) + tirx.const(1.0, dtype),
        "cube": lambda i: te.power(base[i], tirx.const(3.0, dtype)),
        "fourth": lambda i: te.power(base[i], tirx.const(4.0, dtype)),
    }
    of = compute.get(name) or (lambda i: getattr(te, name)(base[i]))
    inputs = [base, exponent] if name == "pow" else [base]
    module = workloads.of_function(te.create_prim_func([*inputs, te.compute((size,), of, name="result")]))
    if fast:
        module = fast_math.mark(module, target)
    return loading.load(compilation.build_candidate(module, target))["main"]


def call(function: Any, *arrays: npt.NDArray[Any]) -> None:
    """Call a kernel; the last array is the result."""
    import tvm

    given = [tvm.runtime.tensor(np.ascontiguousarray(each)) for each in arrays]
    function(*given)
    arrays[-1][:] = given[-1].numpy()


def error(name: str, target: str, fast: bool, *inputs: Singles) -> Error:
    """How far a kernel is off for these inputs."""
    got = np.empty_like(inputs[0])
    call(kernel(name, target, got.size, fast), *inputs, got)
    with np.errstate(all="ignore"):
        right = RIGHT[name](*(each.astype(np.float64) for each in inputs))
        rounded = right.astype(np.float32)
        finite = np.isfinite(rounded) & np.isfinite(got)
        unit = np.spacing(np.abs(rounded)).astype(np.float64)
        units = np.where(finite, np.abs(got.astype(np.float64) - right) / unit, 0.0)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    # Next to the largest number the right result may be infinite, or just not.
    edge = np.abs(right) > np.finfo(np.float32).max * (1 - 2.0**-22)
    worst = int(np.argmax(units))
    special = int(np.count_nonzero(~finite & ~same & ~(edge & np.isfinite(right))))
    return Error(float(units[worst]), float(inputs[0][worst]), special)


def numbers(every: int) -> Iterator[Singles]:
    """Every so many of all numbers of single precision, in blocks of the same size."""
    for start in range(0, 1 << 32, every * BLOCK):
        bits = np.arange(BLOCK, dtype=np.uint64) * every + start
        yield (bits & 0xFFFFFFFF).astype(np.uint32).view(np.float32)


def pairs(seed: int) -> tuple[Singles, Singles]:
    """Random numbers of all sizes, and exponents with which the power is neither 0 nor infinite."""
    random = np.random.default_rng(seed)
    base = random.integers(0, 1 << 31, BLOCK, dtype=np.uint32).view(np.float32)
    base = np.where(np.isfinite(base) & (base > 0), base, np.float32(0.7))
    with np.errstate(all="ignore"):
        exponent = random.uniform(-150, 128, BLOCK) / np.log2(base.astype(np.float64))
    return base, np.where(np.isfinite(exponent), exponent, 1.0).astype(np.float32)


def largest(name: str, target: str, fast: bool, every: int) -> Error:
    """The largest error over :func:`numbers`, or :func:`pairs`."""
    blocks = (pairs(seed) for seed in range(PAIRS)) if name == "pow" else ((x,) for x in numbers(every))
    found = [error(name, target, fast, *block) for block in blocks]
    worst = max(found, key=lambda each: each.units)
    return Error(worst.units, worst.at, sum(each.special for each in found))


def nanoseconds(name: str, target: str, fast: bool) -> float:
    """Time for one number, the least of many runs."""
    import tvm

    random = np.random.default_rng(0)
    arrays = [random.uniform(0.1, 4.0, TIMED).astype(np.float32) for _ in range(3 if name == "pow" else 2)]
    function, given = kernel(name, target, TIMED, fast), [tvm.runtime.tensor(each) for each in arrays]
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        function(*given)
        times.append(time.perf_counter() - began)
    return min(times) / TIMED * 1e9


def row(name: str, every: int) -> list[str]:
    """One line of the table."""
    native, plain = targets.resolve("native"), targets.resolve(NO_FMA)
    found = [
        largest(name, native, True, every),
        largest(name, plain, True, every),
        largest(name, native, False, every),
    ]
    fast, exact = nanoseconds(name, native, True), nanoseconds(name, native, False)
    units = [f"{each.units:.2f}" if math.isfinite(each.units) else "inf" for each in found]
    special = [str(each.special) for each in found]
    return [name, *units, ", ".join(special), f"{found[0].at:.6g}", f"{exact:.2f}", f"{fast:.2f}"]


HEADER = (
    "function",
    "fast",
    "fast, no FMA",
    "exact",
    "NaN or infinity wrong",
    "worst input (fast)",
    "exact, ns a number",
    "fast, ns",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--every", type=int, default=EVERY, help="one of so many numbers; 1 for all of them")
    parser.add_argument("--only", action="append", choices=list(RIGHT), help="a function; may be given again")
    given = parser.parse_args(arguments)
    rows = [row(name, given.every) for name in given.only or RIGHT]
    print("\n".join(markdown.table(HEADER, rows)))


if __name__ == "__main__":
    main()
