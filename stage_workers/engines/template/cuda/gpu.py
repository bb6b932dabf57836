"""What kernels are made for."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

from tunemesh.stage_workers.graph import targets

MOST_THREADS = 1024
MOST_SHARED = 48 * 2**10
"""Bytes that a block may have without asking for more."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        architecture: ``sm_90``.
        threads: of a block, at most.
        shared: bytes of memory of a block, at most.
    """

    architecture: str
    threads: int = MOST_THREADS
    shared: int = MOST_SHARED


@functools.lru_cache(maxsize=8)
def of_target(target: str) -> Gpu:
    """The GPU of a canonical target."""
    threads, shared = targets.block_limits(target)
    return Gpu(json.loads(target)["arch"], min(threads, MOST_THREADS), min(shared, MOST_SHARED))
