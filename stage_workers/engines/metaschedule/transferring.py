"""What similar tasks say about one of which nothing was measured yet."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from tunemesh.shared.messages import Trial
from tunemesh.stage_workers.engines.metaschedule import options, refitting, similarity, winograd_search
from tunemesh.stage_workers.engines.protocol import Examples, UpdateCall
from tunemesh.stage_workers.graph import workloads
from tunemesh.stage_workers.graph.errors import reraise_memory_error
from tunemesh.stage_workers.graph.winograd_kernels import Knobs

NEAREST = 6
"""Tasks that are listened to."""
FROM_EACH = 3
"""Schedules of each that are tried on the new task."""
GOOD = 1.15
"""Times the best latency of its task that such a schedule may take."""
CLOSE = 0.25
"""Closeness from which a schedule is taken over where there is a rule of our own for the task: what that one
draws is good, too. What MetaSchedule's rules draw seldom is."""
STRAIN = 2.0
"""So much of it must be changed for a schedule to say half."""
REACH = 6.0
"""Distance at which a task says e times less than one that is the same."""


class Near(NamedTuple):
    """A similar task."""

    closeness: float
    """1 for one that is the same, 0 for one that is far away."""
    examples: Examples


class Fitted(NamedTuple):
    """A schedule of a similar task, made to fit."""

    scheduled: Any
    """The TVM schedule."""
    trust: float
    """From 0 to 1: how good it was there, how close that task is, and how little had to be changed."""


def nearest(call: UpdateCall) -> list[Near]:
    """Of the similar tasks of a call the most similar ones, those first."""
    shape = similarity.shape_of(call.workload) if call.similar else None
    if shape is None:
        return []
    found = []
    for number, each in enumerate(call.similar):
        if each.format != options.FORMAT or not each.trials:
            continue
        try:
            other = similarity.shape_of(each.workload)
        except Exception as error:  # whatever TVM raises of what another release, or anybody, wrote
            reraise_memory_error(error)
            continue
        if other is not None and math.isfinite(far := similarity.distance(shape, other)):
            found.append((far, number, each))
    return [
        Near(math.exp(-far / REACH), each)
        for far, _, each in sorted(found, key=lambda one: one[:2])[:NEAREST]
    ]


def fitted(call: UpdateCall, near: Sequence[Near]) -> list[Fitted]:
    """Their best schedules, as far as they can be made to fit."""
    if not near:
        return []
    space = refitting.Space(call.workload, call.target)
    found = []
    for each in near:
        if each.closeness < CLOSE and space.has_own:
            continue
        direct = [one for one in each.examples.trials if not winograd_search.is_ours(one.candidate.schedule)]
        leaders = sorted(direct, key=_latency)[:FROM_EACH]
        for trial in leaders:
            share = _latency(leaders[0]) / _latency(trial)
            if share * GOOD >= 1 and (fit := space.fitted(trial.candidate.schedule)) is not None:
                kept = 2 ** (-fit.strain / STRAIN)
                found.append(Fitted(fit.scheduled, share * each.closeness * kept))
    return found


def winograd_ratio(near: Sequence[Near]) -> float | None:
    """How many times as long as the best other kernel the best one by Winograd's algorithm takes, as similar
    tasks tell; ``None`` where they do not."""
    total = weight = 0.0
    for each in near:
        best = {True: math.inf, False: math.inf}
        for trial in each.examples.trials:
            ours = winograd_search.is_ours(trial.candidate.schedule)
            best[ours] = min(best[ours], _latency(trial))
        if max(best.values()) < math.inf:
            total += each.closeness * math.log(best[True] / best[False])
            weight += each.closeness
    return math.exp(total / weight) if weight else None


def by_winograd(near: Sequence[Near]) -> list[tuple[Knobs, float]]:
    """Settings of Winograd's algorithm for similar tasks, and the logarithm of how many times longer they
    take than their estimate says."""
    found = []
    for each in near:
        workload = workloads.load(each.examples.workload)
        for trial in each.examples.trials:
            if winograd_search.is_ours(trial.candidate.schedule):
                try:
                    knobs = winograd_search.unpack(trial.candidate.schedule)
                except (msgspec.MsgspecError, zlib.error):
                    continue  # others have written it
                off = winograd_search.off_by(workload, each.examples.target, knobs, _latency(trial))
                found += [(knobs, off)] if off is not None else []
    return found


def _latency(trial: Trial) -> float:
    return trial.estimate
