"""The values of an ONNX model's tensors, in the model's file or in one that came with it."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends.onnx.graph import Array, numpy_dtype, shown


@dataclass(frozen=True, slots=True)
class Files:
    """Files that came with a model, opened when they are first needed. They are mapped, not read: what lies
    in them needs memory only while it is looked at.

    Args:
        paths: by the name that the model has for each.
    """

    paths: Mapping[str, Path] = field(default_factory=dict)
    _open: dict[str, memoryview] = field(default_factory=dict, repr=False, compare=False)

    def data(self, location: str) -> memoryview | None:
        """The bytes of a file; ``None`` where none of this name came along."""
        path = self.paths.get(location)
        if path is None:
            return None
        if location not in self._open:
            with path.open("rb") as file:
                empty = path.stat().st_size == 0
                mapped = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._open[location] = memoryview(mapped)
        return self._open[location]


def is_external(tensor: Any) -> bool:
    """Whether a tensor's data lies in another file. Either sign alone makes some reader look for one."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0


def location(tensor: Any) -> str:
    """The name of the file in which the data of an external tensor lies; empty where none is given."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def size(tensor: Any) -> int:
    """Bytes of an external tensor, by its shape and type, and not by what it says of its length."""
    bits = 8 * numpy_dtype(tensor.data_type).itemsize
    return math.prod(map(int, tensor.dims)) * bits // 8


def stored(tensor: Any) -> int:
    """Bytes of the values that a tensor holds itself. ``ByteSize`` would write the whole message for that,
    which takes a large weight's memory several times."""
    if tensor.string_data:
        return sum(map(len, tensor.string_data))
    if not tensor.HasField("raw_data"):
        typed = (tensor.float_data, tensor.int32_data)
        wide = (tensor.int64_data, tensor.uint64_data, tensor.double_data)
        return 4 * sum(map(len, typed)) + 8 * sum(map(len, wide))
    return len(tensor.raw_data)


def inside(tensor: Any, files: Files) -> Any:
    """The same tensor, with its data in it, wherever it was: whoever reads that opens no file."""
    if not is_external(tensor):
        return tensor
    return onnx.numpy_helper.from_array(load(tensor, files), tensor.name)


def load(tensor: Any, files: Files) -> Array:
    """The array of a ``TensorProto``.

    Raises:
        BadModel: it is damaged, or its data lies where none came along.
    """
    name = shown(tensor.name)
    try:
        if is_external(tensor):
            return _external(tensor, files)
        if tensor.data_type == onnx.TensorProto.STRING:
            raise BadModel(f"{name} holds strings, which cannot be computed with")
        if tensor.HasField("raw_data") and _plain(tensor.data_type):
            return np.frombuffer(tensor.raw_data, numpy_dtype(tensor.data_type)).reshape(tuple(tensor.dims))
        array: Array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise BadModel(f"the values of {name} are damaged: {str(error).splitlines()[0]}") from None
    return array


def _plain(data_type: int) -> bool:
    """Whether an element takes whole bytes, in the order of this machine."""
    return data_type in {
        *range(onnx.TensorProto.FLOAT, onnx.TensorProto.INT64 + 1),
        onnx.TensorProto.BOOL,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.UINT32,
        onnx.TensorProto.UINT64,
        onnx.TensorProto.BFLOAT16,
    }


def _external(tensor: Any, files: Files) -> Array:
    name = shown(tensor.name)
    where = location(tensor)
    data = files.data(where)
    if data is None:
        raise BadModel(f"{name} lies in the file {shown(where)}, which did not come with the model")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset = _number(entries.get("offset", "0"), name)
    dtype = numpy_dtype(tensor.data_type)
    elements = math.prod(tensor.dims)
    bits = 8 * dtype.itemsize if _plain(tensor.data_type) else 0
    length = _number(entries["length"], name) if "length" in entries else None
    if length is None:
        length = elements * bits // 8 if bits else len(data) - offset
    if offset + length > len(data) or (bits and length != elements * bits // 8):
        raise BadModel(
            f"{name} does not lie in the file {shown(where)}: it has {len(data):,} bytes,"
            f" the tensor is said to take {length:,} from {offset:,} on"
        )
    part = data[offset : offset + length]
    if bits:
        return np.frombuffer(part, dtype).reshape(tuple(tensor.dims))
    raw = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(part))
    array: Array = onnx.numpy_helper.to_array(raw)
    return array


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise BadModel(f"{name} has an offset or a length that is no number: {shown(text)}")
    return int(text)
