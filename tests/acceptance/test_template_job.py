"""A job of the template engine alone, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from tests.acceptance.conftest import Run
from tests.acceptance.test_toy_engine import assert_computes_the_same, two_products


def test_a_job_is_tuned_by_templates_with_a_search_of_ones_choice(tunemesh: Run, tmp_path: Path) -> None:
    proto = two_products()
    onnx.save(proto, str(tmp_path / "products.onnx"))
    out = tmp_path / "out"
    arguments = ["--engine", "template", "--option", "template.search=reinforce", "--trials", 40]
    done = tunemesh("tune", tmp_path / "products.onnx", *arguments, "--out", out, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "products" / "report.json").read_text())
    trials = {task["name"]: task["trials"] for task in report["tasks"]}
    assert trials["matmul"] > 16  # so many are random
    library = out / "products" / "model.so"
    assert b"__tvm_ffi_tunemesh_" in library.read_bytes()
    assert_computes_the_same(proto, library, tmp_path)
    assert list((out / "products").rglob("*-product.c"))
