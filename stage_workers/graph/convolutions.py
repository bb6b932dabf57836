"""Convolutions of 3x3 with channels last by Winograd's algorithm, where that is faster."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct

from tunemesh.stage_workers.graph import models, winograd, workloads
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.rewriting import operator_of

CONVOLUTION = "relax.nn.conv2d"
CHANNELS_LAST = "NHWC"
TRAFFIC = 12
"""Multiplications in the time that one weight takes from memory: 16 GB/s at 50 G multiplications/s, on a
Zen 4 core."""
TRANSFORMS = 12
"""Multiplications in the time that one value of a transform takes."""
MARGIN = 0.8
"""Part of a convolution's estimated time that Winograd's may take: below, it is not worth the difference."""


class Convolution(Struct, frozen=True):
    """A convolution of 3x3 with stride 1 and constant weights. ``padding`` is top, left, bottom, right."""

    images: int
    height: int
    width: int
    inputs: int
    outputs: int
    padding: tuple[int, int, int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the output."""
        top, left, bottom, right = self.padding
        return self.height + top + bottom - 2, self.width + left + right - 2

    @property
    def tiles(self) -> int:
        """Tiles of the output."""
        height, width = self.size
        return self.images * winograd.tiles(height) * winograd.tiles(width)

    @property
    def pays(self) -> bool:
        """Whether Winograd's algorithm is clearly faster, by counting multiplications and memory traffic."""
        height, width = self.size
        weights = self.inputs * self.outputs
        plain = 9 * weights * (self.images * height * width + TRAFFIC)
        transforms = self.tiles * TRANSFORMS * (self.inputs + self.outputs)
        products = weights * (self.tiles + TRAFFIC)
        return winograd.INPUT**2 * (products + transforms) < MARGIN * plain


def gains(module: Any, layouts: Collection[str]) -> bool:
    """Whether one of the convolutions of a module, in one of these layouts, gains by Winograd's algorithm."""
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    found = [
        _read(call)
        for call in calls
        if operator_of(call) == CONVOLUTION and call.attrs.data_layout in layouts
    ]
    return any(each is not None and each.pays for each in found)


def legalizers(changes: Changes) -> dict[str, Any]:
    """What ``LegalizeOps`` is to ask for the TIR of an operator, where that is not TVM's default."""
    if changes.winograd:
        return {CONVOLUTION: _by_winograd}
    return {CONVOLUTION: _legalize} if changes.channels_last else {}


def _by_winograd(builder: Any, call: Any) -> Any:
    found = _read(call)
    if call.attrs.data_layout == CHANNELS_LAST and found is not None and found.pays:
        return _emit(builder, call, found)
    return _legalize(builder, call)


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


def _read(call: Any) -> Convolution | None:
    """``None`` for convolutions of other kinds."""
    import tvm

    data, weights = call.args
    attributes = call.attrs
    if not isinstance(weights, tvm.ir.GenericConst) or data.ty.dtype != "float32":
        return None
    image = dict(zip(attributes.data_layout, _shape(data), strict=True))
    kernel = dict(zip(attributes.kernel_layout, _shape(weights), strict=True))
    once = (*attributes.strides, *attributes.dilation, attributes.groups)
    if any(int(each) != 1 for each in once) or (kernel["H"], kernel["W"]) != (3, 3):
        return None
    if kernel["I"] % winograd.LANES or kernel["O"] % winograd.LANES:
        return None
    top, left, bottom, right = (int(each) for each in attributes.padding)
    return Convolution(
        images=image["N"],
        height=image["H"],
        width=image["W"],
        inputs=kernel["I"],
        outputs=kernel["O"],
        padding=(top, left, bottom, right),
    )


def _shape(expression: Any) -> list[int]:
    return [int(dim.value) for dim in expression.ty.shape.values]


def _emit(builder: Any, call: Any, found: Convolution) -> Any:
    from tvm import relax

    data, weights = call.args
    top, left, _, _ = found.padding
    height, width = found.size
    fixed = {workloads.SCHEDULED: True}
    tiles = builder.emit_te(
        winograd.transform_input,
        data,
        top,
        left,
        winograd.tiles(height),
        winograd.tiles(width),
        primfunc_name_hint="winograd_input",
        primfunc_attrs=fixed,
    )
    transformed = relax.const(winograd.transform_weights(weights.value.numpy()))
    products = builder.emit_te(winograd.multiply, tiles, transformed, primfunc_name_hint="winograd_product")
    return builder.call_te(
        winograd.transform_output,
        products,
        found.images,
        height,
        width,
        primfunc_name_hint="winograd_output",
        primfunc_attrs=fixed,
    )
