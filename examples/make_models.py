"""Write small ONNX models to tune: ``python examples/make_models.py OUTDIR [NAME ...]``.

The weights are random but seeded, so that the files are the same everywhere, and scaled so that activations
neither vanish nor explode. Only the ``onnx`` package and NumPy are needed; nothing is downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""The ONNX IR version that belongs to opset 17; runtimes refuse files that are newer than they are."""


class Network:
    """Nodes and weights of one model, appended in order of execution.

    Every method appends one layer and returns the name of its output.
    """

    producer = "tunemesh-examples"

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def weight(self, values: npt.NDArray[np.generic]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def normal(self, shape: tuple[int, ...], fan_in: int) -> str:
        """Weights by He's rule: a standard deviation of sqrt(2 / fan in) keeps the scale through ReLU."""
        return self.weight((self.random.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32))

    def convolution(
        self,
        x: str,
        channels: tuple[int, int],
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        output: str = "",
    ) -> str:
        into, out = channels
        pad = (kernel - 1) // 2
        each = into // groups
        weight = self.normal((out, each, kernel, kernel), fan_in=each * kernel * kernel)
        return self.node(
            "Conv",
            [x, weight],
            output,
            group=groups,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
        )

    def batch_norm(self, x: str, channels: int, scale: float = 1.0) -> str:
        """Statistics near those of a trained network, none of them trivial, so that folding is exercised."""
        uniform = self.random.uniform
        statistics = [
            scale * uniform(0.8, 1.2, channels),
            uniform(-0.1, 0.1, channels),  # shift
            uniform(-0.1, 0.1, channels),  # mean
            uniform(0.8, 1.2, channels),  # variance
        ]
        return self.node("BatchNormalization", [x, *(self.weight(s.astype(np.float32)) for s in statistics)])

    def convolution_block(self, x: str, channels: tuple[int, int], kernel: int, stride: int = 1) -> str:
        x = self.convolution(x, channels, kernel, stride)
        return self.node("Relu", [self.batch_norm(x, channels[1])])

    def separable_block(self, x: str, channels: tuple[int, int], stride: int) -> str:
        """A depthwise convolution, then a pointwise one (Howard et al., arXiv:1704.04861)."""
        into, _ = channels
        x = self.convolution(x, (into, into), 3, stride, groups=into)
        x = self.node("Relu", [self.batch_norm(x, into)])
        return self.convolution_block(x, channels, 1)

    def residual_block(self, x: str, channels: tuple[int, int], stride: int) -> str:
        into, out = channels
        y = self.convolution_block(x, channels, 3, stride)
        # A small scale, as training gives: else the variance doubles with every block.
        y = self.batch_norm(self.convolution(y, (out, out), 3), out, scale=0.3)
        if stride != 1 or into != out:
            x = self.batch_norm(self.convolution(x, channels, 1, stride), out)
        return self.node("Relu", [self.node("Add", [y, x])])

    def classifier(self, x: str, channels: int, classes: int) -> None:
        """Global pooling and a dense layer to the model's output."""
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        weight = self.normal((channels, classes), fan_in=channels)
        bias = self.weight(np.zeros(classes, np.float32))
        self.node("Gemm", [x, weight, bias], output="logits")

    def dense(self, x: str, features: tuple[int, int]) -> str:
        into, out = features
        product = self.node("MatMul", [x, self.normal((into, out), fan_in=into)])
        return self.node(
            "Add", [product, self.weight(self.random.uniform(-0.1, 0.1, out).astype(np.float32))]
        )

    def mlp(self, x: str, features: int, hidden: int) -> str:
        x = self.node("Relu", [self.dense(x, (features, hidden))])
        return self.dense(x, (hidden, features))

    def layer_norm(self, x: str, width: int, output: str = "") -> str:
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        return self.node("LayerNormalization", [x, self.weight(ones), self.weight(zeros)], output, axis=-1)

    def model(self, shape: list[int], *output: int) -> onnx.ModelProto:
        """The checked model from ``image`` (of ``shape``) to ``logits`` (a row of ``output`` per image)."""
        return self.build({"image": (TensorProto.FLOAT, shape)}, "logits", [shape[0], *output])

    def build(
        self, inputs: dict[str, tuple[int, list[int]]], output: str, shape: list[int]
    ) -> onnx.ModelProto:
        """The checked model of what was appended.

        Args:
            inputs: element type and shape, by name.
            output: the name of a value.
            shape: of the output.
        """
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.weights,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name=self.producer
        )
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model


def square_product(name: str, size: int, seed: int) -> onnx.ModelProto:
    """A product of two ``size`` x ``size`` matrices, one of them constant."""
    net = Network(name, seed)
    net.node("MatMul", ["image", net.normal((size, size), fan_in=size)], output="logits")
    return net.model([size, size], size)


def single_convolution(name: str, size: int, kernel: int, seed: int, groups: int = 1) -> onnx.ModelProto:
    """A convolution of 64 channels on a ``size`` x ``size`` image."""
    net = Network(name, seed)
    net.convolution("image", (64, 64), kernel, groups=groups, output="logits")
    return net.model([1, 64, size, size], 64, size, size)


def tiny_cnn() -> onnx.ModelProto:
    """Three convolutions and a classifier on a 32x32 image: tunes in a minute on one core."""
    net = Network("tiny_cnn", seed=1)
    x = net.convolution_block("image", (3, 32), 3)
    x = net.convolution_block(x, (32, 64), 3, stride=2)
    x = net.convolution_block(x, (64, 64), 3)
    net.classifier(x, 64, 10)
    return net.model([1, 3, 32, 32], 10)


def tiny_mlp_mixer() -> onnx.ModelProto:
    """Two MLP-Mixer blocks over 64 patches of a 32x32 image (Tolstikhin et al., arXiv:2105.01601), with
    ReLU and without layer normalisation: matrix products and transposes, the other kind of network."""
    net = Network("tiny_mlp_mixer", seed=2)
    patches, width = 64, 96
    x = net.node(
        "Conv",
        ["image", net.normal((width, 3, 4, 4), fan_in=48)],
        kernel_shape=[4, 4],
        strides=[4, 4],
    )
    shape = net.weight(np.array([1, width, patches], np.int64))
    x = net.node("Reshape", [x, shape])
    for _ in range(2):
        x = net.node("Add", [x, net.mlp(x, patches, 2 * patches)])
        turned = net.node("Transpose", [x], perm=[0, 2, 1])
        mixed = net.mlp(turned, width, 2 * width)
        x = net.node("Transpose", [net.node("Add", [turned, mixed])], perm=[0, 2, 1])
    x = net.node("ReduceMean", [x], axes=[2], keepdims=0)
    net.node(
        "Gemm",
        [x, net.normal((width, 10), fan_in=width), net.weight(np.zeros(10, np.float32))],
        output="logits",
    )
    return net.model([1, 3, 32, 32], 10)


def tiny_separable() -> onnx.ModelProto:
    """Four depthwise separable blocks, as in MobileNet, on a 32x32 image."""
    net = Network("tiny_separable", seed=4)
    x = net.convolution_block("image", (3, 32), 3)
    for channels, stride in (((32, 64), 1), ((64, 96), 2), ((96, 96), 1), ((96, 128), 2)):
        x = net.separable_block(x, channels, stride)
    net.classifier(x, 128, 10)
    return net.model([1, 3, 32, 32], 10)


def tiny_residual() -> onnx.ModelProto:
    """Three residual blocks, as in ResNet, on a 24x24 image."""
    net = Network("tiny_residual", seed=5)
    x = net.convolution_block("image", (3, 24), 3)
    for channels, stride in (((24, 24), 1), ((24, 48), 2), ((48, 48), 1)):
        x = net.residual_block(x, channels, stride)
    net.classifier(x, 48, 10)
    return net.model([1, 3, 24, 24], 10)


def various_convolutions() -> onnx.ModelProto:
    """Convolutions of many shapes on a 72x72 image, for what a cost model knows of kernels in general."""
    net = Network("various_convolutions", seed=101)
    layers = [  # channels, kernel, stride, depthwise
        ((16, 32), 3, 1, False),
        ((32, 32), 3, 1, True),
        ((32, 96), 1, 1, False),
        ((96, 96), 5, 2, True),
        ((96, 40), 1, 1, False),
        ((40, 80), 3, 1, False),
        ((80, 80), 3, 2, False),
        ((80, 240), 1, 1, False),
        ((240, 240), 3, 1, True),
        ((240, 160), 1, 1, False),
        ((160, 48), 5, 1, False),
        ((48, 192), 3, 1, False),
    ]
    x = "image"
    for number, (channels, kernel, stride, depthwise) in enumerate(layers):
        x = net.convolution(x, channels, kernel, stride, groups=channels[0] if depthwise else 1)
        if number % 3 != 1:
            x = net.node("Relu", [net.batch_norm(x, channels[1])])
    x = net.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = net.node("Relu", [net.convolution(x, (192, 384), 1)])
    x = net.node("Relu", [net.convolution(x, (384, 384), 3, groups=384)])
    x = net.node("Relu", [net.convolution(x, (384, 256), 3)])
    net.classifier(x, 256, 100)
    return net.model([1, 16, 72, 72], 100)


def encoder(name: str, tokens: int, width: int, heads: int, seed: int) -> onnx.ModelProto:
    """A transformer's encoder block (Vaswani et al., arXiv:1706.03762) and a softmax over 2,000 classes."""
    net = Network(name, seed)
    each = width // heads

    def by_head(x: str, order: list[int]) -> str:
        shape = net.weight(np.array([tokens, heads, each], np.int64))
        return net.node("Transpose", [net.node("Reshape", [net.dense(x, (width, width)), shape])], perm=order)

    y = net.layer_norm("image", width)
    queries, keys, values = (by_head(y, order) for order in ([1, 0, 2], [1, 2, 0], [1, 0, 2]))
    weights = net.node("MatMul", [queries, keys])
    weights = net.node("Mul", [weights, net.weight(np.array(each**-0.5, np.float32))])
    y = net.node("MatMul", [net.node("Softmax", [weights], axis=-1), values])
    y = net.node("Transpose", [y], perm=[1, 0, 2])
    y = net.node("Reshape", [y, net.weight(np.array([tokens, width], np.int64))])
    x = net.node("Add", ["image", net.dense(y, (width, width))])
    y = net.dense(net.layer_norm(x, width), (width, 4 * width))
    y = net.node("Mul", [y, net.node("Sigmoid", [y])])
    x = net.node("Add", [x, net.dense(y, (4 * width, width))])
    x = net.node("MatMul", [x, net.normal((width, 2000), fan_in=width)])
    net.node("Softmax", [x], output="logits", axis=-1)
    return net.model([tokens, width], 2000)


def encoder_196() -> onnx.ModelProto:
    """196 tokens of 320 values, 5 heads."""
    return encoder("encoder_196", 196, 320, 5, seed=102)


def encoder_72() -> onnx.ModelProto:
    """72 tokens of 448 values, 14 heads."""
    return encoder("encoder_72", 72, 448, 14, seed=103)


def one_convolution() -> onnx.ModelProto:
    """A single convolution, so a single task: a 3x3 one of 64 channels on a 28x28 image."""
    return single_convolution("one_convolution", 28, 3, seed=6)


def matmul_128() -> onnx.ModelProto:
    """A single product of 128x128 matrices. This and the next are what a tuner is usually compared on."""
    return square_product("matmul_128", 128, seed=7)


def matmul_512() -> onnx.ModelProto:
    """A single product of 512x512 matrices."""
    return square_product("matmul_512", 512, seed=8)


def convolution_3x3() -> onnx.ModelProto:
    """The 3x3 convolution of ResNet's first stage: 64 channels on a 56x56 image."""
    return single_convolution("convolution_3x3", 56, 3, seed=9)


def convolution_1x1() -> onnx.ModelProto:
    """A pointwise convolution of 64 channels on a 56x56 image."""
    return single_convolution("convolution_1x1", 56, 1, seed=10)


def depthwise() -> onnx.ModelProto:
    """A 3x3 depthwise convolution of 64 channels on a 56x56 image."""
    return single_convolution("depthwise", 56, 3, seed=11, groups=64)


def softmax() -> onnx.ModelProto:
    """Softmax over 1,024 values, 512 times."""
    net = Network("softmax", seed=12)
    net.node("Softmax", ["image"], output="logits", axis=-1)
    return net.model([512, 1024], 1024)


def layer_norm() -> onnx.ModelProto:
    """Layer normalisation of 128 tokens of 768 values."""
    net = Network("layer_norm", seed=13)
    net.layer_norm("image", 768, output="logits")
    return net.model([1, 128, 768], 128, 768)


def batch_matmul() -> onnx.ModelProto:
    """The product of a transformer block's 12 heads: 128 tokens, 64 values each, with 128 keys."""
    net = Network("batch_matmul", seed=14)
    net.node("MatMul", ["image", net.normal((12, 64, 128), fan_in=64)], output="logits")
    return net.model([12, 128, 64], 128, 128)


def resnet18() -> onnx.ModelProto:
    """ResNet-18 (He et al., arXiv:1512.03385) with batch normalisation, for 224x224 images."""
    net = Network("resnet18", seed=3)
    x = net.convolution_block("image", (3, 64), 7, stride=2)
    x = net.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    into = 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = net.residual_block(x, (into, out), stride)
        x = net.residual_block(x, (out, out), 1)
        into = out
    net.classifier(x, into, 1000)
    return net.model([1, 3, 224, 224], 1000)


MODELS = {
    build.__name__: build
    for build in (
        tiny_cnn,
        tiny_mlp_mixer,
        tiny_separable,
        tiny_residual,
        various_convolutions,
        encoder_196,
        encoder_72,
        one_convolution,
        matmul_128,
        matmul_512,
        convolution_3x3,
        convolution_1x1,
        depthwise,
        softmax,
        layer_norm,
        batch_matmul,
        resnet18,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write small ONNX models to tune.")
    parser.add_argument("outdir", type=Path, help="folder for the files; made when missing")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}; all by default")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(MODELS)):
        parser.error(f"there is no model {unknown[0]!r}; known: {', '.join(MODELS)}")
    outdir: Path = arguments.outdir
    outdir.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or MODELS:
        path = outdir / f"{name}.onnx"
        path.write_bytes(MODELS[name]().SerializeToString())
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
