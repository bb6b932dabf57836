"""Files with a JSON object a line: what was measured is kept as it comes, and not measured again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

Line = TypeVar("Line", bound=Struct)


def read(path: Path, kind: type[Line]) -> list[Line]:
    """All objects of a file; none where there is no file."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=kind) for line in lines]


def add(path: Path, found: Iterable[Struct]) -> None:
    """Write objects at the end of a file, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.writelines(msgspec.json.encode(each) + b"\n" for each in found)
