"""Functions of TIR that reach outside of their buffers are refused, and those that conditions keep inside are
not."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from tvm import te, tirx, topi
from tvm.script import tirx as T  # noqa: N812

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import Source, Variant, read
from tunemesh.stage_workers.graph import bounds, places

# mypy: disable-error-code="attr-defined,misc,valid-type,name-defined,no-untyped-def"


@T.prim_func(s_tir=True)
def reads_behind(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.sblock("y"):
            v = T.axis.spatial(8, i)
            y[v] = x[v] + x[v + 1]


@T.prim_func(s_tir=True)
def reads_before(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.sblock("y"):
            v = T.axis.spatial(8, i)
            y[v] = x[v] - x[v - 1]


@T.prim_func(s_tir=True)
def writes_behind(x: T.Buffer((4, 4), "float32"), y: T.Buffer((3, 4), "float32")):
    for i, j in T.grid(4, 4):
        with T.sblock("y"):
            vi, vj = T.axis.remap("SS", [i, j])
            y[vi, vj] = x[vi, vj]


@T.prim_func(s_tir=True)
def reads_behind_what_it_made(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    made = T.sblock_alloc_buffer((8,))
    for i in range(8):
        with T.sblock("made"):
            v = T.axis.spatial(8, i)
            made[v] = x[v] * T.float32(2)
    for i in range(8):
        with T.sblock("y"):
            v = T.axis.spatial(8, i)
            y[v] = made[v * 2 // 3 * 2]


@T.prim_func(s_tir=True)
def guarded_too_weakly(x: T.Buffer((8,), "float32"), y: T.Buffer((10,), "float32")):
    for i in range(10):
        with T.sblock("y"):
            v = T.axis.spatial(10, i)
            y[v] = T.if_then_else(v >= 1 and v < 10, x[v - 1], T.float32(0))


@T.prim_func(s_tir=True)
def index_of_an_index(x: T.Buffer((8,), "int32"), y: T.Buffer((8,), "int32")):
    for i in range(8):
        with T.sblock("y"):
            v = T.axis.spatial(8, i)
            y[v] = x[x[v + 4]]


@T.prim_func(s_tir=True)
def triangle_too_large(x: T.Buffer((8, 8), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(8):
        y[i] = T.float32(0)
        for j in range(i, i + 2):
            y[i] = y[i] + x[i, j]


@T.prim_func(s_tir=True)
def many_loops(x: T.Buffer((64, 64, 64, 64), "float32"), y: T.Buffer((64, 64, 64, 64), "float32")):
    for i, j, k, m in T.grid(64, 64, 64, 64):
        with T.sblock("y"):
            vi, vj, vk, vm = T.axis.remap("SSSS", [i, j, k, m])
            y[vi, vj, vk, vm] = x[vi, vj, vk, (vi + vj + vk + vm) // 4 + vj // 63]


def gradient_of_pooling(size: int) -> Any:
    """TVM looks for the windows of the last row beyond the last window where they do not end together."""
    gradient, data = (te.placeholder((1, 2, each, each), name=f"x{each}") for each in (3, size))
    found = topi.nn.pool_grad(gradient, data, (3, 3), (2, 2), (1, 1, 1, 1), "max", False, True)
    return te.create_prim_func([gradient, data, found])


OUTSIDE: list[tuple[Any, str]] = [
    (reads_behind, "reads x[8], outside of its shape (8,)"),
    (reads_before, "reads x[-1], outside of its shape (8,)"),
    (writes_behind, "writes y[3, 0], outside of its shape (3, 4)"),
    (reads_behind_what_it_made, "reads made[8], outside of its shape (8,)"),
    (guarded_too_weakly, "reads x[8], outside of its shape (8,)"),
    (index_of_an_index, "reads x[8], outside of its shape (8,)"),
    (triangle_too_large, "reads x[7, 8], outside of its shape (8, 8)"),
    (many_loops, "reads x[63, 63, 63, 64], outside of its shape (64, 64, 64, 64)"),
    (gradient_of_pooling(6), "reads maxpool_grad_argmax.v0[0, 0, 3, 0], outside of its shape (1, 2, 3, 3)"),
]


@T.prim_func(s_tir=True)
def padding(x: T.Buffer((8,), "float32"), y: T.Buffer((10,), "float32")):
    for i in range(10):
        with T.sblock("y"):
            v = T.axis.spatial(10, i)
            y[v] = T.if_then_else(v >= 1 and v < 9, x[v - 1], T.float32(0))


@T.prim_func(s_tir=True)
def padding_by_a_select(x: T.Buffer((8,), "float32"), y: T.Buffer((10,), "float32")):
    for i in range(10):
        with T.sblock("y"):
            v = T.axis.spatial(10, i)
            y[v] = T.Select(v < 1 or v >= 9, T.float32(0), x[v - 1])


@T.prim_func(s_tir=True)
def branches(x: T.Buffer((8,), "float32"), y: T.Buffer((10,), "float32")):
    for i in range(10):
        if i >= 8:
            y[i] = T.float32(0)
        else:
            y[i] = x[i]


@T.prim_func(s_tir=True)
def clipped(x: T.Buffer((8,), "float32"), y: T.Buffer((20,), "float32")):
    for i in range(20):
        with T.sblock("y"):
            v = T.axis.spatial(20, i)
            y[v] = x[T.max(T.min(v - 4, 7), 0)]


@T.prim_func(s_tir=True)
def unflattened(x: T.Buffer((6, 7), "float32"), y: T.Buffer((42,), "float32")):
    for i in range(42):
        with T.sblock("y"):
            v = T.axis.spatial(42, i)
            y[v] = x[v // 7, v % 7] + x[(41 - v) // 7, (41 - v) % 7]


@T.prim_func(s_tir=True)
def correlated(x: T.Buffer((8,), "float32"), y: T.Buffer((8, 8), "float32")):
    for i, j in T.grid(8, 8):
        with T.sblock("y"):
            vi, vj = T.axis.remap("SS", [i, j])
            y[vi, vj] = T.if_then_else(vj <= vi, x[vi - vj], x[vj - vi])


@T.prim_func(s_tir=True)
def last_block_is_short(x: T.Buffer((10,), "float32"), y: T.Buffer((10,), "float32")):
    for outer, inner in T.grid(3, 4):
        with T.sblock("y"):
            v = T.axis.spatial(10, outer * 4 + inner)
            T.where(outer * 4 + inner < 10)
            y[v] = x[v]


@T.prim_func(s_tir=True)
def short_circuit(x: T.Buffer((8,), "int32"), y: T.Buffer((10,), "int32")):
    for i in range(10):
        with T.sblock("y"):
            v = T.axis.spatial(10, i)
            y[v] = T.if_then_else(v < 8 and x[v] > 0, 1, 0)


@T.prim_func(s_tir=True)
def guarded_by_data(x: T.Buffer((8,), "int32"), y: T.Buffer((10,), "int32")):
    for i in range(10):
        with T.sblock("y"):
            v = T.axis.spatial(10, i)
            y[v] = T.if_then_else(x[0] > 0, x[v], 0)


@T.prim_func(s_tir=True)
def triangle(x: T.Buffer((8, 8), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(8):
        y[i] = T.float32(0)
        for j in range(i + 1, 8):
            y[i] = y[i] + x[i, j] + x[j - i, j - 1]


@T.prim_func(s_tir=True)
def never(x: T.Buffer((0,), "float32"), y: T.Buffer((4,), "float32")):
    for i in range(4):
        y[i] = T.float32(0)
        for j in range(0):
            y[i] = x[j]


def symbolic() -> Any:
    x = te.placeholder((tirx.Var("n", "int32"),), name="x")
    return te.create_prim_func([x, te.compute((8,), lambda i: x[i + 1], name="y")])


def long_sums(count: int) -> Any:
    """So deep, or with so many shared parts, that nothing can be said in time."""
    x = te.placeholder((8,), name="x")

    def index(i: Any) -> Any:
        for _ in range(count):
            i = tirx.BitwiseXor(i, i)
        return i + 8

    return te.create_prim_func([x, te.compute((8,), lambda i: x[index(i)], name="y")])


INSIDE: list[Any] = [
    padding,
    padding_by_a_select,
    branches,
    clipped,
    unflattened,
    correlated,
    last_block_is_short,
    short_circuit,
    guarded_by_data,
    triangle,
    never,
    gradient_of_pooling(5),
    symbolic(),
]


@pytest.mark.parametrize(("function", "words"), OUTSIDE, ids=[words for _, words in OUTSIDE])
def test_what_reaches_outside_is_refused_with_the_access(function: Any, words: str) -> None:
    text = str(tvm.ir.save_json(tvm.IRModule({"main": function})))
    with pytest.raises(BadModel) as caught:
        read(Source(text.encode()), Variant())
    assert str(caught.value) == f"the function main {words}: correct its loops, or guard the access"


@pytest.mark.parametrize("function", INSIDE, ids=lambda each: str((each.attrs or {}).get("global_symbol")))
def test_what_stays_inside_is_not(function: Any) -> None:
    assert bounds.outside(function) == ""


def test_every_function_of_a_module_is_looked_at() -> None:
    module = tvm.IRModule({"padding": padding, "reads_behind": reads_behind})
    with pytest.raises(BadModel, match=r"the function reads_behind reads x\[8\]"):
        bounds.check(module)


def test_what_would_take_too_long_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "reads x[8]" in bounds.outside(long_sums(8))
    monkeypatch.setattr(places, "WORK", 2**10)
    assert bounds.outside(long_sums(8)) == ""
