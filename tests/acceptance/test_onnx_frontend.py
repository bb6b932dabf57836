"""ONNX models through the frontend and TVM, untuned, beside ONNX Runtime: each stands for a kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import onnx_nodes
from tests.onnx_models import FLOAT, Array, expected, floats, model, node, value
from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source, Variant, external_data

INT64, UINT8 = TensorProto.INT64, TensorProto.UINT8


def results(
    source: Source, inputs: dict[str, Array], target: str, variant: Variant | None = None
) -> list[Array]:
    """What the untuned model gives."""
    module, signature = frontends.read(source, variant or Variant())
    assert [tensor.name for tensor in signature.inputs] == list(inputs)
    main = onnx_nodes.compiled(module, target)
    found: list[Array] = onnx_nodes.run(main, list(inputs.values()), target)
    for tensor, array in zip(signature.outputs, found, strict=True):
        assert tensor.dtype == str(array.dtype)
        assert all(a in (-1, b) for a, b in zip(tensor.shape, array.shape, strict=True))
    return found


def check(made: Any, inputs: dict[str, Array], target: str, variant: Variant | None = None) -> None:
    """It agrees with ONNX Runtime in every element."""
    agree(results(Source(made.SerializeToString()), inputs, target, variant), expected(made, inputs))


def agree(found: list[Array], wanted: list[Array]) -> None:
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        loose = 5e-3 if want.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=loose, atol=loose)


def test_what_torch_writes_by_default(tmp_path: Path, target: str) -> None:
    """The weights lie in a file beside the model."""
    made = model(
        [node("MatMul", ["x", "w"], ["y"])], [value("x", FLOAT, [2, 8])], weights={"w": floats(8, 4)}
    )
    path = tmp_path / "m.onnx"
    whole = onnx.ModelProto.FromString(made.SerializeToString())
    onnx.save_model(made, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    data = path.read_bytes()
    x = floats(2, 8, seed=1)
    agree(results(Source(data, external_data.find(path, data)), {"x": x}, target), expected(whole, {"x": x}))
    with pytest.raises(
        BadModel, match=r"the weight w lies outside the ONNX file, in 'm\.onnx\.data', which did not"
    ):
        frontends.read(Source(data), Variant())


HEADS = [
    node("Shape", ["x"], ["d0"], start=0, end=1),
    node("Shape", ["x"], ["d1"], start=1, end=2),
    node("Concat", ["d0", "d1", "heads"], ["t"], axis=0),
    node("MatMul", ["x", "w"], ["a"]),
    node("Reshape", ["a", "t"], ["r"]),
    node("Transpose", ["r"], ["y"], perm=[0, 2, 1, 3]),
]


@pytest.mark.parametrize("variant", [Variant(shapes={"x": [2, 3, 8]}), Variant(dims={"b": 2, "s": 3})])
def test_shapes_are_fixed_by_the_person(variant: Variant, target: str) -> None:
    weights = {"w": floats(8, 8), "heads": np.asarray([4, 2], np.int64)}
    made = model(HEADS, [value("x", FLOAT, ["b", "s", 8])], weights=weights)
    check(made, {"x": floats(2, 3, 8)}, target, variant)
    with pytest.raises(BadModel, match="fix it with --shape x=1,1,8, or with --dim b=1"):
        frontends.read(Source(made.SerializeToString()), Variant())


def test_a_transposed_convolution_of_a_wanted_size(target: str) -> None:
    for attributes in ({"output_shape": [10, 8]}, {"auto_pad": "SAME_UPPER"}, {"output_padding": [1, 0]}):
        made = node("ConvTranspose", ["x", "k"], ["y"], strides=[3, 2], **attributes)
        weights = {"k": floats(4, 2, 3, 3)}
        check(
            model([made], [value("x", FLOAT, [1, 4, 3, 3])], weights=weights),
            {"x": floats(1, 4, 3, 3)},
            target,
        )


def test_tensors_without_elements(target: str) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Concat", ["a", "b"], ["y"], axis=0)]
    weights = {"w": floats(8, 4), "b": floats(2, 4)}
    check(model(nodes, [value("x", FLOAT, [0, 8])], weights=weights), {"x": floats(0, 8)}, target)


def test_indices_count_from_the_end_and_never_reach_outside(target: str) -> None:
    made = model([node("Gather", ["w", "x"], ["y"])], [value("x", INT64, [4])], weights={"w": floats(5, 3)})
    check(made, {"x": np.asarray([0, -1, 4, -5])}, target)
    (row,) = results(Source(made.SerializeToString()), {"x": np.full(4, 10**9)}, target)
    np.testing.assert_array_equal(row, np.tile(expected(made, {"x": np.asarray([4] * 4)})[0][0], (4, 1)))


def test_integers_are_divided_as_in_c(target: str) -> None:
    ends = [value(name, INT64, [4]) for name in "ab"]
    made = model([node("Div", ["a", "b"], ["y"])], ends)
    check(made, {"a": np.asarray([7, -7, 7, -7]), "b": np.asarray([2, 2, -2, -1])}, target)
    least = np.iinfo(np.int64).min
    results(
        Source(made.SerializeToString()), {"a": np.full(4, least), "b": np.asarray([0, -1, 0, -1])}, target
    )


def test_a_division_by_zero_gives_infinity(target: str) -> None:
    nodes = [node("Div", ["x", "z"], ["b"]), node("IsInf", ["b"], ["y"], detect_negative=0)]
    x = np.asarray([1, -1, 0, np.inf], np.float32)
    for zero in (0.0, -0.0):
        made = model(nodes, [value("x", FLOAT, [4])], ["y", "b"], {"z": np.float32(zero)})
        check(made, {"x": x}, target)


def test_floats_become_small_integers_as_on_a_cpu(target: str) -> None:
    nodes = [node("Cast", ["x"], [name], to=to) for name, to in (("y", UINT8), ("z", TensorProto.BOOL))]
    x = np.asarray([0.0, 1.9, -1.9, 200.5, 300.0, -0.5], np.float32)
    check(model(nodes, [value("x", FLOAT, [6])], ["y", "z"]), {"x": x}, target)


@pytest.mark.parametrize("op", ["Softplus", "Mish"])
@pytest.mark.parametrize("dtype", [FLOAT, TensorProto.DOUBLE], ids=["float", "double"])
def test_the_logarithm_of_what_is_hardly_more_than_one_is_right(op: str, dtype: int, target: str) -> None:
    """An exponential that is lost beside one is all there is of the result."""
    x = np.linspace(-80, 80, 321).astype(helper.tensor_dtype_to_np_dtype(dtype))
    made = model([node(op, ["x"], ["y"])], [value("x", dtype, [321])], opset=22)
    (found,) = results(Source(made.SerializeToString()), {"x": x}, target)
    wanted = np.logaddexp(0, x.astype(np.float64))
    wanted = x * np.tanh(wanted) if op == "Mish" else wanted
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])], "the places of the maxima"),
        ([node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN)], "has the type float8_e4m3fn"),
        ([node("Reshape", ["x", "s"], ["y"])], "the shape of its result depends on the data"),
        ([node("DeformConv", ["x", "w", "o"], ["y"])], "this operator is not supported"),
        ([node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")], "of the domain ai.onnx.ml"),
    ],
)
def test_what_cannot_be_imported_is_named(nodes: list[Any], text: str) -> None:
    ends = [value("x", FLOAT, [1, 1, 4, 4]), value("s", INT64, [2])]
    weights = {"w": floats(1, 1, 2, 2), "o": floats(1, 8, 3, 3)}
    made = model(nodes, ends, weights=weights, opset=19, domains=["ai.onnx.ml"])
    with pytest.raises(BadModel, match=text) as refused:
        frontends.read(Source(made.SerializeToString()), Variant())
    assert nodes[0].op_type in str(refused.value)
    assert "\n" not in str(refused.value)


# -- Of every kind of operator one test of ONNX's own -------------------------------------------------------

# fmt: off
SAMPLE = (
    "argmax_keepdims_example_select_last_index", "averagepool_2d_ceil", "averagepool_2d_same_lower",
    "averagepool_2d_pads_count_include_pad", "basic_conv_with_padding", "batchnorm_example",
    "center_crop_pad_crop_and_pad", "convtranspose_dilations", "cumsum_2d_axis_1",
    "depthtospace_crd_mode_example", "einsum_batch_matmul", "gathernd_example_int32", "gelu_tanh_1",
    "gemm_all_attributes", "gridsample_bicubic", "group_normalization_example", "hardmax_axis_1",
    "instancenorm_epsilon", "layer_normalization_3d_axis1_epsilon", "logsoftmax_axis_1",
    "lppool_2d_dilations", "lrn_default", "lstm_with_peepholes", "maxpool_2d_dilations", "mvn",
    "onehot_with_negative_axis", "qlinearmatmul_2D_uint8_float32",
    "reduce_log_sum_exp_keepdims_example", "reduce_max_empty_set", "rms_normalization_2d_axis1",
    "roialign_aligned_false", "rotary_embedding", "scan9_sum",
    "scatter_elements_with_duplicate_indices", "scatternd_add", "softplus", "stft_with_window",
    "top_k_smallest", "tril_neg", "where_example", "attention_4d_gqa_with_past_and_present",
    "unique_sorted_with_axis",
)
# fmt: on


@pytest.fixture(scope="module")
def onnx_tests() -> dict[str, Any]:
    return {test.name: test for test in onnx_nodes.tests([])}


def test_a_sample_of_onnx_tests(onnx_tests: dict[str, Any], target: str) -> None:
    """All of them: ``python -m benchmarks.onnx_nodes``."""
    found = [onnx_nodes.try_test(onnx_tests[f"test_{name}"], target, folded=False) for name in SAMPLE]
    assert [f"{each.test}: {each.text}" for each in found if each.outcome != "right"] == []


def test_the_check_of_onnx_tests_sees_what_is_wrong(onnx_tests: dict[str, Any], target: str) -> None:
    test = onnx_tests["test_relu"]
    inputs, outputs = test.data_sets[0]
    wrong = onnx_nodes.attempt(test, inputs, [outputs[0] + 0.01], set(), target, "as given")
    assert wrong.outcome == "wrong"
    assert "differ, at" in wrong.text
