"""An ONNX model as a module of PyTorch, for its compiler.

ONNX Runtime first fixes the shapes and computes what is constant, which leaves plain operators whose shapes,
axes and sizes are known. Each becomes what a person would write in PyTorch. What is not in :data:`OPERATORS`
is refused: the comparison then says so.

Longer than other files: one entry per operator.
"""

from __future__ import annotations

import math
import operator
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from onnx import numpy_helper
from torch import fx

Values = list[Any]
Write = Callable[["_Node"], Any]


def module_of(path: Path, shapes: Mapping[str, Sequence[int]]) -> fx.GraphModule:
    """The module that computes what the model does. It takes its inputs in order, and gives a tuple.

    Raises:
        ValueError: it has an operator, or a use of one, that is not known here; says which.
    """
    model = _plain(path, shapes)
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    root, graph = torch.nn.Module(), fx.Graph()
    values: dict[str, Any] = {"": None}
    for each in model.graph.input:
        if each.name not in weights:
            values[each.name] = graph.placeholder(f"input{len(values)}")
    for number, (name, array) in enumerate(weights.items()):
        root.register_buffer(f"w{number}", torch.from_numpy(array.copy()))
        values[name] = graph.get_attr(f"w{number}")
    keys = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    for node in model.graph.node:
        if node.op_type == "Constant":
            raise ValueError("a constant that ONNX Runtime leaves where it is has no counterpart here")
        write = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if write is None:
            raise ValueError(f"the operator {node.op_type} has no counterpart in PyTorch here")
        inputs = [values[name] for name in node.input]
        made = write(_Node(node, graph, inputs, weights, node.output[0] in keys))
        results = made if isinstance(made, list) else [made]
        if any(node.output[len(results) :]):
            raise ValueError(f"an operator {node.op_type} with further outputs has no counterpart here")
        values |= dict(zip(node.output, results, strict=False))
    graph.output(tuple(values[each.name] for each in model.graph.output))
    graph.eliminate_dead_code()
    return fx.GraphModule(root, graph).eval()


def _plain(path: Path, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """The model with these shapes, and with its constants computed."""
    model = onnx.load(path)
    for each in model.graph.input:
        if each.name in shapes:
            tensor = each.type.tensor_type
            del tensor.shape.dim[:]
            for size in shapes[each.name]:
                tensor.shape.dim.add(dim_value=size)
    for each in model.graph.output:
        each.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    with tempfile.TemporaryDirectory(prefix="tunemesh-torch-") as folder:
        given, made = Path(folder, "given.onnx"), Path(folder, "made.onnx")
        onnx.save(model, given, save_as_external_data=model.ByteSize() > 2**30)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(made)
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        onnxruntime.InferenceSession(str(given), options, providers=["CPUExecutionProvider"])
        return onnx.load(made)


class _Node:
    """A node that is being written.

    Args:
        inputs: as values of the graph.
        weights: arrays by name.
        key: whether a product has what it gives on its right side.
    """

    def __init__(
        self, node: onnx.NodeProto, graph: fx.Graph, inputs: Values, weights: Mapping[str, Any], key: bool
    ) -> None:
        self.key = key
        self.inputs = inputs
        self.count = len(node.output)
        self.kind = node.op_type
        self._names = list(node.input)
        self._attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        self._graph, self._weights = graph, weights

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index] if index < len(self.inputs) else None

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return self._graph.call_function(function, arguments, named)

    def get(self, name: str, default: Any) -> Any:
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def constant(self, index: int) -> Any:
        """An input that is known, as plain numbers; ``None`` where there is none.

        Raises:
            ValueError: it is computed.
        """
        name = self._names[index] if index < len(self._names) else ""
        if not name:
            return None
        if name not in self._weights:
            raise ValueError(f"an operator {self.kind} whose {name} is not constant has no counterpart here")
        return self._weights[name].tolist()

    def numbers(self, name: str, index: int) -> list[int] | None:
        """What older versions of an operator have as an attribute, and newer ones as an input."""
        found = self._attributes.get(name)
        if found is None:
            found = self.constant(index)
        return None if found is None else list(found)

    def operands(self) -> Values:
        """The inputs, with numbers for floats that are known: so a person writes them, and the compiler finds
        what it knows how to fuse."""
        numbers = [_number(self._weights.get(name)) for name in self._names]
        if None not in numbers:
            return self.inputs
        pairs = zip(numbers, self.inputs, strict=True)
        return [value if number is None else number for number, value in pairs]

    def refuse(self, why: str) -> Any:
        raise ValueError(f"an operator {self.kind} {why} has no counterpart in PyTorch here")


def _number(weight: Any) -> float | None:
    single = weight is not None and weight.ndim == 0 and weight.dtype.kind == "f"
    return float(weight) if single else None


# -- Element by element -------------------------------------------------------------------------------------


def _call(function: Callable[..., Any]) -> Write:
    """An operator that takes its inputs, and nothing else."""
    return lambda node: node.call(function, *node.inputs)


def _binary(function: Callable[..., Any]) -> Write:
    """An operator between two values, of which one may be a number."""
    return lambda node: node.call(function, *node.operands())


def _fold(function: Callable[..., Any]) -> Write:
    """An operator of two inputs that ONNX gives to several."""

    def write(node: _Node) -> Any:
        result = node[0]
        for each in node.inputs[1:]:
            result = node.call(function, result, each)
        return result

    return write


def _clip(node: _Node) -> Any:
    least = node.get("min", None) if len(node.inputs) < 2 else node.constant(1)
    most = node.get("max", None) if len(node.inputs) < 3 else node.constant(2)
    return node.call(torch.clamp, node[0], least, most)


def _gelu(node: _Node) -> Any:
    return node.call(F.gelu, node[0], approximate=node.get("approximate", "none"))


def _hard_sigmoid(node: _Node) -> Any:
    scaled = node.call(torch.mul, node[0], node.get("alpha", 0.2))
    return node.call(torch.clamp, node.call(torch.add, scaled, node.get("beta", 0.5)), 0.0, 1.0)


def _cast(node: _Node) -> Any:
    name = onnx.helper.tensor_dtype_to_np_dtype(node.get("to", 1)).name
    return node.call(torch.Tensor.to, node[0], getattr(torch, name))


def _power(x: Any, y: Any) -> Any:
    return torch.pow(x, y).to(x.dtype if isinstance(x, torch.Tensor) else y.dtype)


def _divided(x: Any, y: Any) -> Any:
    if isinstance(x, torch.Tensor) and not x.is_floating_point():
        return torch.div(x, y, rounding_mode="trunc")
    return x / y


# -- Products and convolutions ------------------------------------------------------------------------------


def _pads(node: _Node, spatial: int) -> tuple[Any, list[int]]:
    """The input, padded where the two sides differ, and the padding that is left to the operator."""
    lowest = node.kind == "MaxPool"
    automatic = node.get("auto_pad", "NOTSET")
    if automatic.startswith("SAME"):
        strides, dilations = (node.get(name, [1] * spatial) for name in ("strides", "dilations"))
        kernel = node.get("kernel_shape", None) or node.refuse("without a kernel_shape")
        spans = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        last = automatic == "SAME_UPPER"
        return node.call(_padded_alike, node[0], spans, list(strides), last, lowest), [0] * spatial
    pads = list(node.get("pads", [0] * 2 * spatial))
    begin, end = pads[:spatial], pads[spatial:]
    if begin == end:
        return node[0], begin
    return node.call(_padded, node[0], begin, end, lowest), [0] * spatial


def _padded(x: Any, begin: Sequence[int], end: Sequence[int], lowest: bool) -> Any:
    around = [size for pair in zip(reversed(begin), reversed(end), strict=True) for size in pair]
    return F.pad(x, around, value=-math.inf if lowest else 0.0)


def _padded_alike(x: Any, spans: Sequence[int], strides: Sequence[int], last: bool, lowest: bool) -> Any:
    """Padded so that there is an output for each stride of the input."""
    whole = [
        max((math.ceil(size / stride) - 1) * stride + span - size, 0)
        for size, span, stride in zip(x.shape[2:], spans, strides, strict=True)
    ]
    less, more = [size // 2 for size in whole], [size - size // 2 for size in whole]
    return _padded(x, *(less, more) if last else (more, less), lowest)


def _convolution(node: _Node) -> Any:
    kernel = node.get("kernel_shape", None)
    spatial = len(kernel) if kernel is not None else 2
    x, padding = _pads(node, spatial)
    return node.call(
        {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[spatial],
        x,
        node[1],
        node[2],
        tuple(node.get("strides", [1] * spatial)),
        tuple(padding),
        tuple(node.get("dilations", [1] * spatial)),
        node.get("group", 1),
    )


def _transposed(node: _Node) -> Any:
    pads = list(node.get("pads", [0] * 4))
    if pads[:2] != pads[2:] or node.get("output_shape", None) or node.get("auto_pad", "NOTSET") != "NOTSET":
        node.refuse("with padding that differs between sides")
    return node.call(
        F.conv_transpose2d,
        node[0],
        node[1],
        node[2],
        tuple(node.get("strides", [1, 1])),
        tuple(pads[:2]),
        tuple(node.get("output_padding", [0, 0])),
        node.get("group", 1),
        tuple(node.get("dilations", [1, 1])),
    )


def _gemm(node: _Node) -> Any:
    x = node.call(torch.t, node[0]) if node.get("transA", 0) else node[0]
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if alpha == beta == 1.0 and node.get("transB", 0):
        return node.call(F.linear, x, node[1], node[2])
    y = node.call(torch.t, node[1]) if node.get("transB", 0) else node[1]
    if node[2] is not None:
        return node.call(torch.addmm, node[2], x, y, alpha=alpha, beta=beta)
    return node.call(torch.mul, node.call(torch.mm, x, y), alpha)


# -- Pooling, reductions, normalisation ---------------------------------------------------------------------


def _max_pool(node: _Node) -> Any:
    if len(node.get("kernel_shape", [])) != 2 or node.count > 1:
        node.refuse("that is not two-dimensional, or gives indices,")
    x, padding = _pads(node, 2)
    return node.call(
        F.max_pool2d,
        x,
        tuple(node.get("kernel_shape", None)),
        tuple(node.get("strides", [1, 1])),
        tuple(padding),
        tuple(node.get("dilations", [1, 1])),
        bool(node.get("ceil_mode", 0)),
    )


def _average_pool(node: _Node) -> Any:
    if len(node.get("kernel_shape", [])) != 2:
        node.refuse("that is not two-dimensional")
    pads = list(node.get("pads", [0] * 4))
    if pads[:2] != pads[2:] or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        node.refuse("with padding that differs between sides")
    if any(size != 1 for size in node.get("dilations", [])):
        node.refuse("with dilations")
    return node.call(
        F.avg_pool2d,
        node[0],
        tuple(node.get("kernel_shape", None)),
        tuple(node.get("strides", [1, 1])),
        tuple(pads[:2]),
        bool(node.get("ceil_mode", 0)),
        bool(node.get("count_include_pad", 0)),
    )


def _reduce(function: Callable[..., Any]) -> Write:
    def write(node: _Node) -> Any:
        axes = node.numbers("axes", 1)
        if not axes and node.get("noop_with_empty_axes", 0):
            return node[0]
        return node.call(function, node[0], axes, bool(node.get("keepdims", 1)))

    return write


Axes = list[int] | None
"""Those of a reduction; all where there are none."""


def _all(x: Any, axes: Axes) -> list[int]:
    return axes or list(range(x.dim()))


def _mean(x: Any, axes: Axes, keep: bool) -> Any:
    return torch.mean(x, _all(x, axes), keep)


def _sum(x: Any, axes: Axes, keep: bool) -> Any:
    return torch.sum(x, _all(x, axes), keep)


def _largest(x: Any, axes: Axes, keep: bool) -> Any:
    return torch.amax(x, _all(x, axes), keep)


def _least(x: Any, axes: Axes, keep: bool) -> Any:
    return torch.amin(x, _all(x, axes), keep)


def _length(x: Any, axes: Axes, keep: bool) -> Any:
    return torch.linalg.vector_norm(x, 2, _all(x, axes), keep)


def _global_average(x: Any) -> Any:
    return x.mean(dim=list(range(2, x.dim())), keepdim=True)


def _batch_norm(node: _Node) -> Any:
    x, scale, shift, mean, variance = node.inputs
    return node.call(F.batch_norm, x, mean, variance, scale, shift, False, 0.0, node.get("epsilon", 1e-5))


def _layer_norm(node: _Node) -> Any:
    epsilon = node.get("epsilon", 1e-5)
    return node.call(_normalised, node[0], node[1], node[2], node.get("axis", -1), epsilon)


def _normalised(x: Any, scale: Any, shift: Any, axis: int, epsilon: float) -> Any:
    shape = x.shape[axis:]
    shift = None if shift is None else shift.expand(shape)
    return F.layer_norm(x, shape, scale.expand(shape), shift, epsilon)


def _instance_norm(node: _Node) -> Any:
    x, scale, shift = node.inputs
    return node.call(F.instance_norm, x, None, None, scale, shift, True, 0.0, node.get("epsilon", 1e-5))


def _softmax(function: Callable[..., Any]) -> Write:
    return lambda node: node.call(function, node[0], node.get("axis", -1))


# -- Shapes -------------------------------------------------------------------------------------------------


def _reshape(node: _Node) -> Any:
    return node.call(_reshaped, node[0], node.constant(1))


def _reshaped(x: Any, sizes: list[int]) -> Any:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])


def _flatten(node: _Node) -> Any:
    axis = node.get("axis", 1)
    return node.call(torch.flatten, node[0], axis) if axis == 1 else node.refuse("at another axis than 1")


def _transpose(node: _Node) -> Any:
    order = node.get("perm", None)
    if not order:
        return node.call(_reversed, node[0])
    order = list(order)
    if node.key and len(order) > 2 and order[-2] > order[-1]:
        # As a person writes it in attention. Inductor (2.13) takes any permutation of the keys there for the
        # exchange of their last two axes, and then cannot compile.
        order[-2:] = order[:-3:-1]
        return node.call(torch.transpose, node.call(torch.permute, node[0], order), -2, -1)
    return node.call(torch.permute, node[0], order)


def _reversed(x: Any) -> Any:
    return x.permute(list(reversed(range(x.dim()))))


def _squeeze(node: _Node) -> Any:
    axes = node.numbers("axes", 1)
    return node.call(torch.squeeze, node[0]) if axes is None else node.call(torch.squeeze, node[0], axes)


def _unsqueeze(node: _Node) -> Any:
    axes, result = node.numbers("axes", 1) or [], node[0]
    if any(axis < 0 for axis in axes) and len(axes) > 1:
        node.refuse("with several axes that count from the end")
    for axis in sorted(axes):
        result = node.call(torch.unsqueeze, result, axis)
    return result


def _concat(node: _Node) -> Any:
    return node.call(torch.cat, list(node.inputs), node.get("axis", 0))


def _split(node: _Node) -> Any:
    sizes = node.numbers("split", 1)
    axis = node.get("axis", 0)
    if sizes is None:
        pieces = node.call(torch.tensor_split, node[0], node.count, axis)
    else:
        pieces = node.call(torch.split, node[0], sizes, axis)
    return [node.call(operator.getitem, pieces, number) for number in range(node.count)]


def _slice(node: _Node) -> Any:
    starts, ends = node.numbers("starts", 1) or [], node.numbers("ends", 2) or []
    axes, steps = node.numbers("axes", 3), node.numbers("steps", 4)
    if any(step < 1 for step in steps or []):
        node.refuse("that goes backwards")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    return node.call(_sliced, node[0], list(zip(axes, starts, ends, steps, strict=True)))


def _sliced(x: Any, cuts: list[tuple[int, int, int, int]]) -> Any:
    index = [slice(None)] * x.dim()
    for axis, start, end, step in cuts:
        index[axis] = slice(start, min(end, x.shape[axis]), step)
    return x[tuple(index)]


def _gather(node: _Node) -> Any:
    return node.call(_gathered, node[0], node[1], node.get("axis", 0))


def _gathered(x: Any, index: Any, axis: int) -> Any:
    axis = axis % x.dim()
    if axis == 0 and x.dim() == 2:
        return F.embedding(index, x)
    taken = torch.index_select(x, axis, index.reshape(-1))
    return taken.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _pad(node: _Node) -> Any:
    pads = node.numbers("pads", 1) or []
    half = len(pads) // 2
    around = [size for axis in reversed(range(half)) for size in (pads[axis], pads[half + axis])]
    mode = node.get("mode", "constant")
    if mode == "constant":
        value = node.get("value", None) if len(node.inputs) < 3 else node.constant(2)
        return node.call(F.pad, node[0], around, value=value or 0.0)
    if half != 4 or any(around[4:]) or mode == "wrap":
        node.refuse(f"of mode {mode}")
    return node.call(F.pad, node[0], around[:4], mode={"reflect": "reflect", "edge": "replicate"}[mode])


def _resize(node: _Node) -> Any:
    mode, how = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    scales, sizes = node.constant(2), node.constant(3)
    factors = scales[2:] if scales else None
    if mode == "nearest" and how == "asymmetric" and node.get("nearest_mode", "") == "floor":
        return node.call(F.interpolate, node[0], sizes[2:] if sizes else None, factors, "nearest")
    if node.get("antialias", 0) or (how == "pytorch_half_pixel" and 1 in (sizes or [1])):
        node.refuse("with antialias, or to a size of one,")
    if mode == "linear" and how in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        aligned = how == "align_corners"
        shape = sizes[2:] if sizes else None
        return node.call(F.interpolate, node[0], shape, factors, "bilinear", aligned)
    return node.refuse(f"of mode {mode} with coordinates {how}")


def _expand(node: _Node) -> Any:
    shape = node.constant(1)
    return node.call(_expanded, node[0], shape)


def _expanded(x: Any, shape: list[int]) -> Any:
    return x.expand(torch.broadcast_shapes(x.shape, shape))


OPERATORS: dict[str, Write] = {
    **{
        name: _call(function)
        for name, function in {
            "Abs": torch.abs, "And": torch.logical_and, "Ceil": torch.ceil,
            "Cos": torch.cos, "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
            "GlobalAveragePool": _global_average, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
            "HardSwish": F.hardswish, "Less": torch.lt, "LessOrEqual": torch.le, "Log": torch.log,
            "MatMul": torch.matmul, "Mish": F.mish, "Neg": torch.neg,
            "Not": torch.logical_not, "Or": torch.logical_or,
            "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Sin": torch.sin,
            "Softplus": F.softplus, "Sqrt": torch.sqrt, "Tanh": torch.tanh,
            "Where": torch.where,
        }.items()
    },
    "Add": _binary(operator.add), "Sub": _binary(operator.sub), "Mul": _binary(operator.mul),
    "Div": _binary(_divided), "Pow": _binary(_power),
    "Max": _fold(torch.maximum),
    "Min": _fold(torch.minimum),
    "Sum": _fold(torch.add),
    "Identity": lambda node: node[0],
    "Dropout": lambda node: node[0],
    "LeakyRelu": lambda node: node.call(F.leaky_relu, node[0], node.get("alpha", 0.01)),
    "Elu": lambda node: node.call(F.elu, node[0], node.get("alpha", 1.0)),
    "PRelu": lambda node: node.call(torch.where, node.call(torch.gt, node[0], 0), node[0],
                                    node.call(torch.mul, node[0], node[1])),
    "Clip": _clip, "Gelu": _gelu, "HardSigmoid": _hard_sigmoid, "Cast": _cast,
    "Conv": _convolution, "ConvTranspose": _transposed, "Gemm": _gemm,
    "MaxPool": _max_pool, "AveragePool": _average_pool,
    "ReduceMean": _reduce(_mean), "ReduceSum": _reduce(_sum), "ReduceMax": _reduce(_largest),
    "ReduceMin": _reduce(_least), "ReduceL2": _reduce(_length),
    "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "Softmax": _softmax(torch.softmax), "LogSoftmax": _softmax(torch.log_softmax),
    "Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Concat": _concat, "Split": _split, "Slice": _slice, "Gather": _gather,
    "Pad": _pad, "Resize": _resize, "Expand": _expand,
}  # fmt: skip
"""How each operator is written."""
