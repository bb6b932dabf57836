"""What a request can tell the graph."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from tunemesh.shared.messages import Options
from tunemesh.stage_workers import options as given

Packing = Literal["packed", "packed-per-task", "given"]
"""What becomes of weights: see :class:`GraphOptions`."""


class GraphOptions(Struct, frozen=True, kw_only=True):
    """How a model is optimised before its tasks are taken out of it.

    Attributes:
        layout: on a CPU, ``channels-last`` computes convolutions, and what stands around them, with channels
            last, transposes no tensor twice, and what it must in blocks. A model all of whose convolutions
            are of 1x1 stays as it is, as it has nothing to gain. ``given`` leaves every tensor as it lies.
        convolutions: on a CPU, ``measured`` lets the tasks of 3x3 convolutions with channels last try
            Winograd's algorithm, too, where the model bears its rounding; what is faster on the device stays.
            ``direct`` computes all as they are defined.
        fusion: on a CPU, ``extended`` computes a layer normalisation in one function, and attention in one
            kernel, whatever they were written as, and padding in the convolution that follows; ``default``
            fuses as TVM does.
        products: on a CPU, ``rounded`` computes up to 4 % more rows of a matrix product whose number of rows
            cannot be cut into blocks, such as 197; ``given`` computes those that there are.
        weights: in which order those of convolutions and matrix products lie in memory, on a CPU: ``packed``
            lets every task choose the order that its schedule reads them in, but for weights that several
            tasks read, which the model would have to hold for each; ``packed-per-task`` does that, too;
            ``given`` leaves all as they are.
        quantised: on a CPU with an instruction for it (avx512_vnni), ``integers`` multiplies the data and
            weights of quantised models as the integers that they are; ``floats`` as the floats that they
            stand for.
    """

    layout: Literal["channels-last", "given"] = "channels-last"
    convolutions: Literal["measured", "direct"] = "measured"
    fusion: Literal["extended", "default"] = "extended"
    products: Literal["rounded", "given"] = "rounded"
    weights: Packing = "packed"
    quantised: Literal["integers", "floats"] = "integers"


def read(options: Options) -> GraphOptions:
    """Check and read them.

    Raises:
        BadInput: one is unknown, or its value is bad.
    """
    return given.read(given.GRAPH, options, GraphOptions)
