"""Nine more networks, beside the seven of ``benchmarks.peers``, whose tuning gives records to start from:
``python -m benchmarks.corpus OUTDIR [NAME ...]`` writes them as ONNX files.

They are of kinds that people run, but with few blocks and on small images, so that one is tuned in a few
minutes. Weights are random with a seed, and scaled so that what comes out depends on what goes in.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.peers.networks import Net, Range


class Wide(Net):
    """With what these networks have besides."""

    producer = "tunemesh-benchmarks"

    def silu(self, x: str) -> str:
        """x sigmoid(x)."""
        return self.node("Mul", [x, self.node("Sigmoid", [x])])

    def relu6(self, x: str) -> str:
        """x within 0 and 6."""
        return self.node("Clip", [x, self.known(0.0), self.known(6.0)])

    def biased_relu(self, x: str, channels: tuple[int, int], kernel: int, stride: int = 1) -> str:
        """A convolution with a bias, and ReLU."""
        return self.node("Relu", [self.biased_convolution(x, channels, kernel, stride, (kernel - 1) // 2)])

    def pooled(self, x: str, kernel: int = 3, stride: int = 2, pad: int = 1) -> str:
        """The largest of each window."""
        return self.node("MaxPool", [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def squeeze(self, x: str, width: int, inner: int) -> str:
        """Each channel times a share that all channels decide (Hu et al., arXiv:1709.01507)."""
        y = self.biased_relu(self.node("GlobalAveragePool", [x]), (width, inner), 1)
        y = self.node("HardSigmoid", [self.biased_convolution(y, (inner, width), 1, 1, 0)], alpha=1 / 6)
        return self.node("Mul", [x, y])


def vgg11() -> onnx.ModelProto:
    """The convolutions of VGG-11 (Simonyan and Zisserman, arXiv:1409.1556) at 112x112, then one dense
    layer."""
    net, x, into = Wide("vgg11", seed=31), "image", 3
    for out, count in ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)):
        for _ in range(count):
            x, into = net.biased_relu(x, (into, out), 3), out
        x = net.pooled(x, 2, 2, 0)
    net.classifier(x, into, 1000)
    return net.model([1, 3, 112, 112], 1000)


def resnet50() -> onnx.ModelProto:
    """A ResNet of the bottlenecks of ResNet-50 (He et al., arXiv:1512.03385), two a stage, for a 160x160
    image."""
    net = Wide("resnet50", seed=32)

    def bottleneck(x: str, into: int, inner: int, stride: int) -> str:
        out = 4 * inner
        y = net.convolution_block(x, (into, inner), 1)
        y = net.convolution_block(y, (inner, inner), 3, stride)
        y = net.batch_norm(net.convolution(y, (inner, out), 1), out, scale=0.3)
        if stride != 1 or into != out:
            x = net.batch_norm(net.convolution(x, (into, out), 1, stride), out)
        return net.node("Relu", [net.node("Add", [y, x])])

    x, into = net.pooled(net.convolution_block("image", (3, 64), 7, 2)), 64
    for inner, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for number in range(2):
            x, into = bottleneck(x, into, inner, stride if number == 0 else 1), 4 * inner
    net.classifier(x, into, 1000)
    return net.model([1, 3, 160, 160], 1000)


def squeezenet() -> onnx.ModelProto:
    """SqueezeNet 1.1 (Iandola et al., arXiv:1602.07360) for a 176x176 image."""
    net = Wide("squeezenet", seed=33)

    def fire(x: str, into: int, inner: int, out: int) -> str:
        x = net.biased_relu(x, (into, inner), 1)
        both = [net.biased_relu(x, (inner, out), kernel) for kernel in (1, 3)]
        return net.node("Concat", both, axis=1)

    x, into = net.pooled(net.biased_relu("image", (3, 64), 3, 2)), 64
    for number, (inner, out) in enumerate(
        ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
    ):
        if number in {2, 4}:
            x = net.pooled(x)
        x, into = fire(x, into, inner, out), 2 * out
    x = net.biased_relu(x, (into, 1000), 1)
    net.node("Flatten", [net.node("GlobalAveragePool", [x])], output="logits")
    return net.model([1, 3, 176, 176], 1000)


def densenet() -> onnx.ModelProto:
    """A DenseNet (Huang et al., arXiv:1608.06993) of three blocks of three layers, growth 32, for a 160x160
    image."""
    net, growth = Wide("densenet", seed=34), 32

    def activated(x: str, width: int) -> str:
        return net.node("Relu", [net.batch_norm(x, width)])

    x, width = net.pooled(net.convolution_block("image", (3, 64), 7, 2)), 64
    for block in range(3):
        for _ in range(3):
            y = net.convolution(activated(x, width), (width, 4 * growth), 1)
            y = net.convolution(activated(y, 4 * growth), (4 * growth, growth), 3)
            x, width = net.node("Concat", [x, y], axis=1), width + growth
        if block < 2:
            x = net.convolution(activated(x, width), (width, width // 2), 1)
            x, width = net.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2]), width // 2
    net.classifier(activated(x, width), width, 1000)
    return net.model([1, 3, 160, 160], 1000)


def efficientnet() -> onnx.ModelProto:
    """EfficientNet-lite0 (Tan and Le, arXiv:1905.11946, without squeezing, with ReLU6), one block a stage and
    two in the wide ones, for a 192x192 image."""
    net = Wide("efficientnet", seed=35)

    def block(x: str, channels: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1) -> str:
        return net.relu6(net.batch_norm(net.convolution(x, channels, kernel, stride, groups), channels[1]))

    x, into = block("image", (3, 32), 3, 2), 32
    for expand, out, kernel, count, first in (
        (1, 16, 3, 1, 1), (6, 24, 3, 1, 2), (6, 40, 5, 2, 2), (6, 80, 3, 1, 2), (6, 112, 5, 2, 1),
        (6, 192, 5, 2, 2), (6, 320, 3, 1, 1),
    ):  # fmt: skip
        for number in range(count):
            stride, wide = first if number == 0 else 1, into * expand
            y = block(x, (into, wide), 1) if expand > 1 else x
            y = block(y, (wide, wide), kernel, stride, groups=wide)
            y = net.batch_norm(net.convolution(y, (wide, out), 1), out, scale=0.7)
            x, into = net.node("Add", [x, y]) if stride == 1 and into == out else y, out
    net.classifier(block(x, (into, 1280), 1), 1280, 1000)
    return net.model([1, 3, 192, 192], 1000)


def mobilenetv3() -> onnx.ModelProto:
    """A MobileNetV3 (Howard et al., arXiv:1905.02244) of eight blocks, with squeezing and hard swish, for a
    192x192 image."""
    net = Wide("mobilenetv3", seed=36)

    def block(
        x: str, channels: tuple[int, int], kernel: int, act: str, stride: int = 1, groups: int = 1
    ) -> str:
        x = net.batch_norm(net.convolution(x, channels, kernel, stride, groups), channels[1])
        return net.node(act, [x])

    x, into = block("image", (3, 16), 3, "HardSwish", 2), 16
    for kernel, wide, out, squeezed, act, stride in (
        (3, 16, 16, True, "Relu", 2), (3, 72, 24, False, "Relu", 2), (3, 88, 24, False, "Relu", 1),
        (5, 96, 40, True, "HardSwish", 2), (5, 240, 40, True, "HardSwish", 1),
        (5, 120, 48, True, "HardSwish", 1), (5, 288, 96, True, "HardSwish", 2),
        (5, 576, 96, True, "HardSwish", 1),
    ):  # fmt: skip
        y = block(x, (into, wide), 1, act) if wide != into else x
        y = block(y, (wide, wide), kernel, act, stride, groups=wide)
        if squeezed:
            y = net.squeeze(y, wide, max(8, wide // 4))
        y = net.batch_norm(net.convolution(y, (wide, out), 1), out, scale=1.6 if squeezed else 0.7)
        x, into = net.node("Add", [x, y]) if stride == 1 and into == out else y, out
    net.classifier(block(x, (into, 576), 1, "HardSwish"), 576, 1000)
    return net.model([1, 3, 192, 192], 1000)


def gpt() -> onnx.ModelProto:
    """A decoder after GPT-2 (Radford et al., 2019): 3 layers of width 320 with 5 heads, 96 tokens, a causal
    mask, a vocabulary of 8,192; it gives the scores of all words for each token."""
    net, tokens, width, heads = Wide("gpt", seed=37), 96, 320, 5
    words = net.weight(net.random.standard_normal((WORDS, width)).astype(np.float32))
    places = net.weight(0.5 * net.random.standard_normal((1, tokens, width)).astype(np.float32))
    mask = net.weight(np.triu(np.full((1, 1, tokens, tokens), -1e4, np.float32), k=1))
    x = net.node("Add", [net.node("Gather", [words, "input_ids"], axis=0), places])
    for _ in range(3):
        x = net.node("Add", [x, net.attention(net.norm(x, width), tokens, width, heads, mask)])
        x = net.node("Add", [x, net.feed_forward(net.norm(x, width), width)])
    x = net.node("MatMul", [net.norm(x, width), net.normal((width, WORDS), fan_in=width)], output="logits")
    ids = (TensorProto.INT64, [1, tokens])
    return net.build({"input_ids": ids}, x, [1, tokens, WORDS])


WORDS = 8192


def mixer() -> onnx.ModelProto:
    """An MLP-Mixer (Tolstikhin et al., arXiv:2105.01601): 4 layers, 196 patches of 16x16, width 256."""
    net, tokens, width = Wide("mixer", seed=38), 196, 256

    def mlp(x: str, into: int, inner: int) -> str:
        return net.dense(net.gelu(net.dense(x, (into, inner))), (inner, into))

    x = net.biased_convolution("image", (3, width), 16, 16, 0)
    x = net.node("Transpose", [net.node("Reshape", [x, net.sizes(1, width, tokens)])], perm=[0, 2, 1])
    for _ in range(4):
        y = net.node("Transpose", [net.norm(x, width)], perm=[0, 2, 1])
        x = net.node("Add", [x, net.node("Transpose", [mlp(y, tokens, 128)], perm=[0, 2, 1])])
        x = net.node("Add", [x, mlp(net.norm(x, width), width, 1024)])
    x = net.node("ReduceMean", [net.norm(x, width)], axes=[1], keepdims=0)
    net.node("Gemm", [x, net.normal((width, 1000), fan_in=width), net.bias(1000)], output="logits")
    return net.model([1, 3, 224, 224], 1000)


def detector() -> onnx.ModelProto:
    """A detector after YOLO (Redmon and Farhadi, arXiv:1804.02767) with a feature pyramid: a backbone of five
    stages with SiLU, two scales joined on the way up, for a 192x192 image."""
    net = Wide("detector", seed=39)

    def block(x: str, channels: tuple[int, int], kernel: int, stride: int = 1) -> str:
        return net.silu(net.batch_norm(net.convolution(x, channels, kernel, stride), channels[1], scale=1.5))

    def residual(x: str, width: int) -> str:
        return net.node("Add", [x, block(block(x, (width, width // 2), 1), (width // 2, width), 3)])

    x, scales = block("image", (3, 16), 3, 2), []
    for into, out in ((16, 32), (32, 64), (64, 128), (128, 256)):
        x = residual(block(x, (into, out), 3, 2), out)
        scales.append(x)
    heads = []
    deep = block(scales[-1], (256, 128), 1)
    heads.append(net.biased_convolution(block(deep, (128, 256), 3), (256, 75), 1, 1, 0))
    up = net.node("Resize", [deep, "", net.known(1.0, 1.0, 2.0, 2.0)], mode="nearest")
    joined = block(net.node("Concat", [up, scales[-2]], axis=1), (256, 128), 1)
    heads.append(net.biased_convolution(block(joined, (128, 128), 3), (128, 75), 1, 1, 0))
    flat = [net.node("Reshape", [head, net.sizes(1, 75, -1)]) for head in heads]
    net.node("Sigmoid", [net.node("Concat", flat, axis=2)], output="logits")
    return net.model([1, 3, 192, 192], 75, 6 * 6 + 12 * 12)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    build.__name__: build
    for build in (
        vgg11,
        resnet50,
        squeezenet,
        densenet,
        efficientnet,
        mobilenetv3,
        gpt,
        mixer,
        detector,
    )
}


RANGES: dict[str, dict[str, Range]] = {"gpt": {"input_ids": (0, WORDS)}}
"""Of inputs whose values mean something."""


def main(arguments: list[str] | None = None) -> None:
    """Writes the networks named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("outdir", type=Path, help="folder for the files; made when missing")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}; all by default")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(NETWORKS)):
        parser.error(f"there is no network {unknown[0]!r}; known: {', '.join(NETWORKS)}")
    given.outdir.mkdir(parents=True, exist_ok=True)
    for name in given.names or NETWORKS:
        path = given.outdir / f"{name}.onnx"
        path.write_bytes(NETWORKS[name]().SerializeToString())
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
