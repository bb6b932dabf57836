"""Weights in groups, and the scales of quantised weights: what needs no TVM."""

from __future__ import annotations

import numpy as np
import pytest

from tunemesh.stage_workers.graph import dots, integers
from tunemesh.stage_workers.graph.dots import Dot

EIGHT = dots.INTEGERS[1]


def test_weights_lie_as_one_load_takes_them() -> None:
    weights = np.arange(3 * 8 * 16).reshape(3, 8, 16)
    packed = EIGHT.packed(weights)
    assert packed.shape == (2, 3, 2, 8, 4)
    for place, inputs, outputs in np.ndindex(3, 8, 16):
        at = (outputs // 8, place, inputs // 4, outputs % 8, inputs % 4)
        assert packed[at] == weights[place, inputs, outputs]


@pytest.mark.parametrize(
    ("dot", "inputs", "outputs", "fits"),
    [
        (dots.BFLOAT16[0], 2, 16, True),
        (dots.BFLOAT16[0], 3, 16, False),
        (dots.BFLOAT16[0], 2, 24, False),
        (dots.BFLOAT16[1], 2, 24, True),
        (EIGHT, 6, 8, False),
        (EIGHT, 8, 8, True),
    ],
)
def test_an_instruction_takes_whole_groups(dot: Dot, inputs: int, outputs: int, fits: bool) -> None:
    assert dot.fits(inputs, outputs) is fits


def test_the_scales_of_quantised_weights_are_found() -> None:
    random = np.random.default_rng(1)
    whole = random.integers(-127, 128, (3, 3, 16, 5)).astype(np.int8)
    whole[..., 3] = 0
    scales = np.float32([0.01, 0.3, 1.0, 0.5, 7e-5])
    found = integers.scaled(whole.astype(np.float32) * scales)
    assert found is not None
    np.testing.assert_allclose(found[0] * found[1], whole * scales, rtol=1e-6)
    assert np.abs(found[0]).max() <= 127


@pytest.mark.parametrize(
    "weights",
    [
        np.random.default_rng(2).standard_normal((64, 4)),
        np.full((64, 4), np.nan),
        np.ones((4, 4)),  # as few may be integers by chance
        np.concatenate([np.arange(-64, 64), [0.25]])[:, None] * np.ones((1, 4)),
    ],
)
def test_other_weights_are_none(weights: np.ndarray) -> None:
    assert integers.scaled(weights.astype(np.float32)) is None


def test_eight_bits_go_from_minus_128_to_127() -> None:
    found = integers.scaled(np.arange(-128, 128, dtype=np.float32)[:, None] / 8)
    assert found is not None
    assert (found[0].min(), found[0].max(), found[1][0]) == (-128, 127, 1 / 8)
    assert integers.scaled(np.arange(-127, 129, dtype=np.float32)[:, None]) is None


def test_a_sum_may_come_to_all_the_data_at_once() -> None:
    weights = np.int8([[1, -2], [-3, 4]])
    assert integers.largest_sum(weights) == 6 * 255
