"""Converters to Relax that take the place of TVM's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from tunemesh.stage_workers.frontends.onnx.graph import Graph, Node, unsupported

Converter = Callable[[Any, Node, Graph, list[Any], Mapping[str, Any]], Any]
"""Takes a block builder, the node, what is known of its tensors, the expressions of its inputs (``None``
where one is left out), and its attributes."""


def gather(builder: Any, node: Node, graph: Graph, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    """``Gather``. TVM's reads outside of the table where an index lies there; this one takes the last row."""
    from tvm import relax

    axis = attributes.get("axis", 0) % len(graph.shape(node.inputs[0]))
    size = graph.shape(node.inputs[0])[axis]
    places = graph.value(node.inputs[1])
    if places is not None:
        if places.size and (places.min() < -size or places.max() >= size):
            raise unsupported(node, f"it takes a place outside of the {size} that there are")
        indices = relax.const(np.where(places < 0, places + size, places).astype(np.int64), "int64")
        return relax.op.take(inputs[0], indices, axis, mode="clip")
    indices = inputs[1]
    dtype = str(graph.dtype(node.inputs[1]))
    if not dtype.startswith("u"):
        below = relax.op.less(indices, relax.const(0, dtype))
        indices = relax.op.where(below, relax.op.add(indices, relax.const(size, dtype)), indices)
    return relax.op.take(inputs[0], builder.normalize(indices), axis, mode="clip")


def cast(builder: Any, node: Node, graph: Graph, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    """``Cast``. Floats become small integers by way of larger ones, as on CPUs: what is too large loses its
    high bits. Without that it would be undefined for LLVM."""
    from tvm import relax

    wanted = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]))
    given = graph.dtype(node.inputs[0])
    value = inputs[0]
    if wanted == np.bool_ and given != np.bool_:
        return relax.op.not_equal(value, relax.const(0, str(given)))
    if given.kind not in "iub" and wanted.kind in "iu" and (wanted.itemsize < 4 or str(wanted) == "uint32"):
        value = relax.op.astype(value, "int64" if wanted.itemsize == 4 else "int32")
    return relax.op.astype(value, str(wanted))


def conv_transpose(
    builder: Any, node: Node, graph: Graph, inputs: list[Any], attributes: Mapping[str, Any]
) -> Any:
    """``ConvTranspose``, with the pads that follow from ``output_shape`` or ``auto_pad``."""
    from tvm import relax

    x, weight = graph.shape(node.inputs[0]), graph.shape(node.inputs[1])
    rank = len(x) - 2
    strides = list(attributes.get("strides") or [1] * rank)
    dilations = list(attributes.get("dilations") or [1] * rank)
    extra = list(attributes.get("output_padding") or [0] * rank)
    pads = list(attributes.get("pads") or [0] * 2 * rank)
    wanted = list(attributes.get("output_shape") or [])[-rank:]
    auto = (attributes.get("auto_pad") or b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = [size * stride for size, stride in zip(x[2:], strides, strict=True)]
    for i, size in enumerate(wanted):
        full = strides[i] * (x[2 + i] - 1) + extra[i] + (weight[2 + i] - 1) * dilations[i] + 1
        total = full - size
        if total < 0:
            # More than there is: the rest is zeros, as if the output had been padded.
            extra[i], total = extra[i] - total, 0
        small, large = total // 2, total - total // 2
        pads[i], pads[i + rank] = (small, large) if auto == "SAME_UPPER" else (large, small)
    if auto == "VALID":
        pads = [0] * 2 * rank
    operators = {
        1: (relax.op.nn.conv1d_transpose, "NCW", "IOW"),
        2: (relax.op.nn.conv2d_transpose, "NCHW", "IOHW"),
        3: (relax.op.nn.conv3d_transpose, "NCDHW", "IODHW"),
    }
    if rank not in operators:
        raise unsupported(node, f"{rank} axes of space are not supported")
    operator, layout, kernel = operators[rank]
    made = operator(
        inputs[0],
        inputs[1],
        strides=strides,
        padding=pads,
        output_padding=extra,
        dilation=dilations,
        groups=attributes.get("group", 1),
        data_layout=layout,
        kernel_layout=kernel,
    )
    if len(inputs) > 2 and inputs[2] is not None:
        made = relax.op.add(made, relax.op.reshape(inputs[2], [1, -1, *[1] * rank]))
    return made


def non_max_suppression(
    builder: Any, node: Node, graph: Graph, inputs: list[Any], attributes: Mapping[str, Any]
) -> Any:
    """``NonMaxSuppression``: how many boxes are left depends on the data."""
    from tvm import relax, tirx

    values = [graph.value(node.input(i)) if node.input(i) else None for i in (2, 3, 4)]
    if any(value is None and node.input(i) for value, i in zip(values, (2, 3, 4), strict=True)):
        raise unsupported(node, "its limits depend on the data", "make them constant")
    most = int(values[0].reshape(-1)[0]) if values[0] is not None else 0
    given = np.float32(values[1].reshape(-1)[0] if values[1] is not None else 0)
    # ONNX drops a box that overlaps more than that, TVM one that overlaps as much.
    overlap = float(np.nextafter(given, np.float32(2)))
    least = float(values[2].reshape(-1)[0]) if values[2] is not None else -3.4e38
    boxes = inputs[0]
    if attributes.get("center_point_box", 0):
        x, y, w, h = (relax.op.strided_slice(boxes, [2], [i], [i + 1]) for i in range(4))
        half = relax.const(0.5, "float32")
        w, h = relax.op.multiply(w, half), relax.op.multiply(h, half)
        boxes = relax.op.concat(
            [relax.op.subtract(y, h), relax.op.subtract(x, w), relax.op.add(y, h), relax.op.add(x, w)], axis=2
        )
    found = builder.emit(
        relax.op.vision.all_class_non_max_suppression(
            boxes,
            inputs[1],
            relax.const(most, "int64"),
            relax.const(overlap, "float32"),
            relax.const(least, "float32"),
            output_format="onnx",
        )
    )
    indices, total = (builder.emit(relax.TupleGetItem(found, i)) for i in range(2))
    # Not a slice of a length that is only known then: TVM cannot lower that.
    rows = int(indices.ty.shape.values[0])
    kept = relax.op.less(relax.const(np.arange(rows), "int64"), relax.op.astype(total, "int64"))
    places = builder.match_cast(
        builder.emit(relax.op.nonzero(builder.normalize(kept))),
        relax.TensorType([1, tirx.Var("kept", "int64")], "int64"),
    )
    return relax.op.take(indices, builder.normalize(relax.op.reshape(places, [-1])), 0, mode="clip")


def pad(builder: Any, node: Node, graph: Graph, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    """``Pad`` with a constant, all of it: a Relax operator for floats, which layouts see through. TVM's
    importer makes a TIR function of it."""
    from tvm import relax, topi

    pads = graph.value(node.inputs[1])
    values = graph.value(node.input(2)) if node.input(2) else np.zeros(1)
    if pads is None or values is None:
        raise unsupported(node, "its pads or its value depend on the data", "make them constant")
    before, after = (each.tolist() for each in np.split(pads.reshape(-1), 2))
    value = values.reshape(-1)[0].item()
    if graph.dtype(node.inputs[0]).kind != "f":
        return builder.emit_te(topi.nn.pad, inputs[0], before, after, value)
    widths = [width for pair in zip(before, after, strict=True) for width in pair]
    return relax.op.nn.pad(inputs[0], widths, "constant", value)


def softplus(builder: Any, node: Node, graph: Graph, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    """``Softplus``. Where the exponential is far below one, TVM's loses all of it."""
    return _softplus(inputs[0])


def mish(builder: Any, node: Node, graph: Graph, inputs: list[Any], attributes: Mapping[str, Any]) -> Any:
    """``Mish``, with the same."""
    from tvm import relax

    return relax.op.multiply(inputs[0], relax.op.tanh(builder.normalize(_softplus(inputs[0]))))


def _softplus(x: Any) -> Any:
    """log(1 + exp(x)), by exp(-|x|), which does not overflow, and W. Kahan's log(1 + y): log(w) y / (w - 1)
    with w = 1 + y as it was rounded."""
    from tvm import relax

    dtype = x.ty.dtype
    zero, one = relax.const(0, dtype), relax.const(1, dtype)
    y = relax.op.exp(relax.op.negative(relax.op.abs(x)))
    w = relax.op.add(one, y)
    rest = relax.op.subtract(w, one)
    exact = relax.op.multiply(relax.op.log(w), relax.op.divide(y, rest))
    return relax.op.add(relax.op.maximum(x, zero), relax.op.where(relax.op.equal(rest, zero), y, exact))


def chain(operator: str) -> Converter:
    """``Max``, ``Min`` and ``Sum`` of any number of tensors: one after the other. TVM's importer broadcasts
    all of them first."""

    def convert(
        builder: Any, node: Node, graph: Graph, inputs: list[Any], attributes: Mapping[str, Any]
    ) -> Any:
        from tvm import relax

        made, *rest = inputs
        for each in rest:
            made = builder.normalize(getattr(relax.op, operator)(made, each))
        return made

    return convert


OWN: dict[str, Converter] = {
    "Max": chain("maximum"),
    "Min": chain("minimum"),
    "Sum": chain("add"),
    "Cast": cast,
    "ConvTranspose": conv_transpose,
    "Gather": gather,
    "NonMaxSuppression": non_max_suppression,
    "Mish": mish,
    "Pad": pad,
    "Softplus": softplus,
}
