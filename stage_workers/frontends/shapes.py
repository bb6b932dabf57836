"""Fixing dynamic input shapes by the person's settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from tunemesh.shared.errors import BadModel
from tunemesh.shared.messages import Positive, Settings
from tunemesh.stage_workers.frontends import limits

T = TypeVar("T")

Dim = int | str | None
"""A dimension as a model declares it: its size, its name, or nothing."""


class Variant(Struct, frozen=True, kw_only=True):
    """One set of fixed shapes, for a model with open ones.

    Attributes:
        shapes: the shapes of inputs, by name.
        dims: the sizes of dimensions that have a name.
    """

    shapes: dict[str, list[Positive]] = {}
    dims: dict[str, Positive] = {}


def variants(settings: Settings) -> list[Variant]:
    """The sets of shapes that the settings ask for: one for each position of the lists in ``shapes`` and
    ``dims``. A list of one holds for all of them."""
    return [
        Variant(
            shapes={name: _at(each, position) for name, each in settings.shapes.items()},
            dims={name: _at(each, position) for name, each in settings.dims.items()},
        )
        for position in range(settings.variants)
    ]


def _at(values: Sequence[T], position: int) -> T:
    return values[position if len(values) > 1 else 0]


def fix_shapes(declared: Mapping[str, list[Dim] | None], variant: Variant) -> dict[str, list[int]]:
    """The static shape of every input. What is said of one occurrence of a named dimension, by the shape of
    an input or by its name, holds for all of them.

    Args:
        declared: what the model says, or no list when not even the rank is known.
        variant: what the person says.

    Raises:
        BadModel: when a shape stays open, or the two disagree.
    """
    if unknown := sorted(set(variant.shapes) - set(declared)):
        raise BadModel(f"the model has no input {unknown[0]}; its inputs are {', '.join(declared)}")
    named = {dim for dims in declared.values() for dim in dims or [] if isinstance(dim, str)}
    if unknown := sorted(set(variant.dims) - named):
        known = f"those it has are {', '.join(sorted(named))}" if named else "it has none with a name"
        raise BadModel(f"no input of the model has a dimension {unknown[0]}; {known}")
    sizes = dict(variant.dims)
    for name, given in variant.shapes.items():
        for dim, size in _named(name, declared[name], given):
            if variant.dims.get(dim, size) != size:
                raise BadModel(
                    f"the dimension {dim} of the input {name} is {size}, but {sizes[dim]} was given"
                )
            sizes.setdefault(dim, size)
    fixed = {
        name: list(variant.shapes[name]) if name in variant.shapes else _fixed(name, dims, sizes)
        for name, dims in declared.items()
    }
    for name, shape in fixed.items():
        if math.prod(shape) > limits.EXTENT:
            raise BadModel(
                f"the input {name} has the shape {shape}; at most {limits.EXTENT:,} elements are possible"
            )
    return fixed


def _named(name: str, declared: list[Dim] | None, given: Sequence[int]) -> list[tuple[str, int]]:
    """What the given shape of an input says of named dimensions."""
    if declared is None:
        return []
    if len(given) != len(declared):
        raise BadModel(f"the input {name} has {len(declared)} dimensions, not {len(given)}")
    for axis, (dim, want) in enumerate(zip(declared, given, strict=True)):
        if isinstance(dim, int) and dim != want:
            raise BadModel(f"the input {name} has a fixed size of {dim} in axis {axis}, not {want}")
    return [(dim, want) for dim, want in zip(declared, given, strict=True) if isinstance(dim, str)]


def _fixed(name: str, declared: list[Dim] | None, sizes: Mapping[str, int]) -> list[int]:
    known = [sizes.get(dim) if isinstance(dim, str) else dim for dim in declared or []]
    fixed = [dim for dim in known if dim is not None]
    if declared is not None and len(fixed) == len(declared):
        return fixed
    wanted = ",".join(str(dim or 1) for dim in known or [1, 3, 224, 224])
    text = f"the input {name} has a dynamic shape{_show(declared)}: fix it with --shape {name}={wanted}"
    if named := [dim for dim in declared or [] if isinstance(dim, str) and dim not in sizes]:
        text += f", or with --dim {named[0]}=1"
    raise BadModel(text)


def _show(declared: list[Dim] | None) -> str:
    if declared is None:
        return ""
    return f" ({', '.join('?' if dim is None else str(dim) for dim in declared)})"
