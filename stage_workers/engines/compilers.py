"""Compilers of C on this machine, without TVM: whoever starts a worker asks, too."""

from __future__ import annotations

import os
import platform
import shutil

MISSING = "there is no compiler of C on this machine: install gcc or clang"


def compiler(architecture: str) -> str | None:
    """The command of the compiler for an architecture, as targets have it; ``None`` where there is none.
    ``CC`` says which to take for this machine's own."""
    if architecture != platform.machine():
        return shutil.which(f"{architecture}-linux-gnu-gcc")
    names = [name for name in (os.environ.get("CC"), "gcc", "clang", "cc") if name]
    return next((found for name in names if (found := shutil.which(name))), None)
