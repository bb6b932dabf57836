"""Shared objects on a device: load, run, time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import targets


def load(artifact: bytes) -> Any:
    """The TVM runtime module of a shared object. The file is gone when this returns: the loader has mapped
    it, and a crash then leaves nothing behind."""
    import tvm

    with tempfile.TemporaryDirectory(prefix="tunemesh-run-") as folder:
        path = Path(folder, "module.so")
        path.write_bytes(artifact)
        return tvm.runtime.load_module(str(path))


@contextlib.contextmanager
def threads(target: str) -> Iterator[None]:
    """Let kernels use as many threads as the target has cores.

    TVM reads this when it starts its pool, at the first parallel kernel of the process. It must not bind the
    threads to cores of its own choice: the worker has been given its cores already.
    """
    wanted = {"TVM_NUM_THREADS": str(targets.cores(target)), "TVM_BIND_THREADS": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
