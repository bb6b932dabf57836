"""jemalloc for the processes that compile and propose, where it is installed.

TVM and LLVM make and drop small objects all the time. Against the C library's allocator, taking turns on the
same work (Zen 4, medians): builds of eight tasks of ResNet-18 take 0.948 of the CPU time, proposals for three
kernels 0.847. Kernels are measured without it: the program that runs them later has the C library's, and
where a buffer lies can matter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ctypes.util import find_library

PRELOAD = "LD_PRELOAD"
OPTIONS = "MALLOC_CONF"
GIVE_BACK = "retain:false"
"""By default it keeps the addresses of what is freed, and those count for a child's limit: to import 700 MB
of weights takes 3.9 GB then, and 3.4 GB otherwise."""


def library() -> str | None:
    """The name of jemalloc's library, where it is installed."""
    return find_library("jemalloc")


def environment() -> Mapping[str, str]:
    """What a process has to be started with; nothing where there is no jemalloc, or another library is to be
    loaded first."""
    found = library()
    if found is None or PRELOAD in os.environ:
        return {}
    return {PRELOAD: found, OPTIONS: os.environ.get(OPTIONS, GIVE_BACK)}


def not_for_children() -> None:
    """This process has it; what it starts, such as a linker, runs for too short a time."""
    os.environ.pop(PRELOAD, None)
    os.environ.pop(OPTIONS, None)
