"""What a function of TIR computes around a convolution of 3x3: which zeros stand around its image, and what
is done with its results, element by element.

A fused function is a row of blocks. That of the convolution is known by its form; what the last one stores is
written as an expression of the parameters and the convolution's result, by putting the blocks between into
each other. So somebody who computes the convolution in another way can go on as the function does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunemesh.stage_workers.graph.rewriting import operator_of

TAPS = 3
"""Weights of a convolution in each direction."""

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Anchored:
    """A function around a convolution with stride 1, channels last and single precision.

    Attributes:
        function: of TIR.
        image: number of the parameter.
        weights: likewise; of shape (3, 3, inputs, outputs).
        padding: rows of zeros above the image, and columns to its left.
        shape: of the image: images, height, width, channels.
        convolved: of the convolution's result, likewise.
    """

    function: Any
    image: int
    weights: int
    padding: tuple[int, int]
    shape: Shape
    convolved: Shape
    _last: Any
    _result: Any
    _value: Any
    _axes: Mapping[Any, int | None]

    def finished(self, place: Sequence[Any], value: Any) -> tuple[Any, list[Any], Any]:
        """The parameter that is written, where, and with what, for one element of the convolution's result.

        Args:
            place: of the element.
            value: of the element, as an expression.
        """
        from tvm import tirx

        zero = tirx.const(0, "int64")
        to = {axis: zero if number is None else place[number] for axis, number in self._axes.items()}
        indices = [_substituted(index, to) for index in self._last.body.indices]
        if self._value is None:
            return self._result, indices, value
        return self._last.body.buffer, indices, _loading(_substituted(self._value, to), self._result, value)


def find(function: Any) -> Anchored | None:
    """``None`` where a function has another form."""
    blocks = _blocks(function)
    found = [each for each in blocks if any(_is_reduction(axis) for axis in each.iter_vars)]
    written = {each.body.buffer: each for each in blocks}
    numbers = {parameter: number for number, parameter in enumerate(function.params)}
    if len(found) != 1 or len(written) != len(blocks):
        return None
    read = _read_by(found[0])
    outputs = [each for each in blocks if each.body.buffer in numbers]
    if read is None or len(outputs) != 1 or not outputs[0].same_as(blocks[-1]):
        return None
    source, weights = read
    padded = _padded(source, written)
    if padded is None or padded[0] not in numbers or weights not in numbers:
        return None
    image, top, left = padded
    last, result = blocks[-1], found[0].body.buffer
    if any(str(each.dtype) != "float32" for each in (image, weights, result)):
        return None
    value = None
    if last.same_as(found[0]):
        axes: dict[Any, int | None] | None = {
            axis.var: number for number, axis in enumerate(last.iter_vars[:4])
        }
    else:
        value = _written_out(last.body.value, {**written, result: None})
        axes = _axes(value, last, result)
    if axes is None:
        return None
    return Anchored(
        function=function,
        image=numbers[image],
        weights=numbers[weights],
        padding=(top, left),
        shape=_sizes(image),
        convolved=_sizes(result),
        _last=last,
        _result=result,
        _value=value,
        _axes=axes,
    )


def _blocks(function: Any) -> list[Any]:
    """The blocks of a function in order, each of which stores one value; empty where it is not made so."""
    from tvm import s_tir, tirx

    root = function.body
    if not isinstance(root, s_tir.SBlockRealize) or root.block.iter_vars:
        return []
    body = root.block.body
    found = []
    for statement in body.seq if isinstance(body, tirx.SeqStmt) else [body]:
        inner = statement
        while isinstance(inner, tirx.For):
            inner = inner.body
        if not isinstance(inner, s_tir.SBlockRealize) or not isinstance(inner.block.body, tirx.BufferStore):
            return []
        found.append(inner.block)
    return found


def _is_reduction(axis: Any) -> bool:
    from tvm import tirx

    return bool(axis.iter_type == tirx.IterVar.CommReduce)


def _read_by(block: Any) -> tuple[Any, Any] | None:
    """The buffers of the image and the weights that a block convolves; ``None`` where it does something
    else."""
    import tvm
    import tvm_ffi
    from tvm import tirx

    axes = [axis.var for axis in block.iter_vars]
    kinds = [_is_reduction(axis) for axis in block.iter_vars]
    value = block.body.value
    if kinds != [False] * 4 + [True] * 3 or not isinstance(value, tirx.Add):
        return None
    if not isinstance(value.b, tirx.Mul) or not _is_zero(block.init):
        return None
    loads = (value.a, value.b.a, value.b.b)
    if not all(isinstance(each, tvm.ir.TensorLoad) for each in loads):
        return None
    n, y, x, f, ry, rx, rc = axes
    wanted = [(n, y, x, f), (n, y + ry, x + rx, rc), (ry, rx, rc, f)]
    same = all(
        len(each.indices) == 4
        and all(tvm_ffi.structural_equal(a, b) for a, b in zip(each.indices, indices, strict=True))
        for each, indices in zip((block.body, *loads), [wanted[0], *wanted], strict=True)
    )
    result, image, weights = (each.source for each in loads)
    if not same or not result.same_as(block.body.buffer) or _sizes(weights)[:2] != (TAPS, TAPS):
        return None
    return image, weights


def _is_zero(store: Any) -> bool:
    from tvm import tirx

    return isinstance(store, tirx.BufferStore) and getattr(store.value, "value", None) == 0


def _padded(source: Any, written: Mapping[Any, Any]) -> tuple[Any, int, int] | None:
    """What stands between zeros in ``source``, and how many are above it and to its left."""
    import tvm

    block = written.get(source)
    if block is None:
        return source, 0, 0
    value, condition = block.body.value, None
    if operator_of(value).endswith("if_then_else"):
        condition, value, otherwise = value.args
        if getattr(otherwise, "value", None) != 0:
            return None
    if not isinstance(value, tvm.ir.TensorLoad) or len(value.indices) != 4:
        return None
    axes = list(block.body.indices)
    found = [_offset(index, axis) for index, axis in zip(value.indices, axes, strict=True)]
    offsets = [each for each in found if each is not None]
    if len(offsets) != len(found) or (offsets[0], offsets[3]) != (0, 0):
        return None
    sizes, padded = _sizes(value.source), _sizes(source)
    # What lies within, in terms of the padded image.
    within = {
        axis: (offset, min(offset + size, whole))
        for axis, offset, size, whole in zip(axes, offsets, sizes, padded, strict=True)
    }
    allowed = {axis: (0, whole) for axis, whole in zip(axes, padded, strict=True)}
    if condition is not None and not _narrowed(allowed, condition):
        return None
    return (value.source, offsets[1], offsets[2]) if allowed == within else None


def _narrowed(allowed: dict[Any, tuple[int, int]], condition: Any) -> bool:
    """Narrow the ranges of axes, each from a first to before an end, to where a condition holds. ``False``
    where it says something else."""
    from tvm import tirx

    if isinstance(condition, tirx.And):
        return _narrowed(allowed, condition.a) and _narrowed(allowed, condition.b)
    if not isinstance(condition, tirx.LE | tirx.LT):
        return False
    one, other, strict = condition.a, condition.b, isinstance(condition, tirx.LT)
    if isinstance(one, tirx.IntImm) and other in allowed:
        first, end = allowed[other]
        allowed[other] = (max(first, int(one.value) + strict), end)
    elif isinstance(other, tirx.IntImm) and one in allowed:
        first, end = allowed[one]
        allowed[one] = (first, min(end, int(other.value) + (not strict)))
    else:
        return False
    return True


def _offset(index: Any, axis: Any) -> int | None:
    """How much ``index`` is below ``axis``, where that is constant and not negative."""
    from tvm import tirx

    if index.same_as(axis):
        return 0
    if isinstance(index, tirx.Sub) and index.a.same_as(axis) and isinstance(index.b, tirx.IntImm):
        return int(index.b.value)
    return None


def _written_out(value: Any, blocks: Mapping[Any, Any]) -> Any:
    """``value`` with what it loads of other blocks' results in terms of what these load."""
    import tvm
    import tvm_ffi

    def load(each: Any) -> Any:
        block = blocks.get(each.source)
        if block is None:
            return each
        to = dict(zip(block.body.indices, each.indices, strict=True))
        return _written_out(_substituted(block.body.value, to), blocks)

    return tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, load))


def _axes(value: Any, block: Any, result: Any) -> dict[Any, int | None] | None:
    """Which coordinate of the ``result`` that ``value`` loads each axis of a block is; ``None`` for an axis
    that is none of them, and has the length 1."""
    import tvm
    import tvm_ffi

    loads: list[Any] = []
    tvm_ffi.structural_walk(value, (tvm.ir.TensorLoad, loads.append))
    loads = [each for each in loads if each.source.same_as(result)]
    if not loads or any(_is_reduction(axis) for axis in block.iter_vars):
        return None
    first = list(loads[0].indices)
    if not all(tvm_ffi.structural_equal(list(each.indices), first, map_free_vars=False) for each in loads):
        return None
    found: dict[Any, int | None] = {axis.var: None for axis in block.iter_vars}
    for number, (index, size) in enumerate(zip(first, _sizes(result), strict=True)):
        if index in found and found[index] is None:
            found[index] = number
        elif size != 1:
            return None
    lengths = {axis.var: int(axis.dom.extent) for axis in block.iter_vars}
    sizes = _sizes(result)
    fit = all(lengths[axis] == (1 if number is None else sizes[number]) for axis, number in found.items())
    return found if fit else None


def _substituted(expression: Any, to: Mapping[Any, Any]) -> Any:
    import tvm
    import tvm_ffi

    return tvm_ffi.structural_map(expression, (tvm.ir.Var, lambda each: to.get(each, each)))


def _loading(expression: Any, buffer: Any, value: Any) -> Any:
    """``expression`` with ``value`` in place of what it loads from ``buffer``."""
    import tvm
    import tvm_ffi

    def load(each: Any) -> Any:
        return value if each.source.same_as(buffer) else each

    return tvm_ffi.structural_map(expression, (tvm.ir.TensorLoad, load))


def _sizes(buffer: Any) -> Shape:
    """All lengths; those that are not known are 0."""
    from tvm import tirx

    return tuple(int(each.value) if isinstance(each, tirx.IntImm) else 0 for each in buffer.shape)  # type: ignore[return-value]
