"""Kernels of templates over odd shapes: any size, kernel, stride and padding, any knobs, beside NumPy."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from tests.acceptance import direct

LOWEST = -3.4028234663852886e38
NUMBERS = itertools.count()
Array = np.ndarray[Any, np.dtype[np.float32]]
Case = tuple[list[Any], list[int], Callable[..., Array]]
"""Tensors of a task, which of them are weights, and what the definition gives."""


@pytest.fixture(scope="module")
def target() -> str:
    direct.PLATFORM.preload()
    return direct.resolve_target("native")


def product(draw: random.Random) -> Case:
    from tvm import te

    rows, columns, depth = draw.randint(1, 40), draw.randint(1, 70), draw.randint(1, 40)
    a, b = te.placeholder((rows, depth)), te.placeholder((depth, columns))
    k = te.reduce_axis((0, depth))
    c = te.compute((rows, columns), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k))
    return [a, b, c], draw.choice([[], [0], [1]]), lambda x, y: x @ y


def _windows(draw: random.Random, beyond: float) -> tuple[Any, Any, int, Callable[[Array], Array]]:
    """An image, what is padded of it, and its windows."""
    from tvm import te, tirx

    kernel, stride = draw.randint(1, 4), draw.randint(1, 3)
    pad, channels = draw.randint(0, kernel - 1), draw.choice([1, 3, 4, 8, 12, 16, 20])
    height, width = draw.randint(kernel, 13), draw.randint(kernel, 13)
    a = te.placeholder((2, height, width, channels))
    whole = te.compute(
        (2, height + 2 * pad, width + 2 * pad, channels),
        lambda n, y, x, c: tirx.if_then_else(
            tirx.all(y >= pad, y < height + pad, x >= pad, x < width + pad),
            a[n, y - pad, x - pad, c],
            tirx.const(beyond, "float32"),
        ),
    )

    def windows(image: Array) -> Array:
        around = np.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=beyond)
        return sliding_window_view(around, (kernel, kernel), (1, 2))[:, ::stride, ::stride]

    return a, whole, stride, windows


def convolution(draw: random.Random) -> Case:
    from tvm import te

    a, whole, stride, windows = _windows(draw, 0.0)
    shape = windows(np.zeros([int(extent) for extent in a.shape], np.float32)).shape
    (n, height, width, channels, kernel, _), out = shape, draw.randint(1, 40)
    b = te.placeholder((kernel, kernel, channels, out))
    ry, rx, rc = (te.reduce_axis((0, extent)) for extent in (kernel, kernel, channels))
    c = te.compute(
        (n, height, width, out),
        lambda i, y, x, o: te.sum(
            whole[i, y * stride + ry, x * stride + rx, rc] * b[ry, rx, rc, o], axis=[ry, rx, rc]
        ),
    )
    return [a, b, c], [1], lambda image, weights: np.einsum("nyxcij,ijco->nyxo", windows(image), weights)


def depthwise(draw: random.Random) -> Case:
    from tvm import te

    a, whole, stride, windows = _windows(draw, 0.0)
    n, height, width, channels, kernel, _ = windows(np.zeros([int(e) for e in a.shape], np.float32)).shape
    b = te.placeholder((kernel, kernel, channels))
    ry, rx = (te.reduce_axis((0, kernel)) for _ in range(2))
    c = te.compute(
        (n, height, width, channels),
        lambda i, y, x, o: te.sum(
            whole[i, y * stride + ry, x * stride + rx, o] * b[ry, rx, o], axis=[ry, rx]
        ),
    )
    return [a, b, c], [1], lambda image, weights: np.einsum("nyxcij,ijc->nyxc", windows(image), weights)


def pooling(draw: random.Random) -> Case:
    from tvm import te

    a, whole, stride, windows = _windows(draw, LOWEST)
    n, height, width, channels, kernel, _ = windows(np.zeros([int(e) for e in a.shape], np.float32)).shape
    ry, rx = (te.reduce_axis((0, kernel)) for _ in range(2))
    c = te.compute(
        (n, height, width, channels),
        lambda i, y, x, o: te.max(whole[i, y * stride + ry, x * stride + rx, o], axis=[ry, rx]),
    )
    return [a, c], [], lambda image: windows(image).max((4, 5))


def softmax(draw: random.Random) -> Case:
    from tvm import te, topi

    a = te.placeholder((draw.randint(1, 3), draw.randint(1, 9), draw.randint(2, 70)))

    def reference(x: Array) -> Array:
        powers = np.exp(x - x.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True))

    return [a, topi.nn.softmax(a)], [], reference


KINDS = {each.__name__: each for each in (product, convolution, depthwise, pooling, softmax)}


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(draw=st.randoms(use_true_random=False))
def test_kernels_give_what_the_definition_gives(
    kind: str, draw: random.Random, target: str, tmp_path: Path
) -> None:
    import tvm
    from tvm import te

    from tunemesh.stage_workers.engines.template import compiling, tuning
    from tunemesh.stage_workers.engines.template.stages import Unknown
    from tunemesh.stage_workers.graph import linking, workloads

    tensors, weights, reference = KINDS[kind](draw)
    function = te.create_prim_func(tensors)
    function = function.with_attr(workloads.WEIGHTS, weights) if weights else function
    try:
        taken = tuning.taken(workloads.pack(workloads.of_function(function)), target)
    except Unknown:
        return  # too small, or of one channel
    for _ in range(500):
        genome = taken.space.genome(draw.randrange(taken.space.size))
        if taken.space.is_valid(genome):
            break
    else:
        genome = next(taken.space.all())
    values = taken.space.values(genome)
    code = compiling.compiled(taken.template.source(taken.operator, values, "main"), taken.machine)
    library = tmp_path / f"kernel{next(NUMBERS)}.so"  # one that is loaded must not be written again
    library.write_bytes(linking.link_objects([code]))
    module = tvm.runtime.load_module(str(library))
    chance = np.random.default_rng(0)
    shapes = [tuple(int(extent) for extent in tensor.shape) for tensor in tensors]
    inputs = [chance.normal(0, 1, shape).astype(np.float32) for shape in shapes[:-1]]
    arguments = [tvm.runtime.tensor(each) for each in inputs]
    for weight in taken.template.packs(taken.operator, values):
        name, elements = f"prepack_{weight}", inputs[weight].size
        if module.implements_function(f"{name}_elements"):
            elements = module[f"{name}_elements"]()
        packed = tvm.runtime.tensor(np.full(elements, np.nan, np.float32))
        module[name](arguments[weight], packed)
        arguments[weight] = packed
    out = tvm.runtime.tensor(np.full(shapes[-1], np.nan, np.float32))
    module["main"](*arguments, out)
    np.testing.assert_allclose(out.numpy(), reference(*inputs), rtol=2e-4, atol=2e-4)
