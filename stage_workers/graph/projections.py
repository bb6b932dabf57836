"""Products of the same tensor with several weights, as one product.

Queries, keys and values are three products of the same input, each with a bias. As one product it is read
once, and there is one larger task in place of three calls of a smaller one. What comes out lies side by
side; attention reads it where it lies.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from tunemesh.stage_workers.graph.rewriting import is_constant, operator_of, sizes_of


class Projection(Struct, frozen=True):
    """A product of a tensor and a constant, cut into heads.

    Attributes:
        source: the expression of the tensor.
        weight: the constant of shape (depth, columns).
        bias: one that is added, of shape (columns,); ``None`` where there is none.
        rows: lengths of the axes before the heads.
        columns: of a head.
    """

    source: Any
    weight: Any
    bias: Any
    rows: tuple[int, ...]
    columns: int

    @property
    def width(self) -> int:
        """Columns of all heads."""
        return int(self.weight.value.shape[1])


class Joined(Struct, frozen=True):
    """Several of them with the same source.

    Attributes:
        parts: side by side.
        members: which operands of an attention they are.
    """

    parts: list[Projection]
    members: list[int]

    def offset(self, number: int) -> int:
        """The first column of a part."""
        return sum(part.width for part in self.parts[:number])


def joined(projections: Sequence[Projection | None]) -> Joined | None:
    """Those that most have the same source, if there are at least two."""
    by_source: dict[Any, list[int]] = defaultdict(list)
    for number, each in enumerate(projections):
        if each is not None:
            by_source[each.source, each.rows, each.bias is None].append(number)
    members = max(by_source.values(), key=len, default=[])
    parts = [each for number in members if (each := projections[number]) is not None]
    return Joined(parts, members) if len(parts) > 1 else None


def projection(
    value: Any, bound: Callable[[Any], Any], constants: Mapping[Any, int], shape: Sequence[int]
) -> Projection | None:
    """What an expression is cut from; ``None`` where it is no such product.

    Args:
        value: of the expression.
        bound: what a variable is bound to that is read once; ``None`` of others.
        constants: how often each is read. One that others read would be there twice.
        shape: of the expression.
    """
    if operator_of(value) != "relax.reshape":
        return None
    whole = value.args[0]
    sizes, product, bias = sizes_of(whole.ty), bound(whole), None
    if sizes is None or not sizes or shape[-1] * shape[-2] != sizes[-1]:
        return None
    if operator_of(product) == "relax.add":
        for first, second in (list(product.args), list(product.args)[::-1]):
            if _is_along(second, sizes) and operator_of(bound(first)) == "relax.matmul":
                product, bias = bound(first), second
                break
    if operator_of(product) != "relax.matmul":
        return None
    source, weight = product.args
    if not _is_matrix(weight) or constants[weight.value] != 1 or sizes_of(product.ty) != sizes:
        return None
    return Projection(source, weight, bias, tuple(shape[:-2]), int(shape[-1]))


def constants_of(values: Sequence[Any]) -> Counter[Any]:
    """How often each constant tensor is read in some expressions."""
    import tvm
    import tvm_ffi

    found: Counter[Any] = Counter()

    def count(constant: Any) -> None:
        found[constant.value] += 1

    for value in values:
        tvm_ffi.structural_walk(value, (tvm.ir.GenericConst, count))
    return found


def emit(known: Joined, source: Any, builder: Any) -> Any:
    """The variable of all products side by side, bound in a block that is written.

    Args:
        known: are joined.
        source: the tensor, in that block.
        builder: of the block.
    """
    from tvm import relax

    weights = [each.weight.value.numpy() for each in known.parts]
    product = builder.emit(relax.op.matmul(source, relax.const(np.concatenate(weights, axis=1))))
    if known.parts[0].bias is not None:
        biases = [each.bias.value.numpy().reshape(-1) for each in known.parts]
        product = builder.emit(relax.op.add(product, relax.const(np.concatenate(biases))))
    shape = (*known.parts[0].rows, sum(part.width for part in known.parts))
    return product if sizes_of(product.ty) == shape else builder.emit(relax.op.reshape(product, shape))


def _is_float(expression: Any) -> bool:
    return is_constant(expression) and str(expression.ty.dtype) == "float32"


def _is_matrix(expression: Any) -> bool:
    return _is_float(expression) and len(expression.value.shape) == 2


def _is_along(expression: Any, sizes: Sequence[int]) -> bool:
    """Whether it is a constant with one number for each column, and for nothing else."""
    if not _is_float(expression):
        return False
    shape = [int(each) for each in expression.value.shape]
    return len(shape) <= len(sizes) and shape[-1:] == [sizes[-1]] and int(np.prod(shape)) == sizes[-1]
