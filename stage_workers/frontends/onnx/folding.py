"""Constants folded: whatever depends on no input is computed now, by ONNX's own reference implementation.

Nothing is cast on the way. A half-precision constant stays one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from tunemesh.stage_workers.frontends.onnx.graph import DIALECT, Array, Graph, Node, to_proto

NEVER = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
    | {"If", "Loop", "Scan", "SequenceMap", "Dropout"}
)
"""Operators that are not functions of their inputs, or have graphs in them."""

GROWTH = 1 << 20
"""Bytes that any folded constant may have."""

TIMES = 8
"""Times the size of what it is made of that a folded constant may have: weights of 8 bits become floats. A
mask that a model makes of a few numbers may be as large as it likes when it runs; it need not be kept."""


def fold(node: Node, graph: Graph) -> list[Array] | None:
    """The outputs of a node whose inputs are all constant; ``None`` where it is not folded."""
    if node.op in NEVER or node.domain:
        return None
    inputs = [graph.value(name) if name else None for name in node.inputs]
    if any(value is None and name for value, name in zip(inputs, node.inputs, strict=True)):
        return None
    if _grows(node, graph, inputs):
        return None
    return evaluate(node, inputs)


def evaluate(node: Node, inputs: Sequence[Array | None]) -> list[Array] | None:
    """What the reference makes of a node; ``None`` where it cannot."""
    from onnx.reference import ReferenceEvaluator

    proto = to_proto(node)
    names = [name for name in dict.fromkeys(node.inputs) if name]
    outputs = [name for name in node.outputs if name]
    values: dict[str, Any] = {name: v for name, v in zip(node.inputs, inputs, strict=True) if v is not None}
    graph = onnx.helper.make_graph(
        [proto],
        "folded",
        [_info(name, values[name]) for name in names],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", DIALECT)])
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(None, values)
    except MemoryError:
        raise
    except Exception:  # whatever NumPy raises; the node is imported as it is then, or refused by name
        return None
    if not all(isinstance(result, (np.ndarray, np.generic)) for result in results):
        return None
    return [np.asarray(result) for result in results]


def _info(name: str, value: Array) -> Any:
    return onnx.helper.make_tensor_value_info(
        name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
    )


def _grows(node: Node, graph: Graph, inputs: Sequence[Array | None]) -> bool:
    """Whether the result is far larger than what it is made of."""
    made_of = sum(value.nbytes for value in inputs if value is not None)
    found = [graph.types.get(name) for name in node.outputs if name]
    sizes = [t.sizes for t in found if t is not None]
    total = sum(
        int(np.prod(size, dtype=np.float64)) * t.numpy.itemsize
        for t, size in zip([t for t in found if t is not None], sizes, strict=True)
        if size is not None and t.numpy.itemsize
    )
    return total > TIMES * made_of + GROWTH
