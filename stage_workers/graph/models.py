"""Models between import and assembly: the optimised module and the signatures of its variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.graph import variants, weights
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.options import Packing
from tunemesh.stage_workers.graph.weights import Weight

ANY = -1
"""A length of an output that depends on what the inputs hold."""


class Tensor(Struct, frozen=True):
    """An input or output of a model, by the name it has in the model's file. A size of an output that depends
    on the data is -1."""

    name: str
    shape: tuple[int, ...]
    """Of an output a length may be :data:`ANY`."""
    dtype: str


class Signature(Struct, frozen=True):
    """What one variant of a model takes and gives, in order."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    function: str = variants.MAIN
    """Its entry in the module."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Input name to shape."""
        return {tensor.name: tensor.shape for tensor in self.inputs}


class Signatures(Struct, frozen=True):
    """What a model takes and gives: the content of ``signature.json``."""

    variants: list[Signature]
    """One for each set of shapes that the model was made for. They differ in nothing else."""


def signatures_of(found: Sequence[Signature]) -> Signatures:
    """The signatures of variants, each with the name of its entry in the joined module.

    Raises:
        BadModel: two take the same shapes, or take or give something else than shapes that differ.
    """
    seen: dict[str, int] = {}
    for number, each in enumerate(found):
        if (text := shapes_text(each.shapes)) in seen:
            raise BadModel(
                f"the sets of shapes {seen[text]} and {number} are the same ({text}): give each shape once"
            )
        seen[text] = number
    names = variants.entries(len(found))
    return Signatures(
        [msgspec.structs.replace(each, function=name) for each, name in zip(found, names, strict=True)]
    )


def shapes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Shapes by name, as a person would write them: ``x=1,3,224,224 y=8``."""
    return " ".join(f"{name}={_sizes(shape)}" for name, shape in shapes.items())


def _sizes(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape)) or "scalar"


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


def pack_signatures(signatures: Signatures) -> bytes:
    """The signatures as JSON, for people too."""
    return msgspec.json.encode(signatures)


def unpack_signatures(signatures: bytes) -> Signatures:
    """The signatures of :func:`pack_signatures`'s bytes."""
    return msgspec.json.decode(signatures, type=Signatures)
