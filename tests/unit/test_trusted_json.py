"""Models in TVM's JSON: what may do more than compute is refused by name, before TVM sees it.

Over 400 lines: one list, and the models that try to get round it.
"""

from __future__ import annotations

import base64
import copy
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import limits
from tunemesh.stage_workers.frontends.trusted import checked

DANGEROUS_KINDS = [
    "ffi.Function",
    "ffi.Module",
    "ffi.OpaquePyObject",
    "ffi.Bytes",
    "ir.EnvFunc",
    "ir.PointerType",
    "ir.StringImm",
    "relax.VDevice",
    "relax.attrs.CallTIRWithGradAttrs",
    "relax.expr.ExternFunc",
    "runtime.disco.Session",
    "s_tir.Trace",
    "s_tir.meta_schedule.PyBuilder",
    "target.Target",
    "te.ExternOp",
    "tirx.AttrStmt",
    "transform.Pass",
    "what.TVM.adds.tomorrow",
]
DANGEROUS_OPERATORS = [
    "relax.assert_op",
    "relax.builtin.alloc_tensor",
    "relax.call_builtin_with_ctx",
    "relax.call_dps_packed",
    "relax.call_inplace_packed",
    "relax.call_pure_packed",
    "relax.call_py_func",
    "relax.call_tir_with_grad",
    "relax.invoke_closure",
    "relax.invoke_pure_closure",
    "relax.print",
    "relax.vm.call_tir_dyn",
    "tirx.address_of",
    "tirx.call_extern",
    "tirx.call_ffi_kernel",
    "tirx.call_llvm_intrin",
    "tirx.call_llvm_pure_intrin",
    "tirx.call_pure_extern",
    "tirx.call_spirv_pure_glsl450",
    "tirx.lookup_param",
    "tirx.tvm_call_cpacked",
    "tirx.tvm_call_cpacked_lowered",
    "tirx.tvm_call_packed",
    "tirx.tvm_call_packed_lowered",
    "tirx.tvm_call_trace_packed",
    "tirx.tvm_struct_get",
    "tirx.tvm_struct_set",
    "what.TVM.adds.tomorrow",
]


class Graph:
    """Writes a JSON graph as TVM does: operands first, by number."""

    def __init__(self) -> None:
        self.nodes: list[Any] = [{"type": "None"}]

    def add(self, node: str, /, data: Any = None, **fields: Any) -> int:
        self.nodes.append({"type": node, "data": fields if data is None else data})
        return len(self.nodes) - 1

    def array(self, *items: int) -> int:
        return self.add("ffi.Array", list(items))

    def map(self, *items: int) -> int:
        return self.add("ffi.Map", list(items))

    def text(self, text: str) -> int:
        return self.add("ffi.String", text)

    def integer(self, value: int) -> int:
        ty = self.add("ir.PrimType", span=0, dtype="int64")
        return self.add("ir.IntImm", span=0, ty=ty, value=self.add("int", value))

    def call(self, operator: str, *operands: int) -> int:
        op = self.add("ir.Op", operator)
        return self.add(
            "ir.Call", span=0, ty=0, op=op, args=self.array(*operands), attrs=0, ty_args=self.array()
        )

    def encode(self, root: int) -> bytes:
        metadata = {"tvm_version": "0.27.0"}
        return json.dumps({"root_index": root, "nodes": self.nodes, "metadata": metadata}).encode()


def tensor(
    *shape: int, dtype: tuple[int, int, int] = (2, 32, 1), device: int = 1, size: int | None = None
) -> str:
    """A constant as TVM writes it."""
    count = 1
    for dim in shape:
        count *= dim
    size = 4 * count if size is None else size
    head = struct.pack("<QQiiiBBH", 0xDD5E40F096B4A13F, 0, device, 0, len(shape), *dtype)
    return base64.b64encode(
        head + struct.pack(f"<{len(shape) + 1}q", *shape, size) + bytes(min(size, 1000))
    ).decode()


def relax(
    graph: Graph,
    body: int,
    attributes: int | None = None,
    name: str = "main",
    parameters: tuple[int, ...] = (),
    named: str | None = None,
) -> int:
    """A module with one function."""
    attrs = graph.add("ir.DictAttrs", __dict__=graph.map() if attributes is None else attributes)
    variable = graph.add("ir.GlobalVar", span=0, ty=0, name_hint=graph.text(name))
    function = graph.add(
        "relax.expr.Function",
        span=0, ty=0, attrs=attrs, params=graph.array(*parameters), body=body, ret_ty=0, is_pure=True,
    )  # fmt: skip
    return graph.add(
        "ir.IRModule",
        functions=graph.map(variable, function),
        global_var_map_=graph.map(graph.text(named or name), variable),
        source_map=0,
        attrs=graph.add("ir.DictAttrs", __dict__=graph.map()),
        global_infos=graph.map(),
    )


def small() -> tuple[Graph, int]:
    """A module that adds a constant to its input."""
    graph = Graph()
    shape = graph.add("relax.expr.ShapeExpr", span=0, ty=0, values=graph.array(graph.integer(2)))
    dtype = graph.add("ir.PrimType", span=0, dtype="float32")
    ty = graph.add("relax.TensorType", span=0, shape=shape, dtype=dtype, vdevice=0, ndim=1)
    x = graph.add("ir.Var", span=0, ty=ty, name=graph.text("x"))
    constant = graph.add("ir.GenericConst", span=0, ty=ty, value=graph.add("ffi.Tensor", tensor(2)))
    body = graph.call("relax.add", x, constant)
    return graph, relax(graph, body, graph.map(graph.text("num_input"), graph.add("int", 1)), parameters=(x,))


def refusal(graph: Graph, root: int) -> str:
    with pytest.raises(BadModel) as refused:
        checked(graph.encode(root))
    text = str(refused.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_a_model_that_only_computes_goes_to_tvm_as_it_is() -> None:
    graph, root = small()
    assert json.loads(checked(graph.encode(root))) == {"root_index": root, "nodes": graph.nodes}


def test_infinity_and_nan_are_constants_like_others() -> None:
    graph = Graph()
    root = relax(graph, graph.add("ir.FloatImm", span=0, ty=0, value=float("-inf")))
    assert "-Infinity" in checked(graph.encode(root))


@pytest.mark.parametrize("kind", DANGEROUS_KINDS)
def test_any_node_of_another_kind_is_refused_by_name(kind: str) -> None:
    graph, root = small()
    for number in range(len(graph.nodes)):
        hostile = copy.deepcopy(graph)
        hostile.nodes[number]["type"] = kind
        text = refusal(hostile, root)
        assert kind in text or "external function" in text


@pytest.mark.parametrize("kind", DANGEROUS_KINDS)
def test_nodes_that_nothing_refers_to_are_looked_at_too(kind: str) -> None:
    graph, root = small()
    graph.add(kind, global_symbol=graph.text("system"))
    assert "external function system" in refusal(graph, root) or kind in refusal(graph, root)


@pytest.mark.parametrize("operator", DANGEROUS_OPERATORS)
def test_a_call_of_what_is_no_known_operator_is_refused_with_what_it_calls(operator: str) -> None:
    graph = Graph()
    callee = graph.add("ir.StringImm", span=0, ty=0, value=graph.text("system"))
    root = relax(
        graph, graph.call(operator, callee, graph.add("ir.StringImm", span=0, ty=0, value=graph.text("id")))
    )
    assert f"calls {operator} (system): a model may use only known operators" in refusal(graph, root)


def test_a_call_through_relax_is_refused_with_the_external_function() -> None:
    graph = Graph()
    external = graph.add("relax.expr.ExternFunc", span=0, ty=0, attrs=0, global_symbol=graph.text("evil"))
    root = relax(graph, graph.call("relax.call_dps_packed", external))
    assert "calls relax.call_dps_packed (evil)" in refusal(graph, root)


def test_an_operator_is_refused_even_where_it_is_not_called() -> None:
    graph = Graph()
    assert "calls tirx.call_extern" in refusal(graph, relax(graph, graph.add("ir.Op", "tirx.call_extern")))


def test_control_characters_of_the_model_do_not_reach_the_terminal() -> None:
    graph = Graph()
    assert "\x1b" not in refusal(graph, relax(graph, graph.call("\x1b[2J\nnone")))


def test_a_function_that_the_module_does_not_have_is_not_looked_for_elsewhere() -> None:
    """The virtual machine would find ``ffi.Module.load_from_file`` among TVM's global functions."""
    graph = Graph()
    elsewhere = graph.add("ir.GlobalVar", span=0, ty=0, name_hint=graph.text("ffi.Module.load_from_file"))
    root = relax(
        graph, graph.call("relax.call_tir", elsewhere, graph.add("ir.Tuple", span=0, ty=0, fields=0))
    )
    assert "calls ffi.Module.load_from_file, which is not among its functions" in refusal(graph, root)


def test_names_and_functions_of_a_module_agree() -> None:
    graph = Graph()
    root = relax(graph, graph.integer(1), name="main", named="other")
    assert "names without a function" in refusal(graph, root)


@pytest.mark.parametrize(
    "name", ["_library_ctx", "__tvm_ffi_main", "", "a b", "a" * 300, "system;id", "\x00"]
)
def test_names_of_functions_cannot_clash_with_symbols_of_the_loader(name: str) -> None:
    graph = Graph()
    assert "has a function named" in refusal(graph, relax(graph, graph.integer(1), name=name))
    graph = Graph()
    attributes = graph.map(graph.text("global_symbol"), graph.text(name))
    assert "has a function named" in refusal(graph, relax(graph, graph.integer(1), attributes))


@pytest.mark.parametrize("name", ['x;}\n#include "/etc/passwd"', "a(b)", 'a"', "a\\\n"])
def test_names_of_variables_cannot_end_a_line_of_source(name: str) -> None:
    graph = Graph()
    dtype = graph.add("ir.PrimType", span=0, dtype="float32")
    root = relax(graph, graph.add("ir.Var", span=0, ty=dtype, name=graph.text(name)))
    assert "has a variable named" in refusal(graph, root)


@pytest.mark.parametrize(
    "attribute",
    ["Codegen", "Composite", "target", "external_mods", "system_lib_prefix", "relax.force_pure", "x"],
)
def test_attributes_that_do_more_than_describe_are_refused_by_name(attribute: str) -> None:
    graph = Graph()
    attributes = graph.map(graph.text(attribute), graph.text("anything"))
    assert f"has the attribute {attribute}" in refusal(graph, relax(graph, graph.integer(1), attributes))


def loop(graph: Graph, minimum: int, extent: int, kind: int = 0, annotations: tuple[int, ...] = ()) -> int:
    return relax(
        graph,
        graph.add(
            "tirx.For",
            span=0, loop_var=0, min=graph.integer(minimum), extent=graph.integer(extent), kind=kind,
            body=0, thread_binding=0, annotations=graph.map(*annotations), step=0,
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    "key", ["pragma_import_llvm", "pragma_import_c", "pragma_debug_skip_region", "import_llvm"]
)
def test_annotations_for_the_code_generator_are_refused_by_name(key: str) -> None:
    graph = Graph()
    root = loop(graph, 0, 4, annotations=(graph.text(key), graph.text("/etc/passwd")))
    assert f"has the annotation {key}" in refusal(graph, root)


def test_a_schedule_rule_is_one_of_those_that_exporters_name() -> None:
    graph = Graph()
    checked(graph.encode(loop(graph, 0, 4, annotations=(graph.text("schedule_rule"), graph.text("None")))))
    graph = Graph()
    root = loop(graph, 0, 4, annotations=(graph.text("schedule_rule"), graph.text("layout_transform")))
    assert "has the schedule rule layout_transform" in refusal(graph, root)


@pytest.mark.parametrize(
    ("minimum", "extent", "kind"),
    [(0, -1, 0), (0, 2**62, 0), (2**62, 4, 0), (-(2**62), 4, 0), (0, 4, 77), (0, 4, -1)],
)
def test_loops_have_steps_that_can_be_counted(minimum: int, extent: int, kind: int) -> None:
    graph = Graph()
    assert "has a loop" in refusal(graph, loop(graph, minimum, extent, kind))


@pytest.mark.parametrize("dims", [(-1,), (2**63 - 1,), (2**32, 2**32), (2**31, 2**31, 4), (1,) * 40])
def test_tensors_have_sizes_that_can_be_counted(dims: tuple[int, ...]) -> None:
    graph = Graph()
    shape = graph.add("relax.expr.ShapeExpr", span=0, ty=0, values=graph.array(*map(graph.integer, dims)))
    assert "has a tensor of the shape" in refusal(graph, relax(graph, shape))


@pytest.mark.parametrize("dtype", ["handle", "", "float32x1000000", "custom[evil]32", "int8x4"])
def test_values_are_numbers_not_pointers_or_vectors(dtype: str) -> None:
    graph = Graph()
    ty = graph.add("ir.PrimType", span=0, dtype=dtype)
    assert "type" in refusal(
        graph, relax(graph, graph.add("prim.Cast", span=0, ty=ty, value=graph.integer(1)))
    )


@pytest.mark.parametrize(
    "data",
    [
        "",
        "not base64!",
        tensor(2)[:-4],
        tensor(2, device=2),
        tensor(2, size=4),
        tensor(-2, -2),
        tensor(2**32, 2**32, size=0),
        tensor(2, dtype=(2, 32, 2)),
        tensor(2) + "AAAA",
    ],
)
def test_a_constant_is_as_long_as_it_says(data: str) -> None:
    graph = Graph()
    constant = graph.add("ir.GenericConst", span=0, ty=0, value=graph.add("ffi.Tensor", data))
    assert "a constant of the TVM JSON model is truncated or damaged" in refusal(
        graph, relax(graph, constant)
    )


def test_a_buffer_cannot_choose_its_address() -> None:
    graph = Graph()
    buffer = graph.add(
        "tirx.BufferType",
        span=0, dtype=0, storage_scope=graph.text("global"), shape=graph.array(graph.integer(1)),
        strides=graph.array(), elem_offset=0, data_alignment=64, offset_factor=1, layout=0,
        allocated_addr=graph.array(graph.integer(0x400000)),
    )  # fmt: skip
    assert "at an address of its own choice" in refusal(graph, relax(graph, buffer))


def deep(levels: int, *, shared: bool) -> tuple[Graph, int]:
    graph = Graph()
    one = body = graph.integer(1)
    for _ in range(levels):
        body = graph.add("prim.Add", span=0, ty=0, a=body, b=body if shared else one)
    return graph, relax(graph, body)


@pytest.mark.parametrize("levels", [501, 100_000])
def test_what_would_overflow_the_stack_of_tvm_is_refused(levels: int) -> None:
    assert "is more than 500 deep: split it" in refusal(*deep(levels, shared=False))


def test_what_tvm_would_visit_for_ever_is_refused() -> None:
    """Sixty additions of something to itself: 2**60 nodes to whoever follows every reference."""
    assert "nodes in one expression" in refusal(*deep(60, shared=True))


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b'{"nodes":' + b"[" * 100_000])
def test_deep_brackets_are_refused(text: bytes) -> None:
    with pytest.raises(BadModel, match="truncated or damaged"):
        checked(text)


def test_only_what_was_checked_reaches_tvm() -> None:
    """Of two equal keys one reader takes the first and another the last."""
    graph, root = small()
    text = graph.encode(root).replace(b'"type": "None"', b'"type": "ffi.Module", "type": "None"', 1)
    text = text.replace(b'"root_index"', b'"extra": {"type": "ffi.Module"}, "root_index"', 1)
    assert "ffi.Module" not in checked(text)


@pytest.mark.parametrize("reference", ["itself", "later", -1, 10**30, 1.0, "0", None, [0], True])
def test_references_go_back_to_what_was_read(reference: object) -> None:
    graph, root = small()
    call = next(i for i, each in enumerate(graph.nodes) if each["type"] == "ir.Call")
    graph.nodes[call]["data"]["ty"] = {"itself": call, "later": call + 1}.get(str(reference), reference)
    assert f"node {call} of the TVM JSON model refers to" in refusal(graph, root)


@pytest.mark.parametrize("kind", ["ffi.Array", "ir.IntImm", "ffi.String"])
def test_the_root_is_a_module_or_a_function(kind: str) -> None:
    graph, _ = small()
    root = next(i for i, each in enumerate(graph.nodes) if each["type"] == kind)
    assert f"the JSON holds a {kind}, not a module or function" in refusal(graph, root)


@pytest.mark.parametrize(
    ("limit", "most", "of"),
    [
        ("GRAPH_NODES", 20, "nodes of TVM's JSON"),
        ("CONSTANTS", 0, "constants"),
        ("CONSTANT_BYTES", 7, "bytes of constants"),
        ("TENSORS", 0, "inputs and outputs"),
    ],
)
def test_what_is_too_large_is_named(limit: str, most: int, of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, root = small()
    monkeypatch.setattr(limits, limit, most)
    assert f"{of}; at most {most} can be imported" in refusal(graph, root)


def test_a_model_of_another_tvm_is_said_to_be_one() -> None:
    graph, root = small()
    graph.add("tirx.Var", span=0)
    text = graph.encode(root).replace(b"0.27.0", b"0.25.0")
    with pytest.raises(BadModel, match=r"holds a tirx.Var: .*; it was written by TVM 0\.25\.0, not 0\.27"):
        checked(text)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.integers(0, 30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
def test_whatever_stands_in_a_graph_ends_in_one_line_or_in_a_text(data: st.DataObject) -> None:
    graph, root = small()
    number = data.draw(st.integers(0, len(graph.nodes) - 1))
    node = graph.nodes[number]
    if isinstance(node.get("data"), dict) and data.draw(st.booleans()):
        node["data"][data.draw(st.sampled_from(sorted(node["data"])))] = data.draw(ANYTHING)
    else:
        graph.nodes[number] = (
            {**node, "data": data.draw(ANYTHING)} if data.draw(st.booleans()) else data.draw(ANYTHING)
        )
    try:
        json.loads(checked(graph.encode(root)))
    except BadModel as refused:
        text = str(refused)
    else:
        text = ""
    assert "\n" not in text
