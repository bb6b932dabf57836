"""A model is compared with the framework that it comes from when it is imported."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.direct import AS_GIVEN, PLATFORM, matrix_product
from tests.acceptance.test_ranges import IDS, INT, ROWS, model, number, table
from tunemesh.shared.errors import BadInput, BadModel
from tunemesh.stage_workers.frontends import Source
from tunemesh.stage_workers.graph import checking, optimisation
from tunemesh.stage_workers.measuring import judges
from tunemesh.stage_workers.platforms.protocol import ImportCall, Imported, Platform
from tunemesh.stage_workers.sandbox.sandbox import Sandbox

FLOAT = TensorProto.FLOAT
node = helper.make_node
WEIGHTS = table("W", 64, 64)


def large(element: int, rows: int = 1024, old: bool = False) -> bytes:
    """A product with 2 MB of weights, or 1 MB of halves."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    values = np.random.default_rng(0).integers(-8, 9, (rows, 512)) / 8
    weight = numpy_helper.from_array(values.astype(dtype), "W")
    inputs = {"x": (element, [4, rows])} | ({"W": (element, [rows, 512])} if old else {})
    made = onnx.load_model_from_string(
        model(
            [node("MatMul", ["x", "W"], ["a"]), node("Relu", ["a"], ["y"])],
            inputs,
            (element, [4, 512]),
            [weight],
        )
    )
    made.ir_version = 3 if old else 8
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    "data", [large(FLOAT), large(FLOAT, old=True), large(TensorProto.FLOAT16, rows=2048)],
    ids=["now", "as the oldest models have them", "halves"],
)  # fmt: skip
def test_large_weights_are_part_of_what_the_judge_computes(data: bytes) -> None:
    parsed = onnx.load_model_from_string(data)
    weights = numpy_helper.to_array(parsed.graph.initializer[0]).astype(np.float32)
    x = np.full((4, len(weights)), 0.125, numpy_helper.to_array(parsed.graph.initializer[0]).dtype)
    judge = judges.judge(Source(data))
    assert judge.name.startswith("ONNX Runtime")
    (found,) = judge.run({"x": x})
    np.testing.assert_allclose(found, np.maximum(x.astype(np.float32) @ weights, 0), rtol=1e-2, atol=1e-2)
    up, down = judge.moved({"x": x}, 1)
    assert not np.array_equal(up[0], down[0])


def test_to_import_a_model_takes_a_few_times_the_memory_of_its_weights(target: str) -> None:
    """TVM itself takes 0.3 GB. With a copy more for each of the judge's sessions it would be too much."""
    weight = np.random.default_rng(0).standard_normal((4096, 4096), np.float32)
    data = model(
        [node("MatMul", ["x", "W"], ["y"])],
        {"x": (FLOAT, [1, 4096])}, (FLOAT, [1, 4096]), [numpy_helper.from_array(weight, "W")],
    )  # fmt: skip
    with Sandbox(platforms=("tvm",), memory=int(0.35 * 2**30 + 4.5 * weight.nbytes)) as sandbox:
        call = ImportCall(model=data, target=target, options=AS_GIVEN)
        answer = sandbox.call("tvm", Platform.import_model, call, 60.0)
    assert isinstance(answer, Imported), answer
    assert answer.judged[0].judge.startswith("ONNX Runtime")


def imported(data: bytes, target: str, **call: Any) -> Imported:
    return PLATFORM.import_model(ImportCall(model=data, target=target, options=AS_GIVEN, **call))


def chain(*operators: Any, output: int = FLOAT, weights: Sequence[Any] = (), rows: int = 8) -> bytes:
    """A product with ``W``, and what follows, from ``a`` to ``y``."""
    product = node("MatMul", ["x", "W"], ["a"])
    return model([product, *operators], {"x": (FLOAT, [rows, 64])}, (output, [rows, 64]), [WEIGHTS, *weights])


TWO_SCALES = model(
    [node("MatMul", ["x", "W"], ["a"]), node("Mul", ["a", "big"], ["b"]),
     node("Concat", ["b", "a"], ["y"], axis=1)],
    {"x": (FLOAT, [8, 64])}, (FLOAT, [8, 128]), [WEIGHTS, number("big", 1e6, np.float32)],
)  # fmt: skip
FLOORED = chain(
    node("Mul", ["a", "k"], ["b"]), node("Floor", ["b"], ["f"]),
    node("Cast", ["f"], ["y"], to=TensorProto.INT32),
    output=TensorProto.INT32, weights=[number("k", 1000.0, np.float32)], rows=256,
)  # fmt: skip
SINE = chain(
    node("Mul", ["a", "k"], ["b"]), node("Sin", ["b"], ["y"]), weights=[number("k", 1e4, np.float32)]
)
EMBEDDING = model(
    [node("Gather", ["t", "ids"], ["e"]), node("Gather", ["u", "kind"], ["k"]),
     node("Add", ["e", "k"], ["y"])],
    {**IDS, "kind": (INT, [1, 9])}, ROWS, [table("t", 1000, 4), table("u", 2, 4)],
)  # fmt: skip
DIVISION = model(
    [node("Div", ["a", "b"], ["q"]), node("Cast", ["q"], ["y"], to=FLOAT)],
    {"a": (INT, [8, 16]), "b": (INT, [8, 16])}, (FLOAT, [8, 16]),
)  # fmt: skip


def wrongly(module: Any, operator: str, by: Any) -> Any:
    """``module`` with one operator in place of another, as an importer might get it wrong."""
    from tvm import relax

    @relax.expr_functor.mutator
    class Wrong(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            return by(*call.args) if getattr(call.op, "name", "") == operator else call

    changed = module.clone()
    changed["main"] = Wrong(module).visit_expr(module["main"])
    return changed


@pytest.mark.parametrize(
    ("data", "operator", "output"),
    [(TWO_SCALES, "relax.multiply", "y"), (SINE, "relax.sin", "y"), (EMBEDDING, "relax.add", "y")],
)
def test_a_model_that_is_imported_wrong_is_refused_with_the_element(
    data: bytes, operator: str, output: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvm import relax

    instead = {"relax.multiply": relax.op.add, "relax.sin": relax.op.cos, "relax.add": relax.op.subtract}
    simplified = optimisation.simplified
    monkeypatch.setattr(
        optimisation,
        "simplified",
        lambda module, *rest: simplified(wrongly(module, operator, instead[operator]), *rest),
    )
    said = (
        rf"TVM does not compute what the model says: output {output}\[\d+(,\d+)*\] is \S+,"
        r" ONNX Runtime \S+ gives \S+ \(may differ by \S+; [\d,]+ of [\d,]+ elements are wrong\)$"
    )
    with pytest.raises(BadModel, match=said):
        imported(data, target)


def test_the_person_says_what_inputs_mean(target: str) -> None:
    found = imported(EMBEDDING, target, ranges={"ids": (990, 1000)})
    ids, kind = checking.unpack(found.sample)[0].arrays()
    assert (ids.min() >= 990, kind.max() < 2) == (True, True)
    assert "ids in [990, 1000)" in found.judged[0].inputs
    with pytest.raises(BadInput, match="--range idz: the model has no such input"):
        imported(EMBEDDING, target, ranges={"idz": (0, 1)})


def masked(switch: int, shape: list[int], *operators: Any) -> bytes:
    """Attention's way to leave positions out: what is not 1 in the mask gets minus a billion billions."""
    return model(
        [*operators, node("Sub", ["one", "f"], ["off"]), node("Mul", ["off", "far"], ["bias"]),
         node("MatMul", ["x", "W"], ["a"]), node("Add", ["a", "bias"], ["s"]),
         node("Softmax", ["s"], ["y"], axis=-1)],
        {"x": (FLOAT, [8, 64]), ("f" if not operators else "m"): (switch, shape)}, (FLOAT, [8, 64]),
        [WEIGHTS, number("one", 1.0, np.float32), number("far", -1e18, np.float32)],
    )  # fmt: skip


ROWS_OF_TABLE = model(
    [node("Gather", ["t", "ids"], ["e"]), node("MatMul", ["e", "W"], ["y"])],
    IDS, (FLOAT, [1, 9, 64]), [table("t", 50, 64), WEIGHTS],
)  # fmt: skip
QUANTISED = model(
    [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
     node("MatMul", ["d", "W"], ["y"])],
    {"x": (FLOAT, [8, 64])}, (FLOAT, [8, 64]),
    [WEIGHTS, number("s", 0.02, np.float32), number("z", 128, np.uint8)],
)  # fmt: skip


ONES = model(
    [node("Cast", ["m"], ["f"], to=FLOAT), node("MatMul", ["f", "W"], ["y"])],
    {"m": (TensorProto.BOOL, [8, 64])}, (FLOAT, [8, 64]), [WEIGHTS],
)  # fmt: skip
ONE_HOT = model(
    [node("OneHot", ["ids", "rows", "values"], ["o"]), node("ReduceSum", ["o", "axis"], ["h"], keepdims=0),
     node("MatMul", ["h", "W"], ["y"])],
    IDS, (FLOAT, [1, 64]),
    [WEIGHTS, number("rows", 64, np.int64), number("values", [0, 1], np.float32),
     number("axis", [1], np.int64)],
)  # fmt: skip


@pytest.mark.parametrize(
    "data", [ROWS_OF_TABLE, QUANTISED, ONES, ONE_HOT], ids=["table", "quantised", "ones", "one-hot"]
)
def test_products_of_what_no_operator_has_rounded_may_cancel_too(data: bytes, target: str) -> None:
    (wanted,) = checking.unpack(imported(data, target).sample)[0].expected()
    usual = np.median(wanted.tolerance)
    assert wanted.tolerance.min() > usual / 20
    assert usual < 1e-3 * np.abs(wanted.values).mean()


def test_switches_are_not_changed_by_a_little(target: str) -> None:
    """Or everything would be within the tolerance."""
    x = np.random.default_rng(0).uniform(-1, 1, (8, 64)).astype(np.float32)
    on = (np.arange(64) % 3 > 0).reshape(1, 64)
    for data, inputs in (
        (masked(INT, [1, 64], node("Cast", ["m"], ["f"], to=FLOAT)), npz(x=x, m=on.astype(np.int64))),
        (masked(FLOAT, [1, 64]), npz(x=x, f=on.astype(np.float32))),
    ):
        sample = checking.unpack(imported(data, target, inputs=inputs).sample)[0]
        (wanted,) = sample.expected()
        assert 0 < wanted.tolerance.max() < 1e-3 * wanted.values.max()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_a_file_of_real_inputs_wins(target: str) -> None:
    ids, kind = np.full((1, 9), 999), np.ones((1, 9), np.int64)
    found = imported(EMBEDDING, target, inputs=npz(ids=ids, kind=kind))
    first, second = checking.unpack(found.sample)[0].arrays()
    assert np.array_equal(first, ids)
    assert np.array_equal(second, kind)
    assert found.judged[0].inputs == "those of the person"
    with pytest.raises(BadInput, match="the input kind is missing"):
        imported(EMBEDDING, target, inputs=npz(ids=ids))


def test_where_nothing_can_be_compared_the_person_is_asked_for_inputs(target: str) -> None:
    always = chain(node("Abs", ["a"], ["b"]), node("Neg", ["b"], ["c"]), node("Sqrt", ["c"], ["y"]))
    with pytest.raises(
        BadModel, match=r"all of output y is NaN .* nothing was compared; give others with --inputs"
    ):
        imported(always, target)


def test_a_model_without_a_framework_is_said_to_have_no_judge(target: str) -> None:
    (judgement,) = imported(matrix_product(), target).judged
    assert (judgement.judge, judgement.outputs) == ("", [])
    assert judgement.reason == "a model in TVM's JSON has no framework to compare with"


def test_a_model_that_no_judge_can_run_is_said_to_have_none(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("not implemented\nin two lines")

    monkeypatch.setattr(judges, "OnnxRuntime", fail)
    (judgement,) = imported(DIVISION, target).judged
    assert judgement.judge.startswith("onnx.reference ")
    monkeypatch.setattr(judges, "OnnxReference", fail)
    (judgement,) = imported(DIVISION, target).judged
    assert judgement.judge == ""
    assert judgement.reason == (
        "ONNX Runtime cannot run it: not implemented; onnx.reference neither: not implemented"
    )


def test_a_model_that_rounds_on_its_way_says_so() -> None:
    """Whether a step flips in front of an element is chance: a few changes say little of a single one."""
    assert judges.judge(Source(QUANTISED)).rounds
    assert judges.judge(Source(FLOORED)).rounds
    assert not judges.judge(Source(ROWS_OF_TABLE)).rounds


def test_weights_of_small_floats_in_a_file_are_judged_by_who_knows_them(tmp_path: Path, target: str) -> None:
    """ONNX Runtime has no such product; the reference of ``onnx`` reads no files by itself."""
    weights = numpy_helper.from_array(
        np.linspace(-1, 1, 4096).reshape(64, 64).astype(ml_dtypes.bfloat16), "W"
    )
    (tmp_path / "data").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="data")
    kind = TensorProto.BFLOAT16
    data = model([node("MatMul", ["x", "W"], ["y"])], {"x": (kind, [8, 64])}, (kind, [8, 64]), [weights])
    (judged,) = imported(data, target, files={"data": str(tmp_path / "data")}).judged
    assert judged.judge.startswith(("onnx.reference", "ONNX Runtime"))
    assert judged.outputs[0].compared == 8 * 64
