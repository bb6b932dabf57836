"""The polynomials of erf and 1 + erf in ``stage_workers/graph/polynomials.py``, with the least largest error.

    python -m benchmarks.erf_coefficients

By Lawson's algorithm: least squares again and again, with more weight each time where the error is large.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

SMALL, ONE = 0.9, 4.0
"""Where the first polynomial ends, and where erf is 1."""
TERMS = 6
ROUNDS, POINTS = 400, 4000
EPSILON = 2.0**-24
PART, EXPONENT = 0.15, 2e-6
"""How far the second may be off: this part of a rounding of erf, and this much itself, so that erf comes to 1
where it should."""
WHOLE_TERMS, BITS_TERMS = 10, 6
WHOLE_PART, WHOLE_EXPONENT = 0.25, 3e-6
"""The same for 1 + erf: this part of a rounding of 1."""


def points(least: float, most: float) -> Doubles:
    """Chebyshev's points of an interval."""
    angles = np.pi * (np.arange(POINTS) + 0.5) / POINTS
    return np.asarray((most - least) / 2 * (np.cos(angles) + 1) + least)


def fitted(terms: Doubles, wanted: Doubles, scale: Doubles) -> tuple[float, list[float]]:
    """The largest scaled error, and the coefficients of the terms (columns) whose sum is closest."""
    weights, best = np.ones(len(wanted)), math.inf
    coefficients: list[float] = []
    for _ in range(ROUNDS):
        root = np.sqrt(weights) * scale
        found = np.linalg.lstsq(terms * root[:, None], wanted * root, rcond=None)[0]
        errors = np.abs(terms @ found - wanted) * scale
        largest = float(errors.max())
        if largest < best:
            best, coefficients = largest, found.tolist()
        weights = weights * (errors / largest + 1e-3) ** 0.8
        weights /= weights.sum()
    return best, coefficients


def main() -> None:
    small, large = points(1e-3, SMALL), points(SMALL, ONE)
    erf = np.array([math.erf(each) for each in small])
    error, coefficients = fitted(
        np.stack([small ** (2 * k + 1) for k in range(TERMS)], 1), erf - small, 1 / erf
    )
    print(f"ERF {coefficients}\nlargest relative error in units of 2^-24: {error / EPSILON:.3f}")
    erfc = np.array([math.erfc(each) for each in large])
    allowed = np.minimum(PART * EPSILON * (1 - erfc) / erfc, EXPONENT)
    error, coefficients = fitted(
        np.stack([large ** (k + 1) for k in range(TERMS + 1)], 1), -np.log(erfc), 1 / allowed
    )
    print(f"ERFC {coefficients}\nlargest error in units of what is allowed: {error:.3f}")
    whole, half = points(0.0, ONE), points(-0.5, 0.5)
    erfc = np.array([math.erfc(each) for each in whole])
    allowed = np.minimum(WHOLE_PART * EPSILON / (math.log(2) * erfc), WHOLE_EXPONENT)
    error, coefficients = fitted(
        np.stack([whole ** (k + 1) for k in range(WHOLE_TERMS)], 1), -np.log2(erfc), 1 / allowed
    )
    print(f"ERFC_BITS {coefficients}\nlargest error in units of what is allowed: {error:.3f}")
    error, coefficients = fitted(
        np.stack([half ** (k + 1) for k in range(BITS_TERMS)], 1), 2**half - 1, 1 / 2**half
    )
    print(f"BITS {coefficients}\nlargest relative error in units of 2^-24: {error / EPSILON:.3f}")


if __name__ == "__main__":
    main()
