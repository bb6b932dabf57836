"""Transpositions that move the innermost axis, block by block.

A tuner has one schedule for them: it writes one row after the other, and reads each value of a row from
another place. For 128 x 256 values that takes 22 us on a Zen 5 core. In blocks of 16 x 16, which LLVM keeps
in registers, it takes 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tunemesh.stage_workers.graph import fusing, legalising, models, workloads
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.rewriting import axes_of, operator_of, sizes_of

TRANSPOSITION = "relax.permute_dims"
BLOCK = 16
"""Values on a side of a block: a vector of AVX-512, two of AVX2."""
TURNS = "tunemesh.turns"
"""Attribute of the functions that are made here."""


def gains(module: Any) -> bool:
    """Whether a module has such a transposition."""
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    return any(_axes(call) is not None for call in calls)


def legalizers(changes: Changes) -> dict[str, Any]:
    """What ``LegalizeOps`` is to ask for the TIR of an operator, where that is not TVM's default."""
    return {TRANSPOSITION: _legalize} if changes.blocked else {}


def _axes(call: Any) -> list[int] | None:
    """The axes of a transposition that is done in blocks; ``None`` for others."""
    if operator_of(call) != TRANSPOSITION:
        return None
    shape = sizes_of(call.args[0].ty)
    if shape is None or str(call.ty.dtype) != "float32":
        return None
    axes = axes_of(call)
    runs = _runs(axes)
    sizes = [math.prod(shape[axis] for axis in run) for run in runs]
    written, read = _innermost(runs, axes)
    return axes if written != read and min(sizes[written], sizes[read]) >= BLOCK else None


def _runs(axes: Sequence[int]) -> list[list[int]]:
    """Axes that stay next to each other, in one order: they are moved as one. In the order of what is
    read."""
    runs: list[list[int]] = []
    for axis in axes:
        if runs and axis == runs[-1][-1] + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return sorted(runs)


def _innermost(runs: Sequence[list[int]], axes: Sequence[int]) -> tuple[int, int]:
    """Which run is the innermost of what is written, and which of what is read."""
    return next(number for number, run in enumerate(runs) if run[-1] == axes[-1]), len(runs) - 1


def _legalize(builder: Any, call: Any) -> Any:
    axes = _axes(call)
    if axes is None:
        return call.op.get_attr("FLegalize")(builder, call)  # as TVM does by default
    return builder.call_te(
        turn,
        call.args[0],
        axes,
        primfunc_name_hint="transpose",
        # It has its schedule, and is fused with nothing.
        primfunc_attrs={workloads.SCHEDULED: True, fusing.PATTERN: fusing.OPAQUE, TURNS: True},
    )


def turn(data: Any, axes: Sequence[int]) -> Any:
    """``data`` with its axes permuted, as TE, with a fixed schedule. The innermost axis is another one."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T  # noqa: N812

    lengths = [int(size) for size in data.shape]
    result = [lengths[axis] for axis in axes]
    runs = _runs(axes)
    shape = [math.prod(lengths[axis] for axis in run) for run in runs]
    written, read = _innermost(runs, axes)
    outer = [run for run in range(len(runs)) if run not in (read, written)]

    def generate(given: Any, made: Any) -> Any:
        with IRBuilder() as builder:
            source, target = T.buffer_proxy(given), T.buffer_proxy(made)

            def move(places: dict[int, Any]) -> None:
                at: dict[int, Any] = {}
                for number, run in enumerate(runs):
                    at |= _places(places[number], run, lengths)
                value = source[tuple(at[axis] for axis in range(len(lengths)))]
                target[tuple(at[axis] for axis in axes)] = value

            with T.parallel(0, math.prod(shape[axis] for axis in outer)) as number:
                places = _places(number, outer, shape)
                for rows, first_row in _parts(shape[written]):
                    for columns, first_column in _parts(shape[read]):
                        _block(T, rows, first_row, columns, first_column, written, read, places, move)
            return builder.get()

    return legalising.written_by_hand("transpose", [data], result, generate)


def _places(number: Any, outer: Sequence[int], shape: Sequence[int]) -> dict[int, Any]:
    """Where the ``number``-th of all places of some axes is along each of them."""
    from tvm import tirx

    found: dict[int, Any] = {}
    left = number
    for axis in reversed(outer):
        found[axis] = tirx.floormod(left, shape[axis])
        left = tirx.floordiv(left, shape[axis])
    return found


def _parts(size: int) -> list[tuple[tuple[int, int], int]]:
    """How many blocks of which length, and from where: whole ones, and what is left."""
    whole, left = divmod(size, BLOCK)
    parts = [((whole, BLOCK), 0)]
    return [*parts, ((1, left), whole * BLOCK)] if left else parts


def _block(
    builder: Any,
    rows: tuple[int, int],
    first_row: int,
    columns: tuple[int, int],
    first_column: int,
    written: int,
    read: int,
    places: dict[int, Any],
    move: Any,
) -> None:
    """Loops over blocks of rows and columns, and over each."""
    with ExitStack() as stack:
        column = stack.enter_context(builder.serial(0, columns[0]))
        row = stack.enter_context(builder.serial(0, rows[0]))
        inside = stack.enter_context(builder.unroll(0, rows[1]))
        whole = columns[1] == BLOCK
        loop = builder.vectorized if whole else builder.serial
        lane = stack.enter_context(loop(0, columns[1]))
        move(
            {
                **places,
                written: first_row + row * rows[1] + inside,
                read: first_column + column * columns[1] + lane,
            }
        )
