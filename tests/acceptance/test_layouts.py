"""How often a network transposes, and that it computes the same with channels last. Real TVM, no broker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.acceptance.direct import import_model
from tests.onnx_models import expected, floats, model, node, value
from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source, Variant
from tunemesh.stage_workers.graph import compilation, layouts, optimisation, workloads
from tunemesh.stage_workers.graph.changes import NONE, Changes
from tunemesh.stage_workers.measuring import loading

LAST = Changes(channels_last=True)


class Network:
    """An ONNX model that is written layer by layer, from ``x`` on."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """The name of what an operator gives. Inputs are names, or constants."""
        names = []
        for each in inputs:
            if not isinstance(each, str):
                self.weights[f"w{len(self.weights)}"] = each
                each = f"w{len(self.weights) - 1}"
            names.append(each)
        self.nodes.append(node(kind, names, [f"t{len(self.nodes)}"], **attributes))
        return f"t{len(self.nodes) - 1}"

    def conv(self, x: str, inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> str:
        kernel = floats(outputs, inputs // groups, size, size, seed=len(self.nodes)) / size
        pads = [(size - 1) // 2] * 4 if stride < size or size == 1 else [0] * 4
        bias = floats(outputs)
        return self.op("Conv", x, kernel, bias, strides=[stride] * 2, pads=pads, group=groups)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        product = self.op("MatMul", x, floats(inputs, outputs, seed=len(self.nodes)) / 4)
        return self.op("Add", product, floats(outputs))

    def made(self, result: str) -> Any:
        return model(self.nodes, [value("x", shape=self.shape)], (result,), self.weights, opset=18)


def mobilenet_v2() -> Any:
    net = Network(1, 3, 24, 24)

    def clipped(x: str) -> str:
        return net.op("Clip", x, np.float32(0), np.float32(6))

    x = clipped(net.conv("x", 3, 16, stride=2))
    for stride in (1, 2, 1):
        y = clipped(net.conv(x, 16, 48, size=1))
        y = net.conv(clipped(net.conv(y, 48, 48, stride=stride, groups=48)), 48, 16, size=1)
        x = net.op("Add", x, y) if stride == 1 else y
    return net.made(net.dense(net.op("Flatten", net.op("GlobalAveragePool", x)), 16, 10))


def mobilenet_v3() -> Any:
    """With hard activations, squeeze and excite, and others that exporters write out."""
    net = Network(1, 3, 24, 24)
    x = net.op("HardSwish", net.conv("x", 3, 16, stride=2))
    y = net.op("HardSwish", net.conv(x, 16, 32, size=5))
    gate = net.op("Relu", net.conv(net.op("GlobalAveragePool", y), 32, 8, size=1))
    y = net.op("Mul", y, net.op("HardSigmoid", net.conv(gate, 8, 32, size=1), alpha=1 / 6))
    x = net.op("Add", x, net.conv(y, 32, 16, size=1))
    x = net.op("LeakyRelu", net.op("PRelu", x, np.abs(floats(16, 1, 1))), alpha=0.1)
    x = net.op("Pad", net.op("Mul", x, net.op("Sigmoid", x)), np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    x = net.op("Mish", net.conv(x, 16, 16, stride=2))
    x = net.op("Mul", x, net.op("Tanh", net.op("Softplus", x)))
    x = net.op("MaxPool", net.op("Elu", x), kernel_shape=[2, 2])
    return net.made(net.op("AveragePool", net.op("Concat", x, x, axis=1), kernel_shape=[2, 2]))


def u_net(up: str) -> Any:
    net = Network(1, 3, 16, 16)
    skip = net.op("Relu", net.conv("x", 3, 16))
    x = net.op("Relu", net.conv(net.op("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2]), 16, 32))
    if up == "transposed":
        x = net.op("ConvTranspose", x, floats(32, 16, 2, 2) / 4, floats(16), strides=[2, 2])
    else:
        x = net.conv(net.op("Resize", x, "", np.array([1, 1, 2, 2], np.float32), mode=up), 32, 16)
    x = net.op("Relu", net.conv(net.op("Concat", x, skip, axis=1), 32, 16))
    return net.made(net.op("Sigmoid", net.conv(x, 16, 1, size=1)))


def convnext() -> Any:
    """Its exporter transposes around every normalisation and every block."""
    net = Network(1, 3, 16, 16)

    def normed(x: str) -> str:
        return net.op("LayerNormalization", x, floats(16), floats(16))

    def last(x: str) -> str:
        return net.op("Transpose", x, perm=[0, 2, 3, 1])

    def first(x: str) -> str:
        return net.op("Transpose", x, perm=[0, 3, 1, 2])

    x = first(normed(last(net.conv("x", 3, 16, size=4, stride=4))))
    for _ in range(2):
        y = net.dense(normed(last(net.conv(x, 16, 16, size=7, groups=16))), 16, 64)
        y = net.dense(net.op("Mul", y, net.op("Erf", y)), 64, 16)
        x = net.op("Add", x, first(net.op("Mul", y, floats(16))))
    return net.made(net.dense(net.op("ReduceMean", x, np.array([2, 3]), keepdims=0), 16, 10))


def shuffled() -> Any:
    """Groups that exchange channels, and channels that become space: these move data."""
    net = Network(1, 4, 8, 8)
    x = net.conv("x", 4, 16)
    x = net.op("Reshape", x, np.array([1, 4, 4, 8, 8]))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), np.array([1, 16, 8, 8]))
    return net.made(net.op("DepthToSpace", net.conv(x, 16, 16, groups=4), blocksize=2))


def with_itself() -> Any:
    """The same data in two orders: the transposition is not lost."""
    net = Network(1, 3, 8, 8)
    x = net.conv("x", 3, 4)
    return net.made(net.op("MatMul", x, net.op("Transpose", x, perm=[0, 1, 3, 2])))


@pytest.mark.parametrize(
    ("made", "before", "after"),
    [
        # A first convolution reads an image of three channels as it comes.
        (mobilenet_v2(), 0, 0),
        (u_net("nearest"), 0, 0),
        (u_net("linear"), 0, 0),
        (convnext(), 6, 0),
        # One at the output, an image of several channels.
        (mobilenet_v3(), 0, 1),
        # One that puts the phases of a transposed convolution side by side.
        (u_net("transposed"), 0, 1),
        (shuffled(), 2, 3),
        (with_itself(), 1, 2),
    ],
    ids=[
        "MobileNetV2",
        "U-Net, nearest",
        "U-Net, linear",
        "ConvNeXt",
        "MobileNetV3",
        "U-Net, transposed",
        "shuffle",
        "twice",
    ],
)
def test_nothing_is_transposed_that_need_not_be(target: str, made: Any, before: int, after: int) -> None:
    import tvm

    module, signature = frontends.read(Source(made.SerializeToString(), {}), Variant(shapes={}))
    given = optimisation.optimise(module, target, NONE).module
    assert layouts.transpositions(given) == before
    changed = optimisation.optimise(module, target, LAST).module
    assert layouts.transpositions(changed) == after
    (name,) = signature.shapes
    image = floats(*signature.shapes[name])
    (got,) = loading.flatten(compilation.main_of(changed, target)(tvm.runtime.tensor(image)))
    (wanted,) = expected(made, {name: image})
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))


def pointwise(*size: int, stride: int = 1) -> Network:
    net = Network(1, 32, *size)
    net.op("Relu", net.conv("x", 32, 48, size=1, stride=stride))
    return net


def along_a_line() -> Network:
    net = Network(1, 32, 64)
    net.op("Relu", net.op("Conv", "x", floats(48, 32, 1), floats(48)))
    return net


def mixed() -> Network:
    net = pointwise(56, 56)
    net.conv("t1", 48, 16)
    return net


@pytest.mark.parametrize(
    ("net", "gains", "narrow"),
    [
        (pointwise(56, 56), False, True),
        (pointwise(14, 14), False, True),
        (along_a_line(), False, True),
        # A quarter of the lanes would be idle.
        (pointwise(7, 7), True, True),
        (pointwise(56, 56, stride=2), True, True),
        (mixed(), True, True),
    ],
)
def test_a_product_of_matrices_gains_nothing_from_another_layout(
    net: Network, gains: bool, narrow: bool
) -> None:
    proto = net.made(f"t{len(net.nodes) - 1}").SerializeToString()
    module, _ = frontends.read(Source(proto, {}), Variant(shapes={}))
    assert layouts.gains(module) == gains
    assert layouts.gains(module, narrow=True) == narrow


def test_a_convolution_of_1x1_alone_is_imported_without_transpositions(target: str) -> None:
    proto = pointwise(16, 16).made("t1").SerializeToString()
    (task,) = import_model(proto, target, {}).tasks
    shapes = [each.shape for each in workloads.arguments(workloads.load(task.workload)["main"])]
    assert shapes[0] == (1, 32, 16, 16)
    assert shapes[-1] == (1, 48, 16, 16)


def test_tokens_are_added_where_their_product_is(target: str) -> None:
    """They lie in both orders by then: the sum stays fused with the product."""
    net = Network(1, 3, 16, 16)
    tokens = net.op("Reshape", net.conv("x", 3, 32, size=4, stride=4), np.array([1, 32, 16]))
    summed = net.op("Add", net.op("MatMul", tokens, floats(16, 16)), tokens)
    made = net.made(net.op("MatMul", net.op("Transpose", summed, perm=[0, 2, 1]), floats(32, 8)))
    module, _ = frontends.read(Source(made.SerializeToString(), {}), Variant(shapes={}))
    changed = optimisation.optimise(module, target, LAST).module
    names = [str(name.name_hint) for name in changed.functions]
    assert "fused_matmul_add1" in names or "fused_matmul_add" in names
    assert not any(name.startswith("add") for name in names)


@pytest.mark.parametrize(
    ("rank", "size", "stride", "pads", "extra"),
    [(2, 2, 2, 0, 0), (2, 4, 2, 1, 0), (2, 3, 2, 1, 1), (2, 3, 1, 1, 0), (2, 5, 3, 0, 0), (1, 4, 2, 1, 0)],
)
def test_a_transposed_convolution_is_one_without_zeros(
    target: str, rank: int, size: int, stride: int, pads: int, extra: int
) -> None:
    import tvm

    net = Network(1, 8, *[5, 6][:rank])
    convolved = net.op("Conv", "x", floats(8, 8, *[1] * rank))
    result = net.op(
        "ConvTranspose",
        convolved,
        floats(8, 4, *[size] * rank),
        strides=[stride] * rank,
        pads=[pads] * 2 * rank,
        output_padding=[extra] * rank,
    )
    made = net.made(result)
    module, signature = frontends.read(Source(made.SerializeToString(), {}), Variant(shapes={}))
    changed = optimisation.optimise(module, target, LAST)
    assert not any("transpose" in str(name) and "conv" in str(name) for name in changed.module.functions)
    image = floats(*signature.shapes["x"])
    (got,) = loading.flatten(compilation.main_of(changed.module, target)(tvm.runtime.tensor(image)))
    (wanted,) = expected(made, {"x": image})
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
