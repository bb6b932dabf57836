"""A few candidates of a workload at random, to see whether MetaSchedule makes anything right of it."""

from __future__ import annotations

import logging
from typing import Any

from tunemesh.stage_workers.engines.metaschedule import contexts, spaces
from tunemesh.stage_workers.graph import compilation
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error

log = logging.getLogger(__name__)


class NoSpace(Exception):
    """There is no search space for a workload; the text says why, in one line."""


def objection(workload: Any, target: str) -> str:
    """Why there is no search space for a workload, in one line; empty where there is one. Some workloads,
    such as a sort, are not made of the blocks that MetaSchedule's rules look for."""
    try:
        _sketched(workload, target)
    except NoSpace as error:
        return str(error)
    return ""


def _sketched(workload: Any, target: str) -> tuple[Any, list[Any]]:
    """A context, and what the rules sketch in it.

    Raises:
        NoSpace: nothing.
    """
    spaces.require(workload, target)
    context = contexts.make(workload, target)
    try:
        sketches = list(context.generate_design_space())
    except Exception as error:  # rules raise whatever they like
        reraise_memory_error(error)
        log.debug("no search space", exc_info=True)
        raise NoSpace(f"MetaSchedule has no search space for it: {first_line(error)}") from None
    if not sketches:
        raise NoSpace("MetaSchedule has no search space for it: its rules find nothing to do")
    return context, sketches


def candidates(workload: Any, target: str, count: int) -> list[bytes]:
    """Kernels of up to ``count`` schedules of a workload, taken in turn from all that the rules sketch.

    Raises:
        NoSpace: there is no search space.
    """
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    context, sketches = _sketched(workload, target)
    kernels: list[bytes] = []
    for seed in range(1, 2 * count + 1):
        if len(kernels) == count:
            break
        schedule = Schedule(workload, seed=seed)
        try:
            # Without decisions the trace draws new ones.
            trace = Trace(sketches[seed % len(sketches)].trace.insts, {})
            trace.apply_to_schedule(schedule, remove_postproc=True)
            if all(each.apply(schedule) for each in context.space_generator.postprocs):
                kernels.append(compilation.build_candidate(schedule.mod, target))
        except RuntimeError as error:  # a schedule that is not possible: so in every search
            reraise_memory_error(error)
    return kernels
