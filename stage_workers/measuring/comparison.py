"""Whether two outputs agree, element by element.

Two ways to compute the same thing differ by rounding: sums run in another order, a convolution takes
Winograd's way, exp is another polynomial. How far that moves an element depends on what it went through: next
to nothing where two large numbers are added, all of it where they cancel; one whole step where a float is
rounded to an integer close by. So it is found by trying: what is read is changed at random by a few hundred
rounding errors, up and then down by the same (:data:`NOISE`), and the tolerance of an element is a few times
the most that moved it. It knows no other element: a small output beside a large one keeps its own.

What moves no element of an integer output has to be equal. Where an element is NaN or infinite the other one
has to be the same, unless the changes made it finite or the other way round: then nothing can be said of it,
and it counts as not compared. Where nothing was compared at all, nothing agrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from tunemesh.shared.messages import OutputCheck

Array = npt.NDArray[Any]

NOISE = {"float64": 2.0**-45, "float32": 2.0**-16, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Relative change of what is read: in single precision 256 times the rounding error, which Winograd's
algorithm, sums of a million terms and fast polynomials stay within; in half precision, whose sums are
computed in single precision, twice."""
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24}
"""What adding to a number loses at most, relative to it. Sums in half precision are computed in single
precision."""
COARSE_NOISE = 2.0**-4
"""For floats of 8 bits and fewer."""
PAIRS = 3
"""Changes of a kernel that are tried, each in both directions. An element that one of them happens not to
move is moved by another: that all three move it by less than a hundredth of what is usual has a chance of one
in a million."""
MODEL_PAIRS = 6
"""Of a model. Winograd's algorithm is off by about half of the usual movement: a sixteenth of that has to do,
which six of them miss for one element in twenty million."""
FACTOR = 8.0
"""Times the largest movement of an element."""
POOLED = 4.0
"""Times the root mean square movement of an output, where there was time for one change only, or where the
model rounds to whole numbers on its way: then its elements have to help each other out."""
BLOCK = 2**20
"""Elements of an array that are worked on at the same time."""
QUANTISED = frozenset({"int8", "uint8"})
NOTHING = "so nothing was compared"
"""At the end of what is said of an output in which nothing finite was expected."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of a TVM dtype, with the small floats that ``ml_dtypes`` adds."""
    return np.dtype(getattr(ml_dtypes, name, name))


def is_float(dtype: str) -> bool:
    """Whether a TVM dtype can hold NaN."""
    return "float" in dtype


def noise(dtype: str) -> float:
    """Relative change of what is read as ``dtype``."""
    return NOISE.get(dtype, COARSE_NOISE)


class Expected(NamedTuple):
    """An output as it should be.

    Attributes:
        values: the elements.
        tolerance: how far each may be off; NaN where nothing can be said.
    """

    values: Array
    tolerance: npt.NDArray[np.float64]


class Found(Struct, frozen=True, kw_only=True):
    """What the comparison of an output gave.

    Attributes:
        check: in numbers.
        wrong: what is wrong with it, in one line; empty when nothing is.
    """

    check: OutputCheck
    wrong: str


def tells(values: Array) -> bool:
    """Whether an output has something to compare."""
    return not values.size or bool(np.isfinite(values.astype(np.float64)).any())


def changed(inputs: Sequence[Array], seed: int, up: bool, spread: float = 0.0) -> list[Array]:
    """``inputs`` with their floats changed at random by :func:`noise`; ``up`` and not ``up`` are opposite.

    Args:
        spread: of a change that does not shrink with the element, in units of the root mean square of its
            input: for inputs that are random themselves, whose small elements have no meaning of their own.
    """
    random = np.random.default_rng(seed)
    return [_changed(array, random, 1.0 if up else -1.0, spread) for array in inputs]


def _changed(array: Array, random: np.random.Generator, sign: float, spread: float) -> Array:
    if not is_float(str(array.dtype)):
        return array
    flat = array.reshape(-1)
    made = np.empty_like(flat)
    usual = spread * _usual(flat) if spread else 0.0
    for block in blocks(flat.size):
        wide = flat[block].astype(np.float64)
        part = random.uniform(0.5, 1.0, wide.shape) * random.choice((-1.0, 1.0), wide.shape)
        by = part * sign * noise(str(array.dtype))
        with np.errstate(all="ignore"):
            # What is infinite stays so.
            made[block] = np.where(np.isfinite(wide), wide + by * (np.abs(wide) + usual), wide)
    return made.reshape(array.shape)


def blocks(size: int) -> Iterator[slice]:
    """The parts of an array that are worked on one after the other: of a large one as many bytes as it has
    are not there several times in double precision."""
    return (slice(begin, min(begin + BLOCK, size)) for begin in range(0, size, BLOCK))


def _usual(flat: Array) -> float:
    """The root mean square of what is finite."""
    total, count = 0.0, 0
    for block in blocks(flat.size):
        wide = flat[block].astype(np.float64)
        finite = wide[np.isfinite(wide)]
        total, count = total + float(np.sum(np.square(finite))), count + finite.size
    return math.sqrt(total / count) if count else 0.0


def expected(
    values: Array, moved: Sequence[Array], pooled: bool = False, steps: int = 0, terms: int = 1
) -> Expected:
    """What an output should be, from what it is and what it becomes when that which is read is changed.

    Args:
        values: as computed by whoever is trusted.
        moved: the same output after each change; none where nothing could be changed.
        pooled: there are few of them, see :data:`POOLED`.
        steps: that quantised values may be off in any case, by roundings inside of what computes them.
        terms: of the longest sum: where one term is large, adding many small ones to it one by one loses half
            a rounding error each.
    """
    wide = values.astype(np.float64)
    dtype = str(values.dtype)
    most = np.zeros(values.shape)
    finite, decided = np.isfinite(wide), np.ones(values.shape, np.bool_)
    with np.errstate(all="ignore"):
        for each in moved:
            other = each.astype(np.float64)
            decided = decided & np.where(finite, np.isfinite(other), _same(wide, other))
            most = np.maximum(most, np.abs(other - wide))
        most = np.where(finite, most, 0.0)
        if is_float(dtype):
            own = max(FACTOR * noise(dtype), terms * ROUNDING.get(dtype, ROUNDING["float32"]))
            least = own / FACTOR * np.abs(np.where(finite, wide, 0.0))
            if pooled and (finite & decided).any():
                usual = np.sqrt(np.mean(np.square(most[finite & decided])))
                most = np.maximum(most, POOLED / FACTOR * usual)
            most = FACTOR * np.maximum(most, least) + _smallest(dtype)
        elif dtype in QUANTISED:
            most = np.maximum(most, steps)
    return Expected(values, np.where(decided, most, np.nan))


def _smallest(dtype: str) -> float:
    """What rounding, and leaving out numbers that are not normal, does to a float next to zero."""
    limits: Any = ml_dtypes.finfo(numpy_dtype(dtype))  # type: ignore[no-untyped-call]
    return float(limits.smallest_normal if dtype in ("float32", "float64") else 4 * limits.smallest_subnormal)


def _same(one: Array, other: Array) -> npt.NDArray[np.bool_]:
    return np.asarray((one == other) | (np.isnan(one) & np.isnan(other)))


def tried(
    run: Callable[[Sequence[Array]], list[Array]], inputs: Sequence[Array], pairs: int, spread: float = 0.0
) -> list[list[Array]]:
    """All outputs of ``run`` after each of ``pairs`` changes of ``inputs`` and their opposites."""
    return [
        run(changed(inputs, number, up, spread)) for number in range(1, pairs + 1) for up in (True, False)
    ]


class _Off(NamedTuple):
    """How far an output is off, whatever it may be: see :class:`~shared.messages.OutputCheck`."""

    largest: float
    relative: float
    choices: float | None


_NONE = _Off(0.0, 0.0, None)


def agree(name: str, got: Array, wanted: Expected, who: str) -> Found:
    """Compare an output with what it should be.

    Args:
        name: of the output.
        who: says what it should be: "ONNX Runtime".
    """
    values = wanted.values
    dtype, size = str(values.dtype), int(values.size)

    def found(
        wrong: str,
        compared: int = 0,
        at: tuple[float, float, float] = (0.0, 0.0, 0.0),
        leeway: float = 0.0,
        off: _Off = _NONE,
    ) -> Found:
        units, difference, tolerance = (min(each, 1e300) for each in at)
        return Found(
            check=OutputCheck(
                name=name,
                dtype=dtype,
                elements=size,
                compared=compared,
                units=units,
                difference=difference,
                tolerance=tolerance,
                largest=off.largest,
                relative=off.relative,
                choices=off.choices,
                leeway=leeway,
            ),
            wrong=wrong,
        )

    if got.shape != values.shape or got.dtype != values.dtype:
        return found(
            f"output {name} is {got.dtype}{list(got.shape)}, {who} gives {dtype}{list(values.shape)}"
        )
    if not size:
        return found("")
    left, right = got.astype(np.float64), values.astype(np.float64)
    with np.errstate(all="ignore"):
        decided = ~np.isnan(wanted.tolerance)
        finite = decided & np.isfinite(right)
        difference = np.abs(left - right)
        if not is_float(dtype):  # two large integers may be the same as floats
            difference = np.where(got == values, 0.0, np.maximum(difference, 1.0))
        units = np.where(
            finite,
            np.where(
                difference <= wanted.tolerance,
                np.where(difference > 0, difference / wanted.tolerance, 0.0),
                np.where(wanted.tolerance > 0, difference / wanted.tolerance, np.inf),
            ),
            np.where(decided & ~_same(left, right), np.inf, 0.0),
        )
        units = np.where(np.isnan(units), np.inf, units)
    worst = np.unravel_index(int(np.argmax(units)), units.shape)
    place = (float(units[worst]), float(difference[worst]), float(wanted.tolerance[worst]))
    place = tuple(0.0 if np.isnan(each) else each for each in place)  # type: ignore[assignment]
    compared = int(np.count_nonzero(finite))
    if units[worst] > 1:
        element = f"[{','.join(map(str, worst))}]" if worst else ""
        allowed = f"may differ by {place[2]:.3g}" if finite[worst] else "must be the same"
        count = int(np.count_nonzero(units > 1))
        return found(
            f"output {name}{element} is {left[worst]:.9g}, {who} gives {right[worst]:.9g} ({allowed};"
            f" {count:,} of {size:,} elements are wrong)",
            compared,
            place,
            off=_off(left, right, finite) if compared else _NONE,
        )
    if not compared:
        what = _described(right, decided)
        return found(f"all of output {name} is {what} for these inputs, {NOTHING}")
    usual = float(np.sqrt(np.mean(np.square(right[finite]))))
    leeway = float(np.median(wanted.tolerance[finite])) / usual if usual else 0.0
    return found("", compared, place, min(leeway, 1e300), _off(left, right, finite))


def agrees(got: Array, wanted: Expected) -> bool:
    """Whether :func:`agree` finds nothing wrong, as far as one glance tells: all elements are numbers, and
    near enough. It takes a fifth of the time; where it is ``False``, ask that."""
    values = wanted.values
    if got.shape != values.shape or got.dtype != values.dtype or not is_float(str(values.dtype)):
        return False
    with np.errstate(all="ignore"):
        difference = got.astype(np.float64)
        difference -= values
        np.abs(difference, out=difference)
        # Neither is true of NaN.
        return bool(np.all(difference <= wanted.tolerance) and difference.max(initial=-1.0) < np.inf)


def _off(got: Array, wanted: Array, finite: npt.NDArray[np.bool_]) -> _Off:
    """Of the elements that are ``finite``, of which there are some."""
    with np.errstate(all="ignore"):
        by, size = np.abs(got - wanted)[finite], wanted[finite]
        usual = float(np.sqrt(np.mean(np.square(size))))
        relative = float(np.sqrt(np.mean(np.square(by)))) / usual if usual else 0.0
    rows = wanted.ndim > 0 and wanted.shape[-1] > 1 and bool(finite.all())
    return _Off(
        largest=_told(float(by.max())),
        relative=_told(relative),
        choices=float(np.mean(got.argmax(-1) == wanted.argmax(-1))) if rows else None,
    )


def _told(number: float) -> float:
    """A number that JSON has."""
    return min(number, 1e300) if not math.isnan(number) else 1e300


def _described(values: Array, decided: npt.NDArray[np.bool_]) -> str:
    if not decided.any():
        # From one run to the next it is NaN or not: by a rounding error, or by what lies beside a tensor.
        return "at the border of what is defined, or read from outside of the tensors,"
    return "NaN" if np.isnan(values).all() else "NaN or infinite"


def poison(dtype: str, shape: tuple[int, ...], reference: Array | None) -> Array:
    """What an output holds before a run, so that what the kernel does not write is noticed: NaN, or where
    there is none, anything but the ``reference``."""
    if is_float(dtype):
        return np.full(shape, np.nan, np.float32).astype(numpy_dtype(dtype))
    if reference is None:
        return np.zeros(shape, numpy_dtype(dtype))
    return np.asarray(~reference)
