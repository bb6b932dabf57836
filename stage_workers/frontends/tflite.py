"""Models of TensorFlow Lite, today LiteRT."""

from __future__ import annotations

import warnings
from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import limits
from tunemesh.stage_workers.frontends.shapes import Dim, Variant, fix_shapes
from tunemesh.stage_workers.frontends.source import Source
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.graph.models import signature_of
from tunemesh.stage_workers.graph.signatures import Signature

MAGIC = slice(4, 8), b"TFL3"
"""Where a FlatBuffer has the identifier of its kind, and that of TFLite."""


def recognises(source: Source) -> bool:
    """Whether it says so at its beginning."""
    place, identifier = MAGIC
    return source.model[place] == identifier


def read(source: Source, variant: Variant) -> tuple[Any, Signature]:
    """The Relax module of the first subgraph, and its signature, with the names of the file.

    Raises:
        BadModel: the file is damaged, or something in it cannot be imported.
    """
    model = _parse(source.model)
    try:
        graph = _checked(model)
        inputs = [graph.Tensors(int(number)) for number in graph.InputsAsNumpy()]
        declared = {_name(tensor): _declared_shape(tensor) for tensor in inputs}
        outputs = [_name(graph.Tensors(int(number))) for number in graph.OutputsAsNumpy()]
    except BadModel:
        raise
    except Exception as error:  # readers of FlatBuffers follow offsets wherever they lead
        reraise_memory_error(error)
        raise BadModel(f"the TFLite file is truncated or damaged: {first_line(error)}") from None
    shapes = fix_shapes(declared, variant)
    return _imported(model, shapes, list(declared), outputs)


def _imported(
    model: Any, shapes: dict[str, list[int]], inputs: list[str], outputs: list[str]
) -> tuple[Any, Signature]:
    import tvm
    from tvm.relax.frontend.tflite import from_tflite

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = from_tflite(model, shape_dict={name: tuple(shape) for name, shape in shapes.items()})
    except tvm.error.OpNotImplemented as error:
        raise BadModel(f"operators of TFLite that TVM cannot import: {first_line(error)}") from None
    except Exception as error:  # the importer raises whatever its operators raise
        reraise_memory_error(error)
        said = f"{type(error).__name__}: {first_line(error)}"
        if custom := _custom_operators(model):
            said += f" (it has {', '.join(custom)})"
        raise BadModel(f"TVM cannot import the TFLite model: {said}; tf2onnx may do better") from None
    return module, signature_of(module, inputs, outputs)


def _parse(model: bytes) -> Any:
    import tflite

    try:
        return tflite.Model.GetRootAsModel(model, 0)
    except Exception as error:  # struct.error and whatever else
        reraise_memory_error(error)
        raise BadModel("the TFLite file is truncated or damaged") from None


def _checked(model: Any) -> Any:
    """The graph that is imported, after a look at how large it is and at what TVM cannot read."""
    graphs = [model.Subgraphs(number) for number in range(model.SubgraphsLength())]
    if not graphs or not graphs[0].OperatorsLength():
        raise BadModel("the TFLite file has no operators")
    limits.require(sum(graph.OperatorsLength() for graph in graphs), limits.OPERATORS, "operators")
    limits.require(sum(graph.TensorsLength() for graph in graphs), limits.CONSTANTS, "tensors")
    limits.require(graphs[0].InputsLength(), limits.TENSORS, "inputs")
    limits.require(graphs[0].OutputsLength(), limits.TENSORS, "outputs")
    for graph in graphs:
        for number in range(graph.TensorsLength()):
            tensor = graph.Tensors(number)
            if tensor.Sparsity() is not None:
                raise BadModel(
                    f"the tensor {_name(tensor)} of the TFLite model is sparse, which TVM does not read:"
                    " convert the model without sparsity"
                )
    return graphs[0]


def _custom_operators(model: Any) -> list[str]:
    """Names of operators that are not of TFLite itself."""
    codes = [model.OperatorCodes(number).CustomCode() for number in range(model.OperatorCodesLength())]
    return sorted({code.decode(errors="replace") for code in codes if code})


def _name(tensor: Any) -> str:
    return str(tensor.Name().decode(errors="replace"))


def _declared_shape(tensor: Any) -> list[Dim]:
    """Dimensions of a tensor; open where its signature says so."""
    shape = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else tensor.ShapeAsNumpy()
    if not tensor.ShapeLength():
        return []
    return [int(dim) if dim >= 0 else None for dim in shape]
