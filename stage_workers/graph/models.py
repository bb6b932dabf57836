"""Models between import and assembly: the optimised module and its signature."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from tunemesh.shared.errors import BadModel


OPEN = -1
"""A size that depends on the data."""


class Tensor(Struct, frozen=True):
    """An input or output of a model, by the name it has in the model's file. Sizes of an output that depend on
    the data are -1."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Signature(Struct, frozen=True):
    """What a model takes and gives, in order."""

    inputs: list[Tensor]
    outputs: list[Tensor]


class _Stored(Struct, frozen=True):
    signature: Signature
    module: str


def pack(module: Any, signature: Signature) -> bytes:
    """The bytes of an optimised Relax module."""
    import tvm

    # Not compressed: nearly all of it is weights, and these hardly shrink.
    return msgspec.msgpack.encode(_Stored(signature, str(tvm.ir.save_json(module))))


def unpack(model: bytes) -> tuple[Any, Signature]:
    """Module and signature of :func:`pack`'s bytes."""
    import tvm

    stored = msgspec.msgpack.decode(model, type=_Stored)
    return tvm.ir.load_json(stored.module), stored.signature


def nodes(module: Any) -> list[Any]:
    """All expressions of a module's main function, operands before what uses them."""
    import tvm

    found: list[Any] = []
    tvm.relax.analysis.post_order_visit(module["main"].body, found.append)
    return found


def signature_of(module: Any, inputs: list[str], outputs: list[str]) -> Signature:
    """The signature of ``module``'s main function, with the given names.

    Raises:
        BadModel: when the shape of an input is not static, or something is not a tensor.
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
    if isinstance(ty.shape, tvm.relax.ShapeExpr):
        sizes = tuple(int(d.value) if isinstance(d, tvm.tirx.IntImm) else OPEN for d in ty.shape.values)
    else:
        sizes = (OPEN,) * max(int(ty.ndim), 0)
    if OPEN in sizes and role == "input" or ty.ndim < 0:
        raise BadModel(f"the shape of the {role} {name} depends on the data, which cannot be tuned")
    return Tensor(name, sizes, str(ty.dtype))


def pack_signature(signature: Signature) -> bytes:
    """The signature as JSON, for people too."""
    return msgspec.json.encode(signature)


def unpack_signature(signature: bytes) -> Signature:
    """The signature of :func:`pack_signature`'s bytes."""
    return msgspec.json.decode(signature, type=Signature)
