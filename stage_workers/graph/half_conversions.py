"""Objects without TVM's conversions of half precision, where nothing in them needs any.

TVM adds two functions to everything that LLVM compiles for a CPU, in case that this has no instructions for
them: 6 ms for each object, a tenth of the time that a candidate takes. It adds them as LLVM's weak functions:
where a module has functions of these names already, LLVM's linker leaves them out. So functions that convert
nothing are added first, and in the object they get names that nobody else has.
"""

from __future__ import annotations

import hashlib
from typing import Any

MARK = "tunemesh.no_half"
"""The attribute of functions that have nothing in half precision."""
HALF = "float16"
NAMES = (b"__truncsfhf2", b"__extendhfsf2")
"""The functions, as others know them."""


def marked(function: Any) -> Any:
    """``function``, with the mark where it deserves it."""
    return function if _has_half(function) else function.with_attr(MARK, True)


def is_marked(function: Any) -> bool:
    """Whether a function has the mark."""
    return bool(function.attrs and MARK in function.attrs)


def replaced(module: Any) -> Any:
    """A module of lowered functions of one target, with functions in place of the conversions where all that
    is there has the mark, or was made of what has it."""
    from tvm import tirx

    functions = [function for _, function in module.functions_items()]
    entries = [function for function in functions if function.attrs and "global_symbol" in function.attrs]
    if not any(map(is_marked, entries)):
        return module
    changed = module.clone()
    for name in NAMES:
        number = tirx.Var("x", "float32")
        empty = tirx.PrimFunc([number], tirx.Evaluate(tirx.const(0, "int32")))
        attributes = {"global_symbol": name.decode(), "target": functions[0].attrs["target"]}
        for key, value in attributes.items():
            empty = empty.with_attr(key, value)
        changed[name.decode()] = empty
    return changed


def hidden(code: bytes, symbol: str) -> bytes | None:
    """The object ``code`` in which the functions have names of their own, which depend on ``symbol``;
    ``None`` where that is not possible."""
    for name in NAMES:
        new = hashlib.sha256(name + symbol.encode()).hexdigest()[: len(name) - 1]
        before, after = b"\0" + name + b"\0", b"\0h" + new.encode() + b"\0"
        if before not in code:
            return None
        code = code.replace(before, after)  # in what is said to debuggers, too
    return code


def _has_half(function: Any) -> bool:
    """Whether anything in a function is in half precision: what it takes, stores, casts or calls. It reads
    nothing else."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    found = [str(parameter.dtype) for parameter in function.params]

    def of_expression(node: Any) -> None:
        found.append(str(getattr(node.ty, "dtype", "")))

    def of_store(node: Any) -> None:
        found.append(str(node.buffer.dtype))

    tvm_ffi.structural_walk(
        function.body,
        [(tirx.Cast, of_expression), (tvm.ir.Call, of_expression), (tirx.BufferStore, of_store)],
    )
    return any(each.startswith(HALF) for each in found)
