"""What can be said of a job before there is a mesh: at once, in one line.

Only what is certain is refused. The rest is found by the worker that imports the model.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tunemesh import formats
from tunemesh.broker_config.topology import MOCK
from tunemesh.shared.errors import BadInput, BadModel, BadTarget
from tunemesh.shared.messages import EngineName, JobId
from tunemesh.shared.text import nearest
from tunemesh.stage_workers import engines

ONNX_FIRST_BYTE = b"\x08"
"""The tag of ``ir_version``, which every ONNX writer puts first."""

READ_AT_MOST = 256 * 1024 * 1024
"""Bytes of a model up to which it is parsed here: it takes as much memory again, and 0.7 s per GB (Zen 5)."""

NATIVE = "native"
"""The target that is this machine's CPU."""

LOOKED_AT = 4096
"""Bytes at the beginning of a file that tell whether it is a text."""

WORKER_MODULES = ("tvm", "tvm_ffi", "numpy", "onnx", "onnxruntime", "psutil", "sqlalchemy", "xgboost")
"""What workers import, and clients and coordinators do without: the extra ``worker``."""


def check_job_id(text: str) -> None:
    """Refuse what cannot be the id of a job.

    Raises:
        BadInput: ``text`` is none.
    """
    try:
        msgspec.convert(text, JobId)
    except msgspec.ValidationError:
        raise BadInput(
            f"{text!r} is no id of a job: those are letters, digits, - and _, at most 64"
        ) from None


def installed(module: str) -> bool:
    """Whether a module of somebody else's can be imported; it is not."""
    return importlib.util.find_spec(module) is not None


def check_workers() -> None:
    """Raises:
    BadInput: what workers need is not installed here.
    """
    if missing := [name for name in WORKER_MODULES if not installed(name)]:
        raise BadInput(
            f"workers need packages that are not installed here ({', '.join(missing)}):"
            " pip install 'tunemesh[worker]'"
        )


def check_engine_name(name: str) -> str:
    """``name``, where it can be that of an engine.

    Raises:
        BadInput: it cannot.
    """
    try:
        return msgspec.convert(name, EngineName)
    except msgspec.ValidationError:
        raise BadInput(f"{name!r} is no name of an engine; installed: {', '.join(_installed())}") from None


def check_engines(names: Sequence[str]) -> None:
    """Raises:
    BadInput: one of the engines is not installed here, or lacks something.
    """
    for name in names:
        if name not in _installed():
            near = nearest(name, _installed())
            raise BadInput(f"there is no engine {name!r}; installed: {', '.join(_installed())}{near}")
        if why := engines.missing(name):
            raise BadInput(why)


def check_model(name: str, model: bytes, names: Sequence[str]) -> None:
    """Raises:
    BadModel: no engine of the job can read such a file.
    """
    if not model:
        raise BadModel(f"the model {name} is empty")
    if MOCK in names:
        return
    if why := formats.problem(name, model):
        raise BadModel(f"the model {name} is {why}")
    if model.lstrip()[:1] == b"{":
        _check_json(name, model)
    elif _is_text(model):
        raise BadModel(f"the model {name} is a text, neither ONNX, nor TFLite, nor TVM's JSON")
    elif model.startswith(ONNX_FIRST_BYTE) and len(model) <= READ_AT_MOST and installed("onnx"):
        _check_onnx(name, model)  # where onnx is missing, the worker does it


def check_inputs(model: bytes, samples: bytes) -> None:
    """Raises:
    BadInput: the arrays of an ``npz`` file are not the inputs of an ONNX model, by name, dtype and shape.
    """
    if not installed("numpy"):
        return  # the worker reads it
    from tunemesh.stage_workers.measuring import inputs

    given = inputs.read(samples)
    if not model.startswith(ONNX_FIRST_BYTE) or len(model) > READ_AT_MOST or not installed("onnx"):
        return  # the worker reads it
    import onnx

    graph = onnx.load_model_from_string(model).graph
    weights = {weight.name for weight in graph.initializer}
    wanted = {value.name: value.type.tensor_type for value in graph.input if value.name not in weights}
    for each in list(inputs.sets(given).values()) or [given]:
        inputs.fitting(each, [_as_given(name, kind, each) for name, kind in wanted.items()])


def _as_given(name: str, kind: Any, given: Mapping[str, Any]) -> tuple[str, tuple[int, ...], str]:
    """Name, shape and dtype of an input of an ONNX model; where the model leaves a size open, it is that of
    the array that was given for it."""
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    declared = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    found = given[name].shape if name in given else ()
    known = kind.HasField("shape") and len(found) == len(declared)
    sizes = [size or one for size, one in zip(declared, found, strict=False)] if known else found
    if kind.HasField("shape") and not known:
        sizes = [size or 1 for size in declared]
    return name, tuple(sizes), dtype


def usual_target(target: str, names: Sequence[str]) -> str:
    """``native``, where nobody has said otherwise, is a target of compilers: the mock engine, alone, has its
    own."""
    return MOCK if target == NATIVE and tuple(names) == (MOCK,) else target


def check_target(target: str, names: Sequence[str]) -> None:
    """Raises:
    BadTarget: no engine of the job knows such a target.
    """
    if not set(names) <= {*engines.OWN, *engines.EXTRAS, MOCK}:
        return  # who knows what others know
    if MOCK in names and target.startswith(MOCK):
        return
    if set(names) == {MOCK}:
        raise BadTarget(f"unknown target {target!r}: those of the mock engine start with 'mock'")
    if target == NATIVE:
        return
    try:
        described = msgspec.json.decode(target, type=dict[str, object])
    except msgspec.DecodeError:
        described = {}
    if "kind" in described or "tag" in described:
        return
    # Only now: it takes a second to import.
    from tunemesh.stage_workers.graph import targets

    targets.resolve(target)


def _installed() -> tuple[str, ...]:
    return engines.names()


def _is_text(model: bytes) -> bool:
    try:
        text = model[:LOOKED_AT].decode()
    except UnicodeDecodeError as error:
        if error.start < LOOKED_AT - 4 or len(model) <= LOOKED_AT:  # not a character that was cut
            return False
        text = model[: error.start].decode()
    return re.fullmatch(r"[^\x00-\x08\x0e-\x1f\x7f]*", text) is not None


def _check_json(name: str, model: bytes) -> None:
    if len(model) > READ_AT_MOST:
        return
    try:
        json.loads(model)  # the standard library's: it takes NaN and infinity, as TVM does
    except (ValueError, RecursionError) as error:
        raise BadModel(f"the model {name} is truncated or no valid JSON: {error}") from None


def _check_onnx(name: str, model: bytes) -> None:
    import onnx

    try:
        parsed = onnx.load_model_from_string(model)
    except Exception:  # protobuf's DecodeError, in a package without types
        parsed = None
    if parsed is not None and parsed.graph.output and not parsed.graph.node:
        raise BadModel(f"the ONNX file {name} has no operators: there is nothing to tune")
    if parsed is None or not parsed.graph.node:
        raise BadModel(f"the ONNX file {name} is truncated or damaged")
