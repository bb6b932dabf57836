"""Parallel loops of modules that are built for so many cores.

TVM hands a parallel loop to a pool of threads, one for each core of the machine that runs it, unless the
variable ``TVM_NUM_THREADS`` says otherwise. A module that was measured on one core, and is run on a machine
of eight, would wake seven threads for a kernel of 10 us. So the number of threads goes into the code: for one
core there are no parallel loops, for ``n`` every one has ``n`` iterations at most. However large the pool,
its other threads then find nothing to do.
"""

from __future__ import annotations

from typing import Any

from tunemesh.stage_workers.graph import targets


def for_cores_of(module: Any, target: str) -> Any:
    """``module`` with parallel loops for the cores of a canonical target. The host code of a GPU has none."""
    import tvm

    if targets.is_gpu(target):
        return module
    changed = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, tvm.tirx.PrimFunc):
            changed[name] = _limited(function, targets.cores(target))
    return changed


def _limited(function: Any, cores: int) -> Any:
    import tvm_ffi
    from tvm import tirx

    def limit(loop: Any) -> Any:
        if loop.kind != tirx.ForKind.PARALLEL:
            return loop
        return _serial(loop) if cores == 1 else _in_chunks(loop, cores)

    body = tvm_ffi.structural_map(function.body, (tirx.For, limit))
    return function if body.same_as(function.body) else function.with_body(body)


def _serial(loop: Any) -> Any:
    from tvm import tirx

    return tirx.For(
        loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body, annotations=loop.annotations
    )


def _in_chunks(loop: Any, cores: int) -> Any:
    """A parallel loop over chunks of ``loop``, as many as there are cores."""
    from tvm import tirx

    if isinstance(loop.extent, tirx.IntImm) and loop.extent.value <= cores:
        return loop
    dtype = loop.loop_var.ty.dtype
    count = tirx.const(cores, dtype)
    chunk = tirx.Var("chunk", dtype)
    size = tirx.floordiv(loop.extent + count - 1, count)
    # The last chunks may be short, or empty.
    left = tirx.max(tirx.min(size, loop.extent - chunk * size), tirx.const(0, dtype))
    inner = tirx.For(
        loop.loop_var,
        loop.min + chunk * size,
        left,
        tirx.ForKind.SERIAL,
        loop.body,
        annotations=loop.annotations,
    )
    return tirx.For(chunk, tirx.const(0, dtype), count, tirx.ForKind.PARALLEL, inner)
