"""Fixing dynamic input shapes by the person's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunemesh.shared.errors import BadModel

Shapes = Mapping[str, Sequence[int]]
"""Input name to shape, from :attr:`shared.messages.Settings.shapes`."""


def fix_shapes(declared: Mapping[str, list[int | None] | None], shapes: Shapes) -> dict[str, list[int]]:
    """The static shape of every input.

    Args:
        declared: what the model says: dimensions, ``None`` where open, or no list when the rank is unknown.
        shapes: what the person says.

    Raises:
        BadModel: when a shape stays open, or the two disagree.
    """
    unknown = sorted(set(shapes) - set(declared))
    if unknown:
        raise BadModel(f"the model has no input {unknown[0]}; its inputs are {', '.join(declared)}")
    return {name: _fix(name, dims, shapes.get(name)) for name, dims in declared.items()}


def _fix(name: str, declared: list[int | None] | None, given: Sequence[int] | None) -> list[int]:
    if given is None:
        fixed = [dim for dim in declared or [] if dim is not None]
        if declared is None or len(fixed) < len(declared):
            raise BadModel(
                f"the input {name} has a dynamic shape{_show(declared)}: fix it with --shape {name}="
                + ",".join(str(dim or 1) for dim in declared or [1, 3, 224, 224])
            )
        return fixed
    if declared is not None:
        if len(given) != len(declared):
            raise BadModel(f"the input {name} has {len(declared)} dimensions, not {len(given)}")
        for axis, (dim, want) in enumerate(zip(declared, given, strict=True)):
            if dim not in (None, want):
                raise BadModel(f"the input {name} has a fixed size of {dim} in axis {axis}, not {want}")
    return list(given)


def _show(declared: list[int | None] | None) -> str:
    if declared is None:
        return ""
    return f" ({', '.join('?' if dim is None else str(dim) for dim in declared)})"
