"""Moving data: pads, tiles, sizes of images. Where the numbers are constant, and they nearly always are, each
becomes one or a few moves along single axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from tunemesh.stage_workers.frontends.onnx.graph import Array, Expansion, Graph, Node, unsupported

New = list[Node] | None


def _values(node: Node, graph: Graph, index: int, what: str) -> Array | None:
    """A constant input; ``None`` where it is left out."""
    name = node.input(index)
    if not name:
        return None
    value = graph.value(name)
    if value is None:
        raise unsupported(node, f"{what} depend on the data", "make them constant")
    return value.reshape(-1)


def pad(node: Node, graph: Graph) -> New:
    """``Pad``: what is cut off (negative pads) is cut off first; what mirrors, repeats or wraps the tensor is
    taken from it by index."""
    x, mode = node.inputs[0], node.attributes.get("mode", "constant")
    shape = graph.shape(x)
    given, axes = _values(node, graph, 1, "its pads"), _values(node, graph, 3, "its axes")
    if given is None:
        raise unsupported(node, "it has no pads")
    chosen = [int(a) % len(shape) for a in axes] if axes is not None else list(range(len(shape)))
    if len(given) != 2 * len(chosen):
        raise unsupported(node, f"it has {len(given)} pads for {len(chosen)} axes")
    before, after = [0] * len(shape), [0] * len(shape)
    for place, axis in enumerate(chosen):
        before[axis], after[axis] = int(given[place]), int(given[place + len(chosen)])
    whole = node.input(3) == "" and min(*before, *after, 0) == 0
    if mode == "constant" and whole and "~done" in node.attributes:
        del node.attributes["~done"]
        return None
    new = Expansion(graph, node)
    if mode == "constant":
        cut = [(max(-b, 0), size - max(-a, 0)) for b, a, size in zip(before, after, shape, strict=True)]
        if any(low or high != size for (low, high), size in zip(cut, shape, strict=True)):
            lows, highs = zip(*cut, strict=True)
            x = new("Slice", x, new.ints(*lows), new.ints(*highs), new.ints(*range(len(shape))))
        pads = [*(max(b, 0) for b in before), *(max(a, 0) for a in after)]
        if any(pads):
            new("Pad", x, new.ints(*pads), node.input(2), to=node.outputs[0], mode=mode, **{"~done": 1})
        else:
            new("Identity", x, to=node.outputs[0])
        return new.nodes
    for axis, size in enumerate(shape):
        if before[axis] or after[axis]:
            places = _sources(node, mode, size, before[axis], after[axis])
            x = new("Gather", x, new.constant(places, np.int64), axis=axis)
    new("Identity", x, to=node.outputs[0])
    return new.nodes


def _sources(node: Node, mode: str, size: int, before: int, after: int) -> Array:
    """For every place along a padded axis the place that it is taken from."""
    places = np.arange(-before, size + after)
    if mode == "edge":
        return np.clip(places, 0, size - 1)
    if mode == "wrap":
        return places % size
    if mode != "reflect":
        raise unsupported(node, f"the mode {mode} is unknown")
    if size == 1:
        return np.zeros_like(places)
    period = 2 * (size - 1)
    folded = places % period
    return np.where(folded < size, folded, period - folded)


def split(node: Node, graph: Graph) -> New:
    """``Split``: slices."""
    x = node.inputs[0]
    shape = graph.shape(x)
    axis = node.attributes.get("axis", 0) % len(shape)
    sizes = _values(node, graph, 1, "its sizes")
    if sizes is None:
        parts = node.attributes.get("num_outputs") or len(node.outputs)
        each = -(-shape[axis] // parts)
        sizes = np.asarray([min(each, shape[axis] - i * each) for i in range(parts)])
    if sizes.sum() != shape[axis] or len(sizes) < len(node.outputs) or (sizes < 0).any():
        raise unsupported(node, f"it splits {shape[axis]} into {', '.join(map(str, sizes))}")
    new = Expansion(graph, node)
    start = 0
    for size, to in zip(sizes.tolist(), node.outputs, strict=False):
        if to:
            new("Slice", x, new.ints(start), new.ints(start + size), new.ints(axis), to=to)
        start += size
    return new.nodes


def tile(node: Node, graph: Graph) -> New:
    """``Tile``: along each axis in turn, by repeating a dimension of its own."""
    x = node.inputs[0]
    shape = list(graph.shape(x))
    repeats = _values(node, graph, 1, "its repeats")
    if repeats is None or len(repeats) != len(shape):
        raise unsupported(node, f"it has no {len(shape)} repeats")
    new = Expansion(graph, node)
    if (repeats == 1).all():
        new("Identity", x, to=node.outputs[0])
        return new.nodes
    apart = [n for size in shape for n in (1, size)]
    wide = [n for size, times in zip(shape, repeats.tolist(), strict=True) for n in (times, size)]
    whole = [size * times for size, times in zip(shape, repeats.tolist(), strict=True)]
    spread = new("Expand", new("Reshape", x, new.ints(*apart)), new.ints(*wide))
    # allowzero: a 0 is a size, and not the size that was there before.
    new("Reshape", spread, new.ints(*whole), to=node.outputs[0], allowzero=1)
    return new.nodes


def eye_like(node: Node, graph: Graph) -> New:
    """``EyeLike``: a constant."""
    rows, columns = graph.shape(node.inputs[0])
    number = node.attributes.get("dtype") or graph.types[node.inputs[0]].dtype
    dtype = onnx.helper.tensor_dtype_to_np_dtype(number)
    graph.add_constant(np.eye(rows, columns, node.attributes.get("k", 0)).astype(dtype), node.outputs[0])
    return []


def trilu(node: Node, graph: Graph) -> New:
    """``Trilu``: a choice by a constant mask between the values and 0."""
    x = node.inputs[0]
    shape = graph.shape(x)
    offset = _values(node, graph, 1, "its diagonal")
    k = int(offset[0]) if offset is not None else 0
    ones = np.ones(shape[-2:], np.bool_)
    mask = np.triu(ones, k) if node.attributes.get("upper", 1) else np.tril(ones, k)
    new = Expansion(graph, node)
    new("Where", new.constant(mask), x, new.constant(0, graph.dtype(x)), to=node.outputs[0])
    return new.nodes


def reverse_sequence(node: Node, graph: Graph) -> New:
    """``ReverseSequence``: each row is read from its end on, as far as it is long."""
    x, lengths = node.inputs
    shape = graph.shape(x)
    time, batch = node.attributes.get("time_axis", 0), node.attributes.get("batch_axis", 1)
    new = Expansion(graph, node)
    places = new.constant(np.arange(shape[time]).reshape(-1, 1), np.int64)
    long = new("Unsqueeze", new.cast(lengths, np.int64), new.ints(0))
    back = new("Sub", new("Sub", long, new.constant(1, np.int64)), places)
    source = new("Where", new("Less", places, long), back, places)
    if time > batch:
        source = new("Transpose", source, perm=[1, 0])
    wide = [shape[i] if i in (time, batch) else 1 for i in range(len(shape))]
    source = new("Expand", new("Reshape", source, new.ints(*wide)), new.ints(*shape))
    new("GatherElements", x, source, to=node.outputs[0], axis=time)
    return new.nodes


def one_hot(node: Node, graph: Graph) -> New:
    """``OneHot``: a comparison with all places along a new axis."""
    indices, values = node.inputs[0], node.inputs[2]
    depth_given = _values(node, graph, 1, "its depth")
    depth = int(depth_given[0]) if depth_given is not None else 0
    rank = len(graph.shape(indices)) + 1
    axis = node.attributes.get("axis", -1) % rank
    new = Expansion(graph, node)
    places = new.cast(indices, np.int64)
    below = new("Less", places, new.constant(0, np.int64))
    places = new("Where", below, new("Add", places, new.constant(depth, np.int64)), places)
    along = np.arange(depth).reshape([-1 if i == axis else 1 for i in range(rank)])
    hot = new("Equal", new("Unsqueeze", places, new.ints(axis)), new.constant(along, np.int64))
    off, on = (new("Gather", values, new.constant(i, np.int64), axis=0) for i in (0, 1))
    new("Where", hot, on, off, to=node.outputs[0])
    return new.nodes


def gather_scalar(node: Node, graph: Graph) -> New:
    """``Gather`` of one constant place: a slice, which is known not to look anywhere else."""
    places = graph.value(node.inputs[1])
    axis = node.attributes.get("axis", 0)
    shape = graph.shape(node.inputs[0])
    if places is None or places.size != 1 or graph.value(node.inputs[0]) is not None:
        return None
    axis %= len(shape)
    place = int(places.reshape(-1)[0])
    place += shape[axis] if place < 0 else 0
    if not 0 <= place < shape[axis]:
        raise unsupported(node, f"it takes the place {place} of {shape[axis]}")
    new = Expansion(graph, node)
    part = new("Slice", node.inputs[0], new.ints(place), new.ints(place + 1), new.ints(axis))
    wanted = [*shape[:axis], *places.shape, *shape[axis + 1 :]]
    new("Reshape", part, new.ints(*wanted), to=node.outputs[0], allowzero=1)
    return new.nodes


# -- Resize -------------------------------------------------------------------------------------------------


def resize(node: Node, graph: Graph) -> New:
    """``Resize``: along each axis in turn, a choice of places (nearest), or a weighted sum of places, both by
    constants."""
    x = node.inputs[0]
    shape, dtype = graph.shape(x), graph.dtype(x)
    roi, scales, sizes = (
        _values(node, graph, i, what) for i, what in ((1, "its region"), (2, "its scales"), (3, "its sizes"))
    )
    axes = [a % len(shape) for a in node.attributes.get("axes") or range(len(shape))]
    factors, wanted = _extents(node, shape, axes, scales, sizes)
    mode = node.attributes.get("mode", "nearest")
    how = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    new = Expansion(graph, node)
    new_x = x if dtype.kind == "f" or mode == "nearest" else new.cast(x, np.float32)
    for place, axis in enumerate(axes):
        size = wanted[axis]
        region = None
        if how == "tf_crop_and_resize":
            if roi is None or len(roi) != 2 * len(axes):
                raise unsupported(node, "its region is missing")
            region = float(roi[place]), float(roi[place + len(axes)])
        if size == shape[axis] and factors[axis] == 1 and region is None:
            continue
        at = _coordinates(node, how, shape[axis], size, factors[axis], region)
        if mode == "nearest":
            places = np.clip(_nearest(node, at), 0, shape[axis] - 1)
            new_x = new("Gather", new_x, new.constant(places, np.int64), axis=axis)
        else:
            new_x = _weighted(node, new, new_x, axis, shape[axis], at, min(factors[axis], 1.0), dtype)
        if region is not None:
            outside = (at < 0) | (at > shape[axis] - 1)
            if outside.any():
                mask = outside.reshape([-1 if i == axis else 1 for i in range(len(shape))])
                value = new.constant(node.attributes.get("extrapolation_value", 0.0), new.graph.dtype(x))
                new_x = new("Where", new.constant(mask), value, new_x)
    if dtype.kind == "f" or mode == "nearest":
        new("Identity", new_x, to=node.outputs[0])
    else:
        # As ONNX Runtime does: truncated, kept to what the dtype can say.
        limits = np.iinfo(dtype)
        low, high = new.constant(limits.min, np.float32), new.constant(limits.max, np.float32)
        new.cast(new("Clip", new_x, low, high), dtype, to=node.outputs[0])
    return new.nodes


def _extents(
    node: Node, shape: Sequence[int], axes: Sequence[int], scales: Array | None, sizes: Array | None
) -> tuple[list[float], list[int]]:
    """Scale and new size of every axis."""
    factors, wanted = [1.0] * len(shape), list(shape)
    if sizes is not None and sizes.size:
        given = [int(size) for size in sizes]
        ratios = [size / shape[axis] for size, axis in zip(given, axes, strict=True)]
        policy = node.attributes.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(axes)
            given = [math.floor(ratio * shape[axis] + 0.5) for axis in axes]
        for axis, size, ratio in zip(axes, given, ratios, strict=True):
            wanted[axis], factors[axis] = size, ratio
    elif scales is not None and scales.size:
        for axis, scale in zip(axes, scales, strict=True):
            factors[axis], wanted[axis] = float(scale), math.floor(shape[axis] * float(scale))
    else:
        raise unsupported(node, "it has neither scales nor sizes")
    return factors, wanted


def _coordinates(
    node: Node, how: str, before: int, after: int, scale: float, region: tuple[float, float] | None
) -> Array:
    """For every new place the place along the old axis that it lies at. In single precision: what lies
    between two places is rounded to the one that ONNX Runtime takes."""
    x = np.arange(after, dtype=np.float32)
    length = np.float32(scale) * before
    scale = float(np.float32(scale))
    if how == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if how == "half_pixel_symmetric":
        adjustment = after / length
        return before / 2 * (1 - adjustment) + (x + 0.5) / scale - 0.5
    if how == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if length > 1 else np.zeros(after)
    if how == "align_corners" and abs(length - after) > 1e-3:
        raise unsupported(
            node, f"align_corners from {before} to {length:g} is read in two ways", "give sizes, not scales"
        )
    if how == "align_corners":
        return x * (before - 1) / (length - 1) if length != 1 else np.zeros(after)
    if how == "asymmetric":
        return x / scale
    if how == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    if how == "tf_crop_and_resize" and region is not None:
        start, end = region
        if after > 1:
            return start * (before - 1) + x * (end - start) * (before - 1) / (length - 1)
        return np.full(after, 0.5 * (start + end) * (before - 1))
    raise unsupported(node, f"the coordinates {how} are unknown")


def _nearest(node: Node, at: Array) -> Array:
    how = node.attributes.get("nearest_mode", "round_prefer_floor")
    rounding: dict[str, Callable[[Array], Array]] = {
        "round_prefer_floor": lambda a: np.ceil(a - 0.5),
        "round_prefer_ceil": lambda a: np.floor(a + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if how not in rounding:
        raise unsupported(node, f"the rounding {how} is unknown")
    return rounding[how](at).astype(np.int64)


def _weights(node: Node, size: int, at: Array, scale: float) -> tuple[Array, Array]:
    """The places that each new value is made of, and their weights."""
    cubic = node.attributes.get("mode") == "cubic"
    stretch = scale if node.attributes.get("antialias", 0) else 1.0
    reach = math.ceil((2 if cubic else 1) / stretch)
    first = np.floor(at).astype(np.int64) - reach + 1
    places = first[:, None] + np.arange(2 * reach)[None, :]
    distance = np.abs(at[:, None] - places) * stretch
    if cubic:
        a = node.attributes.get("cubic_coeff_a", -0.75)
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    else:
        weights = np.clip(1 - distance, 0, None)
    if node.attributes.get("exclude_outside", 0):
        weights = np.where((places < 0) | (places >= size), 0.0, weights)
        weights /= weights.sum(1, keepdims=True)
    elif stretch != 1.0:
        weights /= weights.sum(1, keepdims=True)
    return np.clip(places, 0, size - 1), weights


def _weighted(
    node: Node,
    new: Expansion,
    x: str,
    axis: int,
    size: int,
    at: Array,
    scale: float,
    dtype: np.dtype[np.generic],
) -> str:
    """Sums of a few places each. Where there are many, as one product with a matrix."""
    rank = len(new.graph.shape(node.inputs[0]))
    kind = dtype if dtype.kind == "f" else np.dtype(np.float32)
    places, weights = _weights(node, size, at, scale)
    total = ""
    if places.shape[1] > 2:
        matrix = np.zeros((size, len(at)))
        np.add.at(matrix, (places, np.arange(len(at))[:, None]), weights)
        order = [i for i in range(rank) if i != axis] + [axis]
        turned = new("Transpose", x, perm=order) if axis != rank - 1 else x
        total = new("MatMul", turned, new.constant(matrix.astype(kind)))
        back = [int(i) for i in np.argsort(order)]
        return new("Transpose", total, perm=back) if axis != rank - 1 else total
    for column in range(places.shape[1]):
        part = new("Gather", x, new.constant(places[:, column], np.int64), axis=axis)
        shape = [-1 if i == axis else 1 for i in range(rank)]
        part = new("Mul", part, new.constant(weights[:, column].reshape(shape).astype(kind)))
        total = new("Add", total, part) if total else part
    return total


STEPS = {
    "Pad": pad,
    "Split": split,
    "Tile": tile,
    "EyeLike": eye_like,
    "Trilu": trilu,
    "ReverseSequence": reverse_sequence,
    "Gather": gather_scalar,
    "OneHot": one_hot,
    "Resize": resize,
}
