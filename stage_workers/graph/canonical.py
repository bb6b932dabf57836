"""What a workload is, whatever its variables are called and whichever release of TVM prints it.

TVM's structural hash of the same function changes from release to release, and its JSON of one is not read
by the next. Its script does not change but for names: of variables, and of a few of TVM's own words. The
names of blocks are part of it: schedules refer to them, so that a schedule fits all workloads with its key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

SILENT = frozenset({"global_symbol", "noalias", "op_pattern", "s_tir"})
"""Attributes that say nothing of what is computed, or how; ``tir.`` and the like before them left out."""
KEYWORDS = frozenset(
    {"and", "as", "def", "elif", "else", "for", "if", "in", "not", "or", "return", "while", "with"}
    | {"False", "None", "True"}
)
RENAMED = {"sblock": "block", "sblock_alloc_buffer": "alloc_buffer", "sblock_attr": "block_attr"}
"""Words of TVM 0.27, and those of the releases before."""
ADDED = re.compile(r", layout=None")
"""What TVM 0.27 says besides, where there is nothing to say."""
TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<text>"[^"]*")           # a data type, a scope, the name of a block
  | (?P<part>\.[A-Za-z_]\w*)    # a word of TVM's
  | (?P<number>\d[\w.]*(?:[eE][-+]\d+)?)
  | (?P<name>[A-Za-z_]\w*)
""",
    re.VERBOSE,
)


def key(module: Any, target: str) -> str:
    """SHA-256 of a workload and its canonical target, in hex."""
    return hashlib.sha256(f"{text(module)}\n{target}".encode()).hexdigest()


def text(module: Any) -> str:
    """The canonical text of a module with one function, ``main``."""
    function = module["main"]
    said = []
    for name in sorted(map(str, function.attrs.keys() if function.attrs else ())):
        plain = re.sub(r"^(tir|tirx|s_tir)\.", "", name)
        if plain not in SILENT:
            said.append(f"{plain} = {json.dumps(_plain(function.attrs[name]))}")
        function = function.without_attr(name)
    return "\n".join([*said, numbered(function.script())])


def numbered(script: str) -> str:
    """A script with numbers for the names of variables, in the order in which they occur; without comments
    and empty lines."""
    names: dict[str, str] = {}

    def replaced(token: re.Match[str]) -> str:
        found = token.group()
        match token.lastgroup:
            case "comment":
                return ""
            case "part":
                return "." + RENAMED.get(found[1:], found[1:])
            case "name" if found not in KEYWORDS and found != "T":
                return _numbered(found, names)
        return found

    start = script.index("def main(")
    lines = TOKEN.sub(replaced, ADDED.sub("", script[start:])).splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _numbered(name: str, names: dict[str, str]) -> str:
    return names.setdefault(name, f"v{len(names)}")


def _plain(value: Any) -> Any:
    """A value of TVM's, which each release prints in its own way."""
    if isinstance(value, bool | int | float | str):
        return value if isinstance(value, bool | int | float) else str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [_plain(each) for each in value]
    return _plain(value.value) if hasattr(value, "value") else str(value)
