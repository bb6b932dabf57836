"""Importing TVM: what it costs, and when."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tunemesh.stage_workers.graph import device_code

MODULES = (
    "onnx",
    "tvm",
    "tvm.relax",
    "tvm.relax.frontend.onnx",
    "tvm.s_tir.dlight",
    "tvm.s_tir.meta_schedule",
    "xgboost",
)
"""Importing these starts no thread and touches no device."""


def preload() -> None:
    """Import what every stage needs. Tensor intrinsics are not among it, see :func:`require_intrinsics`."""
    # NumPy's and SciPy's linear algebra would start a thread per core on import, and threads do not survive
    # the fork of a child. Nothing here needs it to be parallel.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for module in MODULES:
        importlib.import_module(module)
    device_code.register()


def require_intrinsics() -> None:
    """Register TVM's tensor intrinsics. Takes seconds the first time, so call it only for workloads whose
    search space uses them."""
    if "tvm.s_tir.tensor_intrin" not in sys.modules:
        with _cheap_stack():
            importlib.import_module("tvm.s_tir.tensor_intrin")


@contextmanager
def _cheap_stack() -> Iterator[None]:
    """Replace :func:`inspect.stack` by one that looks up neither source lines nor modules.

    TVMScript's parser takes the whole stack for every one of the hundreds of intrinsics that it parses, but
    uses only frames, names and line numbers. Looking up the source text as well more than doubles the time.
    """
    original = inspect.stack
    inspect.stack = _stack
    try:
        yield
    finally:
        inspect.stack = original


def _stack(context: int = 1) -> list[inspect.FrameInfo]:
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        frames.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
        frame = frame.f_back
    return frames
