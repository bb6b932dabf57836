"""Convolutions by Winograd's algorithm: the same results, and only where they pay. Real TVM, no broker."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.direct import AS_GIVEN, assemble, import_model, run
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Options
from tunemesh.stage_workers.graph import winograd
from tunemesh.stage_workers.graph.convolutions import Convolution

WINOGRAD: Options = {}
"""What becomes of convolutions where nothing else is said."""
DIRECT: Options = {"convolutions": "direct"}
TOLERANCE = 1e-4
"""Of the largest output: as in :mod:`stage_workers.measuring.comparison`."""


def model(
    image: tuple[int, ...],
    outputs: int,
    *,
    size: int = 3,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    stride: int = 1,
    groups: int = 1,
) -> onnx.ModelProto:
    """A convolution of an image (N, C, H, W), a bias and a ReLU. ``pads`` as ONNX has them."""
    random = np.random.default_rng(0)
    weights = random.normal(0, 0.1, (outputs, image[1] // groups, size, size)).astype(np.float32)
    bias = random.normal(0, 1, outputs).astype(np.float32)
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["y"], pads=pads, strides=[stride, stride], group=groups, name="conv"
        ),
        helper.make_node("Relu", ["y"], ["z"], name="relu"),
    ]
    return made_of(nodes, image, {"w": weights, "b": bias}, opset=17)


def made_of(
    nodes: list[onnx.NodeProto], image: tuple[int, ...], constants: dict[str, np.ndarray], opset: int
) -> onnx.ModelProto:
    """A model from ``x`` to ``z``."""
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return onnx.shape_inference.infer_shapes(made)


def computed(proto: onnx.ModelProto, target: str, options: Options) -> tuple[list[str], np.ndarray]:
    """Names of the tasks, and what the model computes for the input of :func:`expected`."""
    imported = import_model(proto.SerializeToString(), target, options)
    library = assemble(imported.model, target).tuned
    return [task.name for task in imported.tasks], run(library, image_for(proto))


def convolution(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """By definition: N, C, H, W and outputs, inputs, 3, 3; stride 1, padding 1."""
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, weights))


def image_for(proto: onnx.ModelProto) -> np.ndarray:
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)


def expected(proto: onnx.ModelProto) -> np.ndarray:
    """By ONNX Runtime."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": image_for(proto)})
    return np.asarray(result)


@pytest.mark.parametrize(
    ("image", "outputs", "pads"),
    [
        ((1, 64, 28, 28), 64, (1, 1, 1, 1)),
        ((2, 32, 17, 23), 48, (1, 1, 1, 1)),  # tiles hang over, sides differ, two images
        ((1, 48, 30, 19), 32, (0, 0, 0, 0)),
        ((1, 64, 21, 20), 64, (2, 0, 1, 1)),  # top, left, bottom, right
    ],
)
def test_winograd_computes_what_the_convolution_computes(
    target: str, image: tuple[int, ...], outputs: int, pads: tuple[int, int, int, int]
) -> None:
    proto = model(image, outputs, pads=pads)
    tasks, result = computed(proto, target, WINOGRAD)
    assert "winograd_product" in tasks
    # Their schedules are fixed: there is nothing to tune.
    assert not {"winograd_input", "winograd_output"} & set(tasks)
    reference = expected(proto)
    assert result.shape == reference.shape
    assert np.abs(result - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize(
    "proto",
    [
        model((1, 64, 28, 28), 64, size=1, pads=(0, 0, 0, 0)),
        model((1, 64, 28, 28), 64, size=5, pads=(2, 2, 2, 2)),
        model((1, 64, 28, 28), 64, stride=2),
        model((1, 64, 28, 28), 64, groups=64),
        model((1, 3, 28, 28), 64),
        model((1, 64, 28, 28), 40),
        model((1, 512, 7, 7), 512),  # its weights, four times as many, would have to come from memory
    ],
    ids=["1x1", "5x5", "stride", "depthwise", "three inputs", "40 outputs", "many weights"],
)
def test_other_convolutions_stay_as_they_are(target: str, proto: onnx.ModelProto) -> None:
    direct = import_model(proto.SerializeToString(), target, DIRECT)
    imported = import_model(proto.SerializeToString(), target, WINOGRAD)
    assert [task.key for task in imported.tasks] == [task.key for task in direct.tasks]
    assert not any("winograd" in task.name for task in imported.tasks)


def test_convolutions_have_channels_last_without_winograd_too(target: str) -> None:
    proto = model((1, 64, 28, 28), 64)
    tasks, result = computed(proto, target, DIRECT)
    assert tasks == ["fused_conv2d_add_relu"]
    assert np.abs(result - expected(proto)).max() <= TOLERANCE * np.abs(result).max()


def test_as_given_leaves_everything(target: str) -> None:
    proto = model((1, 64, 28, 28), 64)
    tasks, result = computed(proto, target, AS_GIVEN)
    assert tasks == ["fused_conv2d_add_relu"]
    assert np.abs(result - expected(proto)).max() <= TOLERANCE * np.abs(result).max()


def test_the_untuned_model_is_the_one_that_was_handed_in(target: str) -> None:
    proto = model((1, 64, 28, 28), 64).SerializeToString()
    libraries = []
    for options in (WINOGRAD, AS_GIVEN):
        imported = import_model(proto, target, options)
        libraries.append(assemble(imported.model, target))
    assert b"winograd_product" in libraries[0].tuned
    assert b"winograd_product" not in libraries[0].untuned
    assert b"winograd_product" not in libraries[1].tuned


@pytest.mark.parametrize("options", [WINOGRAD, AS_GIVEN])
def test_a_model_that_comes_with_channels_last_keeps_its_layout(target: str, options: Options) -> None:
    import tvm
    from tvm import relax

    random = np.random.default_rng(0)
    weights = random.normal(0, 0.1, (64, 64, 3, 3)).astype(np.float32)
    image = random.normal(0, 1, (1, 64, 20, 20)).astype(np.float32)
    x = relax.Var("x", relax.TensorType((1, 20, 20, 64), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            constant = relax.const(weights.transpose(2, 3, 1, 0))  # height, width, inputs, outputs
            convolved = relax.op.nn.conv2d(x, constant, padding=1, data_layout="NHWC", kernel_layout="HWIO")
            result = builder.emit_output(relax.op.nn.relu(convolved))
        builder.emit_func_output(result)
    given = str(tvm.ir.save_json(builder.get())).encode()
    imported = import_model(given, target, options)
    assert any("winograd" in task.name for task in imported.tasks) == (options == WINOGRAD)
    library = assemble(imported.model, target).tuned
    got = run(library, np.ascontiguousarray(image.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    reference = np.maximum(convolution(image, weights), 0)
    assert got.shape == reference.shape
    assert np.abs(got - reference).max() <= TOLERANCE * np.abs(reference).max()


def test_transformed_weights_are_those_of_the_definition() -> None:
    """Against the convolution itself: one tile, one channel, in float64."""
    random = np.random.default_rng(0)
    tile, weights = random.normal(size=(6, 6)), random.normal(size=(3, 3))
    direct = [[(tile[i : i + 3, j : j + 3] * weights).sum() for j in range(4)] for i in range(4)]
    u = winograd.transform_weights(weights[:, :, None, None]).reshape(6, 6)
    columns = np.array([winograd._transform_inputs(list(column)) for column in tile.T]).T
    v = np.array([winograd._transform_inputs(list(row)) for row in columns])
    columns = np.array([winograd._transform_products(list(column)) for column in (u * v).T]).T
    y = np.array([winograd._transform_products(list(row)) for row in columns])
    np.testing.assert_allclose(y, direct, rtol=1e-12, atol=1e-12)


def test_what_pays_depends_on_channels_and_size() -> None:
    def pays(size: int, inputs: int, outputs: int) -> bool:
        return Convolution(1, size, size, inputs, outputs, (1, 1, 1, 1)).pays

    assert pays(56, 64, 64)
    assert pays(14, 256, 256)
    assert not pays(7, 512, 512)
    assert not pays(2, 64, 64)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (
            {"convolution": "winograd"},
            "graph has no option 'convolution'; it has layout, convolutions, fusion",
        ),
        ({"convolutions": "fast"}, "bad option graph.convolutions=fast: Invalid enum value 'fast'"),
    ],
)
def test_a_bad_option_is_explained_in_one_line(target: str, options: Options, cause: str) -> None:
    with pytest.raises(BadInput) as caught:
        import_model(model((1, 64, 28, 28), 64).SerializeToString(), target, options)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)
