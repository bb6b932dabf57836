"""Outputs are compared element by element, each with a tolerance of its own."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunemesh.stage_workers.measuring import comparison, inputs
from tunemesh.stage_workers.measuring.comparison import Array, Expected

Run = Callable[[Sequence[Array]], list[Array]]
LENGTH = 300


def expected_of(run: Run, inputs: Sequence[Array], pairs: int = comparison.PAIRS) -> Expected:
    """What the first output should be, as found by trying."""
    moved = comparison.tried(run, inputs, pairs)
    return comparison.expected(run(inputs)[0], [each[0] for each in moved], pooled=pairs == 1)


def wrong(got: Array, wanted: Expected) -> str:
    found = comparison.agree("y", got, wanted, "the judge").wrong
    assert not (found and comparison.agrees(got, wanted))
    return found


def operands(seed: int, dtype: str = "float32", rows: int = 8, columns: int = 6) -> list[Array]:
    random = np.random.default_rng(seed)
    kind = comparison.numpy_dtype(dtype)
    return [random.uniform(-1, 1, shape).astype(kind) for shape in ((rows, LENGTH), (LENGTH, columns))]


def in_order(order: Array) -> Run:
    """A matrix product in single precision whose sums run in this order, one term after the other."""

    def run(inputs: Sequence[Array]) -> list[Array]:
        a, b = (each.astype(np.float32) for each in inputs)
        total = np.zeros((a.shape[0], b.shape[1]), np.float32)
        for k in order:
            total = total + a[:, k : k + 1] * b[k : k + 1]
        return [total.astype(inputs[0].dtype)]

    return run


FORWARD, BACKWARD = np.arange(LENGTH), np.arange(LENGTH)[::-1]
SEEDS = st.integers(0, 2**31)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(["float32", "float16", "bfloat16"]), st.sampled_from([1, 3]))
def test_sums_in_another_order_agree(seed: int, dtype: str, pairs: int) -> None:
    inputs = operands(seed, dtype)
    order = np.random.default_rng(seed).permutation(LENGTH)
    got, wanted = in_order(order)(inputs)[0], expected_of(in_order(FORWARD), inputs, pairs)
    assert wrong(got, wanted) == ""
    assert comparison.agrees(got, wanted)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(-12, 12), st.integers(0, 47), st.floats(1e-2, 1.0), st.booleans())
def test_a_wrong_element_of_any_size_is_found(seed: int, power: int, at: int, part: float, up: bool) -> None:
    """Beside others that are many times as large, or as small."""
    scale = np.where(np.arange(48) == at, 10.0**power, 1.0).astype(np.float32).reshape(8, 6)

    def run(inputs: Sequence[Array]) -> list[Array]:
        return [in_order(FORWARD)(inputs)[0] * scale]

    inputs = operands(seed)
    wanted = expected_of(run, inputs)
    got = wanted.values.copy()
    size = np.abs(inputs[0]) @ np.abs(inputs[1]) * scale
    got.flat[at] += part * size.flat[at] * (1 if up else -1)
    text = wrong(got, wanted)
    assert text.startswith(f"output y[{at // 6},{at % 6}] is ")
    assert "1 of 48 elements are wrong" in text


def test_a_term_left_out_of_a_half_precision_sum_is_found() -> None:
    inputs = operands(3, "float16", 64, 64)
    wanted = expected_of(in_order(FORWARD), inputs)
    assert "elements are wrong" in wrong(in_order(FORWARD[:-1])(inputs)[0], wanted)


def test_a_value_that_is_rounded_may_be_off_by_a_step_where_rounding_decides_and_nowhere_else() -> None:
    """A product in steps of 0.001, rounded down: another order flips a few of them."""

    def floored(order: Array) -> Run:
        return lambda inputs: [np.floor(in_order(order)(inputs)[0] * 1000).astype(np.int32)]

    inputs = operands(0, rows=128, columns=128)
    wanted = expected_of(floored(FORWARD), inputs)
    other = floored(BACKWARD)(inputs)[0]
    assert np.count_nonzero(other != wanted.values) > 0
    assert wrong(other, wanted) == ""
    safe = np.argwhere(wanted.tolerance == 0)
    assert len(safe) > 0.5 * wanted.values.size
    row, column = safe[0]
    other[row, column] += 1
    assert wrong(other, wanted).startswith(f"output y[{row},{column}] is ")


def test_integers_that_nothing_rounds_have_to_be_equal() -> None:
    wanted = comparison.expected(np.arange(200_000), [])
    one_off = wanted.values.copy()
    one_off[7] += 1
    assert wrong(wanted.values, wanted) == ""
    assert wrong(one_off, wanted).startswith(
        "output y[7] is 8, the judge gives 7 (may differ by 0; 1 of 200,000"
    )
    large = comparison.expected(np.array([2**62, 2**62 + 1]), [])
    assert "1 of 2" in wrong(large.values - np.array([0, 1]), large)


def test_quantised_values_may_be_off_by_the_steps_of_operators_that_round_inside() -> None:
    values = np.array([3, 200], np.uint8)
    assert wrong(values + np.uint8(1), comparison.expected(values, [], steps=1)) == ""
    assert wrong(values + np.uint8(2), comparison.expected(values, [], steps=1)) != ""
    assert wrong(values + np.uint8(1), comparison.expected(values, [])) != ""
    assert wrong(np.array([4]), comparison.expected(np.array([3]), [], steps=1)) != ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_so_in_the_same_places(value: float) -> None:
    values = np.array([1.0, value, 2.0], np.float32)
    wanted = comparison.expected(values, [values, values])
    assert wrong(values, wanted) == ""
    assert "must be the same" in wrong(np.array([1.0, 5.0, 2.0], np.float32), wanted)
    assert wrong(np.array([value, value, 2.0], np.float32), wanted).startswith("output y[0] is ")
    if np.isinf(value):
        assert wrong(np.array([1.0, -value, 2.0], np.float32), wanted).startswith("output y[1] is ")


def test_where_rounding_decides_whether_a_value_is_finite_nothing_is_said() -> None:
    values = np.array([1.0, np.nan, -30.0], np.float32)
    wanted = comparison.expected(values, [np.array([1.0, -31.0, np.nan], np.float32)])
    found = comparison.agree("y", np.array([1.0, 7.0, np.nan], np.float32), wanted, "the judge")
    assert (found.wrong, found.check.compared, found.check.elements) == ("", 1, 3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_where_nothing_was_compared_nothing_agrees(dtype: str) -> None:
    values = np.full((4, 8), np.nan, np.float32).astype(comparison.numpy_dtype(dtype))
    found = comparison.agree("y", values, comparison.expected(values, []), "the judge")
    assert found.wrong == f"all of output y is NaN for these inputs, {comparison.NOTHING}"
    assert found.check.compared == 0


def test_where_all_is_decided_from_outside_both_causes_are_named() -> None:
    values = np.ones((4,), np.float32)
    wanted = comparison.expected(values, [np.full((4,), np.nan, np.float32)])
    found = comparison.agree("y", values, wanted, "the judge")
    assert "at the border of what is defined, or read from outside of the tensors, for" in found.wrong
    assert found.wrong.endswith(comparison.NOTHING)


def test_what_has_no_elements_agrees() -> None:
    assert wrong(np.zeros((0, 8), np.float32), comparison.expected(np.zeros((0, 8), np.float32), [])) == ""


def test_another_shape_or_dtype_is_wrong() -> None:
    wanted = comparison.expected(np.zeros((2, 3), np.float32), [])
    assert (
        wrong(np.zeros((3, 2), np.float32), wanted)
        == "output y is float32[3, 2], the judge gives float32[2, 3]"
    )
    assert "float64[2, 3]" in wrong(np.zeros((2, 3)), wanted)


def test_a_scalar_is_compared() -> None:
    wanted = comparison.expected(np.float32(3.0) * np.ones((), np.float32), [])
    assert wrong(np.asarray(3.0, np.float32), wanted) == ""
    assert wrong(np.asarray(3.1, np.float32), wanted).startswith("output y is 3.0999999, the judge gives 3 (")


def test_what_is_told_is_the_element_furthest_off_in_units_of_its_own_tolerance() -> None:
    values = np.array([1e6, 1e-6], np.float32)
    wanted = comparison.expected(values, [])
    found = comparison.agree("y", values * np.array([1 + 1e-6, 1 + 5e-5], np.float32), wanted, "j").check
    assert found.difference == pytest.approx(5e-11, rel=0.1)
    assert found.tolerance == pytest.approx(8 * 2.0**-16 * 1e-6, rel=0.01)
    assert found.units == pytest.approx(found.difference / found.tolerance)
    assert found.units < 1


@given(SEEDS)
def test_changes_are_opposite_repeatable_and_leave_integers_and_infinities_alone(seed: int) -> None:
    inputs = [np.array([1.0, -2.0, 0.0, np.inf, np.nan], np.float32), np.array([1, 2])]
    up, down = (comparison.changed(inputs, seed, which) for which in (True, False))
    np.testing.assert_allclose(up[0] + down[0], 2 * inputs[0], rtol=1e-6)
    np.testing.assert_array_equal(up[0], comparison.changed(inputs, seed, True)[0])
    np.testing.assert_array_equal(up[1], inputs[1])
    noise = comparison.noise("float32")
    assert noise / 3 < abs(up[0][0] - 1.0) <= noise
    assert up[0][2:4].tolist() == [0.0, np.inf]
    assert comparison.changed(inputs[:1], seed, True, spread=1.0)[0][2] != 0


def test_small_floats_are_compared() -> None:
    values = np.array([1.0, 2.0], ml_dtypes.float8_e4m3fn)
    assert wrong(values, comparison.expected(values, [])) == ""
    assert wrong(np.array([1.0, 4.0], values.dtype), comparison.expected(values, [])) != ""


def test_a_large_term_may_swallow_the_small_ones_of_a_long_sum() -> None:
    """As in the sum of a softmax over a vocabulary: one by one, half a rounding error is lost each."""
    terms = np.full(20_000, 5e-8, np.float32)
    terms[0] = 1.0
    forward, pairwise = np.float32(0.0), np.sum(terms, dtype=np.float32)
    for each in terms:
        forward = np.float32(forward + each)
    assert abs(forward - pairwise) > comparison.FACTOR * comparison.noise("float32")
    wanted = comparison.expected(np.array([pairwise]), [], terms=20_000)
    assert wrong(np.array([forward]), wanted) == ""
    assert wrong(np.array([forward]), comparison.expected(np.array([pairwise]), [])) != ""


def test_what_rounding_alone_decides_is_told() -> None:
    """Agreeing says little where half of an output may be anything."""
    values = np.linspace(-1, 1, 64, dtype=np.float32)
    tight = comparison.expected(values, [values * np.float32(1 + 1e-6)])
    loose = comparison.expected(values, [values + np.float32(0.2)])
    assert comparison.agree("y", values, tight, "j").check.leeway < 1e-3
    assert 2 < comparison.agree("y", values, loose, "j").check.leeway < 4


def test_how_far_an_output_is_off_is_told_whatever_it_may_be() -> None:
    wanted = np.array([[1.0, 2.0, 0.0], [5.0, 0.0, 4.0]], np.float32)
    got = np.array([[1.0, 2.5, 0.0], [3.0, 0.0, 4.0]], np.float32)
    check = comparison.agree("y", got, comparison.Expected(wanted, np.full((2, 3), 9.0)), "j").check
    assert check.largest == 2.0
    assert check.relative == pytest.approx(np.sqrt((0.5**2 + 2.0**2) / (1 + 4 + 25 + 16)))
    assert check.choices == 0.5
    wrong = comparison.agree("y", got, comparison.Expected(wanted, np.full((2, 3), 1.0)), "j").check
    assert (wrong.largest, wrong.choices) == (2.0, 0.5)
    one = comparison.agree("y", got[:, :1], comparison.Expected(wanted[:, :1], np.full((2, 1), 9.0)), "j")
    assert one.check.choices is None


def test_large_arrays_are_made_and_changed_without_copies_in_double_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A weight of 256 MiB once needed more than 4 GiB to be compared."""
    monkeypatch.setattr(comparison, "BLOCK", 2**12)
    whole = 2**20 * 4
    tracemalloc.start()
    try:
        (made,) = inputs.random([("w", (2**10, 2**10), "float32")], 0, {})
        assert tracemalloc.get_traced_memory()[1] < 1.2 * whole
        tracemalloc.reset_peak()
        (moved,) = comparison.changed([made], 1, up=True, spread=1 / 16)
        assert tracemalloc.get_traced_memory()[1] < 2.2 * whole  # both are there
    finally:
        tracemalloc.stop()
    assert moved.shape == made.shape
    off = np.abs(moved - made) / (np.abs(made) + np.sqrt(np.mean(np.square(made))) / 16)
    np.testing.assert_allclose((off.min(), off.max()), (2.0**-17, 2.0**-16), rtol=0.05)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_inputs_are_the_same_however_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    tensors = [("a", (7, 5), dtype), ("b", (), dtype), ("c", (3,), dtype)]
    at_once = inputs.random(tensors, 3, {})
    monkeypatch.setattr(comparison, "BLOCK", 4)
    for one, other in zip(inputs.random(tensors, 3, {}), at_once, strict=True):
        np.testing.assert_array_equal(one, other)
