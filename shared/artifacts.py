"""The artifact store: bytes by content, for what is too large for a message.

Any fsspec URL will do (a folder, ``s3://…``, ``gs://…``). A blob lies under
``<root>/<first two hex digits>/<sha256>``, is written once, and never changed: what cannot be read right
today may be the only copy, seen through a network file system that is behind. What nobody has stored for
long, and nothing names any more, may be removed: whoever stores it again in the meantime makes it young.

Each tenant has a store of its own in there, ``<root>/tenants/<tenant>``, in which alone its clients, and
workers on its account, read and write: who knows an address of another tenant has nothing of it.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import fsspec

from tunemesh.shared.accounts import NAME_PATTERN
from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import Blob
from tunemesh.shared.messages.requests import INLINE_LIMIT
from tunemesh.shared.storage import Bytes, Storage, names_in, storage_for

T = TypeVar("T")

log = logging.getLogger(__name__)

READ_PAUSES = (0.1, 0.4, 1.5)
"""Seconds before each further attempt to read a blob that did not match: a network file system shows a file
that another machine has just written short, or as it was, for about a second."""

FULL_LIMIT = 60.0
"""Seconds for which a writer waits for a full store: somebody may be making room."""

FULL_PAUSE = 2.0
"""Seconds between its attempts."""

TENANTS = "tenants"
"""The folder that has one for each tenant."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class ArtifactStore:
    """Blobs under one root.

    Args:
        url: an fsspec URL or a folder.
        tenant: whose blobs; empty: those of nobody.
    """

    def __init__(self, url: str, tenant: str = "") -> None:
        self.url = url
        self.tenant = tenant
        if tenant and not re.fullmatch(NAME_PATTERN, tenant):
            raise ArtifactError(f"{tenant!r} is no name of a tenant, so it has no artifacts")
        try:
            self._filesystem, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ArtifactError(f"cannot use {url!r} as artifact store: {error}") from None
        own = f"{self._root.rstrip('/')}/{TENANTS}/{tenant}" if tenant else self._root
        self._storage: Storage = storage_for(self._filesystem, own)

    def of(self, tenant: str) -> ArtifactStore:
        """The same store as a tenant sees it, or (empty) who has none.

        Raises:
            ArtifactError: it is no name of a tenant.
        """
        return self if tenant == self.tenant else ArtifactStore(self.url, tenant)

    def tenants(self) -> list[str]:
        """Those who have stored something.

        Raises:
            ArtifactError: the store cannot be read.
        """
        try:
            found = names_in(self._filesystem, f"{self._root.rstrip('/')}/{TENANTS}")
        except Exception as error:  # every backend has its own errors
            raise ArtifactError(f"cannot look through {self.url}: {_cause(error)}") from error
        return [name for name in found if re.fullmatch(NAME_PATTERN, name)]

    def put(self, data: bytes, *, inline: bool = True) -> Blob:
        """Store ``data`` and return its address. Small data stays inline unless ``inline`` is off.

        What lies there already is read once, and written again where it is not ``data``. A full store is
        waited for, :data:`FULL_LIMIT` seconds at most.

        Raises:
            ArtifactError: when it cannot be written (disk full, no permission).
        """
        if inline and len(data) <= INLINE_LIMIT:
            return Blob(hashlib.sha256(data).hexdigest(), len(data), data)
        return self._put(data)

    def _put(self, data: Bytes) -> Blob:
        sha256 = hashlib.sha256(data).hexdigest()
        blob = Blob(sha256, len(data))
        try:
            if not self.kept(blob):
                self._write(blob, data)
        except Exception as error:  # every backend has its own errors
            raise ArtifactError(
                f"cannot write artifact {sha256[:12]} to {self.url}: {_cause(error)}"
            ) from error
        return blob

    def put_file(self, path: Path) -> Blob:
        """Store a file without having all of it in memory; never inline.

        Raises:
            ArtifactError: when it cannot be read, or the store cannot be written.
        """
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    return self.put(b"", inline=False)
                with (
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                    memoryview(mapped) as data,
                ):
                    return self._put(data)
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from None

    def save(self, blob: Blob, path: Path) -> None:
        """Write the bytes of ``blob``, checked, to a new file, without having all of them in memory.

        Raises:
            ArtifactError: as for :meth:`get`, or the file cannot be written.
        """
        if blob.data is not None:
            data = self.get(blob)
            self._retried(blob, lambda: _saved(blob, iter([data]), path))
        else:
            self._retried(blob, lambda: _saved(blob, self._storage.blocks(*_place(blob)), path))

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
        return self._retried(blob, lambda: self._read(blob))

    def _retried(self, blob: Blob, read: Callable[[], tuple[T, str]]) -> T:
        """What ``read`` gives, once nothing is wrong with it."""
        for attempt, pause in enumerate((*READ_PAUSES, None)):
            try:
                data, flaw = read()
            except FileNotFoundError:
                if not attempt and pause is not None:  # it may be on its way back, see `_Folder.remove`
                    time.sleep(pause)
                    self._storage.forget(*_place(blob))
                    continue
                whose = f" of tenant {self.tenant}" if self.tenant else ""
                raise ArtifactError(
                    f"artifact {blob.sha256[:12]}{whose} is not in {self.url};"
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

    def older(self, before: float) -> Iterator[tuple[str, int]]:
        """SHA-256 and size of what nobody has stored since a moment in Unix time, and what writers that were
        killed have left (with a longer name).

        Raises:
            ArtifactError: the store cannot be read.
        """
        try:
            for _folder, name, size in self._storage.older(before):
                yield name, size
        except Exception as error:  # every backend has its own errors
            raise ArtifactError(f"cannot look through {self.url}: {_cause(error)}") from error

    def remove(self, name: str, before: float) -> bool:
        """Remove what :meth:`older` has found, unless somebody has stored it again since. Returns whether it
        was removed.

        Raises:
            ArtifactError: it cannot be removed.
        """
        try:
            return self._storage.remove(name[:2], name, before)
        except FileNotFoundError:
            return False
        except Exception as error:  # every backend has its own errors
            raise ArtifactError(f"cannot remove {name[:12]} from {self.url}: {_cause(error)}") from error

    def kept(self, blob: Blob) -> bool:
        """Whether the blob is there, whole, and stays: it was made young before it was looked at, and it is
        still there after that."""
        try:
            young = self._storage.refresh(*_place(blob))
            return young and self._holds(blob) and self._storage.size(*_place(blob)) in (None, blob.size)
        except OSError:
            return False

    def _holds(self, blob: Blob) -> bool:
        """Whether the blob is there, whole. Anything else at its place, a link for example, is not it."""
        try:
            if self._storage.size(*_place(blob)) not in (None, blob.size):
                return False
            return not _digest_flaw(blob, self._storage.blocks(*_place(blob)))
        except Exception:  # every backend has its own errors
            return False

    def _write(self, blob: Blob, data: Bytes) -> None:
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


def _saved(blob: Blob, blocks: Iterator[bytes], path: Path) -> tuple[None, str]:
    """Write blocks to a file; what is wrong with them."""
    with path.open("wb") as file:
        return None, _digest_flaw(blob, (block for block in blocks if file.write(block) or True))


def _digest_flaw(blob: Blob, blocks: Iterable[bytes]) -> str:
    """:func:`_flaw` of bytes that come in blocks. Of too many no more are taken."""
    digest, size = hashlib.sha256(), 0
    for block in blocks:
        digest.update(block)
        size += len(block)
        if size > blob.size:
            break
    return _mismatch(blob, size, digest.hexdigest())


def _flaw(blob: Blob, data: bytes) -> str:
    """What is wrong with bytes that should be ``blob``; empty where nothing is."""
    return _mismatch(blob, len(data), hashlib.sha256(data).hexdigest())


def _mismatch(blob: Blob, size: int, sha256: str) -> str:
    if sha256 == blob.sha256 and size == blob.size:
        return ""
    return f"{size} bytes with SHA-256 {sha256[:12]}, expected {blob.size} bytes with {blob.sha256[:12]}"


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
