"""Models between import and assembly: the optimised module and its signature."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.graph import weights
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.weights import Weight


ANY = -1
"""A length of an output that depends on what the inputs hold."""


class Tensor(Struct, frozen=True):
    """An input or output of a model, by the name it has in the model's file."""

    name: str
    shape: tuple[int, ...]
    """Of an output a length may be :data:`ANY`."""
    dtype: str


class Signature(Struct, frozen=True):
    """What a model takes and gives, in order."""

    inputs: list[Tensor]
    outputs: list[Tensor]


class _Stored(Struct, frozen=True):
    signature: Signature
    changes: Changes
    graph: str
    weights: list[Weight]


def pack(module: Any, signature: Signature, changes: Changes) -> bytes:
    """The bytes of a Relax module, and of how it is to be changed."""
    import tvm

    graph, taken = weights.take_out(module)
    # Not compressed: nearly all of it is weights, and these hardly shrink.
    return msgspec.msgpack.encode(_Stored(signature, changes, str(tvm.ir.save_json(graph)), taken))


def unpack(model: bytes) -> tuple[Any, Signature, Changes]:
    """What :func:`pack` was given."""
    import tvm

    stored = msgspec.msgpack.decode(model, type=_Stored)
    module = weights.put_back(tvm.ir.load_json(stored.graph), stored.weights)
    return module, stored.signature, stored.changes


def nodes(module: Any) -> list[Any]:
    """All expressions of a module's main function, operands before what uses them."""
    import tvm

    found: list[Any] = []
    tvm.relax.analysis.post_order_visit(module["main"].body, found.append)
    return found


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


def pack_signature(signature: Signature) -> bytes:
    """The signature as JSON, for people too."""
    return msgspec.json.encode(signature)


def unpack_signature(signature: bytes) -> Signature:
    """The signature of :func:`pack_signature`'s bytes."""
    return msgspec.json.decode(signature, type=Signature)
