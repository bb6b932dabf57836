"""Weights in the order that a schedule reads them in: right results, no larger models, and wrong kernels are
caught. Real TVM, no broker."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm_ffi.libinfo
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.direct import (
    ENGINE,
    assemble,
    import_model,
    matrix_product,
    measure,
    profile,
    run,
    tuned_task,
    update,
)
from tests.acceptance.test_convolutions import expected, image_for, model
from tunemesh.shared.errors import JobFailed
from tunemesh.shared.messages import Options, Trial
from tunemesh.stage_workers.engines.protocol import (
    ExportCall,
    ObjectPart,
    PartCall,
    TaskTrials,
    TirPart,
    prepack_name,
)
from tunemesh.stage_workers.graph import (
    canonical,
    compilation,
    objects,
    packing,
    prepacking,
    targets,
    workloads,
)
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, TunedTask

ROWS, DEPTH, COLUMNS = 8, 128, 96
RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(ROWS, DEPTH)).astype(np.float32)


def network(nodes: list[tuple[str, list[str], str]], weights: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """Operators by kind, inputs and output, from ``x`` to ``z``."""
    graph = helper.make_graph(
        [helper.make_node(kind, given, [made]) for kind, given, made in nodes],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(onnx.shape_inference.infer_shapes(made).SerializeToString())


def weight(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.normal(0, 0.1, shape).astype(np.float32)


W = weight(DEPTH, COLUMNS)
ONE_PRODUCT = network([("MatMul", ["x", "w"], "z")], {"w": W})


@pytest.fixture(scope="module")
def product(target: str) -> ExtractedTask:
    """A product with a weight."""
    (task,) = import_model(ONE_PRODUCT, target, {}).tasks
    return task


@pytest.fixture(scope="module")
def trials(product: ExtractedTask, target: str) -> list[Trial]:
    return measure(product, target, update(product.workload, target, None, [], 3).schedules)


def part(task: ExtractedTask, target: str, trial: Trial) -> Any:
    """The module that goes into a model."""
    call = PartCall(
        workload=task.workload,
        target=target,
        schedule=trial.candidate.schedule,
        symbol=f"tunemesh_{task.key}",
    )
    made = ENGINE.part(call)
    assert isinstance(made, TirPart)
    return workloads.load(made.module)


def tuned(model: bytes, target: str, options: Options) -> tuple[bytes, bytes]:
    """A model with one candidate for each task that is there, tuned and untuned."""
    imported = import_model(model, target, options)
    tasks = []
    for task in imported.tasks:
        (trial,) = measure(task, target, update(task.workload, target, None, [], 1).schedules)
        assert trial.outcome == "measured", trial.error
        tasks.append(tuned_task(task, target, trial))
    assembled = assemble(imported.model, target, tasks)
    return assembled.tuned, assembled.untuned


def weights_in(tasks: list[ExtractedTask]) -> list[list[int]]:
    return [workloads.weights_of(workloads.load(task.workload)["main"]) for task in tasks]


# -- Tasks ---------------------------------------------------------------------------------------------------


def test_a_product_with_a_weight_is_another_task_than_one_of_activations(target: str) -> None:
    nodes = [
        ("MatMul", ["x", "v"], "a"),
        ("Tanh", ["a"], "s"),
        ("MatMul", ["s", "w"], "b"),
        ("Tanh", ["b"], "t"),
        ("Transpose", ["t"], "u"),
        ("Tanh", ["u"], "r"),
        ("MatMul", ["t", "r"], "c"),  # (8, 128) by (128, 8)
        ("MatMul", ["x", "n"], "d"),  # the same, with a weight
        ("Add", ["c", "d"], "z"),
    ]
    weights = {"v": weight(DEPTH, DEPTH), "w": weight(DEPTH, DEPTH), "n": weight(DEPTH, ROWS)}
    tasks = import_model(network(nodes, weights), target, {}).tasks
    found = {}
    for task in tasks:
        name = task.name.rstrip("0123456789")
        if "matmul" in name:
            shapes = [each.shape for each in workloads.arguments(workloads.load(task.workload)["main"])]
            found[tuple(shapes[:2]), *weights_in([task])[0]] = task
    square, narrow = ((ROWS, DEPTH), (DEPTH, DEPTH)), ((ROWS, DEPTH), (DEPTH, ROWS))
    assert set(found) == {(square, 1), (narrow, 1), (narrow,)}
    # Whatever the constants hold.
    assert found[square, 1].weight == 2
    assert len({task.key for task in tasks}) == len(tasks)


def test_given_marks_nothing(target: str) -> None:
    packed = import_model(ONE_PRODUCT, target, {})
    given = import_model(ONE_PRODUCT, target, {"weights": "given"})
    assert weights_in(packed.tasks) == [[1]]
    assert weights_in(given.tasks) == [[]]
    assert packed.tasks[0].key != given.tasks[0].key


def test_only_what_a_reduction_multiplies_is_a_weight(target: str) -> None:
    nodes = [
        ("Mul", ["x", "s"], "a"),
        ("MatMul", ["a", "w"], "b"),
        ("Add", ["b", "t"], "c"),
        ("Relu", ["c"], "z"),
    ]
    weights = {"s": weight(ROWS, DEPTH), "w": W, "t": weight(ROWS, COLUMNS)}
    tasks = import_model(network(nodes, weights), target, {}).tasks
    marked = {task.name: numbers for task, numbers in zip(tasks, weights_in(tasks), strict=True)}
    assert sum(map(len, marked.values())) == 1
    assert [numbers for name, numbers in marked.items() if "matmul" in name] == [[1]]


def test_weights_for_a_gpu_stay_as_they_are(product: ExtractedTask) -> None:
    module = workloads.load(product.workload)
    assert packing.mark(module, '{"kind": "cuda", "arch": "sm_90"}', "packed") is module


# -- Models --------------------------------------------------------------------------------------------------


def test_packed_convolutions_compute_the_same(target: str) -> None:
    proto = model((1, 24, 14, 14), 40)
    given = proto.SerializeToString()
    tasks = import_model(given, target, {}).tasks
    packed = [task.name for task, numbers in zip(tasks, weights_in(tasks), strict=True) if numbers]
    assert len(packed) == 1
    library, _ = tuned(given, target, {})
    reference = expected(proto)
    assert np.abs(run(library, image_for(proto)) - reference).max() <= 1e-4 * np.abs(reference).max()


def test_a_model_holds_packed_weights_and_no_others(
    target: str, product: ExtractedTask, trials: list[Trial]
) -> None:
    module = part(product, target, trials[0])
    assert prepack_name(1) in module
    assembled = assemble(
        import_model(ONE_PRODUCT, target, {}).model, target, [tuned_task(product, target, trials[0])]
    )
    np.testing.assert_allclose(run(assembled.tuned, X), X @ W, rtol=1e-4, atol=1e-5)
    assert W.tobytes() in assembled.untuned
    assert W.tobytes() not in assembled.tuned
    assert len(assembled.tuned) < 1.1 * len(assembled.untuned)


def test_a_weight_that_two_tasks_read_keeps_its_order_unless_the_model_may_grow(target: str) -> None:
    nodes = [
        ("MatMul", ["x", "w"], "a"),
        ("Slice", ["x", "from", "to"], "y"),
        ("MatMul", ["y", "w"], "b"),
        ("Mul", ["a", "b"], "z"),
    ]
    given = network(nodes, {"w": W, "from": np.array([0]), "to": np.array([1])})
    once, per_task = (
        import_model(given, target, options) for options in ({}, {"weights": "packed-per-task"})
    )
    assert [numbers for numbers in weights_in(once.tasks) if numbers] == []
    assert len([numbers for numbers in weights_in(per_task.tasks) if numbers]) == 2
    wanted = (X @ W) * (X[:1] @ W)
    for options, copies in (({}, 1), ({"weights": "packed-per-task"}, 2)):
        library, untuned = tuned(given, target, options)
        np.testing.assert_allclose(run(library, X), wanted, rtol=1e-3, atol=1e-4)
        assert len(library) - len(untuned) < (copies - 0.5) * W.nbytes


def test_a_function_may_pack_several_weights(target: str) -> None:
    from tvm import te

    size = 32
    a, b, c = (te.placeholder((size, size), name=name) for name in "abc")
    k, n = te.reduce_axis((0, size), name="k"), te.reduce_axis((0, size), name="n")
    first = te.compute((size, size), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="first")
    second = te.compute((size, size), lambda i, j: te.sum(first[i, n] * c[n, j], axis=n), name="second")
    function = te.create_prim_func([a, b, c, second]).with_attr(workloads.WEIGHTS, [1, 2])
    workload = workloads.of_function(function)
    task = ExtractedTask(
        name="products",
        key=canonical.key(workload, target),
        weight=1,
        workload=workloads.pack(workload),
        untuned=compilation.build_untuned(workload, target),
    )
    trials = measure(task, target, update(task.workload, target, None, [], 3).schedules)
    assert [trial.outcome for trial in trials] == ["measured"] * 3
    names = [{str(name.name_hint) for name in part(task, target, each).get_global_vars()} for each in trials]
    assert {"main", prepack_name(1), prepack_name(2)} in names


@pytest.mark.parametrize(("most", "level"), [(DEPTH * COLUMNS, 0), (DEPTH * COLUMNS - 1, targets.LLVM_LEVEL)])
def test_what_puts_a_small_weight_into_order_once_is_not_optimised(
    product: ExtractedTask,
    target: str,
    trials: list[Trial],
    most: int,
    level: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    levels: list[int] = []
    made = objects._made

    def noted(function: Any, target: str, left_out: list[str]) -> bytes:
        levels.append(int(targets.load(target).attrs["opt-level"]))
        return made(function, target, left_out)

    monkeypatch.setattr(objects, "_made", noted)
    monkeypatch.setattr(objects, "_known", {})
    monkeypatch.setattr(compilation, "MOVED", most)
    packing_ones = [each for each in trials if len(part(product, target, each).functions) == 2]
    assert packing_ones
    compilation.build_candidate(part(product, target, packing_ones[0]), target)
    assert sorted(levels) == [level, targets.LLVM_LEVEL]


# -- Wrong kernels -------------------------------------------------------------------------------------------


def test_wrong_kernels_are_caught_on_packed_weights(
    target: str, product: ExtractedTask, trials: list[Trial]
) -> None:
    import tvm

    assert [trial.outcome for trial in trials] == ["measured"] * 3
    modules = [part(product, target, trial) for trial in trials]
    name = prepack_name(1)
    orders = {order(module[name], target): module for module in modules}
    one, other = list(orders.values())[:2]
    wrong = {
        "packs for another kernel": tvm.IRModule({"main": one["main"], name: other[name]}),
        "reads weights that nobody packed": tvm.IRModule({"main": one["main"]}),
        "leaves some out": tvm.IRModule({"main": one["main"], name: halved(one[name])}),
    }
    right = profile(product, target, compilation.build_candidate(one, target))
    assert right.outcome == "measured"
    for what, module in wrong.items():
        outcome = profile(product, target, compilation.build_candidate(module, target)).outcome
        assert outcome == "wrong-result", what


def order(packing: Any, target: str) -> bytes:
    """In which order a function packs a weight."""
    import tvm

    given, packed = ([int(each) for each in buffer.shape] for buffer in packing.params)
    module = tvm.IRModule({"pack": packing.with_attr("global_symbol", "pack")})
    made = tvm.runtime.tensor(np.zeros(packed, np.float32))
    numbers = np.arange(math.prod(given), dtype=np.float32).reshape(given)
    tvm.compile(module, target=targets.load(target))["pack"](tvm.runtime.tensor(numbers), made)
    return bytes(made.numpy().tobytes())


def halved(copying: Any) -> Any:
    """A function that packs half of a weight."""
    import tvm_ffi
    from tvm import tirx

    def half(loop: Any) -> Any:
        return tirx.For(loop.loop_var, loop.min, loop.extent // 2, loop.kind, loop.body)

    return copying.with_body(tvm_ffi.structural_map(copying.body, (tirx.For, half)))


def test_a_schedule_that_changes_what_a_weight_holds_is_none(product: ExtractedTask) -> None:
    from tvm.s_tir import Schedule

    schedule = Schedule(workloads.load(product.workload))
    (block,) = schedule.get_child_blocks(schedule.get_sblock("root"))
    copy = schedule.cache_read(block, 1, "global")
    schedule.annotate(copy, "meta_schedule.layout_rewrite_preproc", True)
    padded = lambda i, j: [i // 100, i % 100, j]  # noqa: E731
    schedule.transform_layout(block, ("read", 1), padded, pad_value=0.0)
    with pytest.raises(ValueError, match="has other elements"):
        prepacking.split(schedule.mod)


def test_metaschedule_finds_packed_schedules_in_the_database(
    target: str, product: ExtractedTask, trials: list[Trial], tmp_path: Path
) -> None:
    from tvm.s_tir import meta_schedule

    call = ExportCall(target=target, tasks=[TaskTrials(workload=product.workload, trials=trials)])
    for name, data in ENGINE.export(call).files.items():
        (tmp_path / name).write_bytes(data)
    database = meta_schedule.database.JSONDatabase(work_dir=str(tmp_path))
    module = workloads.load(product.workload)
    schedule = database.query_schedule(module, targets.load(target), "main")
    assert schedule is not None
    kernel = compilation.build_candidate(prepacking.split(schedule.mod), target)
    assert profile(product, target, kernel).outcome == "measured"
    # The same product of activations is another workload.
    plain = workloads.of_function(module["main"].without_attr(workloads.WEIGHTS))
    assert not database.has_workload(plain)


# -- Objects -------------------------------------------------------------------------------------------------

SOURCE = r"""
#include <tvm/ffi/c_api.h>
static float* values(const TVMFFIAny* argument) {
  const DLTensor* tensor = argument->type_index == kTVMFFITensor
      ? (const DLTensor*)((const char*)argument->v_obj + sizeof(TVMFFIObject))
      : (const DLTensor*)argument->v_ptr;
  return (float*)((char*)tensor->data + tensor->byte_offset);
}
int MAIN(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  const float *a = values(arguments), *b = values(arguments + 1);
  float* c = values(arguments + 2);
  for (int i = 0; i < ROWS; ++i)
    for (int j = 0; j < COLUMNS; ++j) {
      float sum = 0;
      for (int k = 0; k < DEPTH; ++k) sum += a[i * DEPTH + k] * b[j * DEPTH + k];
      c[i * COLUMNS + j] = sum;
    }
  return 0;
}
int PREPACK(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  const float* b = values(arguments);
  float* packed = values(arguments + 1);
  for (int k = 0; k < DEPTH; ++k)
    for (int j = 0; j < COLUMNS; ++j) packed[j * DEPTH + k] = b[k * COLUMNS + j];
  return 0;
}
"""


def compiled(folder: Path, main: str, prepack: str, how: str) -> bytes:
    names = {"MAIN": f"__tvm_ffi_{main}", "PREPACK": f"__tvm_ffi_{prepack}"}
    sizes = {"ROWS": ROWS, "DEPTH": DEPTH, "COLUMNS": COLUMNS}
    output = folder / "product"
    command = ["gcc", "-O2", "-fPIC", how, "-x", "c", "-", "-o", str(output)]
    command += [f"-I{tvm_ffi.libinfo.find_include_path()}"]
    command += [f"-D{name}={value}" for name, value in {**names, **sizes}.items()]
    subprocess.run(command, input=SOURCE, text=True, check=True, capture_output=True)
    return output.read_bytes()


def test_machine_code_of_another_engine_packs_weights_too(
    target: str, product: ExtractedTask, tmp_path: Path
) -> None:
    kernel = compiled(tmp_path, "main", prepack_name(1), "-shared")
    assert profile(product, target, kernel).outcome == "measured"

    symbol = "product"
    code = compiled(tmp_path, symbol, f"{symbol}_{prepack_name(1)}", "-c")

    def assembled(packs: list[int]) -> bytes:
        task = TunedTask(
            workload=product.workload, symbol=symbol, part=ObjectPart(code=code, packs=packs), latency=1e-6
        )
        return assemble(import_model(ONE_PRODUCT, target, {}).model, target, [task]).tuned

    library = assembled([1])
    np.testing.assert_allclose(run(library, X), X @ W, rtol=1e-4, atol=1e-5)
    assert np.ascontiguousarray(W.T).tobytes() in library
    assert W.tobytes() not in library
    with pytest.raises(JobFailed, match="packs parameter 0 of a task, which is no weight"):
        assembled([0])


def test_a_bare_function_has_no_weights(target: str) -> None:
    (task,) = import_model(matrix_product(), target, {}).tasks
    assert weights_in([task]) == [[]]
