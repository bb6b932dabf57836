"""Fourier transforms as products with a matrix of cosines and sines, which is a constant."""

from __future__ import annotations

import numpy as np

from tunemesh.stage_workers.frontends.onnx.graph import Array, Expansion, Graph, Node, unsupported

New = list[Node] | None

LARGEST = 4096
"""Points of a transform. Its matrix has the square of that."""


def _matrices(points: int, bins: int, inverse: bool, dtype: np.dtype[np.generic]) -> tuple[Array, Array]:
    """Cosines and sines of shape (points, bins): what a transform multiplies a real signal with for the real
    and the imaginary part."""
    # The product of the two is taken modulo the period first: large angles lose digits.
    turns = np.outer(np.arange(points), np.arange(bins)) % points / points
    angles = (2 if inverse else -2) * np.pi * turns
    scale = 1 / points if inverse else 1
    return (np.cos(angles) * scale).astype(dtype), (np.sin(angles) * scale).astype(dtype)


def _integer(node: Node, graph: Graph, index: int, what: str) -> int | None:
    name = node.input(index)
    if not name:
        return None
    value = graph.value(name)
    if value is None:
        raise unsupported(node, f"{what} depends on the data", "make it a constant")
    return int(value.reshape(-1)[0])


def dft(node: Node, graph: Graph) -> New:
    """``DFT`` along one axis; the last axis has the real part, or the real and the imaginary one."""
    new = Expansion(graph, node)
    x = node.inputs[0]
    shape, dtype = graph.shape(x), graph.dtype(x)
    rank = len(shape)
    axis = _integer(node, graph, 2, "the axis")
    axis = (rank - 2 if axis is None else axis) % rank
    length = _integer(node, graph, 1, "the length") or shape[axis]
    inverse = bool(node.attributes.get("inverse", 0))
    onesided = bool(node.attributes.get("onesided", 0))
    points, bins = length, length // 2 + 1 if onesided else length
    if inverse and onesided:
        return _inverse_of_half(node, new, x, axis, length)
    _require_small(node, points)
    x = _to_length(new, x, axis, shape[axis], points)
    # To [..., signal, part].
    order = [i for i in range(rank) if i not in (axis, rank - 1)] + [axis, rank - 1]
    x = new("Transpose", x, perm=order)
    real = new("Gather", x, new.constant(0, np.int64), axis=-1)
    cosines, sines = (new.constant(m) for m in _matrices(points, bins, inverse, dtype))
    re, im = new("MatMul", real, cosines), new("MatMul", real, sines)
    if shape[-1] == 2:
        imaginary = new("Gather", x, new.constant(1, np.int64), axis=-1)
        re = new("Sub", re, new("MatMul", imaginary, sines))
        im = new("Add", im, new("MatMul", imaginary, cosines))
    _back(new, [re, im], order, node.outputs[0])
    return new.nodes


def _inverse_of_half(node: Node, new: Expansion, x: str, axis: int, length: int) -> New:
    """The real signal whose transform has this half; the other half mirrors it."""
    graph = new.graph
    shape, dtype = graph.shape(x), graph.dtype(x)
    rank = len(shape)
    if not node.input(1):
        length = 2 * (shape[axis] - 1)
    _require_small(node, length)
    bins = length // 2 + 1
    x = _to_length(new, x, axis, shape[axis], bins)
    order = [i for i in range(rank) if i not in (axis, rank - 1)] + [axis, rank - 1]
    x = new("Transpose", x, perm=order)
    twice = np.full((bins, 1), 2.0)
    twice[0] = 1.0
    if length % 2 == 0:
        twice[-1] = 1.0
    turns = np.outer(np.arange(bins), np.arange(length)) % length / length
    cosines, sines = (f(2 * np.pi * turns) * twice / length for f in (np.cos, np.sin))
    parts = [new("Gather", x, new.constant(i, np.int64), axis=-1) for i in range(2)]
    real = new("MatMul", parts[0], new.constant(cosines.astype(dtype)))
    signal = new("Sub", real, new("MatMul", parts[1], new.constant(sines.astype(dtype))))
    _back(new, [signal], order, node.outputs[0])
    return new.nodes


def _require_small(node: Node, points: int) -> None:
    if not 0 < points <= LARGEST:
        raise unsupported(node, f"a transform of {points:,} points; 1 to {LARGEST:,} are supported")


def _to_length(new: Expansion, x: str, axis: int, length: int, wanted: int) -> str:
    """Cut off, or filled up with zeros."""
    if wanted < length:
        return new("Slice", x, new.ints(0), new.ints(wanted), new.ints(axis))
    if wanted > length:
        return new("Pad", x, new.ints(0, wanted - length), "", new.ints(axis))
    return x


def _back(new: Expansion, parts: list[str], order: list[int], to: str) -> None:
    """Real and imaginary part as the last axis, and the axes where they were."""
    joined = [new("Unsqueeze", part, new.ints(-1)) for part in parts]
    whole = new("Concat", *joined, axis=-1) if len(joined) > 1 else joined[0]
    new("Transpose", whole, to=to, perm=[int(i) for i in np.argsort(order)])


def stft(node: Node, graph: Graph) -> New:
    """``STFT``: frames of the signal, times the window, transformed."""
    new = Expansion(graph, node)
    signal = node.inputs[0]
    shape, dtype = graph.shape(signal), graph.dtype(signal)
    step = _integer(node, graph, 1, "the step between frames")
    length = _integer(node, graph, 3, "the length of a frame")
    window = node.input(2)
    if length is None:
        length = graph.shape(window)[0] if window else shape[1]
    if step is None or step < 1:
        raise unsupported(node, "it has no step between frames")
    _require_small(node, length)
    if len(shape) == 3 and shape[2] == 2:
        raise unsupported(node, "a complex signal is not supported")
    frames = 1 + (shape[1] - length) // step
    flat = new("Reshape", signal, new.ints(shape[0], shape[1]))
    places = np.arange(frames)[:, None] * step + np.arange(length)[None, :]
    framed = new("Gather", flat, new.constant(places, np.int64), axis=1)
    if window:
        framed = new("Mul", framed, window)
    bins = length // 2 + 1 if node.attributes.get("onesided", 1) else length
    matrices = [new.constant(m) for m in _matrices(length, bins, False, dtype)]
    parts = [new("Unsqueeze", new("MatMul", framed, m), new.ints(-1)) for m in matrices]
    new("Concat", *parts, to=node.outputs[0], axis=-1)
    return new.nodes


STEPS = {"DFT": dft, "STFT": stft}
