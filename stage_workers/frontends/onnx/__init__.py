"""ONNX models."""

from __future__ import annotations

from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends.onnx import checks, conversion, inference, normalise, tensors
from tunemesh.stage_workers.frontends.shapes import Dim, Variant, fix_shapes
from tunemesh.stage_workers.frontends.source import Source
from tunemesh.stage_workers.graph.errors import reraise_memory_error
from tunemesh.stage_workers.graph.models import signature_of
from tunemesh.stage_workers.graph.signatures import Signature

ONNX_FIRST_BYTE = b"\x08"
"""The tag of ``ir_version``, which every ONNX writer puts first."""


def recognises(source: Source) -> bool:
    """Whether it may be ONNX. Protobuf has no signature: some writers put the graph first."""
    return True


def read(source: Source, variant: Variant) -> tuple[Any, Signature]:
    """The Relax module of an ONNX model, and its signature.

    Raises:
        BadModel: it is damaged, or cannot be imported.
    """
    parsed = _parse(source.model)
    checks.check(parsed, source.files)
    inputs, outputs = _names(parsed)
    for value in inputs:
        inference.from_type_proto(value.type, value.name, "the model's input")
    if not outputs:
        raise BadModel("the ONNX file names no output: there is nothing to compute")
    fixed = fix_shapes({value.name: _declared_shape(value) for value in inputs}, variant)
    graph = normalise.Normaliser(parsed, fixed, tensors.Files(source.files)).run()
    del parsed
    module = conversion.convert(graph)
    return module, signature_of(module, [value.name for value in inputs], outputs)


def _names(parsed: Any) -> tuple[list[Any], list[str]]:
    """The inputs of a model that are no weights, and the names of its outputs."""
    weights = {weight.name for weight in parsed.graph.initializer}
    weights |= {weight.values.name for weight in parsed.graph.sparse_initializer}
    inputs = [value for value in parsed.graph.input if value.name not in weights]
    return inputs, [value.name for value in parsed.graph.output]


def _parse(model: bytes) -> Any:
    import onnx

    try:
        parsed = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's DecodeError, in a package without types
        reraise_memory_error(error)
        parsed = None
    if parsed is not None and parsed.graph.node:
        return parsed
    if parsed is not None and parsed.graph.output:
        raise BadModel("the ONNX file has no operators: there is nothing to tune")
    if model.startswith(ONNX_FIRST_BYTE):
        raise BadModel("the ONNX file is truncated or damaged")
    raise BadModel("the model is neither ONNX, nor TFLite, nor TVM's JSON (of tvm.ir.save_json)")


def _declared_shape(value: Any) -> list[Dim] | None:
    """Dimensions of an ONNX input, ``None`` where open; no list when not even the rank is known."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param or None
        for dim in kind.shape.dim
    ]
