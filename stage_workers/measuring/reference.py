"""A fixed kernel whose latency shows how fast the device is at the moment."""

from __future__ import annotations

import functools
from typing import Any

from tunemesh.stage_workers.graph import compilation, targets
from tunemesh.stage_workers.measuring import loading

SIZE = 128
"""Of the matrices that are multiplied, as written on a CPU and with the default schedule on a GPU: one run
takes one or two milliseconds on a CPU core."""
REPEATS = 5
REPEAT_MS = 2
"""Five repeats of 2 ms: long enough to meet the time slices of another process on the same core, short beside
the second or so that a chunk of candidates takes."""


def measure(target: str, device: str) -> list[float]:
    """See :meth:`stage_workers.platforms.protocol.Platform.reference`."""
    with loading.threads(target):
        evaluator, tensors = _prepared(target, device)
        return [float(seconds) for seconds in evaluator(*tensors).results]


@functools.cache
def _prepared(target: str, device: str) -> tuple[Any, list[Any]]:
    """Compiled, loaded and with its tensors on the device; once per process."""
    import numpy as np
    import tvm

    module = loading.load(compilation.build_untuned(_product(), target))
    where = targets.device(device)
    data = np.linspace(0.0, 1.0, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    tensors = [tvm.runtime.tensor(data, device=where) for _ in range(3)]
    evaluator = module.time_evaluator("main", where, number=1, repeat=REPEATS, min_repeat_ms=REPEAT_MS)
    evaluator(*tensors)
    return evaluator, tensors


def _product() -> Any:
    import tvm
    from tvm import te

    a = te.placeholder((SIZE, SIZE), name="a")
    b = te.placeholder((SIZE, SIZE), name="b")
    k = te.reduce_axis((0, SIZE), name="k")
    c = te.compute((SIZE, SIZE), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="c")
    return tvm.IRModule({"main": te.create_prim_func([a, b, c])})
