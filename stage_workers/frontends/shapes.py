"""Fixing dynamic input shapes by the person's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from tunemesh.shared.errors import BadModel
from tunemesh.shared.messages import Positive, Settings

T = TypeVar("T")

Dimension = int | str | None
"""Of an input as a model declares it: a size, the name of a symbolic dimension, or open without a name."""

Declared = Mapping[str, Sequence[Dimension] | None]
"""Input name to dimensions; no sequence where not even the rank is known."""


class Variant(Struct, frozen=True, kw_only=True):
    """One set of sizes that a model is tuned for.

    Attributes:
        shapes: input name to shape.
        dims: name of a symbolic dimension to its size, in whichever inputs it stands. A shape that is given
            for an input wins.
    """

    shapes: dict[str, list[Positive]] = {}
    dims: dict[str, Positive] = {}


def variants(settings: Settings) -> list[Variant]:
    """The sets of sizes that the settings ask for: one for each position of the lists in ``shapes`` and
    ``dims``. A list of one holds for all of them."""
    return [
        Variant(
            shapes={name: list(_at(each, position)) for name, each in settings.shapes.items()},
            dims={name: _at(each, position) for name, each in settings.dims.items()},
        )
        for position in range(settings.variants)
    ]


def _at(values: Sequence[T], position: int) -> T:
    return values[position if len(values) > 1 else 0]


def fix_shapes(declared: Declared, variant: Variant) -> dict[str, list[int]]:
    """The static shape of every input.

    Args:
        declared: what the model says.
        variant: what the person says.

    Raises:
        BadModel: a shape stays open, the two disagree, or the person names what the model does not have.
    """
    if unknown := sorted(set(variant.shapes) - set(declared)):
        raise BadModel(f"the model has no input {unknown[0]}; its inputs are {', '.join(declared)}")
    names = {dim: None for dims in declared.values() for dim in dims or [] if isinstance(dim, str)}
    if unknown := sorted(set(variant.dims) - set(names)):
        known = f"it has {', '.join(names)}" if names else "its inputs have none"
        raise BadModel(f"the model has no symbolic dimension {unknown[0]}; {known}")
    return {name: _fix(name, dims, variant) for name, dims in declared.items()}


def _fix(name: str, declared: Sequence[Dimension] | None, variant: Variant) -> list[int]:
    given = variant.shapes.get(name)
    if given is None:
        resolved = [variant.dims.get(dim) if isinstance(dim, str) else dim for dim in declared or []]
        fixed = [dim for dim in resolved if dim is not None]
        if declared is None or len(fixed) < len(declared):
            raise BadModel(
                f"the input {name} has a dynamic shape{_show(declared)}: fix it with {_advice(name, declared)}"
            )
        return fixed
    if declared is not None:
        if len(given) != len(declared):
            raise BadModel(f"the input {name} has {len(declared)} dimensions, not {len(given)}")
        for axis, (dim, want) in enumerate(zip(declared, given, strict=True)):
            if isinstance(dim, int) and dim != want:
                raise BadModel(f"the input {name} has a fixed size of {dim} in axis {axis}, not {want}")
    return list(given)


def _advice(name: str, declared: Sequence[Dimension] | None) -> str:
    sizes = [dim if isinstance(dim, int) else 1 for dim in declared or [1, 3, 224, 224]]
    shape = f"--shape {name}={','.join(map(str, sizes))}"
    symbols = list(dict.fromkeys(dim for dim in declared or [] if isinstance(dim, str)))
    if not symbols or None in (declared or []):
        return shape
    return f"{shape} or {' '.join(f'--dim {symbol}=1' for symbol in symbols)}"


def _show(declared: Sequence[Dimension] | None) -> str:
    if declared is None:
        return ""
    return f" ({', '.join('?' if dim is None else str(dim) for dim in declared)})"
