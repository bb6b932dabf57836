"""How large a model may be. Looked at before TVM sees it: what TVM makes of a larger one would exhaust the
worker's memory, its stack, or the time of everybody who waits.

Generous on purpose. A model of the largest kind in use has some 100,000 operators and some GB of weights.
"""

from __future__ import annotations

from tunemesh.shared.errors import BadModel

MODEL_BYTES = 12 * 2**30
"""Of a model's file: the constants, of which TVM's JSON makes a third more."""

CONSTANT_BYTES = 8 * 2**30
"""Of all constants of a model: a worker holds several copies of them while it imports."""

CONSTANTS = 500_000
"""A few for each operator."""

OPERATORS = 200_000
"""Nodes of an ONNX graph, with those of subgraphs and functions: twice the largest in use."""

GRAPH_NODES = 5_000_000
"""Nodes of TVM's JSON: 20 to 30 for each operator. TVM reads some 100,000 of them a second."""

TENSORS = 10_000
"""Inputs or outputs. Frontends that make every weight an input need a few thousand."""

DEPTH = 500
"""References of TVM's JSON from a node to the end of its longest chain. TVM's visitors recurse: with a stack
of 8 MB they end in a segmentation fault somewhere between 1,000 and 2,000. Operators in a row do not count,
but what is written as one expression does."""

UNFOLDED = 50_000_000
"""Nodes of TVM's JSON under one function or expression, each as often as it is referred to. TVM visits shared
expressions every time that they occur, so that 60 additions of something to itself would never end."""

SUBGRAPHS = 16
"""ONNX graphs inside one another: bodies of ``If`` and ``Loop``."""

EXTENT = 2**40
"""Elements of one tensor, or steps of one loop. Far above it, products of sizes overflow what kernels count
with."""


def require(number: int, limit: int, of: str) -> None:
    """Refuse a model that has more of something than it may.

    Raises:
        BadModel: ``number`` is above ``limit``.
    """
    if number > limit:
        raise BadModel(f"the model has {number:,} {of}; at most {limit:,} can be imported")
