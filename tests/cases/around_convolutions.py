"""Operators beside convolutions that Winograd's algorithm is faster at: they get another layout for it."""

from __future__ import annotations

from typing import Any

from tests.cases.case import Case, case, weights

HEAD, TAIL = "a = Conv <pads = [1, 1, 1, 1]> (x, head)", "y = Conv <pads = [1, 1, 1, 1]> (b, tail)"
KERNELS = weights(32, 32, 3, 3)


def ends(inputs: str, size: int = 16) -> str:
    return ", ".join(filter(None, [f"float[1,32,{size},{size}] x", inputs]))


def between(
    name: str,
    nodes: str,
    *,
    channels: int = 32,
    inputs: str = "",
    outputs: str = "float[] y",
    opset: int = 17,
    **values: Any,
) -> Case:
    """``nodes`` from ``a`` to ``b``, between two convolutions; ``channels`` of ``b``."""
    text = f"({ends(inputs)}) => ({outputs}) {{{HEAD}\n{nodes}\n{TAIL}}}"
    return case(name, text, opset=opset, head=KERNELS, tail=weights(32, channels, 3, 3), **values)


def behind(name: str, nodes: str, *, size: int = 16, **values: Any) -> Case:
    """``nodes`` from ``a``, a convolution, to ``y``."""
    text = f"({ends('', size)}) => (float[] y) {{{HEAD}\n{nodes}}}"
    return case(f"last_{name}", text, head=KERNELS, **values)
