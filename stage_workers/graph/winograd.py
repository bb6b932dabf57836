"""Winograd's algorithm F(m x m, 3 x 3): Lavin and Gray, arXiv:1509.09308, by Toom and Cook's construction.

An image is cut into tiles of m x m outputs. Each needs (m + 2) x (m + 2) inputs, which are transformed;
(m + 2)**2 matrix products over the channels take the place of the convolution, with (m + 2)**2 / (9 m**2) of
its multiplications; and what they give is transformed to m x m outputs. The weights are transformed once.

In one dimension, with n = m + 2 points (the last one at infinity), the transforms are matrices: of the inputs
B, n x n, of the weights G, n x 3, of the products A, m x n, so that ``A ((G g) * (B d))`` is the convolution
of n inputs d with three weights g.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

TAPS = 3
"""Of the kernels, in each direction."""
HALF = Fraction(1, 2)
POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, -2), 6: (0, 1, -1, 2, -2, HALF, -HALF)}
"""By the outputs of a tile in each direction, beside infinity: in pairs, which share most of the work."""

Matrix = list[list[Fraction]]


def inputs_of(outputs: int) -> int:
    """Inputs of a tile in each direction."""
    return outputs + TAPS - 1


def of_weights(outputs: int) -> Matrix:
    """G."""
    points = list(map(Fraction, POINTS[outputs]))
    rows = []
    for point in points:
        others = _product(point - other for other in points if other != point)
        rows.append([point**power / others for power in range(TAPS)])
    return [*rows, [Fraction(int(power == TAPS - 1)) for power in range(TAPS)]]


def of_inputs(outputs: int) -> Matrix:
    """B: the coefficients of polynomials that are 0 in all points but one."""
    points = list(map(Fraction, POINTS[outputs]))
    rows = [[*_polynomial([other for other in points if other != point]), Fraction(0)] for point in points]
    return [*rows, _polynomial(points)]


def of_products(outputs: int) -> Matrix:
    """A."""
    points = list(map(Fraction, POINTS[outputs]))
    last = outputs - 1
    return [[*(point**power for point in points), Fraction(int(power == last))] for power in range(outputs)]


def transformed(matrix: Matrix, values: Sequence[Any]) -> list[Any]:
    """The product of a matrix and a vector of expressions. Of two rows that differ in some signs only, what
    they have in common and what they differ by is computed once."""
    rows = [[float(each) for each in row] for row in matrix]
    done: dict[int, Any] = {}
    for number, row in enumerate(rows):
        if number in done:
            continue
        partner = next((other for other in range(number + 1, len(rows)) if _is_pair(row, rows[other])), None)
        if partner is None:
            done[number] = _sum(row, values)
            continue
        same = [(a + b) / 2 for a, b in zip(row, rows[partner], strict=True)]
        opposite = [(a - b) / 2 for a, b in zip(row, rows[partner], strict=True)]
        one, other = _sum(same, values), _sum(opposite, values)
        done[number], done[partner] = one + other, one - other
    return [done[number] for number in range(len(rows))]


def transformed_by_columns(matrix: Matrix, columns: Sequence[Any]) -> list[Any]:
    """The product of a matrix with a few columns that share one vector each, for matrices such as A: by its
    columns in pairs (1, t, t**2, ...) and (1, -t, t**2, ...), their sum counts in even rows, and their
    difference in odd ones."""
    used: set[int] = set()
    terms: list[tuple[Any, list[float]]] = []
    width = len(matrix[0])
    by_column = [[float(row[number]) for row in matrix] for number in range(width)]
    for number, column in enumerate(by_column):
        if number in used:
            continue
        partner = next(
            (other for other in range(number + 1, width) if _is_pair(column, by_column[other])), None
        )
        if partner is None:
            terms.append((columns[number], column))
            continue
        used.add(partner)
        pairs = list(zip(column, by_column[partner], strict=True))
        terms.append((columns[number] + columns[partner], [(a + b) / 2 for a, b in pairs]))
        terms.append((columns[number] - columns[partner], [(a - b) / 2 for a, b in pairs]))
    return [
        _sum([factors[row] for _, factors in terms], [value for value, _ in terms])
        for row in range(len(matrix))
    ]


def _is_pair(row: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two rows are the same but for some signs, and share something."""
    return (
        all(abs(a) == abs(b) for a, b in zip(row, other, strict=True))
        and any(a == b != 0 for a, b in zip(row, other, strict=True))
        and any(a != b for a, b in zip(row, other, strict=True))
    )


def _sum(factors: Sequence[float], values: Sequence[Any]) -> Any:
    """Of products with constants, without those with 0 and 1."""
    total = None
    for factor, value in zip(factors, values, strict=True):
        if factor == 0:
            continue
        if total is None:
            total = value if factor == 1 else value * factor
        elif factor == 1:
            total = total + value
        elif factor == -1:
            total = total - value
        else:
            total = total + value * factor
    return total


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of the polynomial with these roots, the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [
            high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)
        ]
    return coefficients


def _product(factors: Any) -> Fraction:
    return functools.reduce(lambda a, b: a * b, factors, Fraction(1))
