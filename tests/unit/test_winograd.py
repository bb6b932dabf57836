"""The matrices of Winograd's algorithm, against the convolution itself."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tunemesh.stage_workers.graph import winograd

RANDOM = np.random.default_rng(0)


def array(matrix: winograd.Matrix) -> np.ndarray:
    return np.array(matrix, np.float64)


def convolution(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(image, weights.shape)
    return np.asarray(np.einsum("ijab,ab->ij", windows, weights))


@pytest.mark.parametrize("outputs", winograd.POINTS)
def test_a_tile_is_the_convolution(outputs: int) -> None:
    size = winograd.inputs_of(outputs)
    image, weights = RANDOM.normal(size=(size, size)), RANDOM.normal(size=(3, 3))
    g, b, a = (
        array(each(outputs)) for each in (winograd.of_weights, winograd.of_inputs, winograd.of_products)
    )
    tile = a @ ((g @ weights @ g.T) * (b @ image @ b.T)) @ a.T
    np.testing.assert_allclose(tile, convolution(image, weights), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("outputs", winograd.POINTS)
def test_what_rows_or_columns_share_is_computed_once_and_right(outputs: int) -> None:
    size = winograd.inputs_of(outputs)
    values, few = RANDOM.normal(size=size), RANDOM.normal(size=3)
    for matrix, given, transform in (
        (winograd.of_inputs(outputs), values, winograd.transformed),
        (winograd.of_weights(outputs), few, winograd.transformed),
        (winograd.of_products(outputs), values, winograd.transformed_by_columns),
    ):
        np.testing.assert_allclose(transform(matrix, list(given)), array(matrix) @ given, rtol=1e-12)


def test_the_matrices_of_four_outputs_are_those_of_the_paper() -> None:
    """Lavin and Gray, arXiv:1509.09308, equation 18, but for signs that cancel."""
    assert winograd.of_inputs(4)[0] == [4, 0, -5, 0, 1, 0]
    assert winograd.of_weights(4)[0] == [Fraction(1, 4), 0, 0]
    assert winograd.of_products(4) == [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
