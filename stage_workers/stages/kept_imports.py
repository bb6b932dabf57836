"""What came of models that were imported, and of kernels that were confirmed, in a folder of this machine:
the next mesh begins with it.

To import a model takes as long as the rest of a job that knows its tasks: it is lowered, run and proven, and
what is known of its tasks is built. All that the outcome depends on is in its name: the model and the
settings (the caller's part), the code that imports, the versions of what that calls, and the CPU on which it
is proven.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

import tunemesh
from tunemesh.stage_workers.devices.conditions import cpu, versions
from tunemesh.stage_workers.engines.protocol import BuildCall

log = logging.getLogger(__name__)

MOST = 2 * 2**30
"""Bytes that the folder may take; what was not used for longest goes first."""
LARGEST = MOST // 4
"""Bytes of one outcome: it holds the weights of its model."""
DIGEST = hashlib.sha256().digest_size
PACKAGES = ("tunemesh", "apache-tvm", "numpy", "onnx", "onnxruntime", "tflite", "ai-edge-litert")
"""Who reads models, and who judges them."""

T = TypeVar("T", bound=Struct)


class Kernel(Struct, frozen=True):
    """What is left of a build that worked."""

    objects: bytes
    """See :attr:`.BuildOutcome.objects`."""


class Untuned(Struct, frozen=True):
    """A model without any tuning."""

    model: bytes
    """See :attr:`.Assembled.untuned`."""


def untuned_key(model: str, target: str) -> str:
    """Under which an :class:`Untuned` is kept. ``model``: of what came of the import."""
    return hashlib.sha256(msgspec.msgpack.encode(("untuned", model, target))).hexdigest()


def kernel_key(engine: str, call: BuildCall) -> str:
    """Under which a :class:`Kernel` is kept."""
    return hashlib.sha256(msgspec.msgpack.encode(("kernel", engine, call), order="sorted")).hexdigest()


class KeptImports:
    """A folder, which several workers may use at a time.

    Args:
        folder: made where it is missing.
        about: what the outcome depends on besides what a key says; by default of this machine and this code.
        most: bytes that it may take.
    """

    def __init__(self, folder: Path, about: str | None = None, most: int = MOST) -> None:
        self._folder = folder
        self._about = about
        self._most = most

    def get(self, key: str, kind: type[T]) -> T | None:
        """What was kept under a key, which tells kinds apart; ``None`` where nothing is, or it is damaged."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        content = memoryview(data)[DIGEST:]
        if hashlib.sha256(content).digest() == data[:DIGEST]:
            with contextlib.suppress(msgspec.DecodeError):
                return msgspec.msgpack.decode(content, type=kind)
        log.warning("%s is damaged: it is made again", path)
        return None

    def put(self, key: str, made: Struct) -> None:
        """Keep something, and forget the oldest where there is too much. That it cannot be kept is no reason
        to stop: the log says so."""
        content = msgspec.msgpack.encode(made)
        if len(content) > min(LARGEST, self._most):
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Whoever reads meanwhile finds all of it or nothing.
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with open(descriptor, "wb") as file:
                    file.write(hashlib.sha256(content).digest())
                    file.write(content)
                os.replace(name, path)
            except BaseException:
                os.unlink(name)
                raise
            self._forget()
        except OSError as error:
            log.warning("what was made here cannot be kept in %s: %s", path.parent, error)

    def _forget(self) -> None:
        found = [(entry.stat(), entry.path) for entry in os.scandir(self._folder) if entry.is_file()]
        left = sum(status.st_size for status, _ in found)
        for status, path in sorted(found, key=lambda each: each[0].st_mtime):
            if left <= self._most:
                return
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                os.unlink(path)
            left -= status.st_size

    def _path(self, key: str) -> Path:
        about = _here() if self._about is None else self._about
        return self._folder / hashlib.sha256(f"{key}\n{about}".encode()).hexdigest()


@functools.cache
def _here() -> str:
    """This machine's CPU, the versions of what imports, and the code that does, as it lies here."""
    root = Path(tunemesh.__file__).resolve().parent
    code = hashlib.sha256()
    for folder in ("stage_workers", "shared"):
        # In a checkout these are links.
        for path in sorted((root / folder).resolve().rglob("*.py")):
            status = path.stat()
            code.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return "\n".join((cpu(), versions(PACKAGES), code.hexdigest()))
