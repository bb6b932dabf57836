"""Where the blobs of the artifact store lie: a folder, or whatever fsspec knows.

In a folder nothing is followed: it may be shared with others, and a link at the place of a blob would make a
worker read another file, a pipe would make it wait for ever.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import time
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


FRESH = 3600.0
"""Seconds for which a file counts as written lately."""

FOLDER = "[0-9a-f]{2}"

ASIDE = ".swept"
"""Behind the name of a file that is about to be removed."""


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

    def refresh(self, folder: str, name: str) -> bool:
        """Make the file as young as if it had been written lately; ``False`` where it has to be written again
        for that.

        Raises:
            FileNotFoundError: it is not there.
        """

    def older(self, before: float) -> Iterator[tuple[str, str, int]]:
        """Folder, name and size of the files that were last written before a moment in Unix time. Those of
        which that is not known are left out."""

    def remove(self, folder: str, name: str, before: float) -> bool:
        """Remove the file, unless it was written or refreshed since ``before``. Returns whether it was
        removed."""


def storage_for(filesystem: Any, root: str) -> Storage:
    """The storage in ``root`` of an fsspec file system."""
    if isinstance(filesystem, LocalFileSystem):
        return _Folder(root)
    return _Remote(filesystem, root.rstrip("/"))


def names_in(filesystem: Any, folder: str) -> list[str]:
    """Names of what is in a folder of an fsspec file system, sorted; none where it is not there."""
    try:
        found = filesystem.ls(folder, detail=False)
    except FileNotFoundError:
        return []
    return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found})


ENTERED = getattr(os, "O_PATH", os.O_RDONLY)
"""How a folder is opened in which files are named, and not looked for."""


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

    def refresh(self, folder: str, name: str) -> bool:
        with self._open(folder) as place:
            if time.time() - _modified(name, place) > FRESH:
                try:
                    os.utime(name, dir_fd=place, follow_symlinks=False)
                except PermissionError:  # somebody else's
                    return False
        return True

    def older(self, before: float) -> Iterator[tuple[str, str, int]]:
        if not os.path.isdir(self._root):
            return
        for folder in sorted(os.listdir(self._root)):
            if not re.fullmatch(FOLDER, folder):
                continue
            with self._open(folder, os.O_RDONLY) as place:
                for name in os.listdir(place):
                    with contextlib.suppress(FileNotFoundError):
                        found = os.stat(name, dir_fd=place, follow_symlinks=False)
                        if stat.S_ISREG(found.st_mode) and found.st_mtime < before:
                            yield folder, name, found.st_size

    def remove(self, folder: str, name: str, before: float) -> bool:
        # Somebody may need it again between a look at its age and its end. So it is moved aside first:
        # whoever comes after that finds nothing and writes it again, whoever came before has made it young.
        with self._open(folder) as place:
            aside = name if name.endswith(ASIDE) else f"{name}{ASIDE}"
            if _modified(name, place) >= before:
                self._back(aside, place)
                return False
            os.rename(name, aside, src_dir_fd=place, dst_dir_fd=place)
            if _modified(aside, place) >= before:
                self._back(aside, place)
                return False
            os.unlink(aside, dir_fd=place)
            return True

    @staticmethod
    def _back(aside: str, place: int) -> None:
        """What was moved aside goes back to its place; the same content may be there again."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(aside, aside.removesuffix(ASIDE), src_dir_fd=place, dst_dir_fd=place)

    @contextmanager
    def _open(self, folder: str, how: int = ENTERED) -> Iterator[int]:
        """The folder, opened: what is found in it afterwards cannot be moved to another place. To enter it
        takes no right to list it: that is for those who sweep, where others are not to see what there is."""
        path = os.path.join(self._root, folder)
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise OSError(f"{path} is a link, not a folder")
        place = os.open(path, how | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
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

    def refresh(self, folder: str, name: str) -> bool:
        modified = self._modified(self._path(folder, name))
        return modified is None or time.time() - modified <= FRESH

    def older(self, before: float) -> Iterator[tuple[str, str, int]]:
        depth = len(self._root.strip("/").split("/")) + 2
        for path, found in self._fs.find(self._root, detail=True).items():
            folder, name = path.split("/")[-2:]
            # Deeper lies what belongs to tenants.
            own = re.fullmatch(FOLDER, folder) and len(path.strip("/").split("/")) == depth
            modified = self._modified(path) if own else None
            if modified is not None and modified < before:
                yield folder, name, int(found.get("size") or 0)

    def remove(self, folder: str, name: str, before: float) -> bool:
        self.forget(folder, name)
        modified = self._modified(self._path(folder, name))
        if modified is None or modified >= before:
            return False
        self._fs.rm_file(self._path(folder, name))
        return True

    def _modified(self, path: str) -> float | None:
        """Unix time; ``None`` where the backend does not tell."""
        try:
            return float(self._fs.modified(path).timestamp())
        except NotImplementedError:
            return None

    def _path(self, folder: str, name: str) -> str:
        return f"{self._root}/{folder}/{name}"


def _modified(name: str, place: int) -> float:
    return os.stat(name, dir_fd=place, follow_symlinks=False).st_mtime


def _partial(name: str) -> str:
    return f"{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial"
