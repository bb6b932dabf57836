"""Which functions of a model compute exp and the like by arithmetic that can be vectorised, and not by the C
library, which knows one number at a time.

A function that may is *marked* when the model is optimised. The mark is an attribute, so that it is part of
the workload and of its key: what was measured with one is never taken for the other, and a workload without
any such call is the same for both. Its calls stay calls: engines see, schedule and count them as before.

When code is made of scheduled functions, whatever scheduled them, the calls become operators of our own. TVM
vectorises them like others (it does not vectorise erf). Behind all of TVM's passes they become calls of
functions of LLVM (:mod:`.polynomials`), which LLVM inlines. Kernels without tuning, which candidates are
compared with, have the C library's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tunemesh.stage_workers.graph import dots, half_conversions, polynomials, targets
from tunemesh.stage_workers.graph.rewriting import operator_of
from tunemesh.stage_workers.graph.vector_code import Code, Value

MARK = "tunemesh.fast_math"
"""The attribute of functions whose calls are to become arithmetic."""
PIPELINE = "tunemesh"
"""The name of TVM's pipeline of passes that knows our operators."""
DTYPES = frozenset({"float32", "float16", "bfloat16"})
"""What is computed in single precision."""
SINGLE = "float32"
UNITS = {SINGLE: (2.0**-22, 0), "float16": (2.0**-11, 13), "bfloat16": (2.0**-8, 16)}
"""How far the results of calls may be off, relative to themselves: 4 units in the last place in single
precision, one rounding in others. And the place of the last bit when a number is one of single precision."""
TINY = 2.0**-126
"""The least normal number: what is smaller may be 0."""
FUNCTIONS: dict[str, Callable[..., Value]] = {
    "exp": polynomials.exp,
    "log": polynomials.log,
    "tanh": polynomials.tanh,
    "sigmoid": polynomials.sigmoid,
    "erf": polynomials.erf,
    "one_plus_erf": polynomials.one_plus_erf,
    "pow": polynomials.power,
    **{f"pow{count}": polynomials.product(count) for count in range(1, polynomials.LARGEST_PRODUCT + 1)},
}
"""By what our operators are called, behind :data:`PREFIX`."""
PREFIX = "tunemesh."
REPLACED = frozenset(f"tirx.{name}" for name in ("exp", "log", "tanh", "sigmoid", "erf", "pow"))
"""TVM's operators that become ours."""


def mark(module: Any, target: str) -> Any:
    """``module`` in which all functions with such calls are marked. A GPU has instructions of its own."""
    import tvm

    if targets.is_gpu(target):
        return module
    changed = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, tvm.tirx.PrimFunc) and _calls(function):
            changed[name] = function.with_attr(MARK, True)
    return changed


def with_operators(module: Any, target: str) -> Any:
    """``module`` with our operators in place of TVM's in the functions that are marked, which are so no more:
    what is to become code is said by the operators. In others tanh becomes a call of the C library: TVM has a
    formula that gives 0 for small numbers."""
    return module if targets.is_gpu(target) else _rewritten(module, _replaced, _by_library, _simplified)


def without_marks(module: Any) -> Any:
    """``module`` as others know it, to whom the mark says nothing."""
    return _rewritten(module, lambda call: call)


def unsure(module: Any) -> Any:
    """``module`` without marks, in which the results of marked calls are off by as much as those of
    :mod:`.polynomials` may be: it shows how far that moves what is computed of them."""
    return _rewritten(module, _moved)


def is_marked(function: Any) -> bool:
    """Whether the calls of a function are to become arithmetic."""
    return bool(function.attrs and MARK in function.attrs)


def _rewritten(
    module: Any,
    marked: Callable[[Any], Any],
    others: Callable[[Any], Any] | None = None,
    around: Callable[[Any], Any] | None = None,
) -> Any:
    """``module`` with calls changed in functions that are marked, and are so no more, and in others; and
    with sums and quotients changed in those that are marked."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    changed = module.clone()
    for name, function in module.functions_items():
        change = marked if is_marked(function) else others
        if isinstance(function, tvm.tirx.PrimFunc) and change is not None:
            maps = [(tvm.ir.Call, change)]
            if is_marked(function) and around is not None:
                maps += [(tirx.Div, around), (tirx.Add, around)]
            body = tvm_ffi.structural_map(function.body, maps)
            new = function if body.same_as(function.body) else function.with_body(body)
            changed[name] = new.without_attr(MARK) if is_marked(new) else new
    return changed


@functools.cache
def pipeline() -> str:
    """The name of a pipeline of passes that makes code of our operators; TVM's default otherwise. Operators
    and pipeline are registered in this process when it is asked for."""
    import tvm
    from tvm.s_tir import pipeline as default
    from tvm.tirx import compilation_pipeline

    for name in FUNCTIONS:
        _register(name)

    @tvm.tirx.transform.prim_func_pass(opt_level=0, name="tunemesh.FastMath")  # type: ignore[untyped-decorator]
    def with_code(function: Any, _module: Any, _context: Any) -> Any:
        return _with_code(function)

    @tvm.tirx.transform.prim_func_pass(opt_level=0, name="tunemesh.Dots")  # type: ignore[untyped-decorator]
    def dots_with_code(function: Any, _module: Any, _context: Any) -> Any:
        return dots.with_code(function)

    @tvm.transform.module_pass(opt_level=0, name="tunemesh.HalfConversions")  # type: ignore[untyped-decorator]
    def without_conversions(module: Any, _context: Any) -> Any:
        return half_conversions.replaced(module)

    def finalize_host() -> Any:
        return tvm.ir.transform.Sequential(
            [with_code, dots_with_code, default.finalize_host_passes(), without_conversions]
        )

    def passes() -> Any:
        lowering, _, finalize_device = default.default_s_tir_pipeline()
        return lowering, finalize_host, finalize_device

    compilation_pipeline.register_tir_pipeline(PIPELINE, passes)
    return PIPELINE


def _calls(function: Any) -> bool:
    """Whether there are calls in a function that may become ours."""
    import tvm
    import tvm_ffi

    found: list[Any] = []

    def visit(call: Any) -> None:
        if _is_replaced(call):
            found.append(call)

    tvm_ffi.structural_walk(function.body, (tvm.ir.Call, visit))
    return bool(found)


def _register(name: str) -> None:
    from tvm.ir import Op, _ffi_api, register_op_attr

    _ffi_api.RegisterOp(PREFIX + name, f"{name} by arithmetic")
    # Without effects, and the same for each lane.
    for attribute in ("TCallEffectKind", "TVectorizable"):
        register_op_attr(PREFIX + name, attribute, Op.get("tirx.exp").get_attr(attribute))


def _replaced(call: Any) -> Any:
    """One of TVM's calls as one of ours, in single precision."""
    from tvm import tirx

    if not _is_replaced(call):
        return call
    pipeline()
    name, dtype = str(call.op.name).removeprefix("tirx."), str(call.ty.dtype)
    base, *others = [_single(argument) for argument in call.args]
    count = small_whole(others[0]) if others else 0
    result = _call(f"pow{count}", base) if count else _call(name, base, *others)
    return result if dtype == SINGLE else tirx.Cast(dtype, result)


def _simplified(expression: Any) -> Any:
    """1 + erf in one. And a quotient with a constant divisor as a product: a division takes a CPU as long as
    some ten of them. It is off by a unit in the last place at most, where the inverse is a normal number."""
    from tvm import tirx

    if str(expression.ty.dtype) != SINGLE:
        return expression
    for first, second in ((expression.a, expression.b), (expression.b, expression.a)):
        if not isinstance(second, tirx.FloatImm):
            continue
        value = float(second.value)
        if isinstance(expression, tirx.Add):
            if value == 1.0 and operator_of(first) in ("tirx.erf", f"{PREFIX}erf"):
                return _call("one_plus_erf", *first.args)
        elif second.same_as(expression.b) and TINY <= abs(value) <= 1 / TINY:
            return first * tirx.const(1 / value, SINGLE)
    return expression


def _by_library(call: Any) -> Any:
    """TVM's tanh as a call of the C library; others as they are."""
    from tvm import tirx

    if operator_of(call) != "tirx.tanh":
        return call
    dtype = str(call.ty.dtype)
    if dtype not in DTYPES | {"float64"}:
        return call
    if dtype == "float64":
        return tirx.call_pure_extern(dtype, "tanh", *call.args)
    result = tirx.call_pure_extern(SINGLE, "tanhf", _single(call.args[0]))
    return result if dtype == SINGLE else tirx.Cast(dtype, result)


def _moved(call: Any) -> Any:
    """A call whose result is too large or too small, as the last bit of its argument says; and not 0."""
    from tvm import tirx

    if not _is_replaced(call):
        return call
    dtype = str(call.ty.dtype)
    unit, last = UNITS[dtype]
    bits = tirx.reinterpret("int32", _single(call.args[0])) >> tirx.const(last, "int32")
    odd = tirx.bitwise_and(bits, tirx.const(1, "int32")) == tirx.const(1, "int32")
    factor = tirx.Select(odd, tirx.const(1 + unit, SINGLE), tirx.const(1 - unit, SINGLE))
    wide = call if dtype == SINGLE else tirx.Cast(SINGLE, call)
    moved = wide * factor + tirx.const(TINY, SINGLE)
    return moved if dtype == SINGLE else tirx.Cast(dtype, moved)


def _call(name: str, *arguments: Any) -> Any:
    import tvm

    return tvm.tirx.call_intrin(SINGLE, PREFIX + name, *arguments)


def small_whole(exponent: Any) -> int:
    """An exponent that a product is made for; 0 for others."""
    from tvm import tirx

    if not isinstance(exponent, tirx.FloatImm):
        return 0
    value = float(exponent.value)
    return int(value) if value.is_integer() and 0 < value <= polynomials.LARGEST_PRODUCT else 0


def _single(argument: Any) -> Any:
    from tvm import tirx

    if isinstance(argument, tirx.FloatImm):
        return tirx.const(float(argument.value), SINGLE)
    return argument if str(argument.ty.dtype) == SINGLE else tirx.Cast(SINGLE, argument)


def _is_replaced(call: Any) -> bool:
    return operator_of(call) in REPLACED and str(call.ty.dtype) in DTYPES


# -- Code ----------------------------------------------------------------------------------------------------


def _with_code(function: Any) -> Any:
    """``function`` with calls of functions of LLVM in place of our operators, and with these functions."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    used: dict[tuple[str, int], str] = {}

    def call_code(call: Any) -> Any:
        name = operator_of(call)
        if not name.startswith(PREFIX):
            return call
        name, dtype = name.removeprefix(PREFIX), str(call.ty.dtype)
        symbol = used.setdefault((name, _lanes(dtype)), f"{PREFIX}{name}.{dtype}")
        return tirx.call_pure_extern(dtype, symbol, *call.args)

    body = tvm_ffi.structural_map(function.body, (tvm.ir.Call, call_code))
    if not used:
        return function
    text = code({symbol: each for each, symbol in used.items()})
    return function.with_body(tirx.AttrStmt(0, "pragma_import_llvm", tvm.ir.StringImm(text), body))


def _lanes(dtype: str) -> int:
    return int(dtype.partition("x")[2] or 1)


def code(wanted: dict[str, tuple[str, int]]) -> str:
    """A module of LLVM with functions, by their symbols: which of :data:`FUNCTIONS`, for how many lanes."""
    texts, declarations = [], dict[str, None]()
    for symbol, (name, lanes) in wanted.items():
        body = Code(lanes)
        parameters = 2 if name == "pow" else 1
        result = FUNCTIONS[name](*map(body.parameter, range(parameters)))
        text, needed = body.function(symbol, result, parameters)
        texts.append(text)
        declarations |= dict.fromkeys(needed)
    return "\n".join([*texts, *declarations, ""])
