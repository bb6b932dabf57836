"""What TVM makes of a model is changed where that is proven right, and nowhere else. Real TVM, no broker."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.direct import ENGINE, assemble, import_model, run, validate
from tunemesh.shared.messages import Options, Settings
from tunemesh.stage_workers.engines.metaschedule import probing
from tunemesh.stage_workers.engines.protocol import TaskRef
from tunemesh.stage_workers.graph import (
    checking,
    compilation,
    constants,
    layouts,
    legalising,
    loops,
    models,
    objects,
    optimisation,
    proving,
    targets,
    workloads,
)
from tunemesh.stage_workers.graph.changes import NONE
from tunemesh.stage_workers.graph.signatures import ANY
from tunemesh.stage_workers.measuring import kernels, loading
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, Imported, ProfileCall

MEASURED: Options = {}
node = helper.make_node


def random(*shape: int, dtype: type = np.float32) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(len(shape) + shape[0])
    return (generator.standard_normal(shape) * 0.1).astype(dtype)


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[tuple[int, ...], int]],
    weights: dict[str, np.ndarray[Any, Any]],
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> bytes:
    """From ``inputs`` (shape and type by name) to ``y``."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, type_, shape) for name, (shape, type_) in inputs.items()],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return onnx.shape_inference.infer_shapes(made).SerializeToString()


def notes(imported: Imported) -> list[str]:
    return models.unpack(imported.model).notes


def names(imported: Imported) -> list[str]:
    return [task.name for task in imported.tasks]


# -- Layouts -------------------------------------------------------------------------------------------------

CONVOLUTION = node("Conv", ["x", "k"], ["a"], pads=[1] * 4)
IMAGE = {"x": ((1, 32, 16, 16), TensorProto.FLOAT)}


def behind_a_convolution(*nodes: onnx.NodeProto, **weights: np.ndarray[Any, Any]) -> bytes:
    return model([CONVOLUTION, *nodes], IMAGE, {"k": random(32, 32, 3, 3), **weights})


@pytest.mark.parametrize(
    "given",
    [
        behind_a_convolution(
            node("Dropout", ["a"], ["b"]),
            node("Sum", ["b", "x", "a"], ["c"]),
            node("Mean", ["c", "x"], ["d"]),
            node("Shape", ["a"], ["s"]),
            node("Gather", ["s", "one"], ["h"]),
            node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
            node("Div", ["d", "f"], ["e"]),
            node("Max", ["e", "a"], ["y"]),
            one=np.array(1),
        ),
        behind_a_convolution(
            node("ConvTranspose", ["a", "kt"], ["b"], strides=[2, 2]),
            node("Unsqueeze", ["b", "axis"], ["c"]),
            node("Conv", ["c", "k3"], ["d"], pads=[0, 1, 1, 0, 1, 1]),
            node("Squeeze", ["d", "axis"], ["e"]),
            node("Transpose", ["e"], ["f"], perm=[0, 2, 3, 1]),
            node("LayerNormalization", ["f", "scale"], ["g"], axis=1),
            node("Transpose", ["g"], ["i"], perm=[0, 3, 1, 2]),
            node("ReduceMean", ["i"], ["j"], axes=[1, 3], keepdims=0),
            node("Resize", ["j", "", "sizes"], ["y"], mode="nearest"),
            kt=random(32, 16, 2, 2),
            k3=random(16, 16, 1, 3, 3),
            axis=np.array([2]),
            scale=random(32, 32, 16),
            sizes=np.array([1, 2], np.float32),
        ),
    ],
    ids=["sums and numbers", "transposed and 3-D"],
)
def test_channels_last_goes_around_what_does_not_move(target: str, given: bytes) -> None:
    """Each of these operators was refused, wrong, or crashed once its convolution had channels last. That
    what comes out is right has been compared with ONNX Runtime when the import returns."""
    imported = import_model(given, target, MEASURED)
    assert all(each.channels_last for each in models.unpack(imported.model).changes)
    assert notes(imported) == []


def wrong(module: Any) -> Any:
    """A change that computes something else."""
    import tvm
    import tvm_ffi
    from tvm import relax

    changed = module.clone()
    changed["main"] = tvm_ffi.structural_map(
        module["main"], (tvm.ir.GenericConst, lambda each: relax.const(2 * each.value.numpy()))
    )
    return changed


def crash(module: Any) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def refuse(module: Any) -> Any:
    raise ValueError("no layout for this")


@pytest.mark.parametrize(
    ("change", "why"),
    [(wrong, "the model as given gives"), (crash, "TVM crashed (SIGSEGV)"), (refuse, "no layout for this")],
)
def test_a_change_that_is_not_right_is_taken_back(
    target: str, monkeypatch: pytest.MonkeyPatch, change: Any, why: str
) -> None:
    monkeypatch.setattr(layouts, "channels_last", change)
    imported = import_model(behind_a_convolution(node("Relu", ["a"], ["y"])), target, MEASURED)
    assert names(imported) == ["fused_conv2d_relu"]
    (note,) = notes(imported)
    assert note.startswith("tensors lie as the model has them, and not with channels last: ")
    assert why in note
    # What was decided at import holds.
    assembled = assemble(imported.model, target)
    assert assembled.notes == [note]


def test_what_is_the_same_for_all_changes_is_computed_once(
    target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In all processes that try changes, and for what the judge is asked: a large model takes seconds."""
    simplified, written = optimisation.simplified, tmp_path / "calls"

    def count(module: Any, target: str) -> Any:
        with written.open("a") as file:
            file.write("simplified\n")
        return simplified(module, target)

    monkeypatch.setattr(optimisation, "simplified", count)
    import_model(behind_a_convolution(node("Relu", ["a"], ["y"])), target, MEASURED)
    assert written.read_text().splitlines() == ["simplified"]


def test_a_changed_model_that_agrees_with_the_judge_is_proof_enough(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model without its changes takes as long again to compile, and far longer to run."""
    compiled = []
    untuned = checking._Untuned

    def counted(*given: Any, **named: Any) -> Any:
        compiled.append(1)
        return untuned(*given, **named)

    monkeypatch.setattr(checking, "_Untuned", counted)
    given = behind_a_convolution(node("Relu", ["a"], ["y"]))
    imported = import_model(given, target, MEASURED)
    assert compiled == []
    assert imported.judged[0].outputs[0].name == "y"
    # Nobody else would say that TVM has read it right.
    unchanged = import_model(given, target)
    assert unchanged.judged[0].judge == imported.judged[0].judge
    assert compiled == [1]


def test_what_tvm_gets_wrong_but_for_a_change_counts_by_the_judge(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = import_model(behind_a_convolution(node("Relu", ["a"], ["y"])), target, MEASURED)
    optimise = optimisation.optimise

    def wrong_as_given(module: Any, target: str, changes: Any, *rest: Any) -> Any:
        return optimise(wrong(module) if changes == NONE else module, target, changes, *rest)

    monkeypatch.setattr(optimisation, "optimise", wrong_as_given)
    made = assemble(imported.model, target)
    right = validate(made.tuned, made.untuned, made.signature, target, imported.sample)
    assert (right.wrong, right.judged.judge) == ("", imported.judged[0].judge)
    other = validate(made.untuned, made.tuned, made.signature, target, imported.sample)
    assert "y[" in other.wrong


def test_a_model_that_cannot_be_compiled_as_it_is_given_is_compiled_with_its_changes(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = import_model(behind_a_convolution(node("Relu", ["a"], ["y"])), target, MEASURED)
    optimise = optimisation.optimise

    def refused_as_given(module: Any, target: str, changes: Any, *rest: Any) -> Any:
        return refuse(module) if changes == NONE else optimise(module, target, changes, *rest)

    monkeypatch.setattr(optimisation, "optimise", refused_as_given)
    made = assemble(imported.model, target)
    (note,) = made.notes
    assert note.startswith("TVM cannot compile the model as it is given")
    assert validate(made.tuned, made.untuned, made.signature, target, imported.sample).wrong == ""


# -- Fused functions -----------------------------------------------------------------------------------------

ROWS = {"x": ((16, 32), TensorProto.FLOAT)}


def behind_a_product(*nodes: onnx.NodeProto, **weights: np.ndarray[Any, Any]) -> bytes:
    return model([node("MatMul", ["x", "w"], ["a"]), *nodes], ROWS, {"w": random(32, 24), **weights})


def outcomes(task: ExtractedTask, target: str) -> set[str]:
    """Of a few candidates of a task."""
    found = probing.candidates(workloads.load(task.workload), target, 4)
    quick = Settings(repeats=1, min_repeat_ms=0)
    return {
        kernels.profile(
            ProfileCall(
                workload=task.workload,
                target=target,
                artifact=each,
                untuned=task.untuned,
                device="cpu",
                settings=quick,
            )
        ).outcome
        for each in found
    }


@pytest.mark.parametrize(
    ("given", "tasks"),
    [
        (
            behind_a_product(node("Pad", ["a", "pads"], ["y"]), pads=np.array([0, 0, 3, 1])),
            ["matmul", "pad"],
        ),
        (
            behind_a_product(
                node("Relu", ["a"], ["b"]),
                node("Slice", ["b", "from", "to"], ["y"]),
                to=np.array([9, 24]),
                **{"from": np.array([0, 0])},
            ),
            ["fused_matmul_relu", "strided_slice"],
        ),
    ],
    ids=["pad", "slice"],
)
def test_what_moves_data_is_no_epilogue(target: str, given: bytes, tasks: list[str]) -> None:
    imported = import_model(given, target)
    assert names(imported) == tasks
    assert [outcomes(task, target) for task in imported.tasks] == [{"measured"}] * 2


def test_masked_attention_is_cut_where_its_parts_can_be_tuned(target: str) -> None:
    def floats(*shape: int) -> tuple[tuple[int, ...], int]:
        return shape, TensorProto.FLOAT

    given = model(
        [
            node("MatMul", ["q", "k"], ["s"]),
            node("Where", ["m", "zero", "off"], ["w"]),
            node("Add", ["s", "w"], ["y"]),
        ],
        {"q": floats(1, 2, 16, 8), "k": floats(1, 2, 8, 16), "m": ((1, 1, 1, 16), TensorProto.BOOL)},
        {"zero": np.float32(0), "off": np.float32(-1e9)},
    )
    imported = import_model(given, target)
    assert names(imported) == ["where", "fused_matmul_add"]
    (note,) = notes(imported)
    assert note.startswith("fused_matmul_where_add is not fused into one function: ")
    assert "no search space" in note
    for task in imported.tasks:
        assert ENGINE.objection(TaskRef(workload=task.workload, target=target, name="", key=task.key)) == ""
        assert outcomes(task, target) == {"measured"}
    # Behind it, in the same function, a condition does no harm: it stays fused.
    causal = behind_a_product(node("Trilu", ["a"], ["y"]))
    assert names(import_model(causal, target)) == ["fused_matmul_where"]


def test_candidates_that_crash_are_not_fused(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving.kernels, "profile", crash)
    imported = import_model(behind_a_product(node("Trilu", ["a"], ["y"])), target)
    assert names(imported) == ["matmul", "where"]
    assert "TVM crashed (SIGSEGV)" in notes(imported)[0]


def two_products() -> bytes:
    return model(
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("MatMul", ["b", "v"], ["c"]),
            node("Relu", ["c"], ["y"]),
        ],
        ROWS,
        {"w": random(32, 24), "v": random(24, 8)},
    )


@pytest.mark.parametrize("crashes", [False, True])
def test_functions_are_looked_at_in_one_process_as_long_as_none_crashes(
    target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, crashes: bool
) -> None:
    objection, written = proving.probing.objection, tmp_path / "processes"

    def look(workload: Any, target: str) -> str:
        with written.open("a") as file:
            file.write(f"{os.getpid()}\n")
        sizes = {size for each in proving.workloads.arguments(workload["main"]) for size in each.shape}
        if crashes and 8 in sizes:
            crash(workload)
        return objection(workload, target)

    monkeypatch.setattr(proving.probing, "objection", look)
    imported = import_model(two_products(), target)
    processes = written.read_text().splitlines()
    if crashes:
        assert names(imported) == ["fused_matmul_relu", "matmul1", "relu1"]
        assert "TVM crashed (SIGSEGV)" in notes(imported)[0]
        assert len(set(processes)) > 2
    else:
        assert names(imported) == ["fused_matmul_relu", "fused_matmul1_relu1"]
        assert len(processes) == 2
        assert len(set(processes)) == 1


def test_an_untuned_model_that_was_compiled_before_is_taken_as_it_is(target: str) -> None:
    imported = import_model(two_products(), target)
    image = random(16, 32)
    first = assemble(imported.model, target)
    again = assemble(imported.model, target, untuned=first.untuned)
    assert again.untuned is first.untuned
    assert np.array_equal(run(again.tuned, image), run(first.tuned, image))
    assert np.allclose(run(first.untuned, image), run(again.tuned, image), rtol=1e-4, atol=1e-4)


# -- What is no task -----------------------------------------------------------------------------------------


def test_an_operator_whose_shape_depends_on_the_data_stays_untuned(target: str) -> None:
    given = model(
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("NonZero", ["b"], ["y"]),
        ],
        ROWS,
        {"w": random(32, 24)},
        kind=TensorProto.INT64,
    )
    imported = import_model(given, target)
    assert names(imported) == ["fused_matmul_relu"]
    signature = json.loads(assemble(imported.model, target).signature)
    (output,) = signature["variants"][0]["outputs"]
    assert output["shape"] == [ANY, ANY]
    image = np.random.default_rng(0).uniform(-1, 1, (16, 32)).astype(np.float32)
    positive = np.stack(np.nonzero(image @ random(32, 24) > 0))
    assert np.array_equal(run(assemble(imported.model, target).tuned, image), positive)


def test_tensors_without_elements_are_right_and_not_tuned(target: str) -> None:
    import tvm
    from tvm import relax

    x = relax.Var("x", relax.TensorType((4, 8), "float32"))
    empty = relax.Var("empty", relax.TensorType((0, 6), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, empty]):
        with builder.dataflow():
            product = builder.emit_output(relax.op.matmul(x, relax.const(random(8, 6))))
            nothing = builder.emit_output(relax.op.nn.relu(relax.op.multiply(empty, relax.const(2.0))))
        builder.emit_func_output([product, nothing])
    imported = import_model(str(tvm.ir.save_json(builder.get())).encode(), target)
    assert names(imported) == ["matmul"]
    assert notes(imported) == ["fused_multiply_relu is not tuned: its tensor empty has no elements"]


# -- Precision, constants, threads ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_summed_in_single(target: str, kind: str) -> None:
    """2,048 ones and as many times 2^-9: in half precision the small ones are lost, one by one."""
    import ml_dtypes
    import tvm
    from tvm import relax

    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    weights = np.full((4096, 16), 2.0**-9, dtype)
    weights[:2048] = 1
    x = relax.Var("x", relax.TensorType((1, 4096), kind))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(relax.op.matmul(x, relax.const(weights, kind)))
        builder.emit_func_output(result)
    optimised = optimisation.optimise(builder.get(), target, NONE).module
    ones = tvm.runtime.tensor(np.ones((1, 4096), dtype))
    got = compilation.main_of(optimised, target)(ones).numpy().astype(np.float32)
    wanted = np.float32(np.asarray(2048 + 2048 * 2.0**-9, dtype))
    assert np.array_equal(got, np.full((1, 16), wanted))


def test_simple_operators_of_constants_need_no_compiler() -> None:
    import tvm
    from tvm import relax

    values = random(4, 6)
    builder = relax.BlockBuilder()
    with builder.function("main", []):
        with builder.dataflow():
            constant = relax.const(values)
            turned = builder.emit(relax.op.permute_dims(relax.op.reshape(constant, (2, 2, 6)), [2, 0, 1]))
            limit = builder.emit(
                relax.op.where(relax.op.isnan(relax.const(6.0)), relax.const(np.inf), relax.const(6.0))
            )
            summed = builder.emit(relax.op.add(turned, limit))
            result = builder.emit_output(relax.op.astype(summed, "float16"))
        builder.emit_func_output(result)
    folded = constants.fold(builder.get())
    (*_, last) = folded["main"].body.blocks[0].bindings
    assert isinstance(last.value, tvm.ir.GenericConst)
    wanted = (values.reshape(2, 2, 6).transpose(2, 0, 1) + np.float32(6)).astype(np.float16)
    assert np.array_equal(last.value.value.numpy(), wanted)


def test_a_packed_model_is_the_model(target: str) -> None:
    import tvm
    import tvm_ffi
    from tvm import relax

    from tunemesh.stage_workers.graph import weights

    x = relax.Var("x", relax.TensorType((4, 32), "float32"))
    large = relax.const(random(32, 32))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            one = builder.emit(relax.op.matmul(x, large))
            two = builder.emit(relax.op.matmul(one, large))
            result = builder.emit_output(relax.op.add(two, relax.const(np.float32(3))))
        builder.emit_func_output(result)
    graph, taken = weights.take_out(builder.get())
    assert [weight.shape for weight in taken] == [(32, 32)]
    back = weights.put_back(tvm.ir.load_json(tvm.ir.save_json(graph)), taken)
    assert tvm_ffi.structural_equal(back, builder.get())


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_a_module_has_as_many_threads_as_its_target_has_cores(
    target: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tvm
    import tvm_ffi
    from tvm import te, tirx
    from tvm.s_tir import Schedule

    monkeypatch.setenv("TVM_NUM_THREADS", "5")
    monkeypatch.setenv("TVM_BIND_THREADS", "0")
    a = te.placeholder((7, 64), name="a")
    doubled = te.compute((7, 64), lambda i, j: a[i, j] * 2.0, name="doubled")
    schedule = Schedule(tvm.IRModule({"main": te.create_prim_func([a, doubled])}))
    schedule.parallel(schedule.get_loops(schedule.get_sblock("doubled"))[0])
    wanted = json.dumps({**json.loads(target), "num-cores": cores}, sort_keys=True)
    extents: list[int] = []

    def visit(loop: Any) -> None:
        if loop.kind == tirx.ForKind.PARALLEL:
            extents.append(int(loop.extent))

    limited = loops.for_cores_of(schedule.mod, wanted)
    tvm_ffi.structural_walk(limited["main"].body, (tirx.For, visit))
    assert extents == ([] if cores == 1 else [cores])
    library = compilation.build_candidate(schedule.mod, wanted)
    assert (b"TVMBackendParallelLaunch" in library) == (cores > 1)
    values, got = random(7, 64), tvm.runtime.tensor(np.zeros((7, 64), np.float32))
    loading.load(library)["main"](tvm.runtime.tensor(values), got)
    assert np.array_equal(got.numpy(), 2 * values)


def test_untuned_models_for_one_core_start_no_threads(target: str) -> None:
    imported = import_model(behind_a_convolution(node("Relu", ["a"], ["y"])), target, MEASURED)
    assembled = assemble(imported.model, target)
    for library in (assembled.tuned, assembled.untuned, *(task.untuned for task in imported.tasks)):
        assert b"TVMBackendParallelLaunch" not in library


def test_every_kind_of_call_is_lowered_once(target: str) -> None:
    import tvm
    import tvm_ffi
    from tvm import relax
    from tvm.relax import transform

    x = relax.Var("x", relax.TensorType((4, 8), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            values = [x]
            for scale in (2.0, 2.0, 3.0):  # the value of a scalar goes into the function
                values.append(builder.emit(relax.op.multiply(values[-1], relax.const(scale))))
                values.append(builder.emit(relax.op.add(values[-1], x)))
            rows = [builder.emit(relax.op.sum(each, axis=axis)) for each in values for axis in (0, 1)]
            joined = builder.emit(relax.op.concat(rows, axis=0))
            result = builder.emit_output(relax.op.concat([joined, joined], axis=0))
        builder.emit_func_output(result)
    module = builder.get()
    asked: list[str] = []
    rules = legalising.legalizers(module, {})
    add = tvm.ir.Op.get("relax.add").get_attr("FLegalize")

    def count(builder: Any, call: Any) -> Any:
        asked.append("add")
        return add(builder, call)

    with targets.load(target):
        plain = transform.LegalizeOps({})(module)
        once = transform.LegalizeOps({**rules, "relax.add": legalising.remembered(count)})(module)
    assert tvm_ffi.structural_equal(once, plain)
    assert asked == ["add"]


def test_a_small_image_around_a_long_sum_is_not_written_out(target: str) -> None:
    """LLVM takes four times as long to write out its 49 pixels, for code that is no faster."""
    import tvm
    from tvm import te, topi

    def convolution(pixels: int, channels: int, outputs: int = 8) -> Any:
        image = te.placeholder((1, pixels, pixels, channels), name="image")
        kernel = te.placeholder((3, 3, channels, outputs), name="kernel")
        result = topi.nn.relu(topi.nn.conv2d_nhwc(image, kernel, 1, 1, 1))
        return te.create_prim_func([image, kernel, result]).with_attr(objects.NOALIAS, True)

    found = [workloads.is_of_small_image(convolution(*sizes)) for sizes in ((7, 64), (14, 64), (7, 8))]
    assert found == [True, False, False]
    small, usual = (len(objects.compiled(convolution(size, 512, 512), target)[1]) for size in (7, 14))
    assert small < 1.2 * usual
    image, kernel = random(1, 7, 7, 64), random(3, 3, 64, 8)
    code = compilation.build_untuned(tvm.IRModule({"main": convolution(7, 64)}), target)
    got = tvm.runtime.tensor(np.zeros((1, 7, 7, 8), np.float32))
    loading.load(code)["main"](tvm.runtime.tensor(image), tvm.runtime.tensor(kernel), got)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    wanted = np.maximum(np.einsum("nyxcij,ijco->nyxo", windows, kernel), 0)
    assert np.allclose(got.numpy(), wanted, atol=1e-4)
