"""Seven networks of the kinds that people run, as exporters write them, with random weights.

Each weight is scaled so that values neither vanish nor explode: what comes out depends on what goes in. Layer
normalisation is the operator of that name, GELU the five operators that runtimes look for, attention the form
in which exporters write it: nobody is put at a disadvantage.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto

from examples.make_models import Network, resnet18

Range = tuple[float, float]


class Net(Network):
    """With what these networks have besides."""

    producer = "tunemesh-benchmarks"

    def known(self, *values: float) -> str:
        """A constant of floats."""
        return self.weight(np.array(values if len(values) > 1 else values[0], np.float32))

    def sizes(self, *values: int) -> str:
        """A constant of whole numbers."""
        return self.weight(np.array(values, np.int64))

    def bias(self, size: int) -> str:
        """Small values."""
        return self.weight(self.random.uniform(-0.1, 0.1, size).astype(np.float32))

    def gelu(self, x: str) -> str:
        """x / 2 (1 + erf(x / sqrt(2)))."""
        y = self.node("Div", [x, self.known(2**0.5)])
        y = self.node("Add", [self.node("Erf", [y]), self.known(1.0)])
        return self.node("Mul", [self.node("Mul", [x, y]), self.known(0.5)])

    def norm(self, x: str, width: int) -> str:
        """Layer normalisation over the last axis with a scale and a shift that are not trivial."""
        scale = self.weight(self.random.uniform(0.8, 1.2, width).astype(np.float32))
        return self.node("LayerNormalization", [x, scale, self.bias(width)], axis=-1, epsilon=1e-5)

    def biased_convolution(
        self, x: str, channels: tuple[int, int], kernel: int, stride: int, pad: int, groups: int = 1
    ) -> str:
        """A convolution with a bias, as where no batch normalisation follows."""
        into, out = channels
        weight = self.normal((out, into // groups, kernel, kernel), fan_in=into // groups * kernel * kernel)
        return self.node(
            "Conv", [x, weight, self.bias(out)], group=groups, kernel_shape=[kernel] * 2,
            strides=[stride] * 2, pads=[pad] * 4,
        )  # fmt: skip

    def attention(self, x: str, tokens: int, width: int, heads: int, mask: str = "") -> str:
        """Attention of all tokens to all, with a mask that is added where there is one."""
        each = width // heads

        def by_head(order: list[int]) -> str:
            split = self.node("Reshape", [self.dense(x, (width, width)), self.sizes(1, tokens, heads, each)])
            return self.node("Transpose", [split], perm=order)

        queries, keys, values = (by_head(order) for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
        scores = self.node("Div", [self.node("MatMul", [queries, keys]), self.known(each**0.5)])
        if mask:
            scores = self.node("Add", [scores, mask])
        mixed = self.node("MatMul", [self.node("Softmax", [scores], axis=-1), values])
        joined = self.node("Transpose", [mixed], perm=[0, 2, 1, 3])
        return self.dense(self.node("Reshape", [joined, self.sizes(1, tokens, width)]), (width, width))

    def feed_forward(self, x: str, width: int) -> str:
        """Two products with GELU between them."""
        return self.dense(self.gelu(self.dense(x, (width, 4 * width))), (4 * width, width))


def bert() -> onnx.ModelProto:
    """A BERT encoder (Devlin et al., arXiv:1810.04805): 4 layers of width 256 with 4 heads, 128 tokens, a
    vocabulary of 30,522, a mask of attention; what it gives is a value for each token."""
    net, tokens, width, heads = Net("bert", seed=21), 128, 256, 4
    words = net.weight(net.random.standard_normal((VOCABULARY, width)).astype(np.float32))
    places = net.weight(0.5 * net.random.standard_normal((1, tokens, width)).astype(np.float32))
    x = net.node("Add", [net.node("Gather", [words, "input_ids"], axis=0), places])
    x = net.norm(x, width)
    wide = net.node("Unsqueeze", ["attention_mask", net.sizes(1, 2)])
    kept = net.node("Cast", [wide], to=TensorProto.FLOAT)
    mask = net.node("Mul", [net.node("Sub", [net.known(1.0), kept]), net.known(-10000.0)])
    for _ in range(4):
        x = net.norm(net.node("Add", [net.attention(x, tokens, width, heads, mask), x]), width)
        x = net.norm(net.node("Add", [net.feed_forward(x, width), x]), width)
    ids = (TensorProto.INT64, [1, tokens])
    return net.build({"input_ids": ids, "attention_mask": ids}, x, [1, tokens, width])


VOCABULARY = 30_522


def mobilenetv2() -> onnx.ModelProto:
    """MobileNetV2 (Sandler et al., arXiv:1801.04381) for 224x224 images."""
    net = Net("mobilenetv2", seed=22)

    def block(x: str, channels: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1) -> str:
        x = net.batch_norm(net.convolution(x, channels, kernel, stride, groups), channels[1])
        return net.node("Clip", [x, net.known(0.0), net.known(6.0)])

    x, into = block("image", (3, 32), 3, 2), 32
    for expand, out, count, first in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for number in range(count):
            stride = first if number == 0 else 1
            wide = into * expand
            y = block(x, (into, wide), 1) if expand > 1 else x
            y = block(y, (wide, wide), 3, stride, groups=wide)
            y = net.batch_norm(net.convolution(y, (wide, out), 1), out, scale=0.7)
            x, into = net.node("Add", [x, y]) if stride == 1 and into == out else y, out
    net.classifier(block(x, (into, 1280), 1), 1280, 1000)
    return net.model([1, 3, 224, 224], 1000)


def unet() -> onnx.ModelProto:
    """A U-Net (Ronneberger et al., arXiv:1505.04597) of 16 to 128 channels for a 128x128 image: convolutions
    with batch normalisation, transposed ones on the way up."""
    net, widths = Net("unet", seed=23), (16, 32, 64, 128)

    def pair(x: str, into: int, out: int) -> str:
        return net.convolution_block(net.convolution_block(x, (into, out), 3), (out, out), 3)

    skips, x, into = [], "image", 3
    for out in widths[:-1]:
        skips.append(pair(x, into, out))
        x, into = net.node("MaxPool", [skips[-1]], kernel_shape=[2, 2], strides=[2, 2]), out
    x = pair(x, into, widths[-1])
    for into, out in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True):
        weight = net.normal((into, out, 2, 2), fan_in=into)
        x = net.node("ConvTranspose", [x, weight, net.bias(out)], kernel_shape=[2, 2], strides=[2, 2])
        x = pair(net.node("Concat", [skips.pop(), x], axis=1), 2 * out, out)
    x = net.node("Sigmoid", [net.biased_convolution(x, (widths[0], 1), 1, 1, 0)])
    return net.build({"image": (TensorProto.FLOAT, [1, 3, 128, 128])}, x, [1, 1, 128, 128])


def convnext() -> onnx.ModelProto:
    """A small ConvNeXt (Liu et al., arXiv:2201.03545) of widths 48 to 384 with one, one, three and one block
    for a 128x128 image: depthwise 7x7 convolutions, layer normalisation and products in channels last."""
    net, widths = Net("convnext", seed=24), (48, 96, 192, 384)

    def normalised(x: str, width: int) -> str:
        """Over the channels, which stand in the second place."""
        last = net.node("Transpose", [x], perm=[0, 2, 3, 1])
        return net.node("Transpose", [net.norm(last, width)], perm=[0, 3, 1, 2])

    x = normalised(net.biased_convolution("image", (3, widths[0]), 4, 4, 0), widths[0])
    for number, (width, blocks) in enumerate(zip(widths, (1, 1, 3, 1), strict=True)):
        if number:
            before = widths[number - 1]
            x = net.biased_convolution(normalised(x, before), (before, width), 2, 2, 0)
        for _ in range(blocks):
            y = net.biased_convolution(x, (width, width), 7, 1, 3, groups=width)
            y = net.norm(net.node("Transpose", [y], perm=[0, 2, 3, 1]), width)
            scale = net.weight(net.random.uniform(0.2, 0.4, width).astype(np.float32))
            y = net.node("Mul", [net.feed_forward(y, width), scale])
            x = net.node("Add", [x, net.node("Transpose", [y], perm=[0, 3, 1, 2])])
    net.classifier(x, widths[-1], 1000)
    return net.model([1, 3, 128, 128], 1000)


def vit() -> onnx.ModelProto:
    """A vision transformer (Dosovitskiy et al., arXiv:2010.11929) of the width of ViT-tiny, 192 with 3 heads,
    but with 4 layers: 224x224 images in patches of 16x16, 197 tokens."""
    net, tokens, width, heads = Net("vit", seed=25), 197, 192, 3
    x = net.biased_convolution("image", (3, width), 16, 16, 0)
    x = net.node("Reshape", [x, net.sizes(1, width, tokens - 1)])
    first = net.weight(net.random.standard_normal((1, 1, width)).astype(np.float32))
    x = net.node("Concat", [first, net.node("Transpose", [x], perm=[0, 2, 1])], axis=1)
    places = net.weight(0.5 * net.random.standard_normal((1, tokens, width)).astype(np.float32))
    x = net.node("Add", [x, places])
    for _ in range(4):
        x = net.node("Add", [x, net.attention(net.norm(x, width), tokens, width, heads)])
        x = net.node("Add", [x, net.feed_forward(net.norm(x, width), width)])
    x = net.node("Gather", [net.norm(x, width), net.weight(np.array(0, np.int64))], axis=1)
    weight = net.normal((width, 1000), fan_in=width)
    net.node("Gemm", [x, weight, net.bias(1000)], output="logits")
    return net.model([1, 3, 224, 224], 1000)


def dlrm() -> onnx.ModelProto:
    """A recommendation network after DLRM (Naumov et al., arXiv:1906.00091), 64 requests at once: 13 numbers
    through an MLP, 8 tables of 1,000 rows of 32, the products of all pairs, and an MLP on top."""
    net, batch, width, tables = Net("dlrm", seed=26), 64, 32, 8

    def mlp(x: str, widths: tuple[int, ...], last: bool) -> str:
        for number, (into, out) in enumerate(itertools.pairwise(widths)):
            x = net.node("Gemm", [x, net.normal((into, out), fan_in=into), net.bias(out)])
            if not last or number < len(widths) - 2:
                x = net.node("Relu", [x])
        return x

    dense = mlp("dense", (13, 256, 128, width), last=False)
    rows = [net.node("Unsqueeze", [dense, net.sizes(1)])]
    for number in range(tables):
        table = net.weight(net.random.standard_normal((ROWS, width)).astype(np.float32))
        index = net.node("Gather", ["sparse", net.weight(np.array(number, np.int64))], axis=1)
        row = net.node("Gather", [table, index], axis=0)
        rows.append(net.node("Unsqueeze", [row, net.sizes(1)]))
    stacked = net.node("Concat", rows, axis=1)
    products = net.node("MatMul", [stacked, net.node("Transpose", [stacked], perm=[0, 2, 1])])
    scaled = net.node("Mul", [products, net.known(width**-0.5)])
    count = (tables + 1) ** 2
    flat = net.node("Reshape", [scaled, net.sizes(batch, count)])
    x = mlp(net.node("Concat", [dense, flat], axis=1), (width + count, 256, 128, 1), last=True)
    x = net.node("Sigmoid", [x])
    inputs = {"dense": (TensorProto.FLOAT, [batch, 13]), "sparse": (TensorProto.INT64, [batch, tables])}
    return net.build(inputs, x, [batch, 1])


ROWS = 1000

NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    build.__name__: build for build in (resnet18, bert, mobilenetv2, unet, convnext, vit, dlrm)
}
RANGES: dict[str, dict[str, Range]] = {
    "bert": {"input_ids": (0, VOCABULARY), "attention_mask": (0, 2)},
    "dlrm": {"sparse": (0, ROWS)},
}
"""Of inputs whose values mean something."""
