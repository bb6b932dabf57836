"""What integer inputs may be follows from every use of them, in functions of TIR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source, Variant
from tunemesh.stage_workers.graph import optimisation, workloads
from tunemesh.stage_workers.graph.changes import NONE
from tunemesh.stage_workers.measuring import ranges
from tunemesh.stage_workers.measuring.intervals import Walk
from tunemesh.stage_workers.measuring.ranges import Range

INT, FLOAT, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL
node = helper.make_node


def number(name: str, value: Any, dtype: Any = np.int64) -> Any:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def table(name: str, *shape: int) -> Any:
    return number(name, np.random.default_rng(0).normal(size=shape), np.float32)


def model(
    nodes: Sequence[Any],
    inputs: dict[str, tuple[int, list[int]]],
    output: tuple[int, list[int]],
    weights: Sequence[Any] = (),
) -> bytes:
    """An ONNX model whose output is called y."""
    values = [helper.make_tensor_value_info(name, *of) for name, of in inputs.items()]
    result = [helper.make_tensor_value_info("y", *output)]
    graph = helper.make_graph(list(nodes), "g", values, result, list(weights))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    assert isinstance(made, onnx.ModelProto)
    return made.SerializeToString()


def of(data: bytes, target: str) -> dict[str, Range]:
    module, signature = frontends.read(Source(data), Variant())
    lowered = optimisation.optimise(module, target, NONE).module
    return ranges.of_model(lowered, [(each.name, each.dtype) for each in signature.inputs])


IDS = {"ids": (INT, [1, 9])}
ROWS = (FLOAT, [1, 9, 4])

EMBEDDING = model([node("Gather", ["t", "ids"], ["y"])], IDS, ROWS, [table("t", 5, 4)])
TWO_TABLES = model(
    [node("Gather", ["t", "ids"], ["a"]), node("Gather", ["u", "ids"], ["b"]),
     node("Add", ["a", "b"], ["y"])],
    IDS, ROWS, [table("t", 500, 4), table("u", 30, 4)],
)  # fmt: skip
SHIFTED = model(
    [node("Add", ["ids", "two"], ["i"]), node("Cast", ["i"], ["j"], to=TensorProto.INT32),
     node("Unsqueeze", ["j", "axes"], ["k"]), node("Squeeze", ["k", "axes"], ["l"]),
     node("Gather", ["t", "l"], ["y"])],
    IDS, ROWS, [table("t", 20, 4), number("two", 2), number("axes", [0])],
)  # fmt: skip
CHOSEN = model(
    [node("Where", ["m", "ids", "three"], ["i"]), node("Gather", ["t", "i"], ["y"])],
    {**IDS, "m": (BOOL, [1, 9])}, ROWS, [table("t", 7, 4), number("three", 3)],
)  # fmt: skip
ONE_HOT = model(
    [node("OneHot", ["ids", "depth", "v"], ["y"])],
    IDS, (FLOAT, [1, 9, 6]), [number("depth", 6), number("v", [0, 1], np.float32)],
)  # fmt: skip
DIVIDED = model([node("Div", ["a", "ids"], ["y"])], {"a": (INT, [1, 9]), **IDS}, (INT, [1, 9]))
SCALED = model(
    [node("Mul", ["ids", "three"], ["i"]), node("Gather", ["t", "i"], ["y"])],
    IDS, ROWS, [table("t", 31, 4), number("three", 3)],
)  # fmt: skip
MASK = model([node("Cast", ["ids"], ["y"], to=FLOAT)], IDS, (FLOAT, [1, 9]))
QUANTISED = model(
    [node("DequantizeLinear", ["x", "s"], ["y"])],
    {"x": (TensorProto.UINT8, [1, 9])}, (FLOAT, [1, 9]), [number("s", 0.5, np.float32)],
)  # fmt: skip


@pytest.mark.parametrize(
    ("data", "name", "wanted"),
    [
        (EMBEDDING, "ids", (0, 5)),
        (TWO_TABLES, "ids", (0, 30)),
        (SHIFTED, "ids", (0, 18)),
        (CHOSEN, "ids", (0, 7)),
        (SCALED, "ids", (0, 11)),
        (ONE_HOT, "ids", (0, 6)),
        (DIVIDED, "ids", (1, 8)),
        (DIVIDED, "a", (-8, 8)),
        (MASK, "ids", (0, 2)),
        (QUANTISED, "x", (0, 256)),
    ],
    ids=[
        "embedding",
        "two tables",
        "shifted",
        "chosen",
        "scaled",
        "one hot",
        "divisor",
        "dividend",
        "mask",
        "quantised",
    ],
)
def test_the_range_of_an_input_is_what_all_its_uses_allow(
    data: bytes, name: str, wanted: Range, target: str
) -> None:
    assert of(data, target)[name] == wanted


def test_a_kernel_gets_indices_into_its_own_table(target: str) -> None:
    import tvm
    from tvm import te, topi

    rows = te.placeholder((3, 8), name="rows")
    ids = te.placeholder((64, 16), "int32", name="ids")
    function = workloads.of_function(
        te.create_prim_func([rows, ids, topi.take(rows, ids, axis=0, mode="fast")])
    )
    assert isinstance(function, tvm.IRModule)
    assert ranges.of_kernel(function["main"], [("rows", "float32"), ("ids", "int32")]) == {"ids": (0, 3)}


def test_inputs_of_one_name_are_two_all_the_same(target: str) -> None:
    """TVM calls both operands of a Concat ``lv`` where one came from the other."""
    import tvm
    from tvm import te, topi

    one, other = te.placeholder((4, 8), name="lv"), te.placeholder((4, 8), name="lv")
    function = te.create_prim_func([one, other, topi.concatenate([one, other], 0)])
    workload = workloads.of_function(function)
    assert isinstance(workload, tvm.IRModule)
    names = [argument.name for argument in workloads.arguments(workload["main"])]
    assert names[:2] == ["lv", "lv_1"]
    assert len(set(names)) == 3
    assert ranges.of_kernel(workload["main"], [("lv", "float32"), ("lv_1", "float32")]) == {}


def test_what_nothing_bounds_is_looked_at_once_for_each_input(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions of quantised models have a dozen integers that may be anything, and hundreds of lines."""
    walks: list[Walk] = []

    class Counted(Walk):
        def __init__(self) -> None:
            super().__init__()
            walks.append(self)

    monkeypatch.setattr(ranges, "Walk", Counted)
    names = [f"a{number}" for number in range(6)]
    nodes = [node("Cast", [name], [f"{name}f"], to=FLOAT) for name in names]
    nodes.append(node("Sum", [f"{name}f" for name in names], ["y"]))
    inputs = {name: (TensorProto.INT8 if number else INT, [4]) for number, name in enumerate(names)}
    found = of(model(nodes, inputs, (FLOAT, [4])), target)
    assert found == {"a0": ranges.MASK} | dict.fromkeys(names[1:], (-128, 128))
    assert len(walks) <= 1 + len(names)
