"""Models that want more than to be computed, against real TVM: refused in one line, and nothing runs.

Beside them models of all exporters that there are, which are imported as before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import tvm
import tvm.relax.frontend.onnx
import tvm_ffi
from onnx import TensorProto, helper, numpy_helper
from tvm import relax, te, tirx, topi
from tvm.relax.frontend import nn
from tvm.script import ir as I  # noqa: N812
from tvm.script import relax as R  # noqa: N812
from tvm.script import tirx as T  # noqa: N812

from examples import make_models
from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import Source, Variant, limits, read, trusted
from tunemesh.stage_workers.frontends.tvm_vocabulary import LEAVES, NODES, OPERATORS

Run = Callable[..., CompletedProcess[str]]

REFUSED_OPERATORS = {
    "relax.assert_op",
    "relax.builtin.alloc_tensor",
    "relax.builtin.stop_lift_params",
    "relax.call_builtin_with_ctx",
    "relax.call_dps_packed",
    "relax.call_inplace_packed",
    "relax.call_pure_packed",
    "relax.call_py_func",
    "relax.call_tir_inplace",
    "relax.call_tir_with_grad",
    "relax.hint_on_device",
    "relax.invoke_closure",
    "relax.invoke_pure_closure",
    "relax.make_closure",
    "relax.null_value",
    "relax.print",
    "relax.to_vdevice",
}
REFUSED_GROUPS = ("relax.ccl.", "relax.dist.", "relax.inspect.", "relax.memory.", "relax.vm.")
DANGEROUS_OPERATORS = [
    "relax.call_dps_packed",
    "relax.call_pure_packed",
    "relax.call_py_func",
    "relax.invoke_closure",
    "tirx.call_extern",
    "tirx.call_llvm_intrin",
    "tirx.call_pure_extern",
    "tirx.tvm_call_cpacked",
    "tirx.tvm_call_packed",
]
DANGEROUS_KINDS = ["ffi.Function", "ffi.Module", "ir.EnvFunc", "relax.expr.ExternFunc", "target.Target"]


def saved(module: Any) -> bytes:
    return str(tvm.ir.save_json(module)).encode()


def refusal(model: bytes) -> str:
    with pytest.raises(BadModel) as refused:
        read(Source(model), Variant())
    text = str(refused.value)
    assert "\n" not in text
    return text


# -- The lists, beside what TVM has ------------------------------------------------------------------------


def reference_fields(kind: str) -> set[str]:
    """Fields of a TVM class that hold another object, as its serialiser sees them. TVM has no public way to
    ask."""
    info = tvm_ffi.core._lookup_or_register_type_info_from_type_key(kind)
    parents = [tvm_ffi.core._type_index_to_type_info(index) for index in info.type_ancestors]
    plain = {0, 1, 2, 3, 5}  # None, int, bool, float, DataType
    fields = [field for each in (*parents, info) if each for field in each.fields or []]
    return {field.name for field in fields if field.field_static_type_index not in plain}


@pytest.mark.parametrize("kind", NODES)
def test_the_fields_of_each_kind_of_node_are_those_of_tvm(kind: str) -> None:
    assert kind in set(map(str, tvm_ffi.registry.get_registered_type_keys()))
    assert NODES[kind] == reference_fields(kind)


def test_no_kind_of_node_that_is_let_in_has_a_loader_of_its_own() -> None:
    def has_loader(kind: str) -> bool:
        index = tvm_ffi.core._object_type_key_to_index(kind)
        return tvm_ffi.core._lookup_type_attr(index, "__data_from_json__") is not None

    assert not [kind for kind in NODES if has_loader(kind)]
    # Of these the data is looked at.
    assert {kind for kind in LEAVES if has_loader(kind)} == {
        "ffi.Tensor",
        "ir.Op",
        "ir.SourceName",
        "tirx.Axis",
    }


def test_of_each_operator_of_relax_it_is_decided_whether_models_may_use_it() -> None:
    registered = set(map(str, tvm.ir.Op.list_op_names()))
    assert registered >= OPERATORS
    rest = {name for name in registered - OPERATORS if name.startswith("relax.")}
    assert {name for name in rest if not name.startswith(REFUSED_GROUPS)} == REFUSED_OPERATORS


# -- Hostile ones ------------------------------------------------------------------------------------------


def tir_that_calls_a_command(command: str) -> Any:
    a = te.placeholder((2, 2), "float32", name="a")
    evil = tirx.call_extern("int32", "system", command).astype("float32")
    return te.create_prim_func([a, te.compute((2, 2), lambda i, j: a[i, j] + evil, name="c")])


def relax_that_calls_a_command_while_constants_are_folded(command: str) -> Any:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((64, 64), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            zeros = relax.const(np.zeros((2, 2), "float32"))
            kernel = builder.add_func(
                tir_that_calls_a_command(command).without_attr("global_symbol"), "kernel"
            )
            evil = builder.emit(relax.call_tir(kernel, [zeros], relax.TensorType((2, 2), "float32")))
            product = builder.emit(relax.op.matmul(x, x))
            result = builder.emit_output(builder.emit(relax.op.add(product, relax.op.sum(evil))))
        builder.emit_func_output(result)
    return builder.get()


@pytest.mark.parametrize(
    "make", [tir_that_calls_a_command, relax_that_calls_a_command_while_constants_are_folded]
)
def test_a_model_that_calls_a_command_is_refused_and_the_command_does_not_run(
    make: Callable[[str], Any], tmp_path: Path, tunemesh: Run
) -> None:
    canary = tmp_path / "pwned"
    path = tmp_path / "model.json"
    path.write_bytes(saved(make(f"touch {canary}")))
    done = tunemesh("tune", path, "--trials", 2, "--out", tmp_path / "out")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "tirx.call_extern (system)" in line]
    assert len(said) == 1
    assert "a model may use only known operators" in said[0]
    assert not canary.exists()


def test_a_constant_in_a_file_of_the_worker_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.full(4, 3.0, np.float32).tobytes())
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(secret).lstrip("/"))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]))
    assert "the value of the Constant node w lies outside the ONNX file" in refusal(model.SerializeToString())


def packed() -> Iterator[Any]:
    x = relax.Var("x", relax.TensorType((2, 2), "float32"))
    ty = relax.TensorType((2, 2), "float32")
    for call in (relax.call_dps_packed("evil", [x], ty), relax.call_pure_packed("evil", x, ty_args=ty)):
        builder = relax.BlockBuilder()
        with builder.function("main", [x]):
            builder.emit_func_output(builder.emit(call))
        yield builder.get()


def test_calls_of_packed_functions_are_refused_before_and_after_loading() -> None:
    for module in packed():
        assert "(evil)" in refusal(saved(module))
        with pytest.raises(BadModel, match=r"calls relax.call_(dps|pure)_packed|calls evil"):
            trusted.check_loaded(module)
    with pytest.raises(BadModel, match=r"calls tirx.call_extern"):
        trusted.check_loaded(tir_that_calls_a_command("true"))
    with pytest.raises(BadModel, match=r"calls tirx.call_extern"):
        trusted.check_loaded(relax_that_calls_a_command_while_constants_are_folded("true"))


def test_a_sort_by_a_packed_function_is_named() -> None:
    x = te.placeholder((8, 64), name="x")
    assert "(tvm.contrib.sort.sort)" in refusal(saved(te.create_prim_func([x, topi.sort(x)])))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("pragma_import_llvm", "/etc/passwd"), ("pragma_import_c", "int x;"), ("pragma_scope", "evil")],
)
def test_a_pragma_of_a_loop_is_refused_by_name(attribute: str, value: str) -> None:
    function = several_stages()
    schedule = tvm.s_tir.Schedule(function)
    (loop, *_) = schedule.get_loops(schedule.get_sblock("total"))
    schedule.annotate(loop, attribute, value)
    assert f"has the annotation {attribute}" in refusal(saved(schedule.mod["main"]))


@pytest.mark.parametrize("attribute", ["Codegen", "target", "relax.force_pure", "external_mods"])
def test_an_attribute_of_a_function_is_refused_by_name(attribute: str) -> None:
    value = tvm.target.Target("llvm") if attribute == "target" else "evil"
    text = refusal(saved(several_stages().with_attr(attribute, value)))
    assert attribute in text or "target.Target" in text


# -- Good ones, and what is made of them by changing one word ----------------------------------------------


class Network(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        self.first, self.norm, self.second = nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        return nn.op.softmax(self.second(self.norm(nn.op.gelu(self.first(x)))), axis=-1)


def exported_network() -> Any:
    return Network().export_tvm({"forward": {"x": nn.spec.Tensor((4, 16), "float32")}})[0]


def renamed_to_main(module: Any) -> Any:
    """The module of ``nn.Module``, whose function is called ``forward``."""
    return tvm.IRModule({"main": module["forward"].with_attr("global_symbol", "main")})


def from_onnx() -> Any:
    return tvm.relax.frontend.onnx.from_onnx(make_models.tiny_cnn())


def lowered() -> Any:
    """What TVM's own passes make of a model: several functions, fused."""
    passes = [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.FoldConstant(),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    return tvm.transform.Sequential(passes)(from_onnx())


def several_stages() -> Any:
    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((16, 16), "float32"), y: T.Buffer((16,), "float32")) -> None:
        chosen = T.alloc_buffer((16, 16))
        for i, j in T.grid(16, 16):
            with T.sblock("choose"):
                vi, vj = T.axis.remap("SS", [i, j])
                chosen[vi, vj] = T.if_then_else(vi < 8, T.exp(x[vi, vj]), T.float32("-inf"))
        for i, j in T.grid(16, 16):
            with T.sblock("total"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    y[vi] = T.float32(0)
                y[vi] = y[vi] + T.max(chosen[vi, vj], T.float32(0))

    return main


def several_functions() -> Any:
    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def more(x: T.Buffer((16, 16), "float32"), y: T.Buffer((16, 16), "float32")):  # noqa: N805
            for i, j in T.grid(16, 16):
                with T.sblock("more"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    y[vi, vj] = x[vi, vj] + T.float32(1)

        @R.function
        def main(x: R.Tensor((16, 16), "float32"), w: R.Tensor((16, 16), "float32")):  # noqa: N805
            cls = Module
            with R.dataflow():
                product = R.matmul(x, w)
                more = R.call_tir(cls.more, (product,), out_ty=R.Tensor((16, 16), "float32"))
                result = R.nn.softmax(more)
                R.output(result)
            return result

    return Module


def of_te(compute: Callable[[Any], Any], dtype: str = "float32", shape: tuple[int, ...] = (8, 64)) -> Any:
    x = te.placeholder(shape, dtype, name="x")
    return te.create_prim_func([x, compute(x)])


def total_of_int8(x: Any) -> Any:
    return topi.cast(topi.sum(topi.cast(x, "int32"), axis=1), "int8")


def max_pool(x: Any) -> Any:
    return topi.nn.pool2d(x, (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), "max")


GOOD: dict[str, Callable[[], Any]] = {
    "nn.Module": lambda: renamed_to_main(exported_network()),
    "ONNX": from_onnx,
    "lowered": lowered,
    "TVMScript": several_stages,
    "TVMScript, several functions": several_functions,
    "softmax": lambda: of_te(topi.nn.softmax),
    "argmax": lambda: of_te(lambda x: topi.argmax(x, axis=1)),
    "erf": lambda: of_te(topi.erf),
    "fast exp": lambda: of_te(topi.nn.fast_softmax),
    "int8": lambda: of_te(total_of_int8, "int8"),
    "float16": lambda: of_te(topi.nn.log_softmax, "float16"),
    "cumsum": lambda: of_te(lambda x: topi.cumsum(x, axis=1)),
    "max pool": lambda: of_te(max_pool, shape=(1, 4, 8, 8)),
    "resize": lambda: of_te(lambda x: topi.image.resize2d(x, [0, 0, 1, 1], (16, 16)), shape=(1, 4, 8, 8)),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_exporters_write_is_imported_unchanged(name: str) -> None:
    module = GOOD[name]()
    text = trusted.checked(saved(module))
    assert tvm_ffi.structural_equal(tvm.ir.load_json(text), module)
    imported, signature = read(Source(saved(module)), Variant())
    assert imported["main"] is not None
    assert signature.inputs
    assert signature.outputs


@pytest.mark.parametrize("name", ["nn.Module", "TVMScript", "TVMScript, several functions", "argmax"])
def test_one_changed_word_is_enough_to_be_refused(name: str) -> None:
    """Every operator of a model by every dangerous one, and every node's kind by every dangerous kind."""
    graph = json.loads(saved(GOOD[name]()))
    tried = 0
    for node in graph["nodes"]:
        before = dict(node)
        changes: list[tuple[str, str]] = [("type", kind) for kind in DANGEROUS_KINDS]
        if node["type"] == "ir.Op":
            changes += [("data", operator) for operator in DANGEROUS_OPERATORS]
        for key, value in changes:
            node[key] = value
            with pytest.raises(BadModel):
                trusted.checked(json.dumps(graph).encode())
            tried += 1
            node.update(before)
    assert tried > 100


def nested(levels: int) -> bytes:
    x = te.placeholder((4,), name="x")

    def value(i: Any) -> Any:
        total = x[i]
        for _ in range(levels):
            total = total + x[i]
        return total

    return saved(te.create_prim_func([x, te.compute((4,), value, name="y")]))


def test_the_deepest_expression_that_is_let_in_does_not_overflow_the_stack_and_a_deeper_one_is_refused() -> (
    None
):
    module, _ = read(Source(nested(limits.DEPTH - 50)), Variant())
    with tvm.target.Target({"kind": "llvm", "num-cores": 1}):
        tvm.compile(module, "llvm")
    assert "is more than 500 deep" in refusal(nested(limits.DEPTH))
