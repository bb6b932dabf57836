"""MetaSchedule's tuning contexts."""

from __future__ import annotations

import logging
from typing import Any

from tunemesh.shared.messages import Region
from tunemesh.stage_workers.engines.metaschedule import regions, spaces
from tunemesh.stage_workers.engines.metaschedule.spaces import Space
from tunemesh.stage_workers.graph import targets

_quiet = logging.getLogger(f"{__name__}.metaschedule")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def make(
    module: Any,
    target: str,
    strategy: Any = None,
    random_state: int = 1,
    space: Space = "all",
    region: Region | None = None,
) -> Any:
    """A ``TuneContext`` with one thread, whose results depend on ``random_state`` alone, in ``region``.

    Made without its Python constructor, which imports all tensor intrinsics (7 to 25 s) whether or not
    the rules of the search space use any.
    """
    import tvm_ffi
    from tvm.s_tir.meta_schedule.logging import get_logging_func

    # It costs less than the postprocessors that follow.
    checks = [regions.postprocessor(region)] if region is not None else []
    context = tvm_ffi.get_global_func("s_tir.meta_schedule.TuneContext")(
        module,
        targets.load(target),
        spaces.generator(module, target, space, checks),
        strategy,
        "main",
        1,
        random_state,
        get_logging_func(_quiet),
    )
    tvm_ffi.get_global_func("s_tir.meta_schedule.TuneContextInitialize")(context)
    return context
