"""Which tasks may be computed by Winograd's algorithm, and a model that does so wherever it can.

Whether it is faster is a matter of measurements, and so of an engine. Whether a model bears its rounding is
found at import, with all its convolutions computed so: the result of tuning is in between.
"""

from __future__ import annotations

import math
from typing import Any

from tunemesh.stage_workers.engines.metaschedule import winograd_search
from tunemesh.stage_workers.engines.protocol import TirPart
from tunemesh.stage_workers.graph import (
    anchors,
    dots,
    packing,
    prepacking,
    winograd,
    winograd_kernels,
    workloads,
)
from tunemesh.stage_workers.platforms.protocol import TunedTask


def mark(module: Any, target: str, outputs: int) -> Any:
    """``module`` whose functions around a convolution say that it may be computed by Winograd's algorithm.

    Args:
        target: canonical; a CPU.
        outputs: of a tile in each direction, at most.
    """
    import tvm

    changed = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, tvm.tirx.PrimFunc) and _applies(function, target):
            changed[name] = function.with_attr(workloads.WINOGRAD, outputs)
    return changed


def _applies(function: Any, target: str) -> bool:
    if any(dots.named(name)[0] in dots.BFLOAT16 for name in dots.marks(function)):
        # What rounds its factors to bfloat16 bears the rounding of single precision. Whether there
        # is a stride is seen by who knows the algorithm for it.
        return any(list(each.shape[1:3]) == [winograd.TAPS] * 2 for each in workloads.arguments(function))
    anchored = anchors.find(function)
    return anchored is not None and winograd_kernels.lanes(anchored, target) is not None


def everywhere(module: Any, target: str) -> Any:
    """A marked module in which every convolution that may be is computed by Winograd's algorithm, with the
    largest tiles that it may have, by kernels of which nothing was measured."""
    marked = packing.mark(module, target, "packed-per-task")
    tasks, scheduled = {}, {}
    for name, function in marked.functions_items():
        part = _part(function, target)
        if part is not None:
            task = TunedTask(
                workload=workloads.pack(workloads.of_function(function)),
                symbol=str(name.name_hint),
                part=part,
                latency=math.inf,
            )
            tasks[name], scheduled[name] = task, prepacking.scheduled(function, part)
    return prepacking.applied(marked, tasks, scheduled, target)


def _part(function: Any, target: str) -> TirPart | None:
    import tvm

    outputs = workloads.winograd_of(function) if isinstance(function, tvm.tirx.PrimFunc) else 0
    if not outputs or not workloads.weights_of(function):
        return None
    anchored = anchors.find(function)
    if anchored is None:  # in bfloat16
        return None
    knobs = winograd_search.usual(anchored, target, outputs)
    if knobs is None:
        return None
    return TirPart(module=workloads.pack(winograd_kernels.module(anchored, knobs)))
