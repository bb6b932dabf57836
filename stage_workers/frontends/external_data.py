"""What an ONNX model keeps in other files, as the client finds it beside the model.

``torch.onnx.export`` writes the weights beside the model by default, and models over 2 GB cannot be written
in another way. The client sends these files along. A model comes from strangers, so it does not get to say
what is read: only files of its own folder are.
"""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath
from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.shared.text import clip, printable
from tunemesh.stage_workers.frontends.limits import MODEL_BYTES

FIRST_BYTES = (b"\x08", b"\x3a", b"\x12", b"\x42")
"""Tags with which writers begin: the version, the graph, the producer, the operators' version."""

MARK = b"location"
"""In every model that has external data."""

ENTRY = b"\x0a\x08" + MARK + b"\x12"
"""How a tensor says where its data lies: the key of a ``StringStringEntryProto`` and the tag of its value."""


def find(path: Path, model: bytes) -> dict[str, Path]:
    """The files that a model needs, by the name that it has for each; none for what is not ONNX.

    Args:
        path: of the model.
        model: its bytes.

    Raises:
        BadModel: one is missing, is no file, or lies outside of the model's folder.
    """
    if not model.startswith(FIRST_BYTES) or MARK not in model:
        return {}
    found = {name: _beside(path, name) for name in locations(model)}
    total = len(model) + sum(each.stat().st_size for each in found.values())
    if total > MODEL_BYTES:
        raise BadModel(
            f"the model {path} has {total / 2**30:.1f} GiB with its files; {MODEL_BYTES / 2**30:.0f} GiB are"
            " allowed"
        )
    return found


def locations(model: bytes) -> list[str]:
    """The names of the files that the tensors of a model lie in; none where it cannot be parsed.

    Raises:
        BadModel: it has some, and the package ``onnx``, which finds them, is missing.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        if ENTRY not in model:
            return []
        raise BadModel(
            "the model keeps weights in other files, and to find them needs the package onnx:"
            " pip install 'tunemesh[onnx]'"
        ) from None

    from tunemesh.stage_workers.frontends.onnx import checks, tensors

    try:
        parsed: Any = onnx.load_model_from_string(model)
    except Exception:  # protobuf's DecodeError, in a package without types
        return []
    messages = (part.message for part in checks.parts(parsed) if part.kind == "TensorProto")
    found = (tensors.location(tensor) for tensor in messages if tensors.is_external(tensor))
    return list(dict.fromkeys(found))


def _beside(path: Path, name: str) -> Path:
    where = PurePosixPath(name)
    if not name or where.is_absolute() or ".." in where.parts or "\\" in name or "\0" in name:
        raise BadModel(f"the model {path} keeps data in {_shown(name)!r}, which is no file of its folder")
    file = path.parent / where
    try:
        real = file.resolve(strict=True)
        if not stat.S_ISREG(real.stat().st_mode):
            raise BadModel(f"the model {path} keeps data in {_shown(name)!r}, which is no file")
    except OSError:
        raise BadModel(
            f"the model {path} keeps data in {_shown(name)!r}, which is not there: put it beside the model"
        ) from None
    # A link may lead to where the model itself lies: hubs keep both under other names in one folder.
    if not any(real.is_relative_to(folder.resolve()) for folder in (path.parent, path.resolve().parent)):
        raise BadModel(f"the model {path} keeps data in {_shown(name)!r}, a link out of its folder")
    return file


def _shown(name: str) -> str:
    return clip(" ".join(printable(name).split()), 80)
