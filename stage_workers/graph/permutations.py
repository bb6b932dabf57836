"""Tensors that lie in memory in another order of axes than the graph says: arithmetic of such orders.

An *order* names, for each axis in memory from the outermost on, the axis of the tensor that it is. An image
(N, C, H, W) with channels last has the order (0, 2, 3, 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Order = tuple[int, ...]


def identity(rank: int) -> Order:
    """The order of a tensor that lies as the graph says."""
    return tuple(range(rank))


def places(order: Order) -> Order:
    """For each axis of the tensor, where it is in memory."""
    return tuple(order.index(axis) for axis in range(len(order)))


def steps(have: Order, want: Order) -> Order:
    """The axes for a permutation of what lies as ``have``, so that it lies as ``want``."""
    return tuple(have.index(axis) for axis in want)


def turned(order: Order, axes: Sequence[int]) -> Order:
    """The order of a tensor whose axes were permuted, when nothing is moved in memory."""
    return tuple(list(axes).index(axis) for axis in order)


def without(order: Order, dropped: Sequence[int]) -> Order:
    """The order that is left without some axes of the tensor."""
    kept = [axis for axis in range(len(order)) if axis not in dropped]
    return tuple(kept.index(axis) for axis in order if axis in kept)


def moves(shape: Sequence[int], have: Order, want: Order) -> bool:
    """Whether anything moves between two orders of a tensor: axes of length 1 do not count."""
    return _long(shape, have) != _long(shape, want)


def _long(shape: Sequence[int], order: Order) -> list[int]:
    return [axis for axis in order if shape[axis] != 1]


def reshaped(shape: Sequence[int], order: Order, new: Sequence[int]) -> Order | None:
    """The order of a tensor that gets another shape, when nothing is moved in memory; ``None`` where that
    cannot be."""
    groups = _groups(shape, new)
    if groups is None:
        return None
    laid = _long(shape, order)
    for before, _ in groups:
        joined = [axis for axis in before if shape[axis] != 1]
        start = laid.index(joined[0]) if joined else 0
        if laid[start : start + len(joined)] != joined:
            return None
    return tuple(axis for _, after in _as_laid(shape, order, groups) for axis in after)


def before_reshape(shape: Sequence[int], order: Order, new: Sequence[int]) -> Order:
    """The order that is closest to ``order`` for which :func:`reshaped` has an answer."""
    groups = _groups(shape, new)
    if groups is None:
        return identity(len(shape))
    return tuple(axis for before, _ in _as_laid(shape, order, groups) for axis in before)


Group = tuple[list[int], list[int]]
"""Axes that become other axes: as many elements on both sides."""


def _groups(shape: Sequence[int], new: Sequence[int]) -> list[Group] | None:
    if math.prod(shape) != math.prod(new) or 0 in shape:
        return None
    found: list[Group] = []
    i = j = 0
    while i < len(shape) or j < len(new):
        first, other = i, j
        i, j = min(i + 1, len(shape)), min(j + 1, len(new))
        while (difference := math.prod(shape[first:i]) - math.prod(new[other:j])) != 0:
            if difference < 0:
                i += 1
            else:
                j += 1
        found.append((list(range(first, i)), list(range(other, j))))
    return found


def _as_laid(shape: Sequence[int], order: Order, groups: Sequence[Group]) -> list[Group]:
    """Groups in the order of their first axes in memory."""
    at = places(order)

    def key(group: Group) -> tuple[bool, int]:
        before = group[0]
        long = [axis for axis in before if shape[axis] != 1] or before
        return not long, at[long[0]] if long else 0

    return sorted(groups, key=key)
