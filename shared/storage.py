"""Where the blobs of the artifact store lie: a folder, or whatever fsspec knows.

In a folder nothing is followed: it may be shared with others, and a link at the place of a blob would make a
worker read another file, a pipe would make it wait for ever.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from fsspec.implementations.local import LocalFileSystem

KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


Bytes = bytes | memoryview

BLOCK = 1 << 24
"""Bytes that are read at a time of a file that need not be in memory as a whole."""


class Storage(Protocol):
    """Files under one root, each in a folder. All methods raise what their backend raises."""

    def size(self, folder: str, name: str) -> int | None:
        """Bytes of a file; ``None`` where the backend does not tell before reading.

        Raises:
            FileNotFoundError: it is not there.
        """

    def read(self, folder: str, name: str, limit: int) -> bytes:
        """The file, or of one that has grown the first ``limit`` bytes and one more."""

    def blocks(self, folder: str, name: str) -> Iterator[bytes]:
        """The file in pieces of :data:`BLOCK` bytes."""

    def write(self, folder: str, name: str, data: Bytes) -> None:
        """Put the file there whole or not at all, in place of what is there."""

    def forget(self, folder: str, name: str) -> None:
        """Look again next time: forget what is remembered of the file."""


def storage_for(filesystem: Any, root: str) -> Storage:
    """The storage in ``root`` of an fsspec file system."""
    if isinstance(filesystem, LocalFileSystem):
        return _Folder(root)
    return _Remote(filesystem, root.rstrip("/"))


class _Folder:
    """A folder of this machine, local or mounted."""

    def __init__(self, root: str) -> None:
        self._root = root

    def size(self, folder: str, name: str) -> int:
        with self._open(folder) as place:
            return _regular(os.stat(name, dir_fd=place, follow_symlinks=False)).st_size

    def read(self, folder: str, name: str, limit: int) -> bytes:
        with self._file(folder, name) as file:
            parts = [file.read(limit + 1)]
            while parts[-1] and sum(map(len, parts)) <= limit:  # one call reads 2 GB at most
                parts.append(file.read(limit + 1 - sum(map(len, parts))))
            return b"".join(parts)

    def blocks(self, folder: str, name: str) -> Iterator[bytes]:
        with self._file(folder, name) as file:
            while block := file.read(BLOCK):
                yield block

    @contextmanager
    def _file(self, folder: str, name: str) -> Iterator[io.FileIO]:
        """A file, opened to be read."""
        with self._open(folder) as place:
            _regular(os.stat(name, dir_fd=place, follow_symlinks=False))
            # Not blocking: a pipe that takes the file's place between the two looks.
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
            with os.fdopen(handle, "rb", buffering=0) as file:
                _regular(os.fstat(handle))
                yield file

    def write(self, folder: str, name: str, data: Bytes) -> None:
        os.makedirs(self._root, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(self._root, folder))
        partial = _partial(name)
        with self._open(folder) as place:
            handle = os.open(
                partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=place
            )
            try:
                with os.fdopen(handle, "wb", buffering=0) as file:
                    rest = memoryview(data)
                    while rest:
                        rest = rest[file.write(rest) or 0 :]
                os.replace(partial, name, src_dir_fd=place, dst_dir_fd=place)
            except BaseException:
                # On a full disk the partial copy must not be what keeps it full.
                with contextlib.suppress(OSError):
                    os.unlink(partial, dir_fd=place)
                raise

    def forget(self, folder: str, name: str) -> None:
        """Nothing is remembered."""

    @contextmanager
    def _open(self, folder: str) -> Iterator[int]:
        """The folder, opened: what is found in it afterwards cannot be moved to another place."""
        path = os.path.join(self._root, folder)
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise OSError(f"{path} is a link, not a folder")
        place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield place
        finally:
            os.close(place)


def _regular(found: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"it is {KINDS.get(stat.S_IFMT(found.st_mode), 'not a file')}, not a file")
    return found


class _Remote:
    """Any other file system of fsspec."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._fs = filesystem
        self._root = root

    def size(self, folder: str, name: str) -> int | None:
        found = self._fs.info(self._path(folder, name))
        if found.get("type") == "directory":
            raise OSError("it is a folder, not a file")
        size = found.get("size")
        return None if size is None else int(size)

    def read(self, folder: str, name: str, limit: int) -> bytes:
        return bytes(self._fs.cat_file(self._path(folder, name), start=0, end=limit + 1))

    def blocks(self, folder: str, name: str) -> Iterator[bytes]:
        with self._fs.open(self._path(folder, name), "rb") as file:
            while block := file.read(BLOCK):
                yield bytes(block)

    def write(self, folder: str, name: str, data: Bytes) -> None:
        # Written beside its place and moved there, so that no reader ever sees half a blob.
        partial = self._path(folder, _partial(name))
        try:
            self._fs.makedirs(f"{self._root}/{folder}", exist_ok=True)
            self._fs.pipe_file(partial, bytes(data))
            self._fs.mv(partial, self._path(folder, name))
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(partial)
            raise

    def forget(self, folder: str, name: str) -> None:
        self._fs.invalidate_cache(f"{self._root}/{folder}")

    def _path(self, folder: str, name: str) -> str:
        return f"{self._root}/{folder}/{name}"


def _partial(name: str) -> str:
    return f"{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"
