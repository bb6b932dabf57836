"""Transpositions block by block: every element arrives, whatever is left of the last block. Real TVM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.acceptance.direct import import_model
from tests.acceptance.test_layouts import Network
from tests.onnx_models import floats
from tunemesh.stage_workers.graph import compilation, layouts, models, optimisation, turning
from tunemesh.stage_workers.graph.changes import NONE, Changes
from tunemesh.stage_workers.measuring import loading


def permuted(shape: tuple[int, ...], axes: list[int]) -> Any:
    from tvm import relax

    x = relax.Var("x", relax.TensorType(shape, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            turned = builder.emit(relax.op.permute_dims(x, axes))
            result = builder.emit_output(relax.op.nn.relu(turned))
        builder.emit_func_output(result)
    return builder.get()


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((32, 48), [1, 0]),
        ((17, 37), [1, 0]),
        ((2, 33, 3, 20), [0, 2, 3, 1]),
        ((3, 16, 19), [2, 0, 1]),
        ((1, 20, 5, 16), [0, 3, 2, 1]),
        # Axes that stay next to each other are moved as one: here 7x7 and 5x5 of them.
        ((1, 32, 7, 7), [0, 2, 3, 1]),
        ((2, 5, 5, 19), [0, 3, 1, 2]),
    ],
)
def test_every_element_arrives(target: str, shape: tuple[int, ...], axes: list[int]) -> None:
    import tvm

    module = permuted(shape, axes)
    assert turning.gains(module)
    blocked = optimisation.optimise(module, target, Changes(blocked=True)).module
    assert layouts.transpositions(blocked) == 1
    image = floats(*shape)
    (got,) = loading.flatten(compilation.main_of(blocked, target)(tvm.runtime.tensor(image)))
    assert np.array_equal(got, np.maximum(image.transpose(axes), 0))


def test_small_and_contiguous_ones_are_left_to_tuning(target: str) -> None:
    for shape, axes in (((3, 64), [1, 0]), ((8, 32, 64), [1, 0, 2]), ((32, 3, 5), [1, 2, 0])):
        module = permuted(shape, axes)
        assert not turning.gains(module)
        blocked = optimisation.optimise(module, target, Changes(blocked=True)).module
        given = optimisation.optimise(module, target, NONE).module
        assert set(map(str, blocked.functions)) == set(map(str, given.functions))


def test_a_model_with_one_is_imported_with_blocks(target: str) -> None:
    net = Network(1, 32, 16)
    made = net.made(net.op("MatMul", "x", net.op("Transpose", "x", perm=[0, 2, 1])))
    imported = import_model(made.SerializeToString(), target, {})
    assert models.unpack(imported.model).changes == [Changes(blocked=True, fast_math=True)]
    assert [task.name for task in imported.tasks] == ["matmul"]
