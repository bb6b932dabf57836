"""Every kernel of a template computes what TVM's own code computes, whatever its knobs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.acceptance import direct
from tunemesh.shared.messages import Candidate, Trial
from tunemesh.stage_workers.engines.protocol import (
    BuildCall,
    Examples,
    ExportCall,
    TaskRef,
    TaskTrials,
    UpdateCall,
)
from tunemesh.stage_workers.engines.template import TemplateEngine
from tunemesh.stage_workers.platforms.protocol import ExtractedTask

ENGINE = TemplateEngine()
KERNELS = 2
"""Of each operator, at random."""


@pytest.fixture(scope="module")
def target() -> str:
    direct.PLATFORM.preload()
    return direct.resolve_target("native")


def placeholder(*shape: int) -> Any:
    from tvm import te

    return te.placeholder(shape, name="x")


def product(rows: int, columns: int, depth: int, transposed: bool = False, after: Any = None) -> list[Any]:
    from tvm import te

    a = placeholder(rows, depth)
    b = placeholder(*((columns, depth) if transposed else (depth, columns)))
    k = te.reduce_axis((0, depth), name="k")
    c = te.compute(
        (rows, columns),
        lambda i, j: te.sum(a[i, k] * (b[j, k] if transposed else b[k, j]), axis=k),
        name="product",
    )
    if after is None:
        return [a, b, c]
    bias, other = placeholder(columns), placeholder(rows, columns)
    return [a, b, bias, other, te.compute(c.shape, lambda i, j: after(c[i, j] + bias[j], other[i, j]))]


def batched() -> list[Any]:
    from tvm import te

    a, b = placeholder(2, 3, 17, 12), placeholder(2, 12, 3, 20)
    k = te.reduce_axis((0, 12), name="k")
    return [
        a,
        b,
        te.compute((2, 3, 17, 20), lambda n, h, i, j: te.sum(a[n, h, i, k] * b[n, k, h, j], axis=k)),
    ]


def pointwise_channels_first() -> list[Any]:
    from tvm import te

    a, b = placeholder(2, 20, 5, 7), placeholder(9, 20, 1, 1)
    k = te.reduce_axis((0, 20), name="k")
    return [a, b, te.compute((2, 9, 5, 7), lambda n, c, y, x: te.sum(a[n, k, y, x] * b[c, k, 0, 0], axis=k))]


def convolution(kernel: int, stride: int, pad: int, depthwise: bool = False, channels: int = 12) -> list[Any]:
    from tvm import te, tirx

    size, out = 9, 20
    ends = (size + 2 * pad - kernel) // stride + 1
    a = placeholder(2, size, size, channels)
    padded = te.compute(
        (2, size + 2 * pad, size + 2 * pad, channels),
        lambda n, y, x, c: tirx.if_then_else(
            tirx.all(y >= pad, y < size + pad, x >= pad, x < size + pad),
            a[n, y - pad, x - pad, c],
            tirx.const(0.0, "float32"),
        ),
        name="padded",
    )
    ry, rx = (te.reduce_axis((0, kernel), name=name) for name in ("ry", "rx"))
    if depthwise:
        b = placeholder(kernel, kernel, channels)
        c = te.compute(
            (2, ends, ends, channels),
            lambda n, y, x, o: te.sum(
                padded[n, y * stride + ry, x * stride + rx, o] * b[ry, rx, o], axis=[ry, rx]
            ),
        )
    else:
        rc = te.reduce_axis((0, channels), name="rc")
        b = placeholder(kernel, kernel, channels, out)
        c = te.compute(
            (2, ends, ends, out),
            lambda n, y, x, o: te.sum(
                padded[n, y * stride + ry, x * stride + rx, rc] * b[ry, rx, rc, o], axis=[ry, rx, rc]
            ),
        )
    return [a, b, te.compute(c.shape, lambda *at: te.max(c(*at), tirx.const(0.0, "float32")))]


def padded_image(a: Any, pad: int) -> Any:
    """An image, channels first, with zeros around it."""
    from tvm import te, tirx

    batch, channels, size, _ = (int(each) for each in a.shape)
    return te.compute(
        (batch, channels, size + 2 * pad, size + 2 * pad),
        lambda n, c, y, x: tirx.if_then_else(
            tirx.all(y >= pad, y < size + pad, x >= pad, x < size + pad),
            a[n, c, y - pad, x - pad],
            tirx.const(0.0, "float32"),
        ),
        name="padded",
    )


def channels_first(kernel: int, stride: int, pad: int) -> list[Any]:
    from tvm import te

    size, channels, out = 9, 6, 11
    ends = (size + 2 * pad - kernel) // stride + 1
    a, b = placeholder(2, channels, size, size), placeholder(out, channels, kernel, kernel)
    padded = padded_image(a, pad)
    rc, ry, rx = (
        te.reduce_axis((0, end), name=name)
        for name, end in (("rc", channels), ("ry", kernel), ("rx", kernel))
    )
    c = te.compute(
        (2, out, ends, ends),
        lambda n, o, y, x: te.sum(
            padded[n, rc, y * stride + ry, x * stride + rx] * b[o, rc, ry, rx], axis=[rc, ry, rx]
        ),
    )
    return [a, b, c]


def gelu(value: Any, other: Any) -> Any:
    from tvm import tirx

    return (
        value * (tirx.const(1.0, "float32") + tirx.erf(value / tirx.const(2**0.5, "float32"))) * 0.5 + other
    )


def silu(value: Any, other: Any) -> Any:
    from tvm import tirx

    chosen = tirx.Select(other > tirx.const(0.0, "float32"), value, tirx.const(-1.0, "float32"))
    return chosen * tirx.sigmoid(value) + tirx.exp(tirx.min(value, tirx.const(2.0, "float32")))


def pooling(kind: str, stride: int, pad: int, channels: int = 12) -> list[Any]:
    from tvm import te, tirx

    size, kernel = 9, 3
    ends = (size + 2 * pad - kernel) // stride + 1
    beyond = -3.4028234663852886e38 if kind == "max" else 0.0
    a = placeholder(2, size, size, channels)
    padded = te.compute(
        (2, size + 2 * pad, size + 2 * pad, channels),
        lambda n, y, x, c: tirx.if_then_else(
            tirx.all(y >= pad, y < size + pad, x >= pad, x < size + pad),
            a[n, y - pad, x - pad, c],
            tirx.const(beyond, "float32"),
        ),
        name="padded",
    )
    ry, rx = (te.reduce_axis((0, kernel), name=name) for name in ("ry", "rx"))
    combine = te.max if kind == "max" else te.sum
    c = te.compute(
        (2, ends, ends, channels),
        lambda n, y, x, o: combine(padded[n, y * stride + ry, x * stride + rx, o], axis=[ry, rx]),
    )
    if kind == "max":
        return [a, c]
    return [a, te.compute(c.shape, lambda *at: c(*at) / tirx.const(9.0, "float32"))]


def mean(size: int, channels: int) -> list[Any]:
    from tvm import te, tirx

    a = placeholder(2, size, size, channels)
    ry, rx = (te.reduce_axis((0, size), name=name) for name in ("ry", "rx"))
    c = te.compute((2, channels), lambda n, o: te.sum(a[n, ry, rx, o], axis=[ry, rx]))
    return [a, te.compute(c.shape, lambda *at: c(*at) / tirx.const(float(size * size), "float32"))]


def softmax(rows: int, length: int) -> list[Any]:
    from tvm import te, topi

    a = te.placeholder((2, rows, length), name="x")
    return [a, topi.nn.softmax(a)]


def layer_norm(rows: int, length: int) -> list[Any]:
    """As the graph has it: two sums, one after the other."""
    from tvm import te, tirx

    a, scale, shift = te.placeholder((1, rows, length), name="x"), placeholder(length), placeholder(length)
    k, r = (te.reduce_axis((0, length), name=name) for name in ("k", "r"))
    inverse = tirx.const(1.0 / length, "float32")
    total = te.compute((1, rows), lambda n, i: te.sum(a[n, i, k], axis=k))

    def centred(n: Any, i: Any, j: Any) -> Any:
        return a[n, i, j] - total[n, i] * inverse

    squares = te.compute((1, rows), lambda n, i: te.sum(centred(n, i, r) * centred(n, i, r), axis=r))
    return [
        a,
        scale,
        shift,
        te.compute(
            a.shape,
            lambda n, i, j: (
                centred(n, i, j)
                * tirx.rsqrt(squares[n, i] * inverse + tirx.const(1e-5, "float32"))
                * scale[j]
                + shift[j]
            ),
        ),
    ]


def cut_rows() -> list[Any]:
    """A product whose last row is there once more, and left out behind."""
    from tvm import te, tirx

    a, b = placeholder(1, 29, 16), placeholder(16, 40)
    k = te.reduce_axis((0, 16), name="k")
    c = te.compute(
        (1, 30, 40), lambda n, i, j: te.sum(a[n, te.min(i, tirx.const(28, "int32")), k] * b[k, j], axis=k)
    )
    return [a, b, te.compute((1, 29, 40), lambda n, i, j: c[n, i, j] * tirx.const(2.0, "float32"))]


def first_layer(kernel: int, stride: int, pad: int) -> list[Any]:
    """A convolution that takes channels first and gives them last."""
    from tvm import te

    size, channels, out = 11, 3, 24
    ends = (size + 2 * pad - kernel) // stride + 1
    a, b = placeholder(1, channels, size, size), placeholder(kernel, kernel, channels, out)
    padded = padded_image(a, pad)
    ry, rx, rc = (te.reduce_axis((0, end), name="r") for end in (kernel, kernel, channels))
    c = te.compute(
        (1, ends, ends, out),
        lambda n, y, x, o: te.sum(
            padded[n, rc, y * stride + ry, x * stride + rx] * b[ry, rx, rc, o], axis=[ry, rx, rc]
        ),
    )
    return [a, b, c]


OPERATORS: dict[str, tuple[Callable[[], list[Any]], list[int], bool]] = {
    "product": (lambda: product(17, 50, 23), [], False),
    "product of a weight": (lambda: product(33, 50, 40), [1], False),
    "product of a weight from the left": (lambda: product(33, 50, 40), [0], False),
    "transposed": (lambda: product(19, 37, 24, True), [], False),
    "transposed weight": (lambda: product(19, 37, 24, True), [1], False),
    "one row": (lambda: product(1, 72, 96), [1], False),
    "GELU": (lambda: product(18, 48, 16, after=gelu), [1], True),
    "library": (lambda: product(18, 48, 16, after=gelu), [], False),
    "SiLU": (lambda: product(18, 48, 16, after=silu), [1], True),
    "batched": (batched, [], False),
    "1x1, channels first": (pointwise_channels_first, [1], False),
    "3x3": (lambda: convolution(3, 1, 1), [1], False),
    "3x3, stride 2": (lambda: convolution(3, 2, 1), [], False),
    "5x5, no padding": (lambda: convolution(5, 1, 0), [1], False),
    "1x1, stride 2": (lambda: convolution(1, 2, 0), [1], False),
    "3x3, channels first": (lambda: channels_first(3, 1, 1), [1], False),
    "3x3, channels first, stride 2": (lambda: channels_first(3, 2, 1), [], False),
    "depthwise": (lambda: convolution(3, 1, 1, True, 24), [1], False),
    "7x7, stride 2, channels first to last": (lambda: first_layer(7, 2, 3), [1], False),
    "5x5, stride 2": (lambda: convolution(5, 2, 2), [1], False),
    "rows that are left out": (cut_rows, [1], False),
    "maximum": (lambda: pooling("max", 2, 1), [], False),
    "average": (lambda: pooling("sum", 1, 1), [], False),
    "mean": (lambda: mean(5, 24), [], False),
    "mean of much": (lambda: mean(13, 12), [], False),
    "softmax": (lambda: softmax(5, 37), [], True),
    "softmax by the library": (lambda: softmax(3, 48), [], False),
    "layer normalisation": (lambda: layer_norm(7, 52), [1, 2], True),
    "depthwise, stride 2": (lambda: convolution(5, 2, 2, True, 12), [1], False),
}


def workload_of(tensors: list[Any], weights: list[int], fast: bool, target: str, tiles: int = 0) -> bytes:
    import tvm
    from tvm import te

    from tunemesh.stage_workers.graph import fast_math, workloads

    function = te.create_prim_func(tensors)
    if weights:
        function = function.with_attr(workloads.WEIGHTS, weights)
    if tiles:
        function = function.with_attr(workloads.WINOGRAD, tiles)
    if fast:
        function = fast_math.mark(tvm.IRModule({"main": function}), target)["main"]
    return workloads.pack(workloads.of_function(function))


def task_of(tensors: list[Any], weights: list[int], fast: bool, target: str, tiles: int = 0) -> ExtractedTask:
    from tunemesh.stage_workers.graph import compilation, workloads

    workload = workload_of(tensors, weights, fast, target, tiles)
    untuned = compilation.build_untuned(workloads.load(workload), target)
    return ExtractedTask(name="task", key="0" * 64, weight=1, workload=workload, untuned=untuned)


def drawn(space: Any, chance: random.Random, outputs: int | None = None, narrow: bool | None = None) -> Any:
    """A random valid genome, whose first knob and last one have these values; ``None`` where none is
    found."""
    for _ in range(5000):
        genome = space.genome(chance.randrange(space.size))
        first, *_, last = space.values(genome)
        if outputs in (None, first) and narrow in (None, last) and space.is_valid(genome):
            return genome
    return None


@pytest.mark.parametrize("name", OPERATORS)
def test_kernels_compute_what_the_task_says(name: str, target: str) -> None:
    from tunemesh.stage_workers.engines.template import schedules, tuning

    made, weights, fast = OPERATORS[name]
    task = task_of(made(), weights, fast, target)
    assert ENGINE.objection(TaskRef(workload=task.workload, target=target, name="", key="")) == ""
    taken, chance = tuning.taken(task.workload, target), random.Random(name)
    valid: list[Any] = []
    while len(valid) < KERNELS:
        genome = taken.space.genome(chance.randrange(taken.space.size))
        valid += [genome] if taken.space.is_valid(genome) else []
    for genome in valid:
        _, schedule = schedules.packed(taken.template.name, taken.space, genome)
        built = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
        assert built.artifact is not None, built.error
        profiled = direct.profile(task, target, built.artifact)
        assert profiled.outcome == "measured", (schedule, profiled.error)


def winograd(
    size: tuple[int, int, int, int], out: int, pads: tuple[int, int, int, int], after: Any = None
) -> list[Any]:
    """A convolution of 3x3, channels last; ``pads`` are top, left, bottom, right."""
    from tvm import te, topi

    images, high, wide, channels = size
    top, left, bottom, right = pads
    a, b = placeholder(*size), placeholder(3, 3, channels, out)
    padded = topi.nn.pad(a, (0, top, left, 0), (0, bottom, right, 0), 0.0) if any(pads) else a
    ry, rx, rc = (te.reduce_axis((0, end), name="r") for end in (3, 3, channels))
    c = te.compute(
        (images, high + top + bottom - 2, wide + left + right - 2, out),
        lambda n, y, x, o: te.sum(padded[n, y + ry, x + rx, rc] * b[ry, rx, rc, o], axis=[ry, rx, rc]),
    )
    if after is None:
        return [a, b, c]
    bias, other = placeholder(out), placeholder(*c.shape)
    return [a, b, bias, other, te.compute(c.shape, lambda *at: after(c(*at) + bias[at[-1]], other(*at)))]


def rectified(value: Any, other: Any) -> Any:
    from tvm import te, tirx

    return te.max(value + other, tirx.const(0.0, "float32"))


WINOGRAD: dict[str, Callable[[], list[Any]]] = {
    "whole tiles": lambda: winograd((1, 12, 12, 16), 32, (1, 1, 1, 1)),
    "images, odd sides, a residual": lambda: winograd((2, 13, 9, 32), 24, (1, 1, 1, 1), rectified),
    "channels that are no whole vectors": lambda: winograd((1, 11, 14, 20), 36, (1, 1, 1, 1)),
    "uneven padding": lambda: winograd((1, 9, 15, 16), 16, (2, 0, 1, 2)),
    "no padding": lambda: winograd((1, 12, 13, 16), 20, (0, 0, 0, 0)),
}


@pytest.mark.parametrize("name", WINOGRAD)
def test_winograds_algorithm_computes_the_convolution(name: str, target: str) -> None:
    from tunemesh.stage_workers.engines.template import schedules, tuning
    from tunemesh.stage_workers.graph import winograd as algorithm

    task = task_of(WINOGRAD[name](), [1], True, target, tiles=6)
    taken, chance = tuning.taken(task.workload, target), random.Random(name)
    assert taken.template.name == "winograd"
    genomes = [drawn(taken.space, chance, outputs) for outputs in algorithm.POINTS]
    tried = [genome for genome in genomes if genome is not None]
    assert tried
    for genome in tried:
        _, schedule = schedules.packed(taken.template.name, taken.space, genome)
        built = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
        assert built.artifact is not None, built.error
        profiled = direct.profile(task, target, built.artifact)
        assert profiled.outcome == "measured", (schedule, profiled.error)


@pytest.mark.parametrize(
    ("made", "tiles", "largest"),
    [
        (lambda: winograd((1, 12, 12, 16), 32, (1, 1, 1, 1)), 4, 4),  # the model bears no larger ones
        (lambda: winograd((1, 12, 12, 16), 32, (1, 1, 1, 1)), 0, 0),
        (
            lambda: winograd((1, 3, 3, 256), 256, (1, 1, 1, 1)),
            6,
            0,
        ),  # it would read its weights, and little else
        (lambda: convolution(3, 2, 1), 6, 0),
        (lambda: convolution(3, 1, 1, depthwise=True), 6, 0),
    ],
)
def test_winograds_algorithm_is_used_where_it_may_be_and_pays(
    made: Callable[[], list[Any]], tiles: int, largest: int, target: str
) -> None:
    from tunemesh.stage_workers.engines.template import tuning

    taken = tuning.taken(workload_of(made(), [1], False, target, tiles), target)
    knobs = {knob.name: knob.values for knob in taken.space.knobs}
    assert max(knobs.get("outputs", (0,))) == largest


def small(dtype: str, lanes: int, image: tuple[int, ...], out: int, after: Any, **given: Any) -> list[Any]:
    """What an instruction computes: a convolution of 3x3 if there is padding given, or a product."""
    from tvm import te

    from tunemesh.stage_workers.graph import dots

    dot = next(each for each in dots.ALL.values() if (each.data, each.lanes) == (dtype, lanes))
    a = te.placeholder(image, dtype, name="x")
    taps = (3, 3) if given else ()
    shape = (out // lanes, *taps, image[-1] // dot.group, lanes, dot.group)
    b = te.placeholder(shape, dot.weights, name="w")
    if given:
        made = dots.convolution(a, b, dilation=(1, 1), dot=dot, **given)
    else:
        made = dots.product(a, b, dot)
    return followed(a, b, made, after)


def of_planes(inputs: int, lanes: int, size: int, stride: int, padding: int) -> list[Any]:
    """A convolution of an image with channels first."""
    from tvm import te

    from tunemesh.stage_workers.graph import dot_planes, dots

    dot = next(each for each in dots.BFLOAT16 if each.lanes == lanes)
    height, width = 11, 22
    result = tuple((each + 2 * padding - size) // stride + 1 for each in (height, width))
    shift = padding % 2
    length = size + shift + (size + shift) % 2
    planes = dot_planes.Planes(
        (stride, stride), padding, padding, padding + shift, shift, length, 2 * lanes, result
    )
    a = te.placeholder((1, inputs, height, width), dot.data, name="x")
    b = te.placeholder((2, inputs, size, length // 2, lanes, 2), dot.weights, name="w")
    return followed(a, b, dot_planes.convolution(a, b, planes, dot), halved)


def followed(a: Any, b: Any, made: Any, after: Any) -> list[Any]:
    """Products of two tensors, and what is computed of them, a bias, and a tensor as large."""
    from tvm import te

    total = te.placeholder((int(made.shape[-1]),), made.dtype)
    other = placeholder(*(int(each) for each in made.shape))
    last = te.compute(made.shape, lambda *at: after(made(*at), total[at[-1]], other(*at)))
    return [a, b, total, other, last]


def requantised(value: Any, total: Any, other: Any) -> Any:
    from tvm import te, tirx

    scaled = tirx.nearbyint((value - total).astype("float32") * tirx.const(1e-3, "float32") + other)
    low, high = tirx.const(0.0, "float32"), tirx.const(255.0, "float32")
    return te.min(te.max(scaled, low), high).astype("int32").astype("uint8")


def halved(value: Any, bias: Any, other: Any) -> Any:
    """GELU, to bfloat16."""
    return gelu(value + bias, other).astype("bfloat16")


def rounded(tensors: list[Any]) -> list[Any]:
    """The same with a result in bfloat16."""
    from tvm import te

    *given, last = tensors
    return [*given, te.compute(last.shape, lambda *at: last(*at).astype("bfloat16"))]


SMALL: dict[str, Callable[[], list[Any]]] = {
    "bf16, GELU": lambda: small("bfloat16", 16, (17, 32), 48, halved),
    "bf16, residual": lambda: small(
        "bfloat16", 8, (1, 9, 7, 16), 24, lambda value, bias, other: rectified(value + bias, other),
        strides=(1, 1), padding=(1, 1, 1, 1),
    ),
    "bf16 of rows": lambda: rounded(layer_norm(7, 52)),
    "bf16 of a depthwise one": lambda: rounded(convolution(3, 1, 1, True, 24)),
    "bf16, Winograd": lambda: small(
        "bfloat16", 16, (1, 23, 20, 16), 32, halved, strides=(1, 1), padding=(1, 1, 1, 1)
    ),
    "bf16 of planes": lambda: of_planes(3, 16, 7, 2, 3),
    "bf16 of planes without padding": lambda: of_planes(1, 8, 4, 4, 0),
    "int8, from 8 bits to 8 bits": lambda: small(
        "uint8", 16, (1, 9, 9, 16), 32, requantised, strides=(2, 2), padding=(1, 1, 1, 1), pad_value=100
    ),
    "int8, exact": lambda: small(
        "uint8", 8, (2, 5, 64), 40, lambda value, total, other: value - total
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("size", "out", "pads", "after"),
    [
        ((1, 23, 20, 16), 32, (1, 1, 1, 1), halved),
        # Channels of which vectors hold not all, neither those of the image nor those of the result.
        ((2, 9, 8, 20), 24, (2, 0, 1, 2), lambda value, bias, other: rectified(value + bias, other)),
    ],
)
def test_winograds_algorithm_may_multiply_bfloat16(
    size: tuple[int, ...], out: int, pads: tuple[int, ...], after: Any, target: str
) -> None:
    from tunemesh.stage_workers.engines.template import schedules, tuning
    from tunemesh.stage_workers.graph import dots

    if not dots.BFLOAT16[0].runs_on(target):
        pytest.skip("this CPU has no avx512_bf16")
    lanes = 16 if out % 16 == 0 else 8
    made = small("bfloat16", lanes, size, out, after, strides=(1, 1), padding=pads)
    task = task_of(made, [1], True, target, tiles=2)
    taken, chance = tuning.taken(task.workload, target), random.Random(out)
    for _ in range(2):
        genome = drawn(taken.space, chance, outputs=2, narrow=True)
        assert genome is not None
        _, schedule = schedules.packed(taken.template.name, taken.space, genome)
        built = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
        assert built.artifact is not None, built.error
        profiled = direct.profile(task, target, built.artifact)
        assert profiled.outcome == "measured", (schedule, profiled.error)
    # What tiles of 4x4 take and give is too large a sum for so few digits.
    assert drawn(taken.space, chance, outputs=4, narrow=True) is None


@pytest.mark.parametrize("weights", [[1], []], ids=["weights", "none"])
@pytest.mark.parametrize("name", SMALL)
def test_instructions_for_small_numbers_compute_the_sums(name: str, weights: list[int], target: str) -> None:
    from tunemesh.stage_workers.engines.template import schedules, tuning
    from tunemesh.stage_workers.graph import dots

    if not all(each.runs_on(target) for each in dots.ALL.values()):
        pytest.skip("this CPU has no avx512_bf16 and avx512_vnni")
    task = task_of(SMALL[name](), weights, True, target, tiles=4)
    taken, chance = tuning.taken(task.workload, target), random.Random(name)
    assert (taken.template.name == "winograd") == ("Winograd" in name and bool(weights))
    genome = drawn(taken.space, chance)
    _, schedule = schedules.packed(taken.template.name, taken.space, genome)
    built = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
    assert built.artifact is not None, built.error
    profiled = direct.profile(task, target, built.artifact)
    assert profiled.outcome == "measured", (schedule, profiled.error)


def two_layers() -> Any:
    """A convolution with weights, and a product of what it gives."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(0)
    weights = {
        "w": chance.normal(0, 0.2, (24, 8, 3, 3)),
        "b": chance.normal(0, 1, 24),
        "v": chance.normal(0, 0.1, (24 * 36, 40)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("MatMul", ["f", "v"], ["z"]),
        ],
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 12, 12))],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 40))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.checker.check_model(made)
    return made.SerializeToString()


def tried(task: ExtractedTask, target: str, want: int = 6) -> list[Trial]:
    """The first candidates of a task, measured."""
    call = UpdateCall(workload=task.workload, target=target, want=want, seed=3, options={"search": "random"})
    trials = []
    for number, (name, schedule) in enumerate(ENGINE.update(call).schedules):
        built = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
        assert built.artifact is not None, built.error
        done = direct.profile(task, target, built.artifact)
        trials.append(
            Trial(
                candidate=Candidate(number, name, schedule),
                outcome=done.outcome,
                latencies=done.latencies,
                error=done.error,
            )
        )
    return trials


def test_a_model_runs_with_kernels_of_templates(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "ENGINE", ENGINE)
    model = two_layers()
    imported = direct.import_model(model, target, options={})
    tuned, files = [], []
    for task in imported.tasks:
        if ENGINE.objection(TaskRef(workload=task.workload, target=target, name=task.name, key=task.key)):
            continue
        trials = tried(task, target, 4)
        assert {trial.outcome for trial in trials} == {"measured"}
        best = min(trials, key=lambda trial: trial.latency)
        tuned.append(direct.tuned_task(task, target, best))
        files.append(TaskTrials(workload=task.workload, trials=trials))
    assert len(tuned) == 2
    assembled = direct.assemble(imported.model, target, tuned)
    direct.assert_computes_the_same(model, assembled.tuned)
    # The programs of the best can be read, and compiled by anybody.
    sources = ENGINE.export(ExportCall(target=target, tasks=files)).files
    assert sorted(sources) == ["00-convolution.c", "01-product.c"]
    assert b"__tvm_ffi_main" in sources["01-product.c"]


def test_a_template_with_a_mistake_never_wins(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunemesh.stage_workers.engines.template import loops

    right = loops.source

    def wrong(kernel: Any, symbol: str) -> str:
        text = right(kernel, symbol)
        assert "a0_0 += x" in text
        return text.replace("a0_0 += x", "a0_0 -= x")

    monkeypatch.setattr(loops, "source", wrong)
    task = task_of(product(20, 48, 32), [1], False, target)
    assert {trial.outcome for trial in tried(task, target, 3)} == {"wrong-result"}


def test_what_earlier_jobs_have_tried_is_not_proposed_again(target: str) -> None:
    task = task_of(product(20, 48, 32), [1], False, target)
    call = UpdateCall(workload=task.workload, target=target, want=6, seed=3)
    first = dict(ENGINE.update(call).schedules)
    again = ENGINE.update(msgspec.structs.replace(call, seen=list(first))).schedules
    assert len(again) == 6
    assert not first.keys() & dict(again).keys()


def test_a_program_that_cannot_be_compiled_is_the_candidates_outcome(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunemesh.stage_workers.engines.template import loops

    monkeypatch.setattr(loops, "source", lambda *_: "int broken(")
    task = task_of(product(20, 48, 32), [], False, target)
    call = UpdateCall(workload=task.workload, target=target, want=1, seed=3)
    ((_, schedule),) = ENGINE.update(call).schedules
    built = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
    assert built.outcome == "build-failed"
    assert "error" in built.error


def test_without_a_compiler_it_says_so_in_one_line(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(product(20, 48, 32), [], False, target)
    monkeypatch.setenv("PATH", "/nonexistent")
    why = ENGINE.objection(TaskRef(workload=task.workload, target=target, name="", key=""))
    assert why == "there is no compiler of C on this machine: install gcc or clang"


def test_what_earlier_jobs_have_measured_is_known(target: str) -> None:
    task = task_of(product(20, 48, 32), [1], False, target)
    call = UpdateCall(workload=task.workload, target=target, want=4, seed=3)
    earlier = ENGINE.update(call).schedules
    trials = [
        Trial(candidate=Candidate(number, *each), outcome="measured", latencies=[1e-3 * (4 - number)])
        for number, each in enumerate(earlier)
    ]
    examples = [Examples(workload=task.workload, target=target, trials=trials, format=ENGINE.format)]
    seen = [name for name, _ in earlier]
    again = msgspec.structs.replace(call, here=examples, seen=[*seen, "of-another-engine"])
    assert not {name for name, _ in ENGINE.update(again).schedules} & set(seen)
    # A similar task begins with what was best, and with nothing of another format.
    other = task_of(product(20, 48, 64), [1], False, target)
    call = UpdateCall(workload=other.workload, target=target, want=4, seed=3, similar=examples)
    assert [name for name, _ in ENGINE.update(call).schedules][:2] == [seen[3], seen[2]]
    old = [msgspec.structs.replace(examples[0], format=7)]
    call = msgspec.structs.replace(call, similar=old)
    assert not {name for name, _ in ENGINE.update(call).schedules} & set(seen)


def test_what_no_template_knows_is_left_to_others(target: str) -> None:
    from tvm import te

    a = placeholder(16, 64)
    task = task_of([a, te.compute((64, 16), lambda i, j: a[j, i])], [], False, target)
    why = ENGINE.objection(TaskRef(workload=task.workload, target=target, name="", key=""))
    assert why.startswith("no template fits: ")


def several() -> list[Any]:
    return winograd((2, 13, 9, 16), 24, (1, 1, 1, 1))


@pytest.mark.parametrize("name", ["3x3", "batched", "depthwise", "softmax", "Winograd"])
def test_threads_share_a_kernel_where_there_are_several_cores(
    name: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunemesh.stage_workers.engines.template import schedules, tuning

    monkeypatch.setenv("TVM_NUM_THREADS", "3")  # whatever this machine has
    cores = target.replace('"num-cores": 1', '"num-cores": 3')
    made, weights, fast = OPERATORS.get(name, (several, [1], False))
    task = task_of(made(), weights, fast, cores, tiles=4 if name == "Winograd" else 0)
    taken, chance = tuning.taken(task.workload, cores), random.Random(name)
    _, schedule = schedules.packed(taken.template.name, taken.space, drawn(taken.space, chance))
    built = ENGINE.build(BuildCall(workload=task.workload, target=cores, schedule=schedule))
    assert built.artifact is not None, built.error
    assert b"TVMBackendParallelLaunch" in built.artifact
    profiled = direct.profile(task, cores, built.artifact)
    assert profiled.outcome == "measured", (schedule, profiled.error)
    taken = tuning.taken(task.workload, target)
    _, schedule = schedules.packed(taken.template.name, taken.space, drawn(taken.space, chance))
    alone = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
    assert alone.artifact is not None
    assert b"TVMBackendParallelLaunch" not in alone.artifact


@pytest.mark.parametrize(("cpu", "lanes"), [("haswell", 8), ("x86-64", 4)])
def test_the_same_programs_are_compiled_for_older_cpus(target: str, cpu: str, lanes: int) -> None:
    from tunemesh.stage_workers.engines.template import tuning

    older = direct.resolve_target(f'{{"kind": "llvm", "mcpu": "{cpu}"}}')
    task = task_of(product(20, 48, 32), [1], False, older)
    widest = tuning.taken(task.workload, older).space.knobs[0].values[-1]
    assert widest == lanes
    assert {trial.outcome for trial in tried(task, older, 2)} == {"measured"}
