"""Common blocks of networks, as PyTorch's exporters write them: ``torch.onnx.export`` with its defaults, and
``torch.export.save``. Weights are random; sizes are those of the smallest networks in use.

Longer than other files: one function per network, to be read one by one.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import nn

from benchmarks.zoo.importing import Work

Make = Callable[[], tuple[nn.Module, tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Block:
    """A network and how it is exported."""

    name: str
    make: Make
    """Network and example inputs."""
    dynamic: Any = None
    """Which dimensions stay open, as ``torch.export`` takes them."""
    shapes: dict[str, list[list[int]]] | None = None
    """What they are to be."""


BLOCKS: list[Block] = []


def block(dynamic: Any = None, shapes: dict[str, list[list[int]]] | None = None) -> Callable[[Make], Make]:
    """A function that makes a block; its name is that of the block."""

    def note(make: Make) -> Make:
        BLOCKS.append(Block(make.__name__, make, dynamic, shapes))
        return make

    return note


def export(folder: Path, wanted: Collection[str]) -> Iterator[tuple[str, Work | str]]:
    """Write the blocks that are wanted (all, where none is named) in both formats, where they are not there
    yet. By name: what is to be imported, or why PyTorch could not write it."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in BLOCKS:
        if wanted and each.name not in wanted:
            continue
        settings = {"shapes": each.shapes} if each.shapes else {}
        for suffix, write in ((".onnx", _write_onnx), (".pt2", _write_program)):
            path = folder / f"{each.name}{suffix}"
            try:
                if not path.exists():
                    write(each, path)
            except Exception as error:  # exporters raise whatever the network makes them
                yield f"{each.name}{suffix}", str(error).strip().splitlines()[0]
            else:
                yield f"{each.name}{suffix}", Work(path=str(path), settings=settings)


def _made(each: Block) -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    network, inputs = each.make()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval(), inputs


def _write_onnx(each: Block, path: Path) -> None:
    network, inputs = _made(each)
    options = {"dynamic_shapes": each.dynamic} if each.dynamic else {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(network, inputs, path, **options)


def _write_program(each: Block, path: Path) -> None:
    network, inputs = _made(each)
    with torch.no_grad():
        program = torch.export.export(network, inputs, dynamic_shapes=each.dynamic)
    torch.export.save(program, path)


class Call(nn.Module):  # type: ignore[misc]
    """A network of a few modules and what is done with them."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.of = nn.ModuleDict(modules)
        self._forward = forward

    def forward(self, *inputs: Any) -> Any:
        return self._forward(self.of, *inputs)


def conv(i: int, o: int, k: int = 3, act: type[nn.Module] = nn.ReLU, **options: Any) -> nn.Module:
    """Convolution of the same size, batch norm, activation."""
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, bias=False, **options), nn.BatchNorm2d(o), act())


IMAGE = (1, 3, 32, 32)


# -- Convolutions -------------------------------------------------------------------------------------------


@block()
def vgg() -> Any:
    pool, head = nn.MaxPool2d(2), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(conv(3, 16), pool, conv(16, 16), pool, head), (torch.randn(IMAGE),)


@block()
def resnet() -> Any:
    def forward(of: Any, x: Any) -> Any:
        x = of["stem"](x)
        x = torch.relu(of["b"](of["a"](x)) + x)
        return of["head"](torch.relu(of["d"](of["c"](x)) + of["skip"](x)).mean((2, 3)))

    parts = {
        "stem": conv(3, 16), "a": conv(16, 16), "b": conv(16, 16, act=nn.Identity),
        "c": conv(16, 32, stride=2), "d": conv(32, 32, act=nn.Identity),
        "skip": nn.Conv2d(16, 32, 1, stride=2), "head": nn.Linear(32, 10),
    }  # fmt: skip
    return Call(forward, **parts), (torch.randn(IMAGE),)


@block()
def mobilenet() -> Any:
    layers = [
        conv(3, 16, act=nn.ReLU6, stride=2),
        conv(16, 64, 1, nn.ReLU6),
        conv(64, 64, 3, nn.ReLU6, groups=64),
    ]
    return nn.Sequential(*layers, conv(64, 16, 1, nn.Identity)), (torch.randn(IMAGE),)


@block()
def mobilenet_v3() -> Any:
    def forward(of: Any, x: Any) -> Any:
        y = of["depthwise"](of["expand"](x))
        return of["project"](y * of["gate"](y)) + x

    gate = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 12, 1), nn.ReLU(), nn.Conv2d(12, 48, 1), nn.Hardsigmoid()
    )
    parts = {
        "expand": conv(16, 48, 1, nn.Hardswish), "depthwise": conv(48, 48, 5, nn.Hardswish, groups=48),
        "gate": gate, "project": conv(48, 16, 1, nn.Identity),
    }  # fmt: skip
    return Call(forward, **parts), (torch.randn(1, 16, 14, 14),)


@block()
def efficientnet() -> Any:
    def forward(of: Any, x: Any) -> Any:
        y = of["b"](of["a"](x))
        return of["c"](y * torch.sigmoid(of["gate"](y.mean((2, 3), keepdim=True))))

    parts = {
        "a": conv(8, 32, 1, nn.SiLU), "b": conv(32, 32, 3, nn.SiLU, groups=32, stride=2),
        "gate": nn.Conv2d(32, 32, 1), "c": conv(32, 16, 1, nn.Identity),
    }  # fmt: skip
    return Call(forward, **parts), (torch.randn(1, 8, 28, 28),)


@block()
def densenet() -> Any:
    def forward(of: Any, x: Any) -> Any:
        for name in ("a", "b", "c"):
            x = torch.cat([x, of[name](x)], 1)
        return F.avg_pool2d(of["transition"](x), 2)

    parts = {"a": conv(8, 8), "b": conv(16, 8), "c": conv(24, 8), "transition": conv(32, 16, 1)}
    return Call(forward, **parts), (torch.randn(1, 8, 16, 16),)


@block()
def inception() -> Any:
    def forward(of: Any, x: Any) -> Any:
        pooled = of["d"](F.max_pool2d(x, 3, 1, 1))
        return torch.cat([of["a"](x), of["b"](x), of["c"](x), pooled], 1)

    parts = {"a": conv(16, 8, 1), "b": conv(16, 8, 3), "c": conv(16, 8, 5), "d": conv(16, 8, 1)}
    return Call(forward, **parts), (torch.randn(1, 16, 14, 14),)


@block()
def shufflenet() -> Any:
    def forward(of: Any, x: Any) -> Any:
        kept, y = x.chunk(2, 1)
        y = torch.cat([kept, of["b"](of["a"](y))], 1)
        return y.reshape(1, 2, 16, 14, 14).transpose(1, 2).flatten(1, 2)

    return Call(forward, a=conv(16, 16, 1), b=conv(16, 16, groups=16)), (torch.randn(1, 32, 14, 14),)


@block()
def convnext() -> Any:
    def forward(of: Any, x: Any) -> Any:
        y = of["norm"](of["depthwise"](x).permute(0, 2, 3, 1))
        return x + of["mlp"](y).permute(0, 3, 1, 2)

    mlp = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))
    depthwise = nn.Conv2d(32, 32, 7, padding=3, groups=32)
    return Call(forward, depthwise=depthwise, norm=nn.LayerNorm(32), mlp=mlp), (torch.randn(1, 32, 14, 14),)


@block()
def dilated() -> Any:
    def forward(of: Any, x: Any) -> Any:
        pooled = F.interpolate(of["pool"](x), (16, 16), mode="bilinear", align_corners=False)
        return torch.cat([of["near"](x), of["far"](x), pooled], 1)

    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1))
    far = nn.Conv2d(8, 8, 3, padding=4, dilation=4)
    return Call(forward, near=nn.Conv2d(8, 8, 1), far=far, pool=pool), (torch.randn(1, 8, 16, 16),)


@block()
def unet() -> Any:
    def forward(of: Any, x: Any) -> Any:
        high = of["down"](x)
        low = of["middle"](F.max_pool2d(high, 2))
        return of["out"](torch.cat([of["up"](low), high], 1))

    parts = {
        "down": conv(3, 16), "middle": conv(16, 32), "up": nn.ConvTranspose2d(32, 16, 2, stride=2),
        "out": nn.Conv2d(32, 2, 1),
    }  # fmt: skip
    return Call(forward, **parts), (torch.randn(IMAGE),)


@block()
def diffusion_unet() -> Any:
    def forward(of: Any, x: Any, step: Any) -> Any:
        angles = step[:, None] * torch.exp(-torch.arange(8) * 0.7)
        time = of["time"](torch.cat([angles.sin(), angles.cos()], -1))
        y = F.silu(of["norm"](of["a"](x))) + time[:, :, None, None]
        return of["b"](F.interpolate(y, scale_factor=2.0, mode="nearest"))

    parts = {
        "time": nn.Linear(16, 16), "a": nn.Conv2d(4, 16, 3, padding=1), "norm": nn.GroupNorm(4, 16),
        "b": nn.Conv2d(16, 4, 3, padding=1),
    }  # fmt: skip
    return Call(forward, **parts), (torch.randn(1, 4, 16, 16), torch.tensor([7.0]))


@block()
def super_resolution() -> Any:
    layers = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.PReLU(16), nn.Conv2d(16, 12, 3, padding=1))
    return nn.Sequential(*layers, nn.PixelShuffle(2)), (torch.randn(IMAGE),)


@block()
def style_transfer() -> Any:
    layers = [nn.ReflectionPad2d(2), nn.Conv2d(3, 8, 5), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers), (torch.randn(IMAGE),)


@block()
def conv1d_causal() -> Any:
    def forward(of: Any, x: Any) -> Any:
        y = of["conv"](F.pad(x, (4, 0)))
        return x + torch.tanh(y[:, :16]) * torch.sigmoid(y[:, 16:])

    return Call(forward, conv=nn.Conv1d(16, 32, 3, dilation=2)), (torch.randn(1, 16, 64),)


@block()
def conv3d() -> Any:
    layers = [nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4)), (
        torch.randn(1, 2, 8, 16, 16),
    )


@block()
def detection_head() -> Any:
    def forward(of: Any, x: Any) -> Any:
        scores = of["scores"](x).flatten(2).sigmoid().amax(1)
        boxes = of["boxes"](x).flatten(2).transpose(1, 2)
        best, at = scores.topk(10, 1)
        return best, boxes.gather(1, at[..., None].expand(-1, -1, 4))

    return Call(forward, scores=nn.Conv2d(16, 5, 1), boxes=nn.Conv2d(16, 4, 1)), (torch.randn(1, 16, 8, 8),)


# -- Attention ----------------------------------------------------------------------------------------------


def heads(x: Any, count: int) -> Any:
    """Split the last axis into heads, and put them before the positions."""
    return x.unflatten(-1, (count, -1)).transpose(-3, -2)


@block()
def vit() -> Any:
    def forward(of: Any, x: Any) -> Any:
        tokens = of["patches"](x).flatten(2).transpose(1, 2)
        tokens = torch.cat([of["first"].weight[None], tokens], 1) + of["places"].weight
        return of["head"](of["layer"](tokens)[:, 0])

    layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
    parts = {
        "patches": nn.Conv2d(3, 32, 8, stride=8), "first": nn.Embedding(1, 32),
        "places": nn.Embedding(17, 32), "layer": layer, "head": nn.Linear(32, 10),
    }  # fmt: skip
    return Call(forward, **parts), (torch.randn(IMAGE),)


@block()
def swin() -> Any:
    def forward(of: Any, x: Any) -> Any:
        y = torch.roll(x, (-2, -2), (1, 2)).reshape(1, 2, 4, 2, 4, 32).transpose(2, 3).reshape(4, 16, 32)
        query, key, value = (heads(part, 4) for part in of["qkv"](y).chunk(3, -1))
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        y = y.reshape(1, 2, 2, 4, 4, 32).transpose(2, 3).reshape(1, 8, 8, 32)
        return x + of["out"](torch.roll(y, (2, 2), (1, 2)))

    return Call(forward, qkv=nn.Linear(32, 96), out=nn.Linear(32, 32)), (torch.randn(1, 8, 8, 32),)


@block()
def bert() -> Any:
    def forward(of: Any, words: Any, mask: Any) -> Any:
        x = of["norm"](of["words"](words) + of["places"].weight)
        query, key, value = (heads(part, 4) for part in of["qkv"](x).chunk(3, -1))
        scores = query @ key.transpose(-1, -2) / 8**0.5
        scores = scores.masked_fill(mask[:, None, None] == 0, torch.finfo(torch.float32).min)
        x = of["norm"](x + (scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return torch.tanh(of["pool"](of["down"](F.gelu(of["up"](x)))[:, 0]))

    parts = {
        "words": nn.Embedding(100, 32), "places": nn.Embedding(16, 32), "norm": nn.LayerNorm(32),
        "qkv": nn.Linear(32, 96), "up": nn.Linear(32, 64), "down": nn.Linear(64, 32),
        "pool": nn.Linear(32, 32),
    }  # fmt: skip
    return Call(forward, **parts), (torch.randint(0, 100, (1, 16)), torch.ones(1, 16, dtype=torch.int64))


@block()
def gpt_with_cache() -> Any:
    def forward(of: Any, word: Any, keys: Any, values: Any) -> Any:
        x = of["words"](word)
        query, key, value = (heads(part, 4) for part in of["qkv"](of["norm"](x)).chunk(3, -1))
        keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        y = F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
        return (x + of["out"](y)) @ of["words"].weight.T, keys, values

    parts = {
        "words": nn.Embedding(100, 32), "norm": nn.LayerNorm(32), "qkv": nn.Linear(32, 96),
        "out": nn.Linear(32, 32),
    }  # fmt: skip
    cache = torch.randn(1, 4, 15, 8)
    return Call(forward, **parts), (torch.randint(0, 100, (1, 1)), cache, cache.clone())


@block()
def llama() -> Any:
    def turned(x: Any, angles: Any) -> Any:
        one, other = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-other, one], -1) * angles.sin()

    def forward(of: Any, x: Any) -> Any:
        angles = torch.arange(12)[:, None] * torch.exp(-torch.arange(4) * 1.5).repeat(2)
        query, key, value = (heads(part, 4) for part in of["qkv"](of["norm"](x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(turned(query, angles), turned(key, angles), value, is_causal=True)
        x = x + y.transpose(1, 2).flatten(2)
        return x + of["down"](F.silu(of["gate"](x)) * of["up"](x))

    parts = {
        "norm": nn.RMSNorm(32), "qkv": nn.Linear(32, 96, bias=False), "gate": nn.Linear(32, 64, bias=False),
        "up": nn.Linear(32, 64, bias=False), "down": nn.Linear(64, 32, bias=False),
    }  # fmt: skip
    return Call(forward, **parts), (torch.randn(1, 12, 32),)


@block()
def decoder() -> Any:
    def forward(of: Any, x: Any, memory: Any) -> Any:
        return of["layer"](x, memory, tgt_mask=nn.Transformer.generate_square_subsequent_mask(6))

    layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
    return Call(forward, layer=layer), (torch.randn(1, 6, 32), torch.randn(1, 10, 32))


# -- Recurrent, and the rest --------------------------------------------------------------------------------


@block()
def lstm() -> Any:
    return Call(lambda of, x: of["net"](x)[0], net=nn.LSTM(16, 24, 2, batch_first=True)), (
        torch.randn(1, 7, 16),
    )


@block()
def bidirectional_lstm() -> Any:
    net = nn.LSTM(16, 24, bidirectional=True)
    return Call(lambda of, x: of["net"](x)[0], net=net), (torch.randn(7, 2, 16),)


@block()
def gru() -> Any:
    return Call(lambda of, x, h: of["net"](x, h), net=nn.GRU(16, 24, batch_first=True)), (
        torch.randn(1, 7, 16),
        torch.randn(1, 1, 24),
    )


@block()
def mlp_mixer() -> Any:
    def forward(of: Any, x: Any) -> Any:
        x = x + of["tokens"](x.transpose(1, 2)).transpose(1, 2)
        return x + of["channels"](x)

    def mlp(size: int) -> nn.Module:
        return nn.Sequential(nn.Linear(size, 64), nn.GELU(approximate="tanh"), nn.Linear(64, size))

    return Call(forward, tokens=mlp(16), channels=mlp(32)), (torch.randn(1, 16, 32),)


@block()
def half_precision() -> Any:
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 8)).half(), (
        torch.randn(1, 4, 8, 8).half(),
    )


@block()
def bfloat16() -> Any:
    network = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8)).bfloat16()
    return network, (torch.randn(4, 32).bfloat16(),)


@block()
def quantised() -> Any:
    def forward(of: Any, x: Any) -> Any:
        weight = torch.fake_quantize_per_tensor_affine(of["a"].weight, 0.005, 0, -128, 127)
        x = torch.fake_quantize_per_tensor_affine(x, 0.03, 0, -128, 127)
        y = torch.relu(F.conv2d(x, weight, of["a"].bias, padding=1))
        return torch.fake_quantize_per_tensor_affine(y, 0.02, 0, -128, 127)

    return Call(forward, a=nn.Conv2d(8, 16, 3, padding=1)), (torch.randn(1, 8, 8, 8),)


@block(dynamic=({0: torch.export.Dim("batch", min=1, max=64)},), shapes={"input": [[1, 16], [5, 16]]})
def dynamic_batch() -> Any:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), (torch.randn(3, 16),)
