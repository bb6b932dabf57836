"""Attention is one kernel, however it was written, and right for any number of tokens. Real TVM."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.acceptance.direct import assemble, import_model, resolve_target, run
from tests.cases.case import Case, case, weights
from tests.onnx_models import expected
from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source, Variant
from tunemesh.stage_workers.graph import attention, compilation, dots, models, optimisation
from tunemesh.stage_workers.graph.changes import NONE, Changes
from tunemesh.stage_workers.graph.rewriting import is_call_of_tir
from tunemesh.stage_workers.measuring import loading
from tunemesh.stage_workers.measuring.comparison import Array

PROJECTIONS = "qf = MatMul (x, Wq)  kf = MatMul (x, Wk)  vf = MatMul (x, Wv)"


def heads(
    name: str,
    scores: str,
    inputs: str = "",
    tokens: int = 37,
    projections: str = PROJECTIONS,
    output: str = "",
    **values: Any,
) -> Case:
    """Two heads of 16 of a tensor, brought to the front and back as exporters do; ``scores`` from ``a``, the
    product, to ``s``."""
    ends = ", ".join(filter(None, [f"float[1,{tokens},32] x", inputs]))
    return case(
        name,
        f"""({ends}) => (float[1,{tokens},32] y{output}) {{
            {projections}
            qs = Reshape (qf, split)  ks = Reshape (kf, split)  vs = Reshape (vf, split)
            q = Transpose <perm = [0, 2, 1, 3]> (qs)
            k = Transpose <perm = [0, 2, 3, 1]> (ks)
            v = Transpose <perm = [0, 2, 1, 3]> (vs)
            a = MatMul (q, k)
            {scores}
            p = Softmax <axis = -1> (s)
            o = MatMul (p, v)
            turned = Transpose <perm = [0, 2, 1, 3]> (o)
            y = Reshape (turned, joined)
        }}""",
        Wq=weights(32, 32, scale=0.4),
        Wk=weights(32, 32, scale=0.4),
        Wv=weights(32, 32, scale=0.4),
        split=[1, tokens, 2, 16],
        joined=[1, tokens, 32],
        **values,
    )


def plain(name: str, inputs: str, nodes: str, output: str = "float[] y", **values: Any) -> Case:
    return case(name, f"({inputs}) => ({output}) {{{nodes}}}", **values)


TWO = "float[2,20,24] q, float[2,24,50] k, float[2,50,8] v"
ONE_KERNEL = [
    heads("divided", "s = Div (a, four)", four=4.0),
    heads("row_mask", "b = Mul (a, quarter)  s = Add (b, m)", "float[1,1,1,37] m", quarter=0.25),
    heads("mask_first", "b = Mul (quarter, a)  s = Add (m, b)", "float[37,37] m", quarter=0.25),
    heads(
        "two_masks",
        "b = Add (a, m)  s = Add (b, n)",
        "float[1,2,37,37] m, float[1,1,37,1] n",
    ),
    heads("as_many_as_a_vector_has_lanes", "s = Identity (a)", tokens=32),
    plain(
        "keys_of_another_length",
        TWO,
        "a = MatMul (q, k)  p = Softmax <axis = 2> (a)  y = MatMul (p, v)",
        "float[2,20,8] y",
    ),
    plain(
        "operands_scaled",  # as torch.onnx writes scaled_dot_product_attention
        "float[1,3,17,8] q, float[1,3,40,8] k, float[1,3,40,16] v",
        """t = Transpose <perm = [0, 1, 3, 2]> (k)
           r = Mul (q, root)  u = Mul (t, root)
           a = MatMul (r, u)  p = Softmax <axis = -1> (a)  y = MatMul (p, v)""",
        root=0.6,
    ),
]


def module_of(made: Any) -> Any:
    return frontends.read(Source(made.SerializeToString(), {}), Variant(shapes={}))[0]


def inputs_of(made: Any) -> dict[str, Array]:
    random = np.random.default_rng(4)
    shapes = {each.name: [d.dim_value for d in each.type.tensor_type.shape.dim] for each in made.graph.input}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def computed(module: Any, target: str, inputs: dict[str, Array]) -> Array:
    import tvm

    main = compilation.main_of(module, target)
    return loading.flatten(main(*map(tvm.runtime.tensor, inputs.values())))[0]


def names(module: Any) -> list[str]:
    return [str(name.name_hint) for name in module.functions]


@pytest.mark.parametrize("case", ONE_KERNEL, ids=[each.name for each in ONE_KERNEL])
def test_attention_is_one_kernel(case: Case, target: str) -> None:
    made = case.make()
    changed = optimisation.optimise(module_of(made), target, Changes(attention=True)).module
    assert sum("attention" in name for name in names(changed)) == 1
    # Nor is there anything left that brings heads to the front.
    assert not [name for name in names(changed) if "softmax" in name or "transpose" in name]
    inputs = inputs_of(made)
    np.testing.assert_allclose(
        computed(changed, target, inputs), expected(made, inputs)[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("case", ONE_KERNEL[::3] + ONE_KERNEL[5:6], ids=lambda each: each.name)
def test_in_bfloat16_both_of_its_products_are_of_pairs(case: Case, target: str) -> None:
    if not dots.BFLOAT16[0].runs_on(target):
        pytest.skip("this CPU has no avx512_bf16")
    made = case.make()
    changes = Changes(attention=True, fast_math=True, narrow=True)
    changed = optimisation.optimise(module_of(made), target, changes).module
    (kernel,) = (function for name, function in changed.functions_items() if "attention" in name.name_hint)
    assert len(dots.called(kernel)) == 1
    inputs = inputs_of(made)
    wanted = expected(made, inputs)[0]
    off = np.square(computed(changed, target, inputs) - wanted).mean() / np.square(wanted).mean()
    assert 2**-14 < off**0.5 < 2**-5


@pytest.mark.parametrize("cpu", ["x86-64", "haswell"])
def test_its_blocks_fit_the_registers_of_other_cpus(cpu: str) -> None:
    other = resolve_target(json.dumps({"kind": "llvm", "mcpu": cpu}))
    made = heads("row_mask", "s = Add (a, m)", "float[1,1,1,37] m").make()
    changed = optimisation.optimise(module_of(made), other, Changes(attention=True, fast_math=True)).module
    assert sum("attention" in name for name in names(changed)) == 1
    inputs = inputs_of(made)
    np.testing.assert_allclose(
        computed(changed, other, inputs), expected(made, inputs)[0], rtol=1e-4, atol=1e-5
    )


def test_what_is_masked_has_no_share_and_a_row_without_any_share_is_nan(target: str) -> None:
    made = heads("row_mask", "s = Add (a, m)", "float[1,1,37,37] m").make()
    changed = optimisation.optimise(module_of(made), target, Changes(attention=True, fast_math=True)).module
    inputs = inputs_of(made)
    inputs["m"] = np.where(inputs["m"] > 0, np.float32(0), np.float32(-np.inf))
    inputs["m"][0, 0, 5] = -np.inf
    inputs["m"][0, 0, 6] = -1e4
    got, wanted = computed(changed, target, inputs), expected(made, inputs)[0]
    assert np.isnan(got[0, 5]).all()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def columns(module: Any) -> list[int]:
    """Of the weights of all products that a module computes."""
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    fields = [each for call in calls if is_call_of_tir(call) for each in call.args[1].fields]
    constants = [each.value for each in fields if isinstance(each, tvm.ir.GenericConst)]
    return [int(each.shape[1]) for each in constants if len(each.shape) == 2]


QUERIES, KEYS, VALUES = (f"{x}m = MatMul (x, W{x})  {x}f = Add ({x}m, b{x})" for x in ("q", "k", "v"))
PROJECTED = {
    "of one input": (f"{QUERIES} {KEYS} {VALUES}", "", [96]),
    "with a bias before": (f"{QUERIES} {KEYS} vm = MatMul (x, Wv)  vf = Add (bv, vm)", "", [96]),
    "without biases": (PROJECTIONS, "", [96]),
    "one without a bias": (f"{QUERIES} {VALUES} kf = MatMul (x, Wk)", "", [32, 64]),
    "queries of another input": (
        f"z = Relu (x)  qm = MatMul (z, Wq)  qf = Add (qm, bq) {KEYS} {VALUES}",
        "",
        [32, 64],
    ),
    "a weight that is read twice": (
        f"{QUERIES} z = Relu (x)  km = MatMul (z, Wq)  kf = Add (km, bk) {VALUES}",
        "",
        [32] * 3,
    ),
    "the same queries and keys": (f"{QUERIES} km = MatMul (x, Wq)  kf = Add (km, bk) {VALUES}", "", [32] * 2),
    "keys that are read elsewhere": (
        f"{QUERIES} {KEYS} {VALUES} n = Relu (kf)",
        ", float[1,37,32] n",
        [32, 64],
    ),
}


@pytest.mark.parametrize("how", PROJECTED)
def test_products_of_one_input_are_one_where_nothing_else_reads_them(target: str, how: str) -> None:
    written, output, widths = PROJECTED[how]
    biases = {name: weights(32) for name in ("bq", "bk", "bv")}
    made = heads("joined", "s = Identity (a)", projections=written, output=output, **biases).make()
    changed = optimisation.optimise(module_of(made), target, Changes(attention=True)).module
    assert sorted(columns(changed)) == widths
    inputs = inputs_of(made)
    np.testing.assert_allclose(
        computed(changed, target, inputs), expected(made, inputs)[0], rtol=1e-4, atol=1e-5
    )


KEPT = [
    heads(
        "another_factor_before_the_mask", "b = Add (a, m)  s = Mul (b, three)", "float[1,1,1,37] m", three=3.0
    ),
    heads("shares_that_are_used_twice", "s = Identity (a)"),
    plain(
        "another_axis",
        "float[2,20,20] q, float[2,20,20] k, float[2,20,16] v",
        "a = MatMul (q, k)  p = Softmax <axis = 1> (a)  y = MatMul (p, v)",
    ),
    plain(
        "one_head_of_keys",
        "float[1,4,20,16] q, float[1,1,16,20] k, float[1,1,20,16] v",
        "a = MatMul (q, k)  p = Softmax <axis = -1> (a)  y = MatMul (p, v)",
    ),
    plain(
        "a_mask_that_makes_the_scores_larger",
        "float[20,16] q, float[16,20] k, float[2,20,16] v, float[2,20,20] m",
        "a = MatMul (q, k)  s = Add (a, m)  p = Softmax <axis = -1> (s)  y = MatMul (p, v)",
    ),
    plain(
        "one_query",
        "float[2,1,16] q, float[2,16,20] k, float[2,20,16] v",
        "a = MatMul (q, k)  p = Softmax <axis = -1> (a)  y = MatMul (p, v)",
    ),
    plain(
        "values_of_an_odd_width",
        "float[2,20,16] q, float[2,16,20] k, float[2,20,15] v",
        "a = MatMul (q, k)  p = Softmax <axis = -1> (a)  y = MatMul (p, v)",
    ),
]


@pytest.mark.parametrize("case", KEPT, ids=[each.name for each in KEPT])
def test_what_the_kernel_does_not_compute_stays(case: Case, target: str) -> None:
    made = case.make()
    if case.name == "shares_that_are_used_twice":
        made.graph.output.extend([made.graph.output[0].__class__(name="p")])
    assert not attention.gains(module_of(made), target)


@pytest.mark.parametrize("causal", [None, "TopLeft", "BottomRight"])
def test_the_operator_of_tvm_is_the_same_kernel(target: str, causal: str | None) -> None:
    """What frontends of PyTorch make of scaled_dot_product_attention."""
    from tvm import relax

    shapes = {"q": (2, 20, 3, 16), "k": (2, 35, 3, 16), "v": (2, 35, 3, 24), "m": (2, 1, 20, 35)}
    given = [relax.Var(name, relax.TensorType(shape, "float32")) for name, shape in shapes.items()]
    builder = relax.BlockBuilder()
    with builder.function("main", given):
        with builder.dataflow():
            attended = builder.emit(relax.op.nn.attention(*given, causal_mask=causal))
            result = builder.emit_output(relax.op.nn.relu(attended))
        builder.emit_func_output(result)
    module = builder.get()
    assert attention.gains(module, target)
    changed = optimisation.optimise(module, target, Changes(attention=True)).module
    random = np.random.default_rng(4)
    inputs = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    wanted = computed(optimisation.optimise(module, target, NONE).module, target, inputs)
    np.testing.assert_allclose(computed(changed, target, inputs), wanted, rtol=1e-4, atol=1e-5)


def test_products_of_flattened_tokens_are_one_too(target: str) -> None:
    """What PyTorch's exported programs have: every product flattens its tokens, and gives them their shape
    back before they are cut into heads; and heads go back and forth."""
    heads_of = "  ".join(
        f"{x}n = Reshape (x, flat)  {x}m = MatMul ({x}n, W{x})  {x}w = Reshape ({x}m, whole)"
        f"  {x}s = Reshape ({x}w, split)  {x}h = Transpose <perm = [0, 2, 1, 3]> ({x}s)"
        for x in "qkv"
    )
    made = plain(
        "flattened",
        "float[2,37,32] x",
        f"""{heads_of}
            t = Transpose <perm = [0, 1, 3, 2]> (kh)  a = MatMul (qh, t)  p = Softmax <axis = -1> (a)
            o = MatMul (p, vh)  once = Transpose <perm = [0, 2, 1, 3]> (o)
            twice = Transpose <perm = [0, 2, 1, 3]> (once)  y = Transpose <perm = [0, 2, 1, 3]> (twice)""",
        "float[2,37,2,16] y",
        **{f"W{x}": weights(32, 32, scale=0.4) for x in "qkv"},
        flat=[74, 32],
        whole=[2, 37, 32],
        split=[2, 37, 2, 16],
    ).make()
    changed = optimisation.optimise(module_of(made), target, Changes(attention=True)).module
    assert columns(changed) == [96]
    assert not [name for name in names(changed) if "transpose" in name]
    inputs = inputs_of(made)
    np.testing.assert_allclose(
        computed(changed, target, inputs), expected(made, inputs)[0], rtol=1e-4, atol=1e-5
    )


def test_a_model_with_it_is_imported_so_unless_told_otherwise(target: str) -> None:
    made = heads("divided", "four = Sqrt (depth)  s = Div (a, four)", depth=16.0).make()
    imported = import_model(made.SerializeToString(), target, {})
    assert models.unpack(imported.model).changes[0].attention
    assert not [task.name for task in imported.tasks if "softmax" in task.name]
    inputs = inputs_of(made)
    np.testing.assert_allclose(
        run(assemble(imported.model, target).tuned, inputs["x"]),
        expected(made, inputs)[0],
        rtol=1e-4,
        atol=1e-5,
    )
    kept = import_model(made.SerializeToString(), target, {"fusion": "default"})
    assert not models.unpack(kept.model).changes[0].attention
    assert [task.name for task in kept.tasks if "softmax" in task.name]
