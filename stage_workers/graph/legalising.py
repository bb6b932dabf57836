"""Lower each kind of call once.

TVM makes the TIR of every call anew, 1 ms each, to find then that it has it already: 20 s for an LSTM of
20,000 calls. Calls of the same operator with the same attributes, and arguments of the same types, get the
function of the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunemesh.stage_workers.graph import models
from tunemesh.stage_workers.graph.rewriting import fields_of, is_call_of_tir, is_static

Legalize = Callable[[Any, Any], Any]
"""From a block builder and a call to what takes its place."""


def legalizers(module: Any, own: Mapping[str, Legalize]) -> dict[str, Legalize]:
    """What ``LegalizeOps`` is to ask about the operators of a module.

    Args:
        own: by the operator's name, where that is not TVM's default; not remembered.
    """
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    ops = {str(call.op.name): call.op for call in calls if isinstance(call.op, tvm.ir.Op)}
    found = {name: op.get_attr("FLegalize") for name, op in ops.items()}
    known = {name: remembered(legalize) for name, legalize in found.items() if legalize is not None}
    return {**known, **own}


def remembered(legalize: Legalize) -> Legalize:
    """``legalize``, asked once for each kind of call."""
    made: dict[tuple[object, ...], tuple[Any, list[Any]]] = {}

    def remembering(builder: Any, call: Any) -> Any:
        from tvm import relax

        key = _key(call)
        if key is None:
            return legalize(builder, call)
        operands = _operands(call)
        if key in made:
            function, types = made[key]
            given = relax.Tuple(operands)
            return relax.call_tir(function, given, types if len(types) > 1 else types[0])
        result = legalize(builder, call)
        if _is_plain(result, operands):
            made[key] = result.args[0], fields_of(result.ty_args[0])
        return result

    return remembering


def _key(call: Any) -> tuple[object, ...] | None:
    """What the function for a call depends on; ``None`` where that is more than types and attributes."""
    import tvm
    import tvm_ffi
    from tvm import relax

    parts: list[object] = [tvm_ffi.structural_hash(call.attrs) if call.attrs is not None else 0]
    for argument in call.args:
        if isinstance(argument, tvm.ir.GenericConst) and not _rank(argument):
            return None  # its value goes into the function
        fields = argument.fields if isinstance(argument, relax.Tuple) else [argument]
        if not all(isinstance(each, relax.Var | tvm.ir.GenericConst) for each in fields):
            return None
        if not all(is_static(each.ty) for each in fields):
            return None  # lengths of the same name need not be the same
        parts.append(tuple(str(each.ty) for each in fields))
    return tuple(parts)


def _rank(expression: Any) -> int:
    from tvm import relax

    return int(expression.ty.ndim) if isinstance(expression.ty, relax.TensorType) else 0


def _operands(call: Any) -> list[Any]:
    from tvm import relax

    found: list[Any] = []
    for argument in call.args:
        found += argument.fields if isinstance(argument, relax.Tuple) else [argument]
    return found


def _is_plain(result: Any, operands: list[Any]) -> bool:
    """Whether what takes a call's place passes its operands on, in order, and nothing else."""
    if not is_call_of_tir(result) or len(result.args) != 2:
        return False
    passed = list(result.args[1].fields)
    return len(passed) == len(operands) and all(
        one.same_as(other) for one, other in zip(passed, operands, strict=True)
    )


def written_by_hand(
    name: str, sources: Sequence[Any], shape: Sequence[int], generate: Callable[..., Any]
) -> Any:
    """A TE tensor of ``shape`` and of the dtype of what it reads first, with a fixed schedule.

    Args:
        name: of the operation.
        sources: TE tensors that it reads.
        generate: the statements of TIR that compute it, from the buffers of all that is read, and its own.
    """
    from tvm import te, tirx

    dtype = sources[0].dtype
    return te.extern(
        shape,
        list(sources),
        lambda ins, outs: generate(*ins, outs[0]),
        dtype=dtype,
        out_buffers=[tirx.decl_buffer(shape, dtype, "result", layout=None)],
        name=name,
    )
