"""The artifact store: bytes by content, for what is too large for a message.

Any fsspec URL will do (a folder, ``s3://…``, ``gs://…``). A blob lies under
``<root>/<first two hex digits>/<sha256>``, is written once and never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid

import fsspec

from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import Blob
from tunemesh.shared.messages.requests import INLINE_LIMIT


class ArtifactStore:
    """Blobs under one root.

    Args:
        url: an fsspec URL or a folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ArtifactError(f"cannot use {url!r} as artifact store: {error}") from None

    def put(self, data: bytes, *, inline: bool = True) -> Blob:
        """Store ``data`` and return its address. Small data stays inline unless ``inline`` is off.

        Raises:
            ArtifactError: when it cannot be written (disk full, no permission).
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if inline and len(data) <= INLINE_LIMIT:
            return Blob(sha256, len(data), data)
        path = self._path(sha256)
        # Written beside its place and moved there, so that no reader ever sees half a blob.
        partial = f"{path}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"
        try:
            if not self._holds(path, len(data)):
                self._fs.makedirs(os.path.dirname(path), exist_ok=True)
                self._fs.pipe_file(partial, data)
                self._fs.mv(partial, path)
        except Exception as error:  # every backend has its own errors
            # On a full disk the partial copy must not be what keeps it full.
            with contextlib.suppress(Exception):
                self._fs.rm_file(partial)
            raise ArtifactError(
                f"cannot write artifact {sha256[:12]} to {self.url}: {_cause(error)}"
            ) from error
        return Blob(sha256, len(data))

    def get(self, blob: Blob) -> bytes:
        """The bytes of ``blob``, checked.

        Raises:
            ArtifactError: when they are missing or do not match size and SHA-256.
        """
        data = blob.data
        if data is None:
            try:
                data = self._fs.cat_file(self._path(blob.sha256))
            except FileNotFoundError:
                raise ArtifactError(
                    f"artifact {blob.sha256[:12]} is not in {self.url};"
                    " do client and workers share one store?"
                ) from None
            except Exception as error:  # every backend has its own errors
                raise ArtifactError(
                    f"cannot read artifact {blob.sha256[:12]} from {self.url}: {_cause(error)}"
                ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != blob.sha256 and blob.data is None:
            # Whoever has the right bytes can put them there again.
            with contextlib.suppress(Exception):
                self._fs.rm_file(self._path(blob.sha256))
        if found != blob.sha256 or len(data) != blob.size:
            raise ArtifactError(
                f"artifact {blob.sha256[:12]} is damaged: {len(data)} bytes with SHA-256 {found[:12]},"
                f" expected {blob.size} bytes"
            )
        return bytes(data)

    def _holds(self, path: str, size: int) -> bool:
        """Whether the blob is there. One that a power cut has truncated is not, and is written again."""
        try:
            return bool(self._fs.info(path)["size"] == size)
        except FileNotFoundError:
            return False

    def _path(self, sha256: str) -> str:
        return f"{self._root.rstrip('/')}/{sha256[:2]}/{sha256}"


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
