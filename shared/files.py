"""Files that somebody has named: read whole, but neither for ever nor more than fits."""

from __future__ import annotations

import stat
from pathlib import Path

from tunemesh.shared.errors import BadInput

READ_AT_MOST = 4 * 2**30
"""Bytes of a file that is no model. Arrays for inputs are the largest that people have."""


def read(path: Path, what: str, most: int = READ_AT_MOST) -> bytes:
    """The content of a file.

    Args:
        path: as the person wrote it.
        what: it should be, for the error: ``the inputs``.
        most: bytes that are allowed.

    Raises:
        BadInput: it cannot be read, is no file, or is too large.
    """
    if (size := size_of(path, what)) > most:
        allowed = f"{most / 2**30:.0f} GiB are allowed"
        raise BadInput(f"cannot read {what} {path}: it has {size / 2**30:.1f} GiB; {allowed}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {what} {path}: {error.strerror or error}") from None


def size_of(path: Path, what: str) -> int:
    """The bytes of a file. A pipe might never end, and a device never does: both are none.

    Raises:
        BadInput: it is not there, or is no file.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise BadInput(f"cannot read {what} {path}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the path
        raise BadInput(f"cannot read {what} {str(path)!r}: {error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"cannot read {what} {path}: it is no file")
    return found.st_size
