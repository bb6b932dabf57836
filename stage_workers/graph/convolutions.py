"""Convolutions with channels last of images that lie otherwise."""

from __future__ import annotations

from typing import Any

from tunemesh.stage_workers.graph import models
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.rewriting import operator_of, sizes_of

CONVOLUTION = "relax.nn.conv2d"


def any_of_three(module: Any) -> bool:
    """Whether a module has a convolution of 3x3 with stride 1 that is neither dilated nor in groups."""
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    return any(operator_of(call) == CONVOLUTION and _is_of_three(call) for call in calls)


def _is_of_three(call: Any) -> bool:
    attributes = call.attrs
    sizes = sizes_of(call.args[1].ty)
    once = (*attributes.strides, *attributes.dilation, attributes.groups)
    if sizes is None or any(int(each) != 1 for each in once):
        return False
    kernel = dict(zip(attributes.kernel_layout, sizes, strict=True))
    return (kernel["H"], kernel["W"]) == (3, 3)


def legalizers(changes: Changes) -> dict[str, Any]:
    """What ``LegalizeOps`` is to ask for the TIR of an operator, where that is not TVM's default."""
    return {CONVOLUTION: _legalize} if changes.channels_last else {}


def _legalize(builder: Any, call: Any) -> Any:
    attributes = call.attrs
    if attributes.out_layout in ("", attributes.data_layout):
        return call.op.get_attr("FLegalize")(builder, call)  # as TVM does by default
    return builder.call_te(
        _convolve,
        *call.args,
        attributes.data_layout,
        [int(each) for each in attributes.strides],
        [int(each) for each in attributes.padding],
        [int(each) for each in attributes.dilation],
        primfunc_name_hint="conv2d",
    )


def _convolve(
    image: Any, kernel: Any, layout: str, strides: list[int], padding: list[int], dilation: list[int]
) -> Any:
    """A convolution with channels last of an image that lies otherwise, as TE.

    Args:
        image: TE tensor.
        kernel: TE tensor of shape (height, width, inputs, outputs).
        layout: of the image.
        strides: down and right.
        padding: top, left, bottom, right.
        dilation: down and right.
    """
    from tvm import te, topi

    if any(padding):
        ends = {"H": (padding[0], padding[2]), "W": (padding[1], padding[3])}
        before, after = zip(*(ends.get(letter, (0, 0)) for letter in layout), strict=True)
        image = topi.nn.pad(image, before, after, name="pad_temp")
    sizes = dict(zip(layout, (int(size) for size in image.shape), strict=True))
    rows, columns, inputs, outputs = (int(size) for size in kernel.shape)
    height = (sizes["H"] - (rows - 1) * dilation[0] - 1) // strides[0] + 1
    width = (sizes["W"] - (columns - 1) * dilation[1] - 1) // strides[1] + 1
    ry, rx = te.reduce_axis((0, rows), name="ry"), te.reduce_axis((0, columns), name="rx")
    rc = te.reduce_axis((0, inputs), name="rc")

    def compute(number: Any, y: Any, x: Any, channel: Any) -> Any:
        place = {
            "N": number,
            "H": y * strides[0] + ry * dilation[0],
            "W": x * strides[1] + rx * dilation[1],
            "C": rc,
        }
        return te.sum(
            image[tuple(place[letter] for letter in layout)] * kernel[ry, rx, rc, channel], axis=[ry, rx, rc]
        )

    return te.compute((sizes["N"], height, width, outputs), compute, name="conv2d_nhwc")
