"""What a case is, and how to write one in few words: the graph in ONNX's own text, constants beside it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import numpy_helper, parser

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A model of ONNX that was refused, wrong, or could not be tuned at some time.

    Attributes:
        name: of the case, for people.
        make: the model.
        shapes: of inputs whose shape the model leaves open.
        refused: what is said where the model cannot be imported; empty where it can.
        external: its weights lie in a file beside it.
        untunable: it has no operator that could be tuned.
    """

    name: str
    make: Callable[[], onnx.ModelProto]
    shapes: Mapping[str, list[int]] = field(default_factory=dict)
    refused: str = ""
    external: bool = False
    untunable: bool = False


@dataclass(frozen=True)
class Weights:
    """Random numbers, always the same for a name.

    Attributes:
        shape: of the tensor.
        dtype: integers are between -100 and 100.
        scale: standard deviation of floats.
        positive: without their sign.
    """

    shape: tuple[int, ...]
    dtype: DTypeLike = np.float32
    scale: float = 0.1
    positive: bool = False

    def array(self, name: str) -> Array:
        random = np.random.default_rng(zlib.crc32(name.encode()))
        if np.issubdtype(self.dtype, np.integer):
            return random.integers(-100, 100, self.shape).astype(self.dtype)
        drawn = random.standard_normal(self.shape) * self.scale
        return np.asarray(np.abs(drawn) if self.positive else drawn).astype(self.dtype)


def weights(*shape: int, **attributes: Any) -> Weights:
    return Weights(shape, **attributes)


def model(text: str, values: Mapping[str, Any], opset: int = 17, functions: str = "") -> onnx.ModelProto:
    """A model.

    Args:
        text: its graph without a name: ``(float[2] x) => (float[2] y) {y = Relu (x)}``.
        values: its constants by name: :class:`Weights`, arrays, or numbers, which become int64 or float32.
        opset: version of the operators.
        functions: which the model brings along, of the domain ``local``, as text.
    """
    opsets = f'"": {opset}' + (', "local": 1' if functions else "")
    header = f"<ir_version: {8 if opset < 19 else 10}, opset_import: [{opsets}]>"
    made = parser.parse_model(f"{header} model {text}\n{functions}")
    made.graph.initializer.extend(
        numpy_helper.from_array(constant(name, value), name) for name, value in values.items()
    )
    return made


def constant(name: str, value: Any) -> Array:
    if isinstance(value, Weights):
        return value.array(name)
    array = np.asarray(value)
    # Python's floats are double.
    single = array.dtype == np.float64 and not isinstance(value, np.ndarray | np.generic)
    return array.astype(np.float32) if single else array


def case(
    name: str,
    text: str,
    *,
    opset: int = 17,
    functions: str = "",
    shapes: Mapping[str, list[int]] | None = None,
    refused: str = "",
    external: bool = False,
    untunable: bool = False,
    **values: Any,
) -> Case:
    """A case of the model that :func:`model` makes of these."""
    make = partial(model, text, values, opset, functions)
    return Case(name, make, shapes or {}, refused, external, untunable)


def renamed(made: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """``made`` with other names of tensors, such as ONNX's text cannot have."""
    for node in made.graph.node:
        node.input[:] = [names.get(each, each) for each in node.input]
        node.output[:] = [names.get(each, each) for each in node.output]
    for value in [*made.graph.input, *made.graph.output]:
        value.name = names.get(value.name, value.name)
    return made
