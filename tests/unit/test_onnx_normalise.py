"""What becomes of an ONNX model before TVM sees it, step by step: the same results, with plain operators.

The normalised graph is written as a model again and run by ONNX's reference; what the model should give comes
from ONNX Runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import FLOAT, Array, expected, floats, model, node, value
from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import limits
from tunemesh.stage_workers.frontends.onnx import conversion, steps, tensors
from tunemesh.stage_workers.frontends.onnx.graph import DIALECT, Graph, to_proto
from tunemesh.stage_workers.frontends.onnx.inference import to_type_proto
from tunemesh.stage_workers.frontends.onnx.normalise import Normaliser

INT64, UINT8, INT8, BOOL = TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL


def normalised(made: Any, shapes: dict[str, list[int]] | None = None) -> Graph:
    copied = onnx.ModelProto.FromString(made.SerializeToString())
    known = {
        each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in made.graph.input
    }
    return Normaliser(copied, known | (shapes or {}), tensors.Files()).run()


def run(graph: Graph, inputs: dict[str, Array]) -> list[Array]:
    """The normalised graph, by ONNX's reference."""
    from onnx.reference import ReferenceEvaluator

    made = helper.make_graph(
        [to_proto(each) for each in graph.nodes],
        "g",
        [helper.make_value_info(name, to_type_proto(graph.types[name])) for name in graph.inputs],
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(graph.outputs)],
        [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    opsets = [helper.make_opsetid("", DIALECT)]
    found = ReferenceEvaluator(helper.make_model(made, opset_imports=opsets)).run(None, inputs)
    by_name = dict(zip(dict.fromkeys(graph.outputs), found, strict=True))
    return [np.asarray(by_name[name]) for name in graph.outputs]


def operators(graph: Graph) -> set[str]:
    return {each.op for each in graph.nodes}


def check(made: Any, inputs: dict[str, Array], shapes: dict[str, list[int]] | None = None) -> Graph:
    """The normalised graph has only operators that can be converted, and computes the same."""
    graph = normalised(made, shapes)
    assert operators(graph) <= conversion.KNOWN
    for got, want in zip(run(graph, inputs), expected(made, inputs), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-4, atol=1e-5)
    return graph


# -- Recurrent layers ---------------------------------------------------------------------------------------

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def layer(op: str, direction: str, outputs: int, **attributes: Any) -> tuple[Any, dict[str, Array]]:
    ways, hidden, size, batch, steps = 2 if direction == "bidirectional" else 1, 3, 2, 2, 4
    gates = GATES[op]
    weights = {
        "w": floats(ways, gates * hidden, size, seed=1),
        "r": floats(ways, gates * hidden, hidden, seed=2),
        "b": floats(ways, 2 * gates * hidden, seed=3),
        "lengths": np.asarray([4, 2], np.int32),
        "h": floats(ways, batch, hidden, seed=4),
    }
    inputs = ["x", "w", "r", "b", "lengths", "h"]
    if op == "LSTM":
        weights |= {"c": floats(ways, batch, hidden, seed=5), "p": floats(ways, 3 * hidden, seed=6)}
        inputs += ["c", "p"]
    names = ["y", "yh", "yc"][:outputs]
    made = node(op, inputs, names, hidden_size=hidden, direction=direction, **attributes)
    x = floats(steps, batch, size, seed=7)
    return model([made], [value("x", FLOAT, x.shape)], names, weights), {"x": x}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_recurrent_layers_are_written_out(op: str, direction: str) -> None:
    graph = check(*layer(op, direction, 3 if op == "LSTM" else 2))
    assert not operators(graph) & set(GATES)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("GRU", {"linear_before_reset": 1}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"clip": 0.3}),
        ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
        ("LSTM", {"activations": ["HardSigmoid", "Relu", "Tanh"]}),
    ],
)
def test_what_a_recurrent_layer_may_say(op: str, attributes: dict[str, Any]) -> None:
    check(*layer(op, "forward", 2, **attributes))


# -- Control flow -------------------------------------------------------------------------------------------


def body(inputs: list[Any], nodes: list[Any], outputs: list[str]) -> Any:
    return helper.make_graph(nodes, "body", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])


def loop(turns: Any, condition: list[Any], result: str) -> Any:
    inside = body(
        [value("i", INT64, []), value("go", BOOL, []), value("s", FLOAT, [2])],
        [*condition, node("Add", ["s", "w"], ["so"]), node("Mul", ["so", "so"], ["each"])],
        [result, "so", "each"],
    )
    names = ["m", "t", "x"] if turns is not None else ["", "t", "x"]
    weights: dict[str, Any] = {"w": floats(2), "t": np.asarray(True), "two": np.asarray(2, np.int64)}
    if turns is not None:
        weights["m"] = np.asarray(turns, np.int64)
    made = node("Loop", names, ["y", "all"], body=inside)
    return model([made], [value("x", FLOAT, [2])], ["y", "all"], weights)


def test_a_loop_of_known_length_is_written_out() -> None:
    made = loop(3, [node("Identity", ["go"], ["on"])], "on")
    graph = check(made, {"x": floats(2, seed=1)})
    assert operators(graph) <= {"Add", "Mul", "Unsqueeze", "Concat"}


def test_a_loop_ends_when_its_condition_is_known_to_be_false() -> None:
    made = loop(None, [node("Less", ["i", "two"], ["on"])], "on")
    assert [len(each) for each in expected(made, {"x": floats(2)})] == [2, 3]
    check(made, {"x": floats(2, seed=1)})


def test_a_loop_that_depends_on_the_data_is_named() -> None:
    ends = [node("ReduceSum", ["s"], ["sum"], keepdims=0), node("Greater", ["sum", "z"], ["on"])]
    made = loop(4, ends, "on")
    made.graph.initializer.append(numpy_helper.from_array(np.float32(0), "z"))
    with pytest.raises(BadModel, match=r"the Loop node .*: when the loop ends depends on the data; export"):
        normalised(made)


@pytest.mark.parametrize("backwards", [0, 1])
def test_a_scan_goes_through_its_input(backwards: int) -> None:
    inside = body(
        [value("s", FLOAT, [2]), value("e", FLOAT, [2])],
        [node("Add", ["s", "e"], ["so"]), node("Identity", ["so"], ["out"])],
        ["so", "out"],
    )
    options = {"scan_input_directions": [backwards], "scan_output_directions": [backwards]}
    made = node("Scan", ["x0", "x"], ["y", "all"], body=inside, num_scan_inputs=1, **options)
    ends = [value("x0", FLOAT, [2]), value("x", FLOAT, [3, 2])]
    check(model([made], ends, ["y", "all"]), {"x0": floats(2), "x": floats(3, 2, seed=1)})


def branches(condition: list[Any], weights: dict[str, Any], second: Any | None = None) -> Any:
    made = node(
        "If",
        ["c"],
        ["y"],
        then_branch=body([], [node("Mul", ["x", "w"], ["a"])], ["a"]),
        else_branch=body([], [second or node("Sub", ["x", "w"], ["b"])], ["b"]),
    )
    ends = [value("x", FLOAT, [2, 2])]
    return model([*condition, made], ends, weights={"w": floats(2, seed=3), **weights})


@pytest.mark.parametrize("taken", [True, False])
def test_a_constant_condition_leaves_one_branch(taken: bool) -> None:
    graph = check(branches([], {"c": np.asarray(taken)}), {"x": floats(2, 2)})
    assert operators(graph) == {"Mul" if taken else "Sub"}


SUM = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "z"], ["c"])]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_condition_that_depends_on_the_data_chooses_between_results(sign: int) -> None:
    made = branches(SUM, {"z": np.float32(0)})
    check(made, {"x": sign * np.abs(floats(2, 2))})


def test_a_branch_that_cannot_run_is_never_taken() -> None:
    """As in models with a branch for each sampling rate: the shape of the input fits one of them."""
    made = branches(SUM, {"z": np.float32(0), "v": floats(3)}, node("Sub", ["x", "v"], ["b"]))
    assert operators(normalised(made)) == {"Mul"}


def test_branches_of_different_shapes_are_named() -> None:
    made = branches(SUM, {"z": np.float32(0)}, node("ReduceSum", ["x"], ["b"], keepdims=0))
    with pytest.raises(
        BadModel, match="their results differ in type or shape; make the condition a constant"
    ):
        normalised(made)


# -- Functions and domains ----------------------------------------------------------------------------------


def function(name: str, nodes: list[Any], attributes: tuple[str, ...] = ()) -> Any:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
    return helper.make_function("my.ops", name, ["a"], ["b"], nodes, opsets, attributes)


def test_functions_of_the_model_are_put_in_place() -> None:
    scaled = node("LeakyRelu", ["a"], ["b"])
    scaled.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=1))
    functions = [
        function("Slope", [scaled], ("slope",)),
        function("Twice", [node(op, [i], [o], domain="my.ops", slope=0.3) for op, i, o in TWICE]),
    ]
    nodes = [node("Twice", ["x"], ["m"], domain="my.ops"), node("Twice", ["m"], ["y"], domain="my.ops")]
    made = model(nodes, [value("x", FLOAT, [4])], functions=functions, domains=["my.ops"])
    check(made, {"x": floats(4)})


TWICE = [("Slope", "a", "t"), ("Slope", "t", "b")]


def test_functions_that_grow_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OPERATORS", 500)
    functions = [function("F0", [node("Relu", ["a"], ["b"])])]
    for level in range(1, 30):
        calls = [("a", "t"), ("t", "b")]
        functions.append(
            function(f"F{level}", [node(f"F{level - 1}", [i], [o], domain="my.ops", k=o) for i, o in calls])
        )
    made = model(
        [node("F29", ["x"], ["y"], domain="my.ops")],
        [value("x", FLOAT, [4])],
        functions=functions,
        domains=["my.ops"],
    )
    with pytest.raises(BadModel, match="operators once its functions and loops are written out"):
        normalised(made)


def test_operators_of_other_domains_are_named() -> None:
    made = model([node("Best", ["x"], ["y"], domain="acme")], [value("x", FLOAT, [4])], domains=["acme"])
    with pytest.raises(
        BadModel, match=r"the acme\.Best node y: the operator Best of the domain acme is none of"
    ):
        normalised(made)


# -- Shapes and constants -----------------------------------------------------------------------------------


def test_arithmetic_of_shapes_is_done_at_import() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["n"]),
        node("Range", ["zero", "n", "one"], ["r"]),
        node("Unsqueeze", ["r", "axis"], ["row"]),
        node("Cast", ["row"], ["f"], to=FLOAT),
        node("Add", ["x", "f"], ["y"]),
    ]
    weights = {"zero": np.int64(0), "one": np.int64(1), "axis": np.asarray([0], np.int64)}
    made = model(nodes, [value("x", FLOAT, ["b", "n"])], weights=weights)
    graph = check(made, {"x": floats(2, 3)}, {"x": [2, 3]})
    assert operators(graph) == {"Add"}


def test_half_precision_constants_stay_in_half_precision() -> None:
    weights = {"w": floats(4, 4, dtype=np.float16), "v": floats(4, 4, seed=1, dtype=np.float16)}
    nodes = [node("Mul", ["w", "v"], ["k"]), node("MatMul", ["x", "k"], ["y"])]
    graph = normalised(model(nodes, [value("x", TensorProto.FLOAT16, [2, 4])], weights=weights))
    (constant,) = graph.constants.values()
    assert constant.dtype == np.float16
    np.testing.assert_array_equal(constant, weights["w"] * weights["v"])


def test_what_a_few_numbers_grow_to_is_not_kept() -> None:
    nodes = [node("Expand", ["one", "shape"], ["wide"]), node("Add", ["x", "wide"], ["y"])]
    weights = {"one": np.float32(1), "shape": np.asarray([2048, 2048], np.int64)}
    graph = normalised(model(nodes, [value("x", FLOAT, [2048, 2048])], weights=weights))
    assert sum(each.nbytes for each in graph.constants.values()) < 1000


def test_what_is_computed_twice_is_computed_once() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Relu", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])]
    graph = check(model(nodes, [value("x", FLOAT, [4])]), {"x": floats(4)})
    assert [each.op for each in graph.nodes] == ["Relu", "Add"]


def test_inputs_and_outputs_may_be_anything() -> None:
    nodes = [node("Identity", ["x"], ["same"]), node("Dropout", ["x"], ["y"]), node("Shape", ["x"], ["s"])]
    made = model(nodes, [value("x", FLOAT, [2, 3]), value("unused", INT64, [])], ["same", "y", "s", "x", "w"])
    made.graph.initializer.append(numpy_helper.from_array(floats(2), "w"))
    graph = normalised(made)
    assert graph.outputs == ["x", "x", "s", "x", "w"]
    assert graph.inputs == ["x", "unused"]
    assert graph.nodes == []
    np.testing.assert_array_equal(graph.constants["s"], [2, 3])


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([node("RandomNormalLike", ["x"], ["y"])], "it makes random numbers; make them an input"),
        ([node("Relu", ["nobody"], ["y"])], "the Relu node y takes nobody, which nothing before it makes"),
        ([node("MatMul", ["x", "x"], ["y"])], "the MatMul node y is not valid: Incompatible dimensions"),
        ([node("Dropout", ["x", "r", "t"], ["y"])], "it drops values, as in training"),
        ([node("Loop", ["r"], ["y"])], "the Loop node y does not fit its operator's definition: KeyError"),
        ([node("Div", ["x"], ["y"])], "the Div node y does not fit its operator's definition: ValueError"),
        ([node("LSTM", ["x"], ["y"], direction="up")], "the LSTM node y does not fit its operator's"),
        ([node("Nothing", ["x"], ["y"])], "the Nothing node y: there is no such operator in ONNX"),
        ([node("StringSplit", ["t"], ["y", "n"])], "holds strings, which cannot be computed with"),
    ],
)
def test_what_cannot_be_imported_is_named(nodes: list[Any], text: str) -> None:
    weights = {"r": np.float32(0.5), "t": np.asarray(True)}
    if "StringSplit" in nodes[0].op_type:
        weights["t"] = np.asarray(["a b"], object)  # type: ignore[assignment]
    with pytest.raises(BadModel, match=text) as refused:
        normalised(model(nodes, [value("x", FLOAT, [2, 3])], weights=weights))
    assert "\n" not in str(refused.value)


# -- Quantised ----------------------------------------------------------------------------------------------


def quantised(dtype: Any, *shape: int, seed: int = 0) -> Array:
    bounds = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(bounds.min, bounds.max, shape).astype(dtype)


SCALES = {"sx": np.float32(0.02), "zx": np.uint8(120), "sy": np.float32(0.4), "zy": np.uint8(130)}


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantised_convolutions(per_channel: bool) -> None:
    weights = {
        **SCALES,
        "k": quantised(np.int8, 4, 3, 3, 3),
        "sk": floats(4) ** 2 if per_channel else np.float32(0.01),
        "zk": np.zeros(4, np.int8) if per_channel else np.int8(0),
        "b": np.arange(4, dtype=np.int32) * 100,
    }
    made = node("QLinearConv", ["x", "sx", "zx", "k", "sk", "zk", "sy", "zy", "b"], ["y"], pads=[1] * 4)
    graph = check(model([made], [value("x", UINT8, [1, 3, 5, 5])], weights=weights), X8)
    assert "QLinearConv" not in operators(graph)


X8 = {"x": quantised(np.uint8, 1, 3, 5, 5, seed=3)}


def test_integer_convolutions_and_products() -> None:
    weights = {"k": quantised(np.uint8, 4, 3, 3, 3), "zx": np.uint8(120), "zk": np.uint8(7)}
    made = node("ConvInteger", ["x", "k", "zx", "zk"], ["y"], pads=[1] * 4)
    check(model([made], [value("x", UINT8, [1, 3, 5, 5])], weights=weights), X8)
    weights = {"w": quantised(np.int8, 8, 4), "zx": np.uint8(120), "zw": np.asarray([1, -2, 0, 5], np.int8)}
    made = node("MatMulInteger", ["x", "w", "zx", "zw"], ["y"])
    check(model([made], [value("x", UINT8, [2, 8])], weights=weights), {"x": quantised(np.uint8, 2, 8)})


@pytest.mark.parametrize(("depth", "exact"), [(64, True), (2048, False)])
def test_sums_that_single_precision_cannot_hold_stay_integers(depth: int, exact: bool) -> None:
    weights = {"w": np.full((depth, 4), 127, np.int8)}
    made = model([node("MatMulInteger", ["x", "w"], ["y"])], [value("x", UINT8, [2, depth])], weights=weights)
    graph = check(made, {"x": quantised(np.uint8, 2, depth)})
    product = next(each for each in graph.nodes if each.op == "MatMul")
    assert graph.dtype(product.inputs[0]) == (np.float32 if exact else np.int32)


@pytest.mark.parametrize("x", [floats(2, 8), np.zeros((2, 8), np.float32), np.abs(floats(2, 8))])
def test_dynamic_quantisation(x: Array) -> None:
    weights = {"w": quantised(np.int8, 8, 4), "zw": np.int8(3)}
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z", "zw"], ["y"]),
    ]
    check(model(nodes, [value("x", FLOAT, [2, 8])], ["y", "z"], weights), {"x": x})


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_quantise_and_back(axis: int | None) -> None:
    scale = np.float32(0.05) if axis is None else np.asarray([0.01, 0.02, 0.05], np.float32)
    weights = {"s": scale, "z": np.full(np.shape(scale), 100, np.uint8)}
    options = {} if axis is None else {"axis": axis}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], **options),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], **options),
    ]
    check(model(nodes, [value("x", FLOAT, [3, 3])], ["y", "q"], weights), {"x": 4 * floats(3, 3)})


# -- Operators of ONNX Runtime -----------------------------------------------------------------------------


def contributed(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return node(op, inputs, outputs, domain="com.microsoft", **attributes)


W8 = {"w": quantised(np.int8, 8, 4), "sw": np.float32(0.02), "zw": np.int8(3), "b": floats(4, seed=5)}
LSTM8 = {
    "w": quantised(np.int8, 1, 2, 12),
    "r": quantised(np.int8, 1, 3, 12, seed=1),
    "b": floats(1, 24),
    "h": np.zeros((1, 1, 3), np.float32),
    **{name: np.asarray([0.01], np.float32) for name in ("sw", "sr")},
    **{name: np.asarray([0], np.int8) for name in ("zw", "zr")},
}
NORM = {"g": floats(8, seed=1), "b": floats(8, seed=2), "s": floats(2, 8, seed=3), "k": floats(8, seed=4)}
CONTRIBUTED: dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]] = {
    "DynamicQuantizeMatMul": (
        contributed("DynamicQuantizeMatMul", ["x", "w", "sw", "zw", "b"], ["y"]),
        (2, 8),
        W8,
    ),
    "DynamicQuantizeLSTM": (
        contributed(
            "DynamicQuantizeLSTM",
            ["x", "w", "r", "b", "", "h", "h", "", "sw", "zw", "sr", "zr"],
            ["y", "yh"],
            hidden_size=3,
        ),
        (4, 1, 2),
        LSTM8,
    ),
    "FusedMatMul": (
        contributed("FusedMatMul", ["x", "m"], ["y"], alpha=0.5, transB=1),
        (2, 8),
        {"m": floats(4, 8)},
    ),
    "FusedConv": (
        contributed("FusedConv", ["x", "k"], ["y"], activation="LeakyRelu", activation_params=[0.2]),
        (1, 3, 5, 5),
        {"k": floats(2, 3, 3, 3)},
    ),
    "Gelu": (contributed("Gelu", ["x"], ["y"]), (2, 8), {}),
    "FastGelu": (contributed("FastGelu", ["x", "b"], ["y"]), (2, 8), {"b": floats(8)}),
    "BiasGelu": (contributed("BiasGelu", ["x", "b"], ["y"]), (2, 8), {"b": floats(8)}),
    "QuickGelu": (contributed("QuickGelu", ["x"], ["y"], alpha=1.5), (2, 8), {}),
    "SkipLayerNormalization": (
        contributed("SkipLayerNormalization", ["x", "s", "g", "b", "k"], ["y", "", "", "z"], epsilon=1e-5),
        (2, 8),
        NORM,
    ),
    "SkipSimplifiedLayerNormalization": (
        contributed("SkipSimplifiedLayerNormalization", ["x", "s", "g"], ["y"], epsilon=1e-5),
        (2, 8),
        NORM,
    ),
    "MatMulNBits": (
        contributed("MatMulNBits", ["x", "p", "sc", "z"], ["y"], K=32, N=3, bits=4, block_size=16),
        (2, 32),
        {
            "p": quantised(np.uint8, 3, 2, 8),
            "sc": floats(6, seed=4),
            "z": quantised(np.uint8, 3, seed=6),
        },
    ),
    "Attention": (
        contributed("Attention", ["x", "m", "b", "mask"], ["y"], num_heads=2),
        (1, 4, 8),
        {"m": floats(8, 24), "b": floats(24, seed=1), "mask": np.asarray([[1, 1, 1, 0]], np.int32)},
    ),
}


@pytest.mark.parametrize("op", CONTRIBUTED)
def test_operators_of_onnx_runtime_are_written_in_standard_ones(op: str) -> None:
    made, shape, weights = CONTRIBUTED[op]
    outputs = [name for name in made.output if name]
    built = model([made], [value("x", FLOAT, shape)], outputs, weights, domains=["com.microsoft"])
    check(built, {"x": floats(*shape, seed=9)})


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearLeakyRelu"])
def test_quantised_operators_of_onnx_runtime(op: str) -> None:
    weights = {**SCALES, "o": quantised(np.uint8, 2, 4, seed=2)}
    one, other = ["x", "sx", "zx"], ["o", "sx", "zx"]
    inputs = {
        "QLinearConcat": ["sy", "zy", *one, *other],
        "QLinearLeakyRelu": [*one, "sy", "zy"],
    }.get(op, [*one, *other, "sy", "zy"])
    made = contributed(op, inputs, ["y"], **({"axis": 0} if op == "QLinearConcat" else {}))
    built = model([made], [value("x", UINT8, [2, 4])], weights=weights, domains=["com.microsoft"])
    check(built, {"x": quantised(np.uint8, 2, 4)})


# -- Older versions -----------------------------------------------------------------------------------------

OLD: dict[str, tuple[int, list[Any], tuple[int, ...], dict[str, Any]]] = {
    "softmax of a flattened tensor": (11, [node("Softmax", ["x"], ["y"], axis=1)], (2, 3, 4), {}),
    "slice": (9, [node("Slice", ["x"], ["y"], starts=[1, -2], ends=[9, 4], axes=[1, 2])], (2, 3, 4), {}),
    "pad": (9, [node("Pad", ["x"], ["y"], pads=[0, 1, 0, -1, 2, 0], value=1.5)], (2, 3, 4), {}),
    "clip": (9, [node("Clip", ["x"], ["y"], min=-0.5, max=0.25)], (2, 3), {}),
    "upsample": (
        9,
        [node("Upsample", ["x", "s"], ["y"], mode="linear")],
        (1, 2, 3, 4),
        {"s": np.asarray([1, 1, 2, 2], np.float32)},
    ),
    "resize": (
        10,
        [node("Resize", ["x", "s"], ["y"], mode="nearest")],
        (1, 2, 4, 4),
        {"s": np.asarray([1, 1, 1.5, 0.5], np.float32)},
    ),
    "squeeze and sum": (
        11,
        [node("Unsqueeze", ["x"], ["u"], axes=[0, 3]), node("ReduceSum", ["u"], ["y"], axes=[1], keepdims=0)],
        (2, 3),
        {},
    ),
    "split": (
        11,
        [node("Split", ["x"], ["a", "b"], split=[1, 3]), node("Concat", ["b", "a"], ["y"], axis=0)],
        (4, 2),
        {},
    ),
    "top k": (9, [node("TopK", ["x"], ["y", "i"], k=2)], (3, 5), {}),
    "batch norm": (
        8,
        [node("BatchNormalization", ["x", "a", "b", "c", "d"], ["y"])],
        (1, 3, 2, 2),
        {"a": floats(3), "b": floats(3, seed=1), "c": floats(3, seed=2), "d": np.abs(floats(3, seed=3))},
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_older_versions_of_operators(name: str) -> None:
    opset, nodes, shape, weights = OLD[name]
    check(model(nodes, [value("x", FLOAT, shape)], weights=weights, opset=opset), {"x": floats(*shape)})


# -- Details of single operators ----------------------------------------------------------------------------

RESIZES = [
    {"mode": mode, "coordinate_transformation_mode": how, **more}
    for mode, more in (
        ("nearest", {"nearest_mode": "floor"}),
        ("nearest", {"nearest_mode": "round_prefer_ceil"}),
        ("linear", {}),
        ("cubic", {"cubic_coeff_a": -0.5}),
        ("cubic", {"exclude_outside": 1}),
    )
    for how in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
]


@pytest.mark.parametrize("attributes", RESIZES, ids=lambda each: "-".join(map(str, each.values())))
@pytest.mark.parametrize("scale", [2.0, 0.6])
def test_every_way_to_resize(attributes: dict[str, Any], scale: float) -> None:
    made = node("Resize", ["x", "", "s"], ["y"], **attributes)
    weights = {"s": np.asarray([1, 1, scale, 1.5], np.float32)}
    x = floats(1, 2, 5, 6)
    check(model([made], [value("x", FLOAT, x.shape)], weights=weights, opset=18), {"x": x})


def test_a_size_that_is_read_in_two_ways_is_named() -> None:
    """ONNX's reference takes the scaled length, ONNX Runtime the length that comes out."""
    made = node(
        "Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="align_corners"
    )
    weights = {"s": np.asarray([1, 1, 1, 1.3], np.float32)}
    with pytest.raises(BadModel, match=r"align_corners from 6 to 7\.8 is read in two ways; give sizes"):
        normalised(model([made], [value("x", FLOAT, [1, 2, 5, 6])], weights=weights, opset=18))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_every_way_to_pad(mode: str) -> None:
    weights = {"p": np.asarray([0, 1, 2, 0, 2, 1], np.int64)}
    made = node("Pad", ["x", "p"], ["y"], mode=mode)
    check(model([made], [value("x", FLOAT, [2, 3, 4])], weights=weights, opset=19), {"x": floats(2, 3, 4)})


def test_integer_division_survives_every_divisor() -> None:
    """ONNX leaves open what comes out; the process must not end."""
    ends = [value(name, INT64, [4]) for name in ("a", "b")]
    graph = normalised(model([node("Div", ["a", "b"], ["y"])], ends))
    least = np.iinfo(np.int64).min
    (got,) = run(graph, {"a": np.asarray([7, -7, 7, least]), "b": np.asarray([2, 2, 0, -1])})
    np.testing.assert_array_equal(got[:2], [3, -3])
    division = next(each for each in graph.nodes if each.op == "Div")
    assert graph.value(division.inputs[1]) is None
    assert division.inputs[1] != "b"


@pytest.mark.parametrize(("fmod", "dtype"), [(0, np.int64), (1, np.int64), (1, np.float32)])
def test_remainders_have_the_right_sign(fmod: int, dtype: Any) -> None:
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [value(name, number, [4]) for name in ("a", "b")]
    inputs = {"a": np.asarray([7, -7, 7, -7], dtype), "b": np.asarray([3, 3, -3, -3], dtype)}
    check(model([node("Mod", ["a", "b"], ["y"], fmod=fmod)], ends), inputs)


@pytest.mark.parametrize("exponent", [2, 3, 0.5])
def test_powers_have_the_type_of_their_base(exponent: float) -> None:
    weights = {"e": np.asarray(exponent, np.float32)}
    made = model([node("Pow", ["x", "e"], ["y"])], [value("x", TensorProto.INT32, [4])], weights=weights)
    if exponent != 0.5:  # of 0.5 the reference truncates
        check(made, {"x": np.asarray([0, 1, 2, 3], np.int32)})
    assert normalised(made).types["y" if exponent == 0.5 else "x"].dtype == TensorProto.INT32


@pytest.mark.parametrize("signs", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_infinities_of_one_sign(signs: tuple[int, int]) -> None:
    made = node("IsInf", ["x"], ["y"], detect_positive=signs[0], detect_negative=signs[1])
    x = np.asarray([np.inf, -np.inf, np.nan, 1], np.float32)
    check(model([made], [value("x", FLOAT, [4])]), {"x": x})


def test_the_maximum_of_minus_infinities_is_that() -> None:
    """TVM begins with the lowest finite number, of which masks are made as well."""
    made = model([node("ReduceMax", ["x"], ["y"], axes=[1])], [value("x", FLOAT, [3, 2])])
    lowest = np.finfo(np.float32).min
    x = np.asarray([[-np.inf, -np.inf], [lowest, -np.inf], [1, 2]], np.float32)
    graph = check(made, {"x": x})
    assert "Where" in operators(graph)


@pytest.mark.parametrize("onesided", [0, 1])
def test_a_short_time_fourier_transform_is_a_product(onesided: int) -> None:
    weights = {"step": np.int64(4), "w": np.abs(floats(8)), "n": np.int64(8)}
    made = node("STFT", ["x", "step", "w", "n"], ["y"], onesided=onesided)
    graph = check(model([made], [value("x", FLOAT, [2, 24, 1])], weights=weights), {"x": floats(2, 24, 1)})
    assert "MatMul" in operators(graph)


def test_every_step_belongs_to_an_operator_that_exists() -> None:
    own = {"~Choice", "SimplifiedLayerNormalization"}
    for op in set(steps.STANDARD) - own:
        assert onnx.defs.get_schema(op, DIALECT), op
