"""Arithmetic of orders of axes, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.stage_workers.graph import permutations
from tunemesh.stage_workers.graph.permutations import Order

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=5).map(tuple)


@st.composite
def laid(draw: st.DrawFn) -> tuple[tuple[int, ...], Order]:
    """A shape, and an order of its axes."""
    shape = draw(SHAPES)
    return shape, tuple(draw(st.permutations(range(len(shape)))))


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], Order, tuple[int, ...]]:
    """A shape, an order, and another shape with as many elements."""
    shape, order = draw(laid())
    left, new = math.prod(shape), []
    while left > 1:
        size = draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0]))
        new.append(size)
        left //= size
        if len(new) > 5:
            new.append(left)
            left = 1
    return shape, order, tuple(new)


@given(laid(), st.randoms())
def test_a_permutation_in_the_graph_moves_nothing(
    case: tuple[tuple[int, ...], Order], random: np.random.Generator
) -> None:
    shape, order = case
    axes = list(range(len(shape)))
    random.shuffle(axes)
    tensor = np.arange(math.prod(shape)).reshape(shape)
    lies = tensor.transpose(order)
    turned = permutations.turned(order, axes)
    assert np.array_equal(tensor.transpose(axes).transpose(turned), lies)


@given(laid())
def test_steps_lead_from_one_order_to_another(case: tuple[tuple[int, ...], Order]) -> None:
    shape, order = case
    plain = permutations.identity(len(shape))
    tensor = np.arange(math.prod(shape)).reshape(shape)
    lies = tensor.transpose(order)
    assert np.array_equal(lies.transpose(permutations.steps(order, plain)), tensor)
    at = permutations.places(order)
    assert [lies.shape[at[axis]] for axis in range(len(shape))] == list(shape)
    if not permutations.moves(shape, plain, order):
        assert np.array_equal(lies.ravel(), tensor.ravel())


@given(reshapes())
def test_a_reshape_without_a_move_is_one(case: tuple[tuple[int, ...], Order, tuple[int, ...]]) -> None:
    shape, order, new = case
    tensor = np.arange(math.prod(shape)).reshape(shape)
    for start in (order, permutations.before_reshape(shape, order, new)):
        after = permutations.reshaped(shape, start, new)
        if after is None:
            assert start == order  # what is brought into the closest order can be reshaped
            continue
        lies = tensor.transpose(start).reshape([new[axis] for axis in after])
        assert np.array_equal(lies, tensor.reshape(new).transpose(after))


@pytest.mark.parametrize(
    ("shape", "order", "new", "after"),
    [
        ((1, 8, 14, 14), (0, 2, 3, 1), (1, 8, 196), (0, 2, 1)),  # an image becomes tokens
        ((1, 8, 4, 4), (0, 2, 3, 1), (1, 2, 4, 4, 4), (0, 3, 4, 1, 2)),  # channels become groups
        ((1, 8, 1, 1), (0, 2, 3, 1), (1, 8), (0, 1)),  # what is pooled becomes a row
        ((1, 8, 4, 4), (0, 2, 3, 1), (1, 128), None),  # a flattened image has channels outermost
    ],
)
def test_reshapes_of_networks(
    shape: tuple[int, ...], order: Order, new: tuple[int, ...], after: Order | None
) -> None:
    assert permutations.reshaped(shape, order, new) == after
