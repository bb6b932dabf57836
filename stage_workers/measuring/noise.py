"""An ONNX model whose every float is changed a little at random: what :mod:`~.comparison` learns from how far
rounding may move its outputs.

It changes the inputs, and what each operator computes, by operators of ONNX itself, so that whoever runs
models can run it. One more input, :data:`SCALE`, says how much: 0 leaves all as it is, 1 and -1 are opposite.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tunemesh.stage_workers.measuring import comparison

SCALE = "tunemesh_noise_scale"
FLOATS = frozenset({1, 10, 11, 16})
"""``TensorProto``'s numbers of float, half, double and bfloat16."""
RAW = "tunemesh_raw_"
"""In front of the name of what is not changed yet, inputs of the model among them."""
ONE = "tunemesh_noise_one"
PART = "tunemesh_noise_part"

MOVES = frozenset(
    [
        "Abs",
        "Cast",
        "CastLike",
        "Clip",
        "Compress",
        "Concat",
        "DepthToSpace",
        "DequantizeLinear",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Max",
        "MaxPool",
        "Min",
        "Neg",
        "Optional",
        "OptionalGetElement",
        "Pad",
        "Relu",
        "Reshape",
        "ReverseSequence",
        "Scatter",
        "ScatterElements",
        "ScatterND",
        "SequenceAt",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unique",
        "Unsqueeze",
        "Where",
    ]
)
"""Operators that give what they are given, or zero, without rounding (``Cast`` rounds as the next one does).
What they give is changed where nothing is that they read: rows of a table, for example, whose products may
cancel."""
EXACT = frozenset(
    [
        "Bernoulli",
        "Ceil",
        "Constant",
        "ConstantOfShape",
        "EyeLike",
        "Floor",
        "If",
        "Loop",
        "OneHot",
        "Range",
        "Round",
        "Scan",
        "Shape",
        "Sign",
    ]
)
"""Those whose values are what they are: whole numbers, constants, and what the graphs inside them have
changed."""
SUMS = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
"""Those whose terms may cancel. Where what they read is exact (ones of a mask), their weights are changed, or
else nothing would tell how far rounding moves the sum."""
BOUNDED = frozenset(
    {"Tanh", "Sigmoid", "Erf", "Softmax", "HardSigmoid", "Sin", "Cos", "LSTM", "GRU", "RNN", "Softsign"}
)
"""Those whose values are right to a rounding error of one, not of themselves."""
TRANSFORMS = frozenset({"DFT", "STFT"})
"""Those whose values are right to a rounding error of the largest: every step mixes all of them, and the
sines and cosines of each implementation are rounded in its own way, those that are zero among them."""
PART_OF_ONE = 1 / 16
"""Of the noise, that the values of both are changed by in any case."""
PARAMETERS = {
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Range": (0, 1, 2),
    "Dropout": (1,),
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
    "NonMaxSuppression": (2, 3, 4),
    "Pow": (1,),
}
"""Inputs of operators that say what they do, and are no numbers to compute with."""
SIZED = frozenset({"Resize", "Upsample", "Range"})
"""Those of them whose results have other sizes for other parameters."""


def fits(model: Any) -> bool:
    """Whether a ``ModelProto`` can be changed: what is needed for it is there from version 9 of ONNX's own
    operators on."""
    return any(each.domain in ("", "ai.onnx") and each.version >= 9 for each in model.opset_import)


def noisy(model: Any, seed: int) -> Any:
    """A changed copy of a ``ModelProto`` (without the data of its initializers where it has none)."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(made.ir_version, 4)  # before that, every constant is an input, too
    graph = made.graph
    kinds = _kinds(onnx.shape_inference.infer_shapes(model).graph)
    parameters = _parameters(graph)
    kinds = {name: kind for name, kind in kinds.items() if name not in parameters}
    weights = {each.name for each in graph.initializer}
    weights |= {each.values.name for each in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name in kinds and value.name not in weights]
    first = [
        each
        for value in inputs
        for each in _changing(value.name, kinds[value.name], seed, bounded=False, keeps_one=True)
    ]
    floats = {each.name: each.data_type for each in graph.initializer if each.data_type in FLOATS}
    _change(graph, kinds, seed, first, _Seen({value.name for value in inputs}, set(), floats))
    for value in inputs:
        value.name = RAW + value.name
    graph.input.append(onnx.helper.make_tensor_value_info(SCALE, onnx.TensorProto.FLOAT, []))
    for kind, suffix in ((onnx.TensorProto.FLOAT, ""), (onnx.TensorProto.DOUBLE, "_double")):
        graph.initializer.append(onnx.helper.make_tensor(ONE + suffix, kind, [], [1.0]))
        graph.initializer.append(onnx.helper.make_tensor(PART + suffix, kind, [], [PART_OF_ONE]))
    return made


class _Seen(NamedTuple):
    """What is known of the values that operators read, by their names; added to as they are met.

    Attributes:
        changed: those that are changed, or need not be.
        exact: those of them that are what they are, or may be.
        weights: types of the initializers of floats.
    """

    changed: set[str]
    exact: set[str]
    weights: dict[str, int]


def _change(graph: Any, kinds: dict[str, int], seed: int, first: Sequence[Any], seen: _Seen) -> None:
    """Let every operator of a graph, and of those inside it, give the raw values, and others change them.

    Args:
        kinds: of what may be changed.
        first: operators to begin with.
    """
    nodes, changed = list(first), seen.changed
    for node in graph.node:
        for inner in inside(node):
            _change(inner, kinds, seed, (), seen)
        moves, names = node.op_type in MOVES, [name for name in node.output if name in kinds]
        if node.op_type in SUMS and not seen.exact.isdisjoint(node.input):
            nodes += _changed_weights(node, seed, seen.weights)
        nodes.append(node)
        reads = changed.intersection(node.input)
        if node.op_type in EXACT or (moves and reads <= seen.exact):
            seen.exact.update(names)
        if node.op_type in EXACT or (moves and reads):
            changed.update(names)
            continue
        for number, name in enumerate(node.output):
            if name in kinds:
                node.output[number] = RAW + name
                bounded = node.op_type in BOUNDED
                mixed = node.op_type in TRANSFORMS
                nodes += _changing(name, kinds[name], seed, bounded, keeps_one=moves, mixed=mixed)
        changed.update(names)
    nodes = [_copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]


def _changed_weights(node: Any, seed: int, weights: dict[str, int]) -> list[Any]:
    """Operators that change the weights of an operator, which is made to read what they give."""
    nodes = []
    for number, weight in enumerate(node.input):
        if weight in weights:
            own = f"tunemesh_weights_{node.output[0]}_{number}"
            nodes += _changing(own, weights[weight], seed, bounded=False, raw=weight)
            node.input[number] = own
    return nodes


def inside(node: Any) -> list[Any]:
    """The graphs in the attributes of a node."""
    found = []
    for attribute in node.attribute:
        found += [attribute.g] if attribute.HasField("g") else []
        found += attribute.graphs
    return found


def fed(model: Any, name: str) -> str:
    """What an input of the model, of this name, is called in the noisy one."""
    return name if name in {value.name for value in model.graph.input} else RAW + name


def _copied(node: Any) -> Any:
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _kinds(graph: Any) -> dict[str, int]:
    """Types of the elements of all floats that have names in a graph, or in one inside it."""
    values: Iterable[Any] = (*graph.input, *graph.value_info, *graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    found = {name: kind for name, kind in found.items() if kind in FLOATS}
    for node in graph.node:
        for inner in inside(node):
            found |= _kinds(inner)
    return found


def _parameters(graph: Any) -> set[str]:
    """Names of what says what operators do, and of what sizes are computed from."""
    found: set[str] = set()
    sizes: set[str] = set()
    for node in reversed(graph.node):
        for inner in inside(node):
            found |= _parameters(inner)
        numbers = PARAMETERS.get(node.op_type, ())
        named = {node.input[number] for number in numbers if number < len(node.input)}
        found |= named
        if node.op_type in SIZED:
            sizes |= named
        elif not sizes.isdisjoint(node.output):
            sizes |= set(node.input)
    return found | sizes


def _changing(
    name: str,
    kind: int,
    seed: int,
    bounded: bool,
    keeps_one: bool = False,
    raw: str = "",
    mixed: bool = False,
) -> list[Any]:
    """Operators that make the value ``name`` of the raw one.

    Args:
        raw: what that is called, where it is not :data:`RAW` and the name.
        bounded: it is that of a function whose values are right to a rounding error of one.
        keeps_one: elements of one stay so, as those of zero do: they are switches. Otherwise a mask that is
            subtracted from one and multiplied by a billion would switch on what is off.
        mixed: its values are right to a rounding error of the largest.
    """
    import onnx

    make = onnx.helper.make_node
    wide = kind if kind == onnx.TensorProto.DOUBLE else onnx.TensorProto.FLOAT
    suffix = "_double" if kind == onnx.TensorProto.DOUBLE else ""
    by = comparison.noise(onnx.helper.tensor_dtype_to_np_dtype(kind).name)
    own = f"tunemesh_{name}"
    raw, scale = raw or RAW + name, SCALE
    nodes = []
    if wide != kind:
        nodes.append(make("Cast", [raw], [f"{own}_wide"], to=wide))
        raw = f"{own}_wide"
    if suffix:
        nodes.append(make("Cast", [SCALE], [f"{own}_scale"], to=wide))
        scale = f"{own}_scale"
    # A seed of its own for every value: otherwise equal shapes would get equal changes.
    number = float((zlib.crc32(name.encode()) + seed) % 2**22 + 1)
    nodes += [
        make("RandomUniformLike", [raw], [f"{own}_random"], dtype=wide, low=-by, high=by, seed=number),
        make("Mul", [f"{own}_random", scale], [f"{own}_by"]),
        make("Add", [f"{own}_by", ONE + suffix], [f"{own}_factor"]),
    ]
    if keeps_one:
        distance, factor = f"{own}_distance", f"{own}_factor"
        nodes[-1:] = [
            make("Sub", [raw, ONE + suffix], [distance]),
            make("Sign", [distance], [f"{own}_sign"]),
            make("Mul", [f"{own}_sign", f"{own}_by"], [f"{own}_kept"]),
            make("Add", [f"{own}_kept", ONE + suffix], [factor]),
        ]
    last = name if wide == kind and not (bounded or mixed) else f"{own}_changed"
    nodes.append(make("Mul", [raw, f"{own}_factor"], [last]))
    part = PART + suffix
    if mixed:
        part = f"{own}_share"
        nodes += [
            make("Abs", [raw], [f"{own}_size"]),
            make("ReduceMax", [f"{own}_size"], [f"{own}_largest"], keepdims=0),
            make("Mul", [f"{own}_largest", PART + suffix], [part]),
        ]
    if bounded or mixed:
        nodes.append(make("Mul", [f"{own}_by", part], [f"{own}_part"]))
        nodes.append(make("Add", [last, f"{own}_part"], [name if wide == kind else f"{own}_moved"]))
        last = f"{own}_moved"
    if wide != kind:
        nodes.append(make("Cast", [last], [name], to=kind))
    return nodes
