"""ONNX models."""

from __future__ import annotations

import warnings
from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends.onnx import checks
from tunemesh.stage_workers.frontends.shapes import Dim, Variant, fix_shapes
from tunemesh.stage_workers.frontends.source import Source
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.graph.models import Signature, signature_of

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
    checks.check(parsed)
    weights = {weight.name for weight in parsed.graph.initializer}
    inputs = [value for value in parsed.graph.input if value.name not in weights]
    fixed = fix_shapes({value.name: _declared_shape(value) for value in inputs}, variant)
    module = _convert(parsed, fixed)
    names = [value.name for value in inputs], [value.name for value in parsed.graph.output]
    return module, signature_of(module, *names)


def _parse(model: bytes) -> Any:
    import onnx

    try:
        parsed = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's DecodeError, in a package without types
        reraise_memory_error(error)
        parsed = None
    if parsed is not None and parsed.graph.node:
        return parsed
    if model.startswith(ONNX_FIRST_BYTE):
        raise BadModel("the ONNX file is truncated or damaged")
    raise BadModel("the model is neither ONNX nor TVM's JSON (as tvm.ir.save_json writes it)")


def _declared_shape(value: Any) -> list[Dim] | None:
    """Dimensions of an ONNX input, ``None`` where open; no list when not even the rank is known."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param or None
        for dim in kind.shape.dim
    ]


def _convert(parsed: Any, shapes: dict[str, list[int]]) -> Any:
    import onnx
    import tvm
    from tvm.relax.frontend.onnx import from_onnx

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on renamed inputs and the like
            return from_onnx(parsed, shape_dict=shapes)
    except tvm.error.OpNotImplemented as error:
        names = str(error).rpartition(":")[2].strip()
        raise BadModel(f"operators that TVM cannot import: {', '.join(sorted(names.split(', ')))}") from None
    except Exception as error:  # the importer raises whatever its operators raise
        reraise_memory_error(error)
        try:
            onnx.checker.check_model(parsed)
        except onnx.checker.ValidationError as flaw:
            raise BadModel(f"the ONNX file is damaged: {first_line(flaw)}") from None
        raise BadModel(f"TVM cannot import the model: {first_line(error)}") from None
