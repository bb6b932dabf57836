"""exp and the like by arithmetic on whole vectors: as right as the C library, and without it. Real TVM."""

from __future__ import annotations

import ctypes
import math
import subprocess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import vector_math
from tests.acceptance.direct import (
    assemble,
    assert_computes_the_same,
    build,
    import_model,
    measure,
    profile,
    profile_untuned,
    resolve_target,
    tuned_task,
    update,
)
from tunemesh.stage_workers.graph import compilation, fast_math, workloads
from tunemesh.stage_workers.measuring import loading

MOST_UNITS = 4.0
EVERY = 4099
FUNCTIONS = ("exp", "log", "tanh", "sigmoid", "erf", "pow", "cube", "fourth")
INF, NAN = np.inf, np.nan
TINY = float(np.float32(1e-45))
"""The least subnormal number."""
node = helper.make_node


@pytest.fixture(scope="module", params=["native", vector_math.NO_FMA], ids=["native", "no-fma"])
def cpu(request: pytest.FixtureRequest) -> str:
    return resolve_target(request.param)


@pytest.mark.filterwarnings("ignore:Detected pow")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_million_numbers_of_all_sizes_are_right_to_4_units(name: str, cpu: str) -> None:
    if name == "pow":
        found = vector_math.error(name, cpu, True, *vector_math.pairs(0))
    else:
        found = vector_math.largest(name, cpu, True, EVERY)
    assert found.special == 0
    assert 0 < found.units <= MOST_UNITS


ODD = [
    (INF, 1.0),
    (-INF, -1.0),
    (NAN, NAN),
    (0.0, 0.0),
    (-0.0, -0.0),
    (1e30, 1.0),
    (-30.0, -1.0),
    (TINY, TINY),
]
SPECIAL: dict[str, list[tuple[float, float]]] = {
    "exp": [
        *[
            (INF, INF),
            (-INF, 0.0),
            (NAN, NAN),
            (0.0, 1.0),
            (-0.0, 1.0),
            (1e30, INF),
            (-1e30, 0.0),
            (88.8, INF),
        ],
        *[(-104.5, 0.0), (-103.2, TINY), (-95.0, 5.521e-42), (TINY, 1.0)],
    ],
    "log": [
        *[(INF, INF), (-INF, NAN), (NAN, NAN), (0.0, -INF), (-0.0, -INF), (-1.0, NAN), (1.0, 0.0)],
        *[(TINY, -103.27893), (1e-40, -92.1034)],
    ],
    "tanh": ODD,
    "sigmoid": [
        *[(INF, 1.0), (-INF, 0.0), (NAN, NAN), (0.0, 0.5), (1e30, 1.0), (-1e30, 0.0)],
        *[(-103.2, TINY), (-95.0, 5.521e-42)],
    ],
    "erf": ODD,
    "cube": [(INF, INF), (-INF, -INF), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0), (1e30, INF), (1e-15, TINY)],
}
"""What comes out for what."""


@pytest.mark.parametrize("size", [1, 7, 33])
@pytest.mark.parametrize("name", SPECIAL)
def test_nan_infinity_signed_zero_and_subnormal_numbers_are_kept(name: str, size: int, cpu: str) -> None:
    given, wanted = (np.array(each, np.float32) for each in zip(*SPECIAL[name], strict=True))
    for start in range(len(given)):
        x, right = (np.resize(np.roll(each, -start), size) for each in (given, wanted))
        got = np.empty(size, np.float32)
        vector_math.call(vector_math.kernel(name, cpu, size, True), x, got)
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=0)
        sure = ~np.isnan(right)
        np.testing.assert_array_equal(np.signbit(got[sure]), np.signbit(right[sure]))


def test_one_plus_erf_is_right_where_it_is_small_too(cpu: str) -> None:
    x = np.concatenate([np.linspace(-5, 5, 200_001), [0.0, -0.0, 1e30, -1e30, INF, -INF]]).astype(np.float32)
    got = np.empty_like(x)
    vector_math.call(vector_math.kernel("one_plus_erf", cpu, x.size, True), x, got)
    right = np.array([math.erfc(-each) for each in x.tolist()])
    np.testing.assert_allclose(got, right, rtol=0, atol=2.0**-22)
    small = (x < 0) & (x > -3.99)
    # What is left of 1 would be off by all of itself.
    np.testing.assert_allclose(got[small], right[small], rtol=1e-5, atol=0)
    np.testing.assert_array_equal(got[x <= -4], 0)
    got = np.empty(17, np.float32)
    vector_math.call(vector_math.kernel("one_plus_erf", cpu, 17, True), np.full(17, np.nan, np.float32), got)
    assert np.isnan(got).all()


POWERS = [
    *[(0.0, 2.5), (0.0, -2.5), (-0.0, 3.0), (-0.0, -3.0), (-0.0, 2.0), (-0.0, 0.5), (INF, 0.3), (INF, -0.3)],
    *[(-INF, 3.0), (-INF, 2.0), (-INF, 0.5), (-INF, -3.0), (NAN, 0.0), (1.0, NAN), (NAN, 2.0), (2.0, NAN)],
    *[(-2.0, 3.0), (-2.0, 2.0), (-2.0, 0.5), (-1.0, INF), (0.5, INF), (2.0, INF), (2.0, -INF), (-2.0, INF)],
    *[(2.0, -149.0), (2.0, 128.0), (-1.0, 16777217.0), (1.0000001, 1e30), (TINY, 0.5), (5.0, 0.0)],
    *[(-1.0, 1e30), (-3.0, 1e-30), (-0.5, -149.0), (INF, NAN), (0.0, NAN), (0.0, 0.0), (-0.0, INF)],
]


def test_powers_are_special_where_those_of_the_c_library_are(cpu: str) -> None:
    base, exponent = (np.array(each, np.float32) for each in zip(*POWERS, strict=True))
    got = np.empty(len(POWERS), np.float32)
    vector_math.call(vector_math.kernel("pow", cpu, len(POWERS), True), base, exponent, got)
    with np.errstate(all="ignore"):
        right = np.power(base.astype(np.float64), exponent.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(got, right, rtol=3e-7, atol=0)
    sure = ~np.isnan(right)
    np.testing.assert_array_equal(np.signbit(got[sure]), np.signbit(right[sure]))


@pytest.mark.parametrize("name", ["exp", "log", "erf", "tanh"])
def test_exact_is_what_the_c_library_gives(name: str, target: str) -> None:
    of = getattr(ctypes.CDLL("libm.so.6"), f"{name}f")
    of.restype, of.argtypes = ctypes.c_float, [ctypes.c_float]
    x = np.linspace(-9, 9, 1000, dtype=np.float32)
    got = np.empty_like(x)
    vector_math.call(vector_math.kernel(name, target, x.size, False), x, got)
    np.testing.assert_array_equal(got, np.array([of(each) for each in x.tolist()], np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_single(dtype: str, target: str, tmp_path: Path) -> None:
    from tvm import te

    source = te.placeholder((64,), "float32", name="x")
    narrow = te.compute((64,), lambda i: te.exp(source[i].astype(dtype)), name="narrow")
    wide = te.compute((64,), lambda i: narrow[i].astype("float32"), name="wide")
    module = workloads.of_function(te.create_prim_func([source, wide]))
    code = compilation.build_candidate(fast_math.mark(module, target), target)
    assert not outside(code, tmp_path) & LIBM
    x, got = np.linspace(-4, 4, 64, dtype=np.float32), np.empty(64, np.float32)
    vector_math.call(loading.load(code)["main"], x, got)
    if dtype == "float16":
        half = np.exp(x.astype(np.float16).astype(np.float32)).astype(np.float16)
        np.testing.assert_array_equal(got, half.astype(np.float32))
    else:  # TVM itself does not round it in between
        np.testing.assert_allclose(got, np.exp(x), rtol=2.0**-6)


def test_double_precision_is_left_to_the_c_library(target: str) -> None:
    from tvm import te

    source = te.placeholder((64,), "float64", name="x")
    module = workloads.of_function(
        te.create_prim_func([source, te.compute((64,), lambda i: te.exp(source[i]))])
    )
    assert fast_math.mark(module, target)["main"].same_as(module["main"])


# -- Models --------------------------------------------------------------------------------------------------


def model(nodes: list[onnx.NodeProto], shape: tuple[int, ...], **weights: np.ndarray[Any, Any]) -> bytes:
    """From ``x`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    made.ir_version = 9
    return bytes(made.SerializeToString())


GELU = [node("Gelu", ["x"], ["y"])]
ALL = [
    node("LayerNormalization", ["x", "scale"], ["n"]),
    node("Gelu", ["n"], ["g"]),
    node("Gelu", ["g"], ["h"], approximate="tanh"),
    node("Sigmoid", ["h"], ["s"]),
    node("Mul", ["h", "s"], ["silu"]),
    node("Mish", ["silu"], ["m"]),
    node("Softmax", ["m"], ["y"]),
]
SCALE = np.ones(48, np.float32)


def outside(library: bytes, folder: Path) -> set[str]:
    """What a shared object needs of others."""
    path = folder / "library.so"
    path.write_bytes(library)
    listed = subprocess.run(["nm", "-uD", path], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].partition("@")[0] for line in listed.splitlines()}


LIBM = {f"{name}f" for name in ("exp", "log", "tanh", "erf", "pow", "sqrt", "log1p", "round", "floor")}


def test_parts_of_a_model_that_were_not_tuned_call_no_c_library_either(target: str, tmp_path: Path) -> None:
    given = model(ALL, (1, 24, 48), scale=SCALE)
    imported = import_model(given, target)
    assembled = assemble(imported.model, target)
    assert not outside(assembled.tuned, tmp_path) & LIBM
    assert_computes_the_same(given, assembled.tuned)
    # The untuned model is as without Tunemesh, and so are the kernels that candidates are compared with.
    assert outside(assembled.untuned, tmp_path) & LIBM >= {"expf", "erff", "logf"}
    kernels = [outside(task.untuned, tmp_path) & LIBM for task in imported.tasks]
    assert set().union(*kernels) >= {"expf", "erff", "logf"}


def test_candidates_call_no_c_library_and_are_compared_with_kernels_that_do(
    target: str, tmp_path: Path
) -> None:
    given = model(GELU, (1, 24, 48), scale=SCALE)
    imported = import_model(given, target)
    (task,) = imported.tasks
    proposed = update(task.workload, target, None, [], 2)
    for _, schedule in proposed.schedules:
        artifact = build(task.workload, target, schedule).artifact
        assert artifact is not None
        assert not outside(artifact, tmp_path) & LIBM
        assert profile(task, target, artifact).outcome == "measured"
    (trial, *_) = measure(task, target, proposed.schedules)
    tuned = assemble(imported.model, target, [tuned_task(task, target, trial)]).tuned
    assert not outside(tuned, tmp_path) & LIBM
    assert_computes_the_same(given, tuned)


@pytest.mark.parametrize(
    ("factor", "outcome"), [("0.99999994", "measured"), ("0.99998", "wrong-result")], ids=["rounding", "more"]
)
def test_an_erf_near_1_may_be_off_by_a_rounding_and_no_more(factor: str, outcome: str, target: str) -> None:
    eight = np.array(8, np.float32)
    nodes = [node("Mul", ["x", "w"], ["p"]), node("Gelu", ["p"], ["y"])]
    (task,) = import_model(model(nodes, (64, 64), w=eight), target).tasks
    script = workloads.load(task.workload).script()
    off = script.replace("= T.erf(", f"= T.float32({factor}) * T.erf(")
    assert off != script
    found = profile(task, target, compilation.build_untuned(_parsed(off), target))
    assert found.outcome == outcome, found.error


def _parsed(script: str) -> Any:
    from tvm.script import from_source

    return from_source(script)


def test_candidates_have_to_beat_what_the_model_has_without_them(target: str) -> None:
    latencies = {}
    maths: list[Literal["fast", "exact"]] = ["fast", "exact"]
    for way in maths:
        (task,) = import_model(model(GELU, (256, 256)), target, math=way).tasks
        latencies[way] = min(profile_untuned(task, target).latencies)
    assert 3 * latencies["fast"] < latencies["exact"]


def test_only_what_calls_such_functions_is_another_task(target: str) -> None:
    weights = np.random.default_rng(0).standard_normal((48, 48)).astype(np.float32)
    nodes = [node("MatMul", ["x", "w"], ["p"]), node("Relu", ["p"], ["r"]), node("Softmax", ["r"], ["y"])]
    maths: list[Literal["fast", "exact"]] = ["fast", "exact"]
    fast, exact = (import_model(model(nodes, (24, 48), w=weights), target, math=each) for each in maths)
    keys = [{task.name: task.key for task in each.tasks} for each in (fast, exact)]
    assert keys[0].keys() == keys[1].keys()
    same = {name: keys[0][name] == keys[1][name] for name in keys[0]}
    assert [each for each, is_same in same.items() if not is_same] == [n for n in same if "softmax" in n]
    assert any(same.values())


def test_exact_is_exact_in_candidates_and_models(target: str, tmp_path: Path) -> None:
    given = model(GELU, (1, 24, 48), scale=SCALE)
    imported = import_model(given, target, math="exact")
    (task,) = imported.tasks
    (_, schedule), *_ = update(task.workload, target, None, [], 1).schedules
    artifact = build(task.workload, target, schedule).artifact
    assert artifact is not None
    assert "erff" in outside(artifact, tmp_path)
    assert "erff" in outside(assemble(imported.model, target).tuned, tmp_path)


def test_a_gpu_has_instructions_of_its_own(target: str) -> None:
    gpu = resolve_target('{"kind": "cuda", "arch": "sm_80"}')
    (task,) = import_model(model(GELU, (1, 24, 48), scale=SCALE), target).tasks
    plain = fast_math.without_marks(workloads.load(task.workload))
    assert fast_math.mark(plain, gpu)["main"].same_as(plain["main"])
    assert not fast_math.mark(plain, target)["main"].same_as(plain["main"])
