"""Products with a number of rows that cannot be cut into blocks compute a few more, which nobody sees. Real
TVM, no broker."""

from __future__ import annotations

import numpy as np
import pytest

from tests.acceptance.direct import assemble, import_model, measure, run, tuned_task, update
from tests.acceptance.test_layouts import Network
from tests.onnx_models import expected, floats
from tunemesh.stage_workers.graph import models, products


@pytest.mark.parametrize(
    ("rows", "computed"),
    [(197, 198), (257, 260), (577, 585), (50, 50), (128, 128), (7, 7), (1, 1), (17, 17), (37, 37), (79, 80)],
)
def test_few_rows_are_added_to_what_has_no_blocks(rows: int, computed: int) -> None:
    assert products.rounded(rows) == computed


@pytest.mark.parametrize("shape", [(53, 48), (2, 53, 48)], ids=str)
def test_a_tuned_product_with_more_rows_gives_those_of_the_model(target: str, shape: tuple[int, ...]) -> None:
    net = Network(*shape)
    product = net.op("Relu", net.op("Add", net.op("MatMul", "x", floats(48, 32, seed=1)), floats(32, seed=2)))
    made = net.made(product)
    imported = import_model(made.SerializeToString(), target, {})
    assert models.unpack(imported.model).changes[0].rounded
    (task,) = imported.tasks
    trials = measure(task, target, update(task.workload, target, None, [], 4).schedules)
    assert {trial.outcome for trial in trials} == {"measured"}
    tuned = assemble(imported.model, target, [tuned_task(task, target, min(trials, key=lambda t: t.latency))])
    image = floats(*shape)
    wanted = expected(made, {"x": image})[0]
    np.testing.assert_allclose(run(tuned.tuned, image), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(tuned.untuned, image), wanted, rtol=1e-4, atol=1e-5)


def test_products_of_two_inputs_in_batches_have_as_many_more(target: str) -> None:
    net = Network(2, 53, 16)
    made = net.made(net.op("MatMul", "x", net.op("Transpose", net.op("Relu", "x"), perm=[0, 2, 1])))
    imported = import_model(made.SerializeToString(), target, {})
    assert models.unpack(imported.model).changes[0].rounded
    image = floats(2, 53, 16)
    wanted = expected(made, {"x": image})[0]
    np.testing.assert_allclose(
        run(assemble(imported.model, target).tuned, image), wanted, rtol=1e-4, atol=1e-5
    )


def test_it_can_be_left_out(target: str) -> None:
    net = Network(53, 48)
    made = net.made(net.op("MatMul", "x", floats(48, 32)))
    imported = import_model(made.SerializeToString(), target, {"products": "given"})
    assert not models.unpack(imported.model).changes[0].rounded
