"""Layer normalisation is one function, however it was written, and right where the mean is large."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.acceptance.direct import assemble, import_model, run
from tests.acceptance.test_layouts import Network
from tests.onnx_models import expected, floats
from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source, Variant
from tunemesh.stage_workers.graph import compilation, composites, optimisation, padding
from tunemesh.stage_workers.graph.changes import NONE, Changes
from tunemesh.stage_workers.measuring import loading

SIZE = 24
SCALE, SHIFT = 1 + floats(SIZE) / 4, floats(SIZE, seed=1)


def written_out(net: Network, x: str, axis: int, square: str, end: str) -> str:
    """As exporters write it before opset 17. Constants lie along ``axis`` of three."""
    along = [SIZE if each == axis else 1 for each in range(3)]
    mean = net.op("ReduceMean", x, np.array([axis]), keepdims=1)
    centred = net.op("Sub", x, mean)
    squares = (
        net.op("Pow", net.op("Sub", x, mean), np.float32(2))
        if square == "power"
        else net.op("Mul", centred, centred)
    )
    variance = net.op("ReduceMean", squares, np.array([axis]), keepdims=1)
    deviation = net.op("Sqrt", net.op("Add", variance, np.float32(1e-5)))
    made = (
        net.op("Div", centred, deviation)
        if end == "divide"
        else net.op("Mul", net.op("Reciprocal", deviation), centred)
    )
    return net.op("Add", net.op("Mul", SCALE.reshape(along), made), SHIFT.reshape(along))


def normalised(how: str) -> Any:
    net = Network(1, 7, SIZE)
    if how == "one operator":
        return net.made(net.op("LayerNormalization", "x", SCALE, SHIFT))
    square, end = how.split(" ")
    return net.made(written_out(net, "x", 2, square, end))


@pytest.mark.parametrize(
    "how", ["one operator", "power divide", "product divide", "power inverse", "product inverse"]
)
def test_layer_normalisation_is_one_function(target: str, how: str) -> None:
    import tvm

    made = normalised(how)
    module, _ = frontends.read(Source(made.SerializeToString(), {}), Variant(shapes={}))
    assert composites.gains(module)
    changed = optimisation.optimise(module, target, Changes(composed=True)).module
    assert {str(name.name_hint) for name in changed.functions} == {"layer_norm", "main"}
    image = floats(1, 7, SIZE) + 300
    (got,) = loading.flatten(compilation.main_of(changed, target)(tvm.runtime.tensor(image)))
    values = image.astype(np.float64)
    centred = values - values.mean(-1, keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * SCALE + SHIFT
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-3)


def test_channels_are_normalised_as_they_lie(target: str) -> None:
    """Over the channels of a convolution, which are last then."""
    import tvm

    net = Network(1, 3, 9)
    convolved = net.op("Conv", "x", floats(SIZE, 3, 1))
    made = net.made(written_out(net, convolved, 1, "power", "divide"))
    module, _ = frontends.read(Source(made.SerializeToString(), {}), Variant(shapes={}))
    changed = optimisation.optimise(module, target, Changes(composed=True, channels_last=True)).module
    names = [str(name.name_hint) for name in changed.functions]
    assert sum("layer_norm" in name for name in names) == 1
    assert sum("mean" in name for name in names) == 0
    image = floats(1, 3, 9)
    (got,) = loading.flatten(compilation.main_of(changed, target)(tvm.runtime.tensor(image)))
    (wanted,) = expected(made, {"x": image})
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("broken", ["another mean", "no mean kept", "another axis"])
def test_what_only_looks_like_it_stays(target: str, broken: str) -> None:
    net = Network(1, 7, 7)
    other = net.op("Mul", "x", np.float32(2))
    mean = net.op("ReduceMean", other if broken == "another mean" else "x", np.array([2]), keepdims=1)
    centred = net.op("Sub", "x", mean)
    axis = 1 if broken == "another axis" else 2
    keep = int(broken != "no mean kept")
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), np.array([axis]), keepdims=keep)
    made = net.made(net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, np.float32(1e-5)))))
    module, _ = frontends.read(Source(made.SerializeToString(), {}), Variant(shapes={}))
    assert not composites.gains(module)
    assert optimisation.optimise(module, target, NONE)


def test_what_only_gives_another_shape_is_a_view_and_no_task(target: str) -> None:
    net = Network(1, 32, 64)
    product = net.op("Relu", net.op("MatMul", "x", floats(64, 64)))
    heads = net.op("Transpose", net.op("Reshape", product, np.array([1, 32, 2, 32])), perm=[0, 2, 3, 1])
    made = net.made(net.op("MatMul", "x", net.op("Reshape", heads, np.array([1, 64, 32]))))
    imported = import_model(made.SerializeToString(), target, {})
    assert [task.name for task in imported.tasks] == ["fused_matmul_relu", "matmul1"]
    library = assemble(imported.model, target).tuned
    image = floats(1, 32, 64)
    np.testing.assert_allclose(run(library, image), expected(made, {"x": image})[0], rtol=1e-4, atol=1e-4)
    assert b"vm.builtin.reshape" in library


@pytest.mark.parametrize("last", [[4, 12], [2, 3, 8]], ids=str)
def test_reshapes_of_reshapes_and_equal_ones_are_one(target: str, last: list[int]) -> None:
    net = Network(2, 24)
    flat = net.op("Reshape", "x", np.array([48]))
    cut = net.op("Reshape", net.op("Reshape", flat, np.array([6, 8])), np.array(last))
    again = net.op("Reshape", "x", np.array([48]))
    made = net.made(net.op("Mul", net.op("Relu", cut), net.op("Reshape", again, np.array(last))))
    imported = import_model(made.SerializeToString(), target, {})
    (task,) = imported.tasks
    assert task.name == "fused_reshape_relu_multiply"
    image = floats(2, 24)
    got = run(assemble(imported.model, target).tuned, image)
    np.testing.assert_array_equal(got, expected(made, {"x": image})[0])


@pytest.mark.parametrize("value", [0, 1])
def test_zeros_around_an_image_are_part_of_its_convolution(target: str, value: float) -> None:
    import tvm

    net = Network(1, 16, 9, 9)
    around = np.array([0, 0, 0, 1, 0, 0, 2, 3])
    padded = net.op("Pad", "x", around, np.float32(value))
    made = net.made(net.op("Conv", padded, floats(16, 16, 3, 3), strides=[2, 2], pads=[1, 0, 0, 0]))
    module, _ = frontends.read(Source(made.SerializeToString(), {}), Variant(shapes={}))
    assert padding.gains(module) == (value == 0)
    changed = optimisation.optimise(module, target, Changes(composed=True)).module
    assert any("pad" in str(name.name_hint) for name in changed.functions) == (value != 0)
    image = floats(1, 16, 9, 9)
    (got,) = loading.flatten(compilation.main_of(changed, target)(tvm.runtime.tensor(image)))
    np.testing.assert_allclose(got, expected(made, {"x": image})[0], rtol=1e-4, atol=1e-4)
