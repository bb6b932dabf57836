"""From a normalised graph to a Relax module.

Most operators are converted by TVM's own importer, operator by operator. Where it is wrong, or where we need
something that it does not have, a converter of ours takes its place (:mod:`.converters`). Three things are
looked at for every node, so that nothing is imported wrong without a word: that the converter reads every
attribute that the node has, and that the result has the type and the shape that ONNX's inference says.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends.onnx import converters, inference
from tunemesh.stage_workers.frontends.onnx.graph import Graph, Node, Type, shown, unsupported
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error

# fmt: off
THROUGH_TVM = frozenset((
    "Add", "Sub", "Mul", "Div", "Mod", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal",
    "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "And", "Or", "Xor", "Not", "BitwiseNot", "Log",
    "Exp", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Sin", "Sinh", "Tan",
    "Tanh", "Neg", "Abs", "Reciprocal", "Floor", "Ceil", "Round", "IsInf", "IsNaN", "Sqrt", "Relu",
    "Selu", "Mish", "PRelu", "LeakyRelu", "ThresholdedRelu", "Elu", "Gelu", "HardSigmoid", "HardSwish",
    "Sign", "Softplus", "Softsign", "Shrink", "Erf", "Gemm", "MatMul",
    "Reshape", "Sigmoid", "Softmax", "LogSoftmax", "Hardmax", "Transpose", "Unsqueeze", "Where",
    "Concat", "Clip", "Pow", "CumSum", "Squeeze", "Gather", "GatherElements", "GatherND",
    "ScatterElements", "ScatterND", "Compress", "BatchNormalization", "LayerNormalization",
    "InstanceNormalization", "LRN", "ReduceMax",
    "ReduceMin", "ReduceSum", "ReduceMean", "ReduceProd", "ReduceLogSumExp", "ReduceLogSum",
    "ReduceSumSquare", "ReduceL1", "ReduceL2", "ArgMax", "ArgMin", "TopK", "Expand", "ConstantOfShape",
    "Slice", "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool",
    "GlobalLpPool", "MaxUnpool", "Conv", "Flatten", "Einsum", "Range", "Unique", "NonZero",
    "MaxRoiPool", "RoiAlign", "GridSample", "DepthToSpace", "SpaceToDepth",
))
# fmt: on
"""Operators that TVM's importer converts."""

KNOWN = THROUGH_TVM | frozenset(converters.OWN)
"""Operators that can be converted."""


def convert(graph: Graph) -> Any:
    """The module, with a function ``main`` that takes the inputs in order.

    Raises:
        BadModel: a node cannot be converted; it is named.
    """
    from tvm import relax

    builder = relax.BlockBuilder()
    values: dict[str, Any] = {}
    parameters = []
    for position, name in enumerate(graph.inputs):
        variable = relax.Var(_identifier(name, position), _relax_type(graph.types[name], name))
        values[name] = variable
        parameters.append(variable)
    with builder.function("main", parameters):
        with builder.dataflow():
            for node in graph.nodes:
                _emit(builder, node, graph, values)
            outputs = [_value(name, graph, values) for name in graph.outputs]
            # The same value twice, an input and a constant are outputs like any other.
            result = builder.emit_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
        builder.emit_func_output(result)
    return builder.get()


LARGE = 1 << 20
"""Bytes of a constant from which it is not kept once TVM has it."""


def _identifier(name: str, position: int) -> str:
    text = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    return text if text and not text[0].isdigit() else f"input{position}_{text}"


def _relax_type(of: Type, name: str) -> Any:
    from tvm import relax

    return relax.TensorType(of.shape, _dtype(of, name))


UNSUPPORTED_DTYPES = ("float8", "float4", "int4", "uint4", "int2", "uint2", "string", "object", "complex")


def _dtype(of: Type, name: str, where: str = "") -> str:
    text = str(of.numpy)
    if of.dtype == onnx.TensorProto.STRING:
        raise BadModel(f"{where}{shown(name)} holds strings, which cannot be computed with")
    if text.startswith(UNSUPPORTED_DTYPES):
        raise BadModel(
            f"{where}{shown(name)} has the type {text}, which is not supported; use float16 or int8"
        )
    return text


def _value(name: str, graph: Graph, values: dict[str, Any]) -> Any:
    """The expression of a tensor; a constant is made when it is first needed, and the array is given back."""
    if name not in values:
        import tvm
        from tvm import relax

        array = graph.constants[name]
        if array.nbytes > LARGE:
            del graph.constants[name]  # TVM has a copy; what converters look at is small
        _dtype(graph.types[name], name)
        values[name] = relax.const(tvm.runtime.tensor(np.ascontiguousarray(array) if array.ndim else array))
    return values[name]


def _emit(builder: Any, node: Node, graph: Graph, values: dict[str, Any]) -> None:
    if node.op not in KNOWN or node.domain:
        raise unsupported(node, "this operator is not supported")
    for name in node.inputs + node.outputs:
        if name in graph.types:
            _dtype(graph.types[name], name, f"{node}: ")
    _require_shapes(node, graph)
    inputs = [_value(name, graph, values) if name else None for name in node.inputs]
    results = _converted(builder, node, graph, inputs)
    if len(results) < len(node.outputs):
        raise unsupported(node, f"only {len(results)} of its outputs are supported")
    for name, result in zip(node.outputs, results, strict=False):
        if name:
            values[name] = builder.emit(result) if not _is_variable(result) else result
            _require(values[name], graph.types.get(name), node, graph, name)


OPEN = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression"})
"""Operators whose result has a shape that always depends on the data."""


def _require_shapes(node: Node, graph: Graph) -> None:
    """Whether the shapes of a node's results follow from those of its inputs: where a shape is an input that
    is computed, TVM guesses."""
    known = all(graph.types[name].sizes is not None for name in node.inputs if name)
    for name in node.outputs:
        if name and known and node.op not in OPEN and graph.types[name].sizes is None:
            raise unsupported(
                node, "the shape of its result depends on the data", "make the input that gives it a constant"
            )


def _is_variable(value: Any) -> bool:
    from tvm import relax

    return isinstance(value, relax.Var)


def _converted(builder: Any, node: Node, graph: Graph, inputs: list[Any]) -> list[Any]:
    attributes = _Watched(node)
    own = converters.OWN.get(node.op)
    try:
        with _silent():
            if own is not None:
                made = own(builder, node, graph, inputs, attributes)
            else:
                made = _by_tvm(builder, node, inputs, attributes)
    except BadModel:
        raise
    except Exception as error:  # the importer raises whatever its operators raise
        reraise_memory_error(error)
        raise unsupported(node, f"TVM cannot import it: {first_line(error)}") from None
    for name in attributes.unread():
        if not _says_nothing(node, name, graph):
            raise unsupported(node, f"the attribute {name} is not supported")
    return made if isinstance(made, list) else [made]


def _by_tvm(builder: Any, node: Node, inputs: list[Any], attributes: dict[str, Any]) -> list[Any]:
    from tvm import relax
    from tvm.relax.frontend.onnx import onnx_frontend

    convert = onnx_frontend._get_convert_map()[node.op].get_converter(node.version)
    attributes["tvm_custom"] = {"name": node.name, "num_outputs": len(node.outputs)}
    given = onnx_frontend.onnx_input()
    given.extend(inputs)
    made = builder.normalize(convert(builder, given, attributes, [{}, {}]))
    if isinstance(made, relax.Tuple):
        return list(made.fields)
    if isinstance(made.ty, relax.TupleType):
        whole = builder.emit(made)
        return [builder.emit(relax.TupleGetItem(whole, i)) for i in range(len(made.ty.fields))]
    return [made]


def _says_nothing(node: Node, name: str, graph: Graph) -> bool:
    """Whether an attribute only repeats what is known without it."""
    value = node.attributes[name]
    if name == "kernel_shape" and node.op in ("Conv", "ConvTranspose"):
        return tuple(value) == graph.shape(node.inputs[1])[2:]
    if name == "num_outputs":
        return bool(value == len(node.outputs))
    schema = inference.schema_of(node)
    known = schema.attributes.get(name) if schema is not None else None
    if known is None:
        return False
    default = known.default_value
    if default.type == onnx.AttributeProto.UNDEFINED:
        return value in ([], "")
    text = onnx.helper.get_attribute_value(default)
    return bool(value == (text.decode() if isinstance(text, bytes) else text))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The importer prints, and warns of renamed inputs and the like."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


class _Watched(dict[str, Any]):
    """Attributes as TVM's importer takes them, which remember which of them were read."""

    def __init__(self, node: Node) -> None:
        super().__init__({name: _encoded(value) for name, value in node.attributes.items()})
        self._node = node
        self._read: set[str] = set()

    def unread(self) -> list[str]:
        """Attributes that nobody has looked at."""
        return sorted(set(self._node.attributes) - self._read)

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        self._read.add(name)
        return super().pop(name, *default)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name)


def _encoded(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return tuple(_encoded(each) for each in value)
    return value


def _require(made: Any, wanted: Type | None, node: Node, graph: Graph, name: str) -> None:
    """Compare what was made with what ONNX says that it is.

    Raises:
        BadModel: they differ, so that the conversion cannot be right.
    """
    from tvm import relax, tirx

    found = made.ty
    if wanted is None or not isinstance(found, relax.TensorType):
        raise unsupported(node, f"its result {shown(name)} is not a tensor")
    if str(found.dtype) != str(wanted.numpy):
        raise unsupported(node, f"TVM makes {found.dtype} of what should be {wanted.numpy}")
    if wanted.shape is None or not isinstance(found.shape, relax.ShapeExpr):
        return
    sizes = [int(dim.value) if isinstance(dim, tirx.IntImm) else None for dim in found.shape.values]
    if len(sizes) != len(wanted.shape) or any(
        a is not None and b is not None and a != b for a, b in zip(sizes, wanted.shape, strict=True)
    ):
        raise unsupported(node, f"TVM makes the shape {sizes} of what should be {list(wanted.shape)}")
    if any(size is None for size in wanted.shape):
        graph.types[name] = Type(wanted.dtype, tuple(sizes))
