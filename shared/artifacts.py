"""The artifact store: bytes by content, for what is too large for a message.

Any fsspec URL will do (a folder, ``s3://…``, ``gs://…``). A blob lies under
``<root>/<first two hex digits>/<sha256>``, is written once, and never changed or deleted: what cannot be read
right today may be the only copy, seen through a network file system that is behind.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import time

import fsspec

from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import Blob
from tunemesh.shared.messages.requests import INLINE_LIMIT
from tunemesh.shared.storage import Storage, storage_for

log = logging.getLogger(__name__)

READ_PAUSES = (0.1, 0.4, 1.5)
"""Seconds before each further attempt to read a blob that did not match: a network file system shows a file
that another machine has just written short, or as it was, for about a second."""

FULL_LIMIT = 60.0
"""Seconds for which a writer waits for a full store: somebody may be making room."""

FULL_PAUSE = 2.0
"""Seconds between its attempts."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class ArtifactStore:
    """Blobs under one root.

    Args:
        url: an fsspec URL or a folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._storage: Storage = storage_for(*fsspec.core.url_to_fs(url))
        except (ImportError, ValueError) as error:
            raise ArtifactError(f"cannot use {url!r} as artifact store: {error}") from None

    def put(self, data: bytes, *, inline: bool = True) -> Blob:
        """Store ``data`` and return its address. Small data stays inline unless ``inline`` is off.

        What lies there already is read once, and written again where it is not ``data``. A full store is
        waited for, :data:`FULL_LIMIT` seconds at most.

        Raises:
            ArtifactError: when it cannot be written (disk full, no permission).
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if inline and len(data) <= INLINE_LIMIT:
            return Blob(sha256, len(data), data)
        blob = Blob(sha256, len(data))
        try:
            if not self._holds(blob):
                self._write(blob, data)
        except Exception as error:  # every backend has its own errors
            raise ArtifactError(
                f"cannot write artifact {sha256[:12]} to {self.url}: {_cause(error)}"
            ) from error
        return blob

    def get(self, blob: Blob, limit: int | None = None) -> bytes:
        """The bytes of ``blob``, checked. Those of the store are not read before their size is right.

        Args:
            limit: bytes that the caller can do with; a larger blob is not read.

        Raises:
            ArtifactError: when they are too many, are missing, or do not match size and SHA-256.
        """
        if limit is not None and blob.size > limit:
            raise ArtifactError(
                f"artifact {blob.sha256[:12]} has {blob.size:,} bytes; at most {limit:,} are read here"
            )
        if blob.data is not None:
            flaw = _flaw(blob, blob.data)
            if flaw:
                raise ArtifactError(f"artifact {blob.sha256[:12]}, sent in its message, is damaged: {flaw}")
            return bytes(blob.data)
        return self._get(blob)

    def _get(self, blob: Blob) -> bytes:
        for pause in (*READ_PAUSES, None):
            try:
                data, flaw = self._read(blob)
            except FileNotFoundError:
                raise ArtifactError(
                    f"artifact {blob.sha256[:12]} is not in {self.url};"
                    " do client and workers share one store?"
                ) from None
            except Exception as error:  # every backend has its own errors
                raise ArtifactError(
                    f"cannot read artifact {blob.sha256[:12]} from {self.url}: {_cause(error)}"
                ) from error
            if not flaw:
                return data
            if pause is not None:
                log.warning("artifact %s in %s: %s; reading again", blob.sha256[:12], self.url, flaw)
                time.sleep(pause)
                self._storage.forget(*_place(blob))
        raise ArtifactError(
            f"artifact {blob.sha256[:12]} in {self.url} is damaged: {flaw};"
            " whoever has it can store it there again"
        )

    def _read(self, blob: Blob) -> tuple[bytes, str]:
        """What lies at the address of a blob, and what is wrong with it; nothing is read of what has another
        size."""
        size = self._storage.size(*_place(blob))
        if size is not None and size != blob.size:
            return b"", f"{size} bytes, expected {blob.size} bytes"
        data = self._storage.read(*_place(blob), blob.size)
        return data, _flaw(blob, data)

    def _holds(self, blob: Blob) -> bool:
        """Whether the blob is there, whole. Anything else at its place, a link for example, is not it."""
        try:
            return not self._read(blob)[1]
        except OSError:
            return False

    def _write(self, blob: Blob, data: bytes) -> None:
        until = time.monotonic() + FULL_LIMIT
        told = False
        while True:
            try:
                return self._storage.write(*_place(blob), data)
            except OSError as error:
                if error.errno not in FULL or time.monotonic() >= until:
                    raise
                if not told:
                    log.warning("the artifact store %s is full; waiting up to %.0f s", self.url, FULL_LIMIT)
                    told = True
            time.sleep(FULL_PAUSE)


def _place(blob: Blob) -> tuple[str, str]:
    """Folder and name."""
    return blob.sha256[:2], blob.sha256


def _flaw(blob: Blob, data: bytes) -> str:
    """What is wrong with bytes that should be ``blob``; empty where nothing is."""
    found = hashlib.sha256(data).hexdigest()
    if found == blob.sha256 and len(data) == blob.size:
        return ""
    return f"{len(data)} bytes with SHA-256 {found[:12]}, expected {blob.size} bytes with {blob.sha256[:12]}"


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
