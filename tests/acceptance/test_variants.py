"""One module for several sets of shapes, with the weights in it once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.direct import (
    AS_GIVEN,
    PLATFORM,
    QUICK,
    assemble,
    import_model,
    measure,
    tuned_task,
    update,
)
from tests.acceptance.test_tvm_platform import symbolic_relax
from tunemesh.exporting import runtime_folder
from tunemesh.exports.tuned_model import TunedModel
from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends.shapes import Variant
from tunemesh.stage_workers.platforms.protocol import Assembled, Imported, ValidateCall

SIZE = 256
RANDOM = np.random.default_rng(0)
WEIGHTS = [RANDOM.normal(size=(SIZE, SIZE)).astype(np.float32) for _ in range(2)]
QUERY = RANDOM.normal(size=(3, SIZE)).astype(np.float32)
BATCHES = (1, 4, 6)


def model() -> bytes:
    """Two products, one of them of any number of rows, the other always of three."""
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
        helper.make_node("MatMul", ["q", "w1"], ["b"]),
        helper.make_node("Tanh", ["b"], ["z"]),
    ]
    tensor = helper.make_tensor_value_info
    inputs = [tensor("x", TensorProto.FLOAT, ["batch", SIZE]), tensor("q", TensorProto.FLOAT, [3, SIZE])]
    outputs = [tensor("y", TensorProto.FLOAT, ["batch", SIZE]), tensor("z", TensorProto.FLOAT, [3, SIZE])]
    weights = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(WEIGHTS)]
    graph = helper.make_graph(nodes, "two", inputs, outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def expected(x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [np.maximum(x @ WEIGHTS[0], 0), np.tanh(QUERY @ WEIGHTS[1])]


@pytest.fixture(scope="module")
def imported(target: str) -> Imported:
    return import_model(model(), target, variants=[Variant(dims={"batch": batch}) for batch in BATCHES])


@pytest.fixture(scope="module")
def assembled(imported: Imported, target: str) -> Assembled:
    shared = next(task for task in imported.tasks if task.weight == len(BATCHES))
    proposal = update(shared.workload, target, None, [], 2)
    best = min(measure(shared, target, proposal.schedules), key=lambda trial: trial.latency)
    return assemble(imported.model, target, [tuned_task(shared, target, best)])


def test_a_task_that_the_variants_have_in_common_is_one_with_their_weights_added(imported: Imported) -> None:
    assert sorted(task.weight for task in imported.tasks) == [1, 1, 1, 3]
    assert len({task.key for task in imported.tasks}) == 4


def test_weights_are_stored_once(imported: Imported, assembled: Assembled) -> None:
    weights = sum(weight.nbytes for weight in WEIGHTS)
    assert imported.constants == weights
    assert len(imported.model) < 1.6 * weights  # in base 64
    assert len(assembled.tuned) < 1.6 * weights
    assert len(assembled.untuned) < 1.6 * weights


def test_a_program_takes_the_variant_for_the_shapes_of_its_inputs(
    assembled: Assembled, tmp_path: Path
) -> None:
    (tmp_path / "model.so").write_bytes(assembled.tuned)
    (tmp_path / "signature.json").write_bytes(assembled.signature)
    program = TunedModel(tmp_path, runtime_folder())
    for batch in reversed(BATCHES):
        x = RANDOM.normal(size=(batch, SIZE)).astype(np.float32)
        for got, wanted in zip(program.run({"x": x, "q": QUERY}), expected(x), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-3)
    other = np.zeros((5, SIZE), np.float32)
    with pytest.raises(ValueError, match=r"the shapes x=5,256 q=3,256; it has: .*x=4,256 q=3,256; x=6"):
        program.run({"x": other, "q": QUERY})
    with pytest.raises(ValueError, match="input 'q' is missing"):
        program.run({"x": np.zeros((4, SIZE), np.float32)})


def test_every_variant_is_compared_and_measured(
    imported: Imported, assembled: Assembled, target: str
) -> None:
    call = ValidateCall(
        tuned=assembled.tuned, untuned=assembled.untuned, signature=assembled.signature, target=target,
        device="cpu", settings=QUICK, sample=imported.sample,
    )  # fmt: skip
    for variant in range(len(BATCHES)):
        validated = PLATFORM.validate(msgspec.structs.replace(call, variant=variant))
        assert validated.wrong == ""
        assert validated.judged.judge.startswith("ONNX Runtime")
        assert min(validated.before + validated.after) > 0


def test_shapes_that_come_out_the_same_are_refused(target: str) -> None:
    with pytest.raises(BadModel, match="sets of shapes 0 and 1 are the same"):
        import_model(model(), target, variants=[Variant(dims={"batch": 4})] * 2)


def test_a_relax_module_has_variants_by_the_names_of_its_dimensions(target: str) -> None:
    variants = [Variant(dims={"n": 2}), Variant(dims={"n": 5})]
    found = import_model(symbolic_relax(), target, AS_GIVEN, variants=variants)
    signatures = msgspec.json.decode(assemble(found.model, target).signature)["variants"]
    assert [(each["function"], each["outputs"][0]["shape"]) for each in signatures] == [
        ("main_0", [2, 16]),
        ("main_1", [5, 16]),
    ]
