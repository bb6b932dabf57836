"""Folders that results are going to be written to: whether that works is found out before hours of tuning."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tunemesh.report import check_empty
from tunemesh.shared.errors import BadInput


@contextlib.contextmanager
def reserved(folder: Path, overwrite: bool) -> Iterator[None]:
    """Nobody else on this machine reserves ``folder`` meanwhile. One that is still empty in the end is
    removed.

    Args:
        overwrite: whether a result that is there already may be replaced.

    Raises:
        BadInput: it cannot be written to, holds a result, or another process is about to write one there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BadInput(f"cannot write to {folder}: {error.strerror or error}") from None
    try:
        _lock(held, folder)
        if not overwrite:
            check_empty(folder)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # there is something in it
                folder.rmdir()
    finally:
        os.close(held)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(f"another tunemesh is at work on results for {folder}: give another --out") from None
    except OSError:
        pass  # some file systems have no locks
