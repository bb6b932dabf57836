"""Inputs to compare with: random ones within ranges, and those of a person."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.measuring import inputs

TENSORS = [("x", (2, 3), "float32"), ("ids", (4,), "int64"), ("on", (5,), "bool"), ("b", (2,), "bfloat16")]


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@given(st.integers(-1000, 1000), st.integers(1, 2000), st.integers(0, 2**31))
def test_random_integers_stay_in_their_range(least: int, width: int, seed: int) -> None:
    (found,) = inputs.random([("ids", (50,), "int64")], seed, {"ids": (least, least + width)})
    assert found.dtype == np.int64
    assert least <= found.min() <= found.max() < least + width


def test_random_inputs_are_the_same_for_the_same_seed_and_floats_have_a_range_too() -> None:
    one, two, other = (inputs.random(TENSORS, seed, {"ids": (0, 9), "x": (-120, 130)}) for seed in (1, 1, 2))
    assert [str(each.dtype) for each in one] == [dtype for _, _, dtype in TENSORS]
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert np.abs(one[0]).max() > 1
    assert inputs.random(TENSORS, 1, {}, inputs.POSITIVE)[0].min() >= 0


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ({"y": (0, 1)}, "no such input; its inputs are x, ids, on, b"),
        ({"ids": (0.25, 0.75)}, "has no integer"),
        ({"on": (0, 3)}, "does not fit bool"),
    ],
)
def test_ranges_that_fit_no_input_are_refused(ranges: dict[str, tuple[float, float]], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        inputs.check_ranges(TENSORS, ranges)
    inputs.check_ranges(TENSORS, {"ids": (0, 30_000), "x": (0.25, 0.75), "on": (1, 2)})


def test_a_file_of_inputs_is_taken_in_the_order_of_the_model() -> None:
    given = {"on": np.ones(5, bool), "ids": np.arange(4), "x": np.ones((2, 3), np.float32)}
    found = inputs.fitting(inputs.read(npz(**given)), TENSORS[:3])
    assert [each.shape for each in found] == [(2, 3), (4,), (5,)]


def test_a_number_stays_one() -> None:
    given = inputs.read(npz(**{"t": np.float32(3), "output:y": np.float32(4), "output-by": "somebody"}))
    (found,) = inputs.fitting(given, [("t", (), "float32")])
    assert found.shape == ()
    who, (wanted,) = inputs.expected(given, [("y", (), "float32")])
    assert (who, wanted.shape) == ("somebody", ())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.ones((2, 3), np.float32)}, "the input ids is missing; it is int64"),
        ({"x": np.ones((2, 3)), "ids": np.arange(4)}, r"is float64\[2, 3\], the model takes float32\[2, 3\]"),
        ({"x": np.ones((3, 2), np.float32), "ids": np.arange(4)}, r"float32\[3, 2\], the model takes"),
        (
            {"x": np.ones((2, 3), np.float32), "ids": np.arange(4), "z": np.ones(1)},
            "no input z; its inputs are",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        inputs.fitting(inputs.read(npz(**arrays)), TENSORS[:2])


def test_each_set_of_shapes_may_have_arrays_of_its_own() -> None:
    given = inputs.read(npz(**{"set0:x": np.zeros(2), "set1:x": np.ones(3), "by": np.arange(4)}))
    for number, size in enumerate((2, 3)):
        found = inputs.of_set(given, number)
        assert {name: array.shape for name, array in found.items()} == {"x": (size,), "by": (4,)}
    with pytest.raises(BadInput, match="none called set2:NAME"):
        inputs.of_set(given, 2)
    assert inputs.of_set({"x": np.ones(3)}, 7)["x"].shape == (3,)


def test_an_input_may_have_any_name() -> None:
    """Those of parameters of ``numpy.savez`` among them."""
    names = ["file", "allow_pickle", "self", "arr_0", "a.npy", "a/b:0", "ü", " "]
    arrays = {name: np.arange(number, dtype=np.float32) for number, name in enumerate(names)}
    written = inputs.write(arrays)
    read = inputs.read(written)
    assert {name: array.size for name, array in read.items()} == dict(zip(names, range(8), strict=True))
    assert inputs.write(arrays) == written


def test_what_is_no_file_of_arrays_is_refused() -> None:
    objects = npz(x=np.array([{}], dtype=object))
    truncated = npz(x=np.ones(1000))[:500]
    for data in (b"", b"not a zip file", objects, truncated):
        with pytest.raises(BadInput, match="is no npz file of arrays"):
            inputs.read(data)


def test_a_file_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LARGEST", 1000)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\0" * 100_000)
    with pytest.raises(BadInput, match="bytes of arrays; 1,000 are allowed"):
        inputs.read(file.getvalue())
