"""Formulas as text of LLVM."""

from __future__ import annotations

import re
import struct

import pytest

from tunemesh.stage_workers.graph import fast_math, polynomials
from tunemesh.stage_workers.graph.vector_code import DOUBLE, INTEGER, SINGLE, Code, single


def instructions(text: str) -> list[str]:
    return re.findall(r"^  %\w+ = (\w+)", text, re.MULTILINE)


def test_a_number_of_single_precision_is_written_by_the_bits_of_the_same_double() -> None:
    code = Code(1)
    bits = struct.unpack("<Q", struct.pack("<d", single(0.1)))[0]
    assert code.constant(0.1, SINGLE).name == f"0x{bits:016X}"
    assert code.constant(0.1, DOUBLE).name == "0x3FB999999999999A"
    assert code.constant(float("-inf"), SINGLE).name == "0xFFF0000000000000"
    assert code.constant(-3, INTEGER).name == "-3"
    assert Code(2).constant(7, INTEGER).name == "<i32 7, i32 7>"


@pytest.mark.parametrize(("lanes", "kind"), [(1, "float"), (16, "<16 x float>")])
def test_what_is_used_twice_is_computed_once(lanes: int, kind: str) -> None:
    code = Code(lanes)
    x = code.parameter(0)
    square = x * x
    text, declared = code.function("f", square.where(x < 0.0, -square), 1)
    assert instructions(text) == ["fmul", "fcmp", "fneg", "select"]
    assert text.startswith(f"define {kind} @f({kind} %x0) {{")
    assert declared == []


@pytest.mark.parametrize(("count", "products"), [(1, 0), (2, 1), (3, 2), (4, 2)])
def test_a_whole_power_is_a_product(count: int, products: int) -> None:
    code = Code(4)
    text, _ = code.function("f", polynomials.product(count)(code.parameter(0)), 1)
    assert instructions(text) == ["fmul"] * products


@pytest.mark.parametrize("name", sorted(fast_math.FUNCTIONS))
def test_functions_are_arithmetic_without_branches_or_calls(name: str) -> None:
    text = fast_math.code({"one": (name, 1), "many": (name, 32)})
    assert re.findall(r"^define .* @(\w+)\(", text, re.MULTILINE) == ["one", "many"]
    assert set(re.findall(r"call \S.*? (@[\w.]+)\(", text)) <= {
        "@llvm.fabs.f32",
        "@llvm.fabs.f64",
        "@llvm.fabs.v32f32",
        "@llvm.fabs.v32f64",
    }
    assert " br " not in text
    declared = re.findall(r"^declare .*$", text, re.MULTILINE)
    assert len(declared) == len(set(declared))
