"""Several sets of shapes: how they are asked for, and which is taken for given inputs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.unit.world import request
from tunemesh.shared.errors import BadModel
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers.frontends.shapes import Variant, variants
from tunemesh.stage_workers.graph.signatures import Signature, Tensor, signatures_of


def test_without_any_shape_there_is_one_variant() -> None:
    assert variants(Settings()) == [Variant()]


def test_the_nth_variant_has_the_nth_of_each_list_and_one_value_holds_for_all() -> None:
    settings = Settings(shapes={"x": [[1, 3], [8, 3]], "y": [[5]]}, dims={"batch": [1, 8]})
    assert variants(settings) == [
        Variant(shapes={"x": [1, 3], "y": [5]}, dims={"batch": 1}),
        Variant(shapes={"x": [8, 3], "y": [5]}, dims={"batch": 8}),
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dims": {"batch": [1, 4], "length": [1, 2, 3]}}, "--dim batch has 2 values, others have 3"),
        ({"shapes": {"x": [[1], [2]]}, "dims": {"n": [1, 2, 3]}}, "--shape x has 2 values, others have 3"),
    ],
)
def test_lists_that_do_not_fit_each_other_are_refused_with_the_request(given: Any, said: str) -> None:
    bad = msgspec.structs.replace(request(), settings=Settings(**given))
    assert said in bad.problem()


def signature(**shapes: tuple[int, ...]) -> Signature:
    return Signature([Tensor(name, shape, "float32") for name, shape in shapes.items()], [])


def test_each_variant_has_an_entry_of_its_own() -> None:
    assert [each.function for each in signatures_of([signature(x=(1, 3))]).variants] == ["main"]
    found = signatures_of([signature(x=(1, 3)), signature(x=(8, 3))])
    assert [each.function for each in found.variants] == ["main_0", "main_1"]


def test_the_same_shapes_twice_are_refused() -> None:
    with pytest.raises(BadModel, match=r"sets of shapes 0 and 2 are the same \(x=1,3 y=scalar\)"):
        signatures_of([signature(x=(1, 3), y=()), signature(x=(8, 3), y=()), signature(x=(1, 3), y=())])
