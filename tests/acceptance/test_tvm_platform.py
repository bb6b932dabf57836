"""TVM's targets by direct calls: models read, kernels measured, models finished. Real TVM, no broker."""

from __future__ import annotations

import json
import re
import statistics

import numpy as np
import onnx
import pytest

from examples import make_models
from tests.acceptance.direct import (
    PLATFORM,
    assemble,
    assert_computes_the_same,
    build,
    import_model,
    matrix_product,
    measure,
    resolve_target,
    tuned_task,
    update,
    validate,
)
from tunemesh.shared.errors import BadModel, BadTarget
from tunemesh.shared.messages import Candidate, Trial
from tunemesh.stage_workers.graph import compilation, workloads
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, Imported, TargetCall


@pytest.mark.parametrize(
    "given",
    ["native", "llvm", "nvidia/nvidia-h100", '{"kind": "cuda", "arch": "sm_80"}', "aws/cpu/c5.large"],
)
def test_resolving_a_target_is_idempotent(given: str) -> None:
    resolved = resolve_target(given)
    assert resolve_target(resolved) == resolved
    assert json.dumps(json.loads(resolved), sort_keys=True) == resolved


def test_what_a_target_says_of_llvm_goes_before_what_is_usual_here() -> None:
    from tunemesh.stage_workers.graph import targets

    said = {"kind": "llvm", "opt-level": 1, "cl-opt": ["-vectorize-slp:bool=false"]}
    usual = targets.load(resolve_target("native")).attrs
    given = targets.load(resolve_target(json.dumps(said))).attrs
    assert (int(usual["opt-level"]), list(usual["cl-opt"])) == (
        targets.LLVM_LEVEL,
        list(targets.LLVM_OPTIONS),
    )
    assert (int(given["opt-level"]), list(given["cl-opt"])) == (1, said["cl-opt"])
    scheduled = targets.load(targets.for_schedules(resolve_target(json.dumps(said)))).attrs
    assert list(scheduled["cl-opt"]) == said["cl-opt"]


@pytest.mark.parametrize(("machine", "more"), [("x86_64", True), ("aarch64", False)])
def test_variables_of_loops_are_sought_where_addresses_need_them(machine: str, more: bool) -> None:
    from tunemesh.stage_workers.graph import targets

    target = json.dumps({"kind": "llvm", "mtriple": f"{machine}-linux-gnu"})
    without, scheduled = (
        list(targets.load(each).attrs["cl-opt"]) for each in (target, targets.for_schedules(target))
    )
    assert without == list(targets.LLVM_OPTIONS)
    assert scheduled == [*without, *(targets.X86_OPTIONS if more else ())]


def test_a_cpu_has_the_cores_of_the_device_where_its_target_does_not_say() -> None:
    def cores(target: str, device: int) -> int:
        call = TargetCall(target=target, cores=device)
        return int(json.loads(PLATFORM.resolve_target(call).canonical)["num-cores"])

    assert cores("native", 4) == 4
    assert cores('{"kind": "llvm", "mcpu": "znver4"}', 4) == 4
    assert cores('{"kind": "llvm", "mcpu": "znver4", "num-cores": 2}', 4) == 2


def test_native_names_this_cpu_and_one_core(target: str) -> None:
    described = json.loads(target)
    assert described["kind"] == "llvm"
    assert described["mcpu"]
    assert described["num-cores"] == 1


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("cuda", "tag such as nvidia/nvidia-h100"),
        ("riscy", "not defined"),
        ("opencl", "only llvm and cuda"),
        ('{"kind": "llvm"', "not valid JSON"),
        ('{"mcpu": "znver4"}', 'lacks "kind"'),
        ('{"kind": "llvm", "mcpu": "znver400"}', "no CPU znver400"),
        ('{"kind": "llvm", "mpcu": "znver4"}', "mpcu"),
    ],
)
def test_a_bad_target_is_explained_in_one_line(given: str, hint: str) -> None:
    with pytest.raises(BadTarget) as caught:
        resolve_target(given)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_import_folds_batch_norms_and_fuses(imported: Imported) -> None:
    assert [task.name for task in imported.tasks] == [
        "fused_conv2d_add_relu",
        "fused_conv2d1_add1_relu1",
        "fused_conv2d2_add1_relu1",
        "mean",
        "fused_matmul_add2",
    ]
    assert all(task.weight == 1 and len(task.key) == 64 for task in imported.tasks)


def test_batch_norms_fold_through_the_bias_of_a_convolution(target: str) -> None:
    net = make_models.Network("biased", seed=5)
    bias = net.weight(np.linspace(-1, 1, 8, dtype=np.float32))
    weight = net.normal((8, 3, 3, 3), fan_in=27)
    x = net.node("Conv", ["image", weight, bias], kernel_shape=[3, 3], pads=[1] * 4)
    net.classifier(net.node("Relu", [net.batch_norm(x, 8)]), 8, 4)
    model = net.model([1, 3, 8, 8], 4).SerializeToString()
    biased = import_model(model, target)
    assert biased.tasks[0].name == "fused_conv2d_add_relu"
    assert_computes_the_same(model, assemble(biased.model, target).untuned)


@pytest.mark.parametrize("shape", [(8,), (1, 1, 1, 8), (8, 1), (8, 1, 1), (1,), (1, 8, 8, 8), (8, 8)])
def test_what_is_added_before_a_batch_norm_is_no_bias_unless_it_is_one_per_channel(
    target: str, shape: tuple[int, ...]
) -> None:
    net = make_models.Network("added", seed=6)
    weight = net.normal((8, 3, 3, 3), fan_in=27)
    x = net.node("Conv", ["image", weight], kernel_shape=[3, 3], pads=[1] * 4)
    added = net.weight(np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape))
    x = net.batch_norm(net.node("Add", [x, added]), 8)
    net.classifier(net.node("Relu", [x]), 8, 4)
    model = net.model([1, 3, 8, 8], 4).SerializeToString()
    imported = import_model(model, target)
    assert_computes_the_same(model, assemble(imported.model, target).untuned)


def test_repeated_layers_are_one_task(target: str) -> None:
    mixer = make_models.tiny_mlp_mixer().SerializeToString()
    weights = {task.name: task.weight for task in import_model(mixer, target).tasks}
    assert weights["fused_matmul_add_relu"] == 2
    assert weights["conv2d"] == 1


def test_equal_workloads_have_equal_keys_whatever_the_model(imported: Imported, target: str) -> None:
    renamed = make_models.tiny_cnn()
    renamed.graph.input[0].name = renamed.graph.node[0].input[0] = "other"
    again = import_model(renamed.SerializeToString(), target)
    assert [task.key for task in again.tasks] == [task.key for task in imported.tasks]
    other = json.dumps({**json.loads(target), "num-cores": 2}, sort_keys=True)
    elsewhere = import_model(renamed.SerializeToString(), other)
    assert elsewhere.tasks[0].key != imported.tasks[0].key


def dynamic_cnn() -> bytes:
    model = make_models.tiny_cnn()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return model.SerializeToString()


def with_unknown_operator() -> bytes:
    model = make_models.tiny_cnn()
    model.graph.node[1].op_type = "FancyNorm"
    model.graph.node[1].domain = "acme"
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("model", "shapes", "hint"),
    [
        (b"hello, world", {}, "neither ONNX, nor TFLite, nor"),
        (b"", {}, "neither ONNX, nor TFLite, nor"),
        (make_models.tiny_cnn().SerializeToString()[:5000], {}, "truncated or damaged"),
        (with_unknown_operator(), {}, "FancyNorm"),
        (b'{"root_index": 3}', {}, "not a module of this TVM"),
        (dynamic_cnn(), {}, "--shape image=1,3,32,32"),
        (dynamic_cnn(), {"picture": [1, 3, 32, 32]}, "no input picture; its inputs are image"),
        (dynamic_cnn(), {"image": [1, 3, 32]}, "4 dimensions, not 3"),
        (dynamic_cnn(), {"image": [1, 3, 32, 64]}, "fixed size of 32 in axis 3, not 64"),
    ],
)
def test_a_bad_model_is_explained_in_one_line(
    model: bytes, shapes: dict[str, list[int]], hint: str, target: str
) -> None:
    with pytest.raises(BadModel) as caught:
        import_model(model, target, shapes=shapes)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_given_shape_fixes_a_dynamic_model(imported: Imported, target: str) -> None:
    fixed = import_model(dynamic_cnn(), target, shapes={"image": [1, 3, 32, 32]})
    assert [task.key for task in fixed.tasks] == [task.key for task in imported.tasks]


def test_what_is_left_to_llvm_names_passes_that_tvm_would_run(
    convolution: ExtractedTask, target: str
) -> None:
    import tvm
    from tvm.ir.instrument import pass_instrument

    @pass_instrument
    class Recorder:
        def __init__(self) -> None:
            self.ran: set[str] = set()

        def run_before_pass(self, _: object, info: object) -> None:
            self.ran.add(str(info.name))  # type: ignore[attr-defined]

    def ran(left_out: list[str]) -> set[str]:
        recorder = Recorder()
        with tvm.transform.PassContext(instruments=[recorder], disabled_pass=left_out):
            compilation.compile_and_link(workloads.load(convolution.workload), target)
        return recorder.ran

    left_out = compilation.left_out(target)
    assert left_out
    assert ran([]) - ran(left_out) == set(left_out)


def test_import_counts_the_constants_of_the_model(target: str) -> None:
    weights = sum(np.prod(tensor.dims) for tensor in make_models.tiny_cnn().graph.initializer)
    given = import_model(make_models.tiny_cnn().SerializeToString(), target)
    assert 0.9 * 4 * weights < given.constants <= 4 * weights


def test_import_counts_the_operations_of_every_task(product: ExtractedTask, imported: Imported) -> None:
    # A product of 64 x 64 matrices: a multiplication and an addition for each pair.
    assert product.operations == 2 * 64**3
    assert all(task.operations > 0 for task in imported.tasks)


def test_the_tuned_model_computes_what_it_computed_before(
    cnn: bytes,
    imported: Imported,
    convolution: ExtractedTask,
    first_round: tuple[bytes, list[Trial]],
    target: str,
) -> None:
    _, trials = first_round
    best = min(trials, key=lambda trial: trial.latency)
    assembled = assemble(imported.model, target, [tuned_task(convolution, target, best)])

    (signature,) = json.loads(assembled.signature)["variants"]
    assert signature == {
        "inputs": [{"name": "image", "shape": [1, 3, 32, 32], "dtype": "float32"}],
        "outputs": [{"name": "logits", "shape": [1, 10], "dtype": "float32"}],
        "function": "main",
    }
    assert_computes_the_same(cnn, assembled.untuned)
    assert_computes_the_same(cnn, assembled.tuned)

    assert imported.judged[0].judge.startswith("ONNX Runtime ")
    validated = validate(assembled.tuned, assembled.untuned, assembled.signature, target, imported.sample)
    assert validated.wrong == ""
    (output,), judged = validated.outputs, validated.judged
    assert (output.name, output.elements, output.compared) == ("logits", 10, 10)
    assert 0 < output.tolerance < 1e-3
    assert output.units < 0.1
    assert judged.judge == imported.judged[0].judge
    assert judged.outputs[0].units < 0.1
    assert min(validated.after) > 0
    assert statistics.median(validated.after) < statistics.median(validated.before)
    assert 0 <= validated.waited < 1


def test_models_that_differ_are_told_apart(imported: Imported, target: str) -> None:
    changed = make_models.tiny_cnn()
    bias = next(w for w in changed.graph.initializer if w.name == changed.graph.node[-1].input[2])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, 0.5, np.float32), bias.name))
    other = import_model(changed.SerializeToString(), target)
    one, two = (assemble(model.model, target) for model in (imported, other))
    validated = validate(two.untuned, one.untuned, one.signature, target, imported.sample)
    assert re.match(
        r"output logits\[0,\d\] is \S+, the untuned model gives \S+ \(may differ by", validated.wrong
    )
    assert validated.outputs[0].difference == pytest.approx(0.5, abs=0.3)
    # Both against what the model says: two that are wrong in the same way are not taken for right.
    validated = validate(two.untuned, two.untuned, one.signature, target, imported.sample)
    assert "ONNX Runtime" in validated.wrong


def test_a_tir_function_is_a_model_of_one_task(target: str) -> None:
    single = import_model(matrix_product(), target)
    assert [task.weight for task in single.tasks] == [1]
    proposal = update(single.tasks[0].workload, target, None, [], 2)
    trials = measure(single.tasks[0], target, proposal.schedules)
    assembled = assemble(single.model, target, [tuned_task(single.tasks[0], target, trials[0])])
    assert [tensor["name"] for tensor in json.loads(assembled.signature)["variants"][0]["inputs"]] == [
        "a",
        "b",
    ]
    validated = validate(assembled.tuned, assembled.untuned, assembled.signature, target, single.sample)
    assert (validated.wrong, validated.judged.judge) == ("", "")
    assert "no framework" in validated.judged.reason


def symbolic_relax() -> bytes:
    import tvm
    from tvm import relax

    batch = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((batch, 16), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            weight = relax.const(np.eye(16, dtype=np.float32))
            result = builder.emit_output(relax.op.matmul(x, weight))
        builder.emit_func_output(result)
    return str(tvm.ir.save_json(builder.get())).encode()


def test_a_relax_module_is_imported_and_its_shapes_fixed(target: str) -> None:
    model = symbolic_relax()
    with pytest.raises(BadModel, match="--shape x=1,16"):
        import_model(model, target)
    fixed = import_model(model, target, shapes={"x": [4, 16]})
    assembled = assemble(fixed.model, target)
    assert json.loads(assembled.signature)["variants"][0]["outputs"][0]["shape"] == [4, 16]


def test_a_target_of_a_gpu_has_what_schedules_are_made_by() -> None:
    """MetaSchedule makes none for a GPU whose limits it does not know."""
    plain = json.loads(resolve_target('{"kind": "cuda", "arch": "sm_90"}'))
    tagged = json.loads(resolve_target("nvidia/nvidia-h100"))
    for limit in (
        "max_threads_per_block",
        "max_shared_memory_per_block",
        "thread_warp_size",
        "registers_per_block",
    ):
        assert plain[limit] == tagged[limit]


def test_a_model_in_which_nothing_can_be_tuned_is_compiled_as_it_is(target: str) -> None:
    """A batch of no images, say: it is right, and there is nothing to try."""
    product = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[0, 8] x, float[8, 4] w) => (float[0, 4] y)'
        " { y = MatMul(x, w) }"
    )
    imported = import_model(product.SerializeToString(), target)
    assert imported.tasks == []
    made = assemble(imported.model, target)
    assert made.notes[-1] == "the model has no operator that could be tuned: it is compiled as it is"
    assert made.tuned


def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is compiled from now on, by name, as in a process that has compiled nothing before."""
    import tvm
    from cachetools import LRUCache

    from tunemesh.stage_workers.graph import objects

    found: list[str] = []
    compile_module = tvm.tirx.build

    def build(module: object, *arguments: object, **options: object) -> object:
        found.extend(str(name.name_hint) for name in module.functions)  # type: ignore[attr-defined]
        return compile_module(module, *arguments, **options)

    monkeypatch.setattr(tvm.tirx, "build", build)
    monkeypatch.setattr(objects, "_known", LRUCache(2**20, getsizeof=len))
    return found


@pytest.mark.parametrize("cores", [1, 2])
def test_assembly_links_what_import_and_builds_have_compiled(
    cnn: bytes, target: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = json.dumps({**json.loads(target), "num-cores": cores}, sort_keys=True)
    imported = import_model(cnn, wide)
    task = imported.tasks[1]
    ((name, schedule),) = update(task.workload, wide, None, [], 1).schedules
    built = build(task.workload, wide, schedule)
    trial = Trial(candidate=Candidate(0, name, schedule), outcome="measured", latencies=[1e-3])
    tuned = [tuned_task(task, wide, trial)]

    compiled = compilations(monkeypatch)
    assembled = assemble(imported.model, wide, tuned, [imported.objects, built.objects])
    assert compiled == []
    assert_computes_the_same(cnn, assembled.untuned)
    assert_computes_the_same(cnn, assembled.tuned)


def test_assembly_compiles_what_was_not_kept(
    cnn: bytes,
    imported: Imported,
    convolution: ExtractedTask,
    first_round: tuple[bytes, list[Trial]],
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = min(first_round[1], key=lambda trial: trial.latency)
    compiled = compilations(monkeypatch)
    assembled = assemble(imported.model, target, [tuned_task(convolution, target, best)])
    # Once each: the functions of the untuned model, and one that is tuned.
    assert len(compiled) == len(set(compiled)) > len(imported.tasks)
    assert_computes_the_same(cnn, assembled.untuned)
    assert_computes_the_same(cnn, assembled.tuned)


def test_import_compiles_every_function_once(
    cnn: bytes, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = compilations(monkeypatch)
    imported = import_model(cnn, target)
    assert len(compiled) == len(set(compiled)) == len(imported.tasks)
