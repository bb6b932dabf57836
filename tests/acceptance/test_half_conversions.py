"""Objects bring no conversions of half precision that nothing in them needs, and those that they need."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest

from tests.acceptance.direct import resolve_target
from tunemesh.stage_workers.graph import half_conversions, linking, objects
from tunemesh.stage_workers.measuring import loading

OLD = '{"kind": "llvm", "mcpu": "x86-64"}'
"""A CPU without instructions for half precision."""
COUNT = 64

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for x86, and runs it")


def function(dtype: str, add: float) -> Any:
    """Adds a number in that dtype to what is given and taken in single precision."""
    from tvm import te

    given = te.placeholder((COUNT,), name="given")
    narrow = te.compute((COUNT,), lambda i: given[i].astype(dtype) + te.const(add, dtype), name="narrow")
    result = te.compute((COUNT,), lambda i: narrow[i].astype("float32"), name="result")
    return te.create_prim_func([given, result]).with_attr("tirx.noalias", True)


def symbols(code: bytes) -> set[bytes]:
    return {name for name in half_conversions.NAMES if b"\0" + name + b"\0" in code}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_nothing_is_in_half_precision_there_is_no_conversion(dtype: str) -> None:
    target = resolve_target(OLD)
    _, code = objects.compiled(function(dtype, 1.0), target)
    assert symbols(code) == set()


def test_what_is_in_half_precision_is_converted_beside_what_is_not() -> None:
    """Linked into one, in both orders: the ones must not take the empty functions of the others."""
    target = resolve_target(OLD)
    functions = {
        "single": function("float32", 1.0),
        "double": function("float64", 2.0),
        "half": function("float16", 3.0),
    }
    made = {name: objects.compiled(each, target) for name, each in functions.items()}
    assert symbols(made["half"][1]) == set(half_conversions.NAMES)
    given = np.linspace(-2, 2, COUNT, dtype=np.float32)
    expected = {
        "single": given + 1,
        "double": given + 2,
        "half": (given.astype(np.float16) + np.float16(3)).astype(np.float32),
    }
    for order in (list(made), list(made)[::-1]):
        names = {name: made[name][0] for name in order}
        library = loading.load(linking.link_objects([made[name][1] for name in order], names))
        for name in order:
            result = run(library, name, given)
            np.testing.assert_allclose(result, expected[name], rtol=1e-6)


def run(library: Any, name: str, given: Any) -> Any:
    import tvm

    result = tvm.runtime.tensor(np.zeros(COUNT, np.float32), device=tvm.cpu())
    library[name](tvm.runtime.tensor(given, device=tvm.cpu()), result)
    return result.numpy()
