"""What models take and give: names, shapes and dtypes. Clients read them: this needs no NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.graph import variants

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


def pack_signatures(signatures: Signatures) -> bytes:
    """The signatures as JSON, for people too."""
    return msgspec.json.encode(signatures)


def unpack_signatures(signatures: bytes) -> Signatures:
    """The signatures of :func:`pack_signatures`'s bytes."""
    return msgspec.json.decode(signatures, type=Signatures)
