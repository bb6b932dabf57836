"""Files that are models, but none that a mesh reads: each by how it begins, with what to do instead."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

ZIP = b"PK\x03\x04"

TO_ONNX = "convert it to ONNX"
TF2ONNX = "python -m tf2onnx.convert"
KERAS = "keras.models.load_model(...).export('m.onnx', format='onnx')"
EXPORT = "export the network with torch.onnx.export(model, inputs, 'model.onnx') or torch.export.save"

_SOURCE = f"take the model that it was converted from, and {TO_ONNX}"
_STABLEHLO = (
    "StableHLO, which TVM does not read as today's JAX writes it: convert the function with jax2onnx, or with"
    " jax2tf and tf2onnx"
)

_BEGINNINGS = (
    (rb"ML\xefR", _STABLEHLO),
    (rb"\s*((//|#)[^\n]*\n\s*)*module\s+(@\S+\s+)?(attributes\b|\{)", _STABLEHLO),
    (
        rb"\x89HDF\r\n\x1a\n",
        f"HDF5, probably of Keras: {TO_ONNX}: {KERAS}",
    ),
    (rb"GGUF", f"GGUF, which holds weights and no graph: {TO_ONNX} from the original model"),
    (rb".{4}\x00{4}\{\s*\"", f"safetensors, which holds weights and no graph: {EXPORT}"),
    (rb"\x80[\x02-\x05]", f"a pickle, which no mesh loads: {EXPORT}, or skl2onnx for models of scikit-learn"),
    (rb"\s*<(\?xml|net)\b", f"XML, probably of OpenVINO: {_SOURCE}"),
    (rb"\x1f\x8b|\xfd7zXZ|BZh|.{257}ustar", "an archive: unpack it first"),
    (rb"7767517\n", f"a graph of ncnn: {_SOURCE}"),
)
"""How a file begins, and what it is then."""


def folder_problem(path: Path) -> str:
    """Why a folder is no model; nothing for what is no folder, or one that says nothing."""
    if not path.is_dir():
        return ""
    if (path / "saved_model.pb").exists():
        return f"a SavedModel of TensorFlow: {TO_ONNX}: {TF2ONNX} --saved-model {path} --output m.onnx"
    if (path / "Manifest.json").exists():
        return f"a Core ML package: {_SOURCE}"
    if (path / "config.json").exists():
        return f"a folder of a model hub: {TO_ONNX}: optimum-cli export onnx --model {path} OUT"
    return ""


def problem(name: str, data: bytes) -> str:
    """Why no frontend reads such a file, and what to do instead; nothing where one may.

    Args:
        name: of the file.
        data: its content.
    """
    head = data[:4096]
    for pattern, why in _BEGINNINGS:
        if re.match(pattern, head, re.DOTALL):
            return why
    if head.startswith(ZIP):
        return _zip_problem(data)
    if name.endswith(".mlmodel"):
        return f"a Core ML model: {_SOURCE}"
    if name.endswith(".pb") and head[:1] == b"\x0a":
        return f"a graph of TensorFlow: {TO_ONNX}: {TF2ONNX} --graphdef {name} --output m.onnx"
    return ""


def _names(data: bytes) -> list[str]:
    """What is in an archive; nothing in one that is damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        return []


def _zip_problem(data: bytes) -> str:
    names = _names(data)
    if not names:
        return "an archive that is truncated or damaged"
    if any(name.endswith("constants.pkl") for name in names):
        return f"TorchScript: {EXPORT}"
    if any(name.endswith("data.pkl") for name in names):
        return f"saved with torch.save, which holds weights or a pickled module: {EXPORT}"
    if "model.weights.h5" in names:
        return f"a Keras model: {TO_ONNX}: {KERAS}"
    if any(name.endswith((".onnx", ".tflite", ".pt2")) for name in names):
        return "an archive: unpack it first"
    if any(name.endswith(".npy") for name in names):
        return f"a file of NumPy arrays, which holds no graph: {EXPORT}"
    return "an archive without any model that is known here"


def is_exported_program(data: bytes) -> bool:
    """Whether ``torch.export.save`` wrote it."""
    return data.startswith(ZIP) and any(
        re.search(r"(^|/)(archive_format|serialized_exported_program\.json)\Z", name) for name in _names(data)
    )
