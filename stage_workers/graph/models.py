"""Models between import and assembly: the optimised module and the signatures of its variants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.graph import variants, weights
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.options import Packing
from tunemesh.stage_workers.graph.signatures import ANY, Signature, Signatures, Tensor
from tunemesh.stage_workers.graph.weights import Weight


class _Stored(Struct, frozen=True):
    signatures: Signatures
    changes: list[Changes]
    notes: list[str]
    packing: Packing
    graph: str
    weights: list[Weight]


class Packed(Struct, frozen=True):
    """What is kept of a model.

    Attributes:
        module: all variants, joined.
        signatures: what they take and give.
        changes: how each of them is to be changed.
        notes: what was not done and why.
        packing: what becomes of its weights.
    """

    module: Any
    signatures: Signatures
    changes: list[Changes]
    notes: list[str]
    packing: Packing


def pack(
    module: Any,
    signatures: Signatures,
    changes: Sequence[Changes],
    notes: Sequence[str] = (),
    packing: Packing = "given",
) -> bytes:
    """The bytes of what is kept of a model, see :class:`Packed`."""
    import tvm

    graph, taken = weights.take_out(module)
    # Not compressed: nearly all of it is weights, and these hardly shrink.
    return msgspec.msgpack.encode(
        _Stored(signatures, list(changes), list(notes), packing, str(tvm.ir.save_json(graph)), taken)
    )


def unpack(model: bytes) -> Packed:
    """What :func:`pack` was given."""
    import tvm

    stored = msgspec.msgpack.decode(model, type=_Stored)
    module = weights.put_back(tvm.ir.load_json(stored.graph), stored.weights)
    return Packed(module, stored.signatures, stored.changes, stored.notes, stored.packing)


def nodes(module: Any) -> list[Any]:
    """All expressions of a module's entry functions, operands before what uses them."""
    import tvm

    found: list[Any] = []
    for entry in variants.entries_of(module):
        tvm.relax.analysis.post_order_visit(module[entry].body, found.append)
    return found


def functions(module: Any) -> list[Any]:
    """The functions of TIR in a module."""
    import tvm

    return [each for _, each in module.functions_items() if isinstance(each, tvm.tirx.PrimFunc)]


def signature_of(module: Any, inputs: list[str], outputs: list[str]) -> Signature:
    """The signature of ``module``'s main function, with the given names.

    Raises:
        BadModel: when an input's shape is not static, or something is not a tensor.
    """
    main = module["main"]
    result = main.ret_ty
    fields = result.fields if hasattr(result, "fields") else [result]
    return Signature(
        inputs=[_tensor(n, p.ty, "input") for n, p in zip(inputs, main.params, strict=True)],
        outputs=[_tensor(n, ty, "output") for n, ty in zip(outputs, fields, strict=True)],
    )


def _tensor(name: str, ty: Any, role: str) -> Tensor:
    import tvm

    if not isinstance(ty, tvm.relax.TensorType):
        raise BadModel(f"the {role} {name} is not a tensor")
    dims = list(ty.shape.values) if isinstance(ty.shape, tvm.relax.ShapeExpr) else [None] * max(ty.ndim, 0)
    shape = tuple(int(dim.value) if isinstance(dim, tvm.tirx.IntImm) else ANY for dim in dims)
    if role == "input" and ANY in shape:
        raise BadModel(f"the shape of the input {name} is not fixed")
    return Tensor(name, shape, str(ty.dtype))
