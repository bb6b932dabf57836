"""exp, log, tanh, sigmoid, erf and pow in single precision, as arithmetic that can be vectorised.

The C library has them for one number at a time. Here each is a formula of additions, products, comparisons
and integer operations on the bits, so that a vectorised loop stays one. There is no branch: where a function
is computed in two ways, both are computed and one is taken. NaN, infinities, the sign of zero and subnormal
results are kept. Nothing is said of floating-point exceptions.

How far they are off, measured over 64 million numbers of all sizes: ``docs/vector-math.md``. They stay below
4 units in the last place with and without fused multiply-add.

Sources. exp, log and tanh: the polynomials and the splitting of ln 2 of the Cephes library (S. L. Moshier,
``expf.c``, ``logf.c``, ``tanhf.c``). erf: its two polynomials are fitted by
``benchmarks/erf_coefficients.py``. pow: the power series of exp and atanh, in double precision.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

from tunemesh.stage_workers.graph.vector_code import DOUBLE, INTEGER, SINGLE, Value

FRACTION = {SINGLE: 23, DOUBLE: 52}
"""Bits of a float behind the point."""
BIAS = {SINGLE: 127, DOUBLE: 1023}
"""Of the exponent."""

EXP = (5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4)
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""ln 2 in two parts: the product of the first and a small integer is exact."""
LOG = (
    3.3333331174e-1,
    -2.4999993993e-1,
    2.0000714765e-1,
    -1.6668057665e-1,
    1.4249322787e-1,
    -1.2420140846e-1,
    1.1676998740e-1,
    -1.1514610310e-1,
    7.0376836292e-2,
)
TANH = (-3.33332819422e-1, 1.33314422036e-1, -5.37397155531e-2, 2.06390887954e-2, -5.70498872745e-3)
TANH_SMALL = 0.625
"""Below it tanh is a polynomial."""
TANH_ONE = 10.0
"""From here on tanh is 1."""
ERF_SMALL = 0.9
ERF_ONE = 4.0
"""From here on erf is 1."""
ERF = (
    0.12837915380398446,
    -0.37612523292433986,
    0.11282140922580675,
    -0.026778912008890488,
    0.005011966609951526,
    -0.0006090376899532679,
)
"""erf(x) - x = x * polynomial of x squared, below :data:`ERF_SMALL`."""
ERFC = (
    1.1286924123506408,
    0.6349421394395396,
    0.1066326640330487,
    -0.0241430069831748,
    0.003839192685771292,
    -0.0003745207056968791,
    1.6647868253727438e-05,
)
"""-ln(1 - erf(x)) = x * polynomial of x, from there to :data:`ERF_ONE`."""
ERFC_BITS = (
    1.6279078750838412,
    0.9184322475518326,
    0.14836737588622967,
    -0.02787183838759836,
    9.378392998644035e-05,
    0.0021766548425220904,
    -0.0008416442923279699,
    0.00017021561229030313,
    -1.8798103648798303e-05,
    8.911689435286974e-07,
)
"""-log2(1 - erf(x)) = x * polynomial of x, from 0 to :data:`ERF_ONE`."""
BITS = (
    0.693147202855078,
    0.24022647913627185,
    0.05550332471107014,
    0.009618437357778124,
    0.0013398874420100584,
    0.00015353361895009514,
)
"""2 ** x - 1 = x * polynomial of x, from -1/2 to 1/2."""
ATANH = tuple(2.0 / (2 * k + 1) / math.log(2.0) for k in range(7))
"""log2 m = s * polynomial of s squared, with s = (m - 1) / (m + 1)."""
EXP2 = tuple(math.log(2.0) ** k / math.factorial(k) for k in range(11))

EXP_LEAST, EXP_MOST = -104.0, 89.0
"""exp is 0 below, and infinite above."""
POW_MOST = 1000.0
"""2 to this is infinite in single precision, but not in double."""
LARGEST_PRODUCT = 4
"""A power with a whole exponent up to this is a product. Longer ones would be off by more, and the inverse of
one is 0 where the power is subnormal."""


def exp(x: Value) -> Value:
    """2 to the n is made of two factors, since that of a subnormal result has none. What is 0 is not computed
    as a product: one below all numbers takes CPUs many times as long, and in a softmax with a mask half of
    the results may be 0."""
    x = _at_most(x, EXP_MOST)
    none = x < EXP_LEAST
    mantissa, count = _exp_parts(x.code.select(none, 0.0, x))
    half = count >> 1
    return x.code.select(none, 0.0, mantissa * _two_to_the(half) * _two_to_the(count - half))


def sigmoid(x: Value) -> Value:
    """1 / (1 + exp(-x)), without an exp that grows large."""
    size = x.abs()
    small = exp(-size)
    return x.code.select(x < 0.0, small, 1.0) / (small + 1.0)


def tanh(x: Value) -> Value:
    """A polynomial near 0, 1 - 2 / (exp(2x) + 1) elsewhere."""
    size, square = x.abs(), x * x
    # With 0 added, or the sign of zero would be lost.
    small = x * (square * _polynomial(TANH, square) + 0.0) + x
    power = _exp_in_range(_at_most(size, TANH_ONE) * 2.0)
    large = -(x.code.constant(2.0, SINGLE) / (power + 1.0)) + 1.0
    return small.where(size < TANH_SMALL, _with_sign_of(x, large))


def erf(x: Value) -> Value:
    """A polynomial near 0, 1 - exp(a polynomial) elsewhere."""
    size, square = _at_most(x.abs(), ERF_ONE), x * x
    small = x * _polynomial(ERF, square) + x
    large = -_exp_in_range(-size * _polynomial(ERFC, size)) + 1.0
    return small.where(size < ERF_SMALL, _with_sign_of(x, large))


def one_plus_erf(x: Value) -> Value:
    """1 - erf(-x), as GELU has it: what is small below 0 is computed as it is, and not as what 1 leaves; and
    no polynomial of its own is needed near 0, where 1 is what counts."""
    size = _at_most(x.abs(), ERF_ONE)
    power = -size * _polynomial(ERFC_BITS, size)
    rounded, count = _nearest(power)
    rest = power - rounded
    less = (rest * _polynomial(BITS, rest) + 1.0) * _two_to_the(count)
    less = x.code.select(size < ERF_ONE, less, size - ERF_ONE)  # 0, or NaN
    return less.where(x < 0.0, -less + 2.0)


def log(x: Value) -> Value:
    exponent, mantissa = _split(x)
    rest = mantissa - 1.0
    square = rest * rest
    tail = rest * square * _polynomial(LOG, rest) + exponent * LN2_LOW
    finite = (rest + (tail - square * 0.5)) + exponent * LN2_HIGH
    positive = finite.where(x < math.inf, x)
    other = x.code.constant(-math.inf, SINGLE).where(x.equals(0.0), math.nan)
    return positive.where(x > 0.0, other)


def power(base: Value, exponent: Value) -> Value:
    """2 to the product of exponent and logarithm, in double precision."""
    code = base.code
    size, y = base.abs().to_double(), exponent.to_double()
    whole, odd = _whole_and_odd(y)
    # 1 to any power and any power of 0 are 1, that of NaN too.
    product = code.select(size.equals(1.0) | y.equals(0.0), 0.0, _log2(size) * y)
    product = code.select(product > POW_MOST, POW_MOST, product)
    product = code.select(product < -POW_MOST, -POW_MOST, product)
    rounded, count = _nearest(product)
    result = (_polynomial(EXP2, product - rounded) * _two_to_the(count)).to_single()
    signed = (-result).where((base.bits() < 0) & odd, result)
    # A root of a negative number; that of minus infinity is none.
    undefined = (base < 0.0) & (size < math.inf) & ~whole
    defined = code.select(undefined, math.nan, signed)
    return code.select(base.equals(1.0) | exponent.equals(0.0), 1.0, defined)


def product(count: int) -> Callable[[Value], Value]:
    """The power with a whole exponent from 1 to :data:`LARGEST_PRODUCT`, by squaring."""

    def multiplied(x: Value) -> Value:
        result, square, left = None, x, count
        while True:
            if left & 1:
                result = square if result is None else result * square
            left >>= 1
            if not left:
                assert result is not None
                return result
            square = square * square

    return multiplied


# -- Parts ---------------------------------------------------------------------------------------------------


def _exp_in_range(x: Value) -> Value:
    """exp of a number whose exp is neither subnormal nor infinite."""
    mantissa, count = _exp_parts(x)
    return mantissa * _two_to_the(count)


def _exp_parts(x: Value) -> tuple[Value, Value]:
    """m and n of exp(x) = m * 2 ** n, with m close to 1."""
    rounded, count = _nearest(x * (1.0 / math.log(2.0)))
    rest = x - rounded * LN2_HIGH - rounded * LN2_LOW
    return rest * rest * _polynomial(EXP, rest) + rest + 1.0, count


def _nearest(x: Value) -> tuple[Value, Value]:
    """The nearest whole number, as a float and as an integer: added to a large number, the bits of what comes
    out end in it. A conversion to an integer would say nothing of what does not fit."""
    large = 1.5 * 2.0 ** FRACTION[x.kind]
    shifted = x + large
    return shifted - large, shifted.bits() - _bits(large, x.kind)


def _two_to_the(count: Value) -> Value:
    kind = SINGLE if count.kind == INTEGER else DOUBLE
    return ((count + BIAS[kind]) << FRACTION[kind]).from_bits()


def _split(x: Value) -> tuple[Value, Value]:
    """Exponent, as a float, and mantissa of a positive number; the latter from the root of 1/2 to that of
    2."""
    kind, fraction = x.kind, FRACTION[x.kind]
    tiny = x < 2.0 ** (1 - BIAS[kind])
    bits = (x * 2.0**fraction).where(tiny, x).bits()
    count = (bits - _bits(math.sqrt(0.5), kind)) >> fraction
    mantissa = (bits - (count << fraction)).from_bits()
    zero = x.code.constant(0.0, kind)
    return count.to_float() - x.code.select(tiny, float(fraction), zero), mantissa


def _log2(x: Value) -> Value:
    """The logarithm to base 2 of what is not negative, in double precision."""
    exponent, mantissa = _split(x)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    finite = exponent + s * _polynomial(ATANH, s * s)
    return x.code.select(x.equals(0.0), -math.inf, finite.where(x < math.inf, x))


def _whole_and_odd(y: Value) -> tuple[Value, Value]:
    """Whether a number of double precision, which was one of single precision, is whole, and whether it is
    odd. Large ones are even."""
    half = y * 0.5
    small = y.abs() < 2.0**51
    same, other = y.equals(_nearest(y)[0]), half.differs(_nearest(half)[0])
    large = y.abs() > 2.0**50
    return same | large, small & same & other


def _polynomial(coefficients: Sequence[float], x: Value) -> Value:
    """The value at ``x``; the constant comes first. By Horner's rule: one fused operation per coefficient."""
    result = x.code.constant(coefficients[-1], x.kind)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def _at_most(x: Value, limit: float) -> Value:
    """The smaller one; NaN stays NaN."""
    return x.code.select(x > limit, limit, x)


def _with_sign_of(x: Value, size: Value) -> Value:
    return (-size).where(x < 0.0, size)


def _bits(value: float, kind: str) -> int:
    """The bits of a positive float."""
    return int.from_bytes(struct.pack("<f" if kind == SINGLE else "<d", value), "little")
