"""Matrix products with a number of rows that can be cut into blocks.

A fast product keeps a block of its result, some 8 x 32 numbers, in registers. A schedule can only cut rows
into blocks of the same size. The 197 rows of a vision transformer are a prime number: there is no block but a
single row, for which every weight is read again. Here such a product has a few rows more. They compute what
the last row computes, and nobody reads them: nothing is copied, and no row needs a condition.
"""

from __future__ import annotations

from typing import Any

from tunemesh.stage_workers.graph import fusing, legalising, models
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.rewriting import operator_of, sizes_of

PRODUCT = "relax.matmul"
BLOCKS = range(6, 17)
"""Rows that a block may have."""
LARGEST_FACTOR = 13
"""Of a number of rows. What has larger prime factors can hardly be cut on two levels."""
MOST_ADDED = 0.04
"""Part of the rows that may be added."""


def gains(module: Any) -> bool:
    """Whether there is a product in a module that gets more rows."""
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    return any(operator_of(call) == PRODUCT and _rows(call) is not None for call in calls)


def legalizers(changes: Changes) -> dict[str, Any]:
    """What ``LegalizeOps`` is to ask for the TIR of an operator, where that is not TVM's default."""
    return {PRODUCT: legalising.remembered(_legalize)} if changes.rounded else {}


def rounded(rows: int) -> int:
    """The number of rows to compute: the next one that can be cut into blocks, or ``rows`` itself."""
    for more in range(rows, int(rows * (1 + MOST_ADDED)) + 1):
        if _largest_factor(more) <= LARGEST_FACTOR and any(more % block == 0 for block in BLOCKS):
            return more
    return rows


def _largest_factor(number: int) -> int:
    factor, largest = 2, 1
    while number > 1:
        if number % factor:
            factor += 1
        else:
            number, largest = number // factor, factor
    return largest


def _rows(call: Any) -> int | None:
    """How many rows to compute for a product; ``None`` where that is as many as it has. Of matrices in
    batches both have as many."""
    first, second = (sizes_of(each.ty) for each in call.args)
    if first is None or second is None or len(first) < 2 or len(second) < 2 or 0 in first + second:
        return None
    if len(second) > 2 and first[:-2] != second[:-2]:
        return None
    more = rounded(first[-2])
    return more if more > first[-2] else None


def _legalize(builder: Any, call: Any) -> Any:
    rows = _rows(call)
    if rows is None:
        return call.op.get_attr("FLegalize")(builder, call)  # as TVM does by default
    return builder.call_te(
        multiply,
        *call.args,
        rows,
        str(call.ty.dtype),
        primfunc_name_hint="matmul",
        # TVM sees two blocks, and would fuse nothing with them.
        primfunc_attrs={fusing.PATTERN: fusing.ANCHOR},
    )


def multiply(first: Any, second: Any, rows: int, dtype: str) -> Any:
    """The product of two TE tensors, of which the first has fewer than ``rows`` rows."""
    from tvm import te, tirx

    *batch, count, depth = first.shape
    width = second.shape[-1]
    last = tirx.const(int(count) - 1, "int64")
    along = te.reduce_axis((0, depth), name="k")

    def compute(*index: Any) -> Any:
        *place, row, column = index
        left = first[(*place, tirx.min(row, last), along)]
        right = second[(*(place if len(second.shape) > 2 else ()), along, column)]
        return te.sum(left.astype(dtype) * right.astype(dtype), axis=along)

    product = te.compute([*batch, tirx.const(rows, "int64"), width], compute, name="matmul")
    return te.compute([*batch, count, width], lambda *index: product[index], name="rows")
