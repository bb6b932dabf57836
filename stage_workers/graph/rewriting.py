"""What rewriting a Relax module takes, whatever is rewritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def rewritten(module: Any, change: Callable[[Any], Any]) -> Any:
    """``module`` with ``change`` made to each of its Relax functions."""
    from tvm import relax

    changed = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            changed[name] = change(function)
    return changed


def operator_of(expression: Any) -> str:
    """The name of the operator that an expression calls, of Relax or of TIR; empty where it calls none."""
    return str(getattr(getattr(expression, "op", None), "name", ""))


def variables_of(expression: Any) -> list[Any]:
    """The variables of Relax that an expression reads, once for each time."""
    import tvm_ffi
    from tvm import relax

    found: list[Any] = []
    tvm_ffi.structural_walk(expression, [(relax.Var, found.append)])
    return found


def is_call_of_tir(expression: Any) -> bool:
    """Whether it is a call of a function of TIR."""
    return operator_of(expression) == "relax.call_tir"


def is_constant(expression: Any) -> bool:
    """Whether it is a constant tensor."""
    import tvm

    return isinstance(expression, tvm.ir.GenericConst) and isinstance(expression.value, tvm.runtime.Tensor)


def is_static(ty: Any) -> bool:
    """Whether it is the type of a tensor all of whose lengths are known."""
    import tvm
    from tvm import relax

    return (
        isinstance(ty, relax.TensorType)
        and isinstance(ty.shape, relax.ShapeExpr)
        and all(isinstance(length, tvm.tirx.IntImm) for length in ty.shape.values)
    )


def fields_of(ty: Any) -> list[Any]:
    """The types in that of a tuple, or the one type that it is."""
    from tvm import relax

    return list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]


def sizes_of(ty: Any) -> tuple[int, ...] | None:
    """The shape of a tensor, by its type; ``None`` where it is not known."""
    return tuple(int(length.value) for length in ty.shape.values) if is_static(ty) else None


def axes_of(transposition: Any) -> list[int]:
    """The axes of a ``permute_dims``, all from 0 on."""
    rank = int(transposition.args[0].ty.ndim)
    given = transposition.attrs.axes
    return [int(axis) % rank for axis in given] if given is not None else list(range(rank))[::-1]


def number_of(expression: Any) -> float | None:
    """The value of a constant of one element; ``None`` of others."""
    if not is_constant(expression):
        return None
    value = expression.value.numpy()
    return float(value.reshape(-1)[0]) if value.size == 1 else None
