"""ONNX models: no tensor lies in a file of the worker, and nothing is too large for what comes next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import Source, Variant, limits
from tunemesh.stage_workers.frontends.onnx import checks, read

LOCATIONS = ["weights.bin", "/etc/passwd", "../../../etc/passwd", "a/../../b", ""]


def outside(name: str, location: str = "/etc/passwd") -> Any:
    """A tensor whose data lies in a file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def inside(name: str, dtype: type = np.float32) -> Any:
    return numpy_helper.from_array(np.zeros(4, dtype), name)


def model(
    *nodes: Any, weights: tuple[Any, ...] = (), sparse: tuple[Any, ...] = (), functions: tuple[Any, ...] = ()
) -> Any:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    used = nodes or (helper.make_node("Relu", ["x"], ["y"]),)
    graph = helper.make_graph(used, "g", [x], [y], weights, sparse_initializer=sparse)
    return helper.make_model(graph, functions=functions)


def constant(tensor: Any, output: str = "c") -> Any:
    return helper.make_node("Constant", [], [output], value=tensor)


def branch(*nodes: Any, weights: tuple[Any, ...] = ()) -> Any:
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [4])
    return helper.make_graph(nodes, "branch", [], [out], weights)


def choose(one: Any, other: Any | None = None) -> Any:
    return helper.make_node(
        "If", ["x"], ["y"], then_branch=one, else_branch=other or branch(constant(inside("c")))
    )


def sparse(values: Any, indices: Any) -> Any:
    return helper.make_sparse_tensor(values, indices, [8])


def function(*nodes: Any, defaults: tuple[Any, ...] = ()) -> Any:
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_function("local", "f", ["a"], ["b"], nodes, opsets, attribute_protos=defaults)


def in_a_sparse_attribute(tensor: Any) -> Any:
    return model(helper.make_node("Constant", [], ["c"], sparse_value=sparse(tensor, inside("i", np.int64))))


def training(tensor: Any) -> Any:
    made = model()
    made.training_info.add().initialization.CopyFrom(branch(constant(inside("c")), weights=(tensor,)))
    return made


PLACES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "weight": (lambda t: model(weights=(t,)), "the weight w"),
    "constant": (lambda t: model(constant(t)), "the value of the Constant node c"),
    "list of tensors": (
        lambda t: model(helper.make_node("Own", [], ["o"], list=[t, t])),
        "the list of the Own node o",
    ),
    "weight of a branch": (lambda t: model(choose(branch(weights=(t,)))), "the weight w"),
    "constant of a branch": (
        lambda t: model(choose(branch(constant(t)))),
        "the value of the Constant node c",
    ),
    "constant of the other branch": (
        lambda t: model(choose(branch(constant(inside("c"))), branch(constant(t)))),
        "the value of the Constant node c",
    ),
    "branch of a branch": (
        lambda t: model(choose(branch(choose(branch(constant(t)))))),
        "the value of the Constant",
    ),
    "list of graphs": (
        lambda t: model(helper.make_node("Own", [], ["o"], all=[branch(constant(t))])),
        "the value",
    ),
    "sparse values": (
        lambda t: model(sparse=(sparse(t, inside("i", np.int64)),)),
        "the part values of the sparse weight w",
    ),
    "sparse indices": (
        lambda t: model(sparse=(sparse(inside("w"), t),)),
        "the part indices of the sparse weight w",
    ),
    "sparse attribute": (in_a_sparse_attribute, "the part values of the sparse_value of the Constant node c"),
    "function": (lambda t: model(functions=(function(constant(t)),)), "the value of the Constant node c"),
    "default of a function": (
        lambda t: model(functions=(function(defaults=(helper.make_attribute("d", t),)),)),
        "the default of d in the function f",
    ),
    "training": (training, "the weight w"),
}


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("place", PLACES)
def test_no_tensor_lies_outside_the_file(place: str, location: str) -> None:
    make, named = PLACES[place]
    checks.check(make(inside("w")) if "indices" not in place else make(inside("w", np.int64)))
    with pytest.raises(
        BadModel, match=f"{named}.* lies outside the ONNX file, in .*, which did not come with it"
    ) as refused:
        read(Source(make(outside("w", location)).SerializeToString()), Variant())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("half", ["data_location", "external_data"])
def test_half_of_what_makes_a_tensor_external_is_enough(half: str) -> None:
    tensor = outside("w")
    tensor.ClearField({"data_location": "external_data", "external_data": "data_location"}[half])
    with pytest.raises(BadModel, match="lies outside"):
        checks.check(model(weights=(tensor,)))


def test_what_onnx_itself_saves_beside_the_file_is_named(tmp_path: Path) -> None:
    made = model(weights=(inside("w"),))
    onnx.save_model(
        made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    with pytest.raises(BadModel, match="the weight w lies outside the ONNX file"):
        read(Source((tmp_path / "m.onnx").read_bytes()), Variant())


def test_names_from_the_file_are_fit_to_be_printed() -> None:
    with pytest.raises(BadModel) as refused:
        checks.check(model(weights=(outside("\x1b[2J\n" + "w" * 1000),)))
    assert "\x1b" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("limit", "most", "of"),
    [
        ("OPERATORS", 3, "4 operators"),
        ("CONSTANTS", 2, "3 constants"),
        ("CONSTANT_BYTES", 40, "bytes of constants"),
        ("TENSORS", 0, "1 (in|out)puts"),
        ("SUBGRAPHS", 1, "2 graphs inside one another"),
    ],
)
def test_what_is_too_large_is_named(limit: str, most: int, of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subgraphs and functions count."""
    made = model(
        choose(branch(constant(inside("a")))),
        weights=(inside("w"),),
        functions=(function(helper.make_node("Relu", ["a"], ["b"])),),
    )
    checks.check(made)
    monkeypatch.setattr(limits, limit, most)
    with pytest.raises(BadModel, match=rf"the model has .*{of}; at most {most} can be imported"):
        checks.check(made)
