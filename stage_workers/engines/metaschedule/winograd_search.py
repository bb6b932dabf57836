"""The search among Winograd's kernels of a convolution (:mod:`stage_workers.graph.winograd_kernels`).

How long a kernel takes is estimated by counting what a core does, and some hundred settings of the knobs that
promise most are searched. The estimates are wrong by a factor that settings which are much alike share, and
that is learned from those that were measured. The next to be tried are the best by that, or those of which
least is known.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tunemesh.stage_workers.graph import (
    anchors,
    targets,
    winograd,
    winograd_costs,
    winograd_kernels,
    workloads,
)
from tunemesh.stage_workers.graph.anchors import Anchored
from tunemesh.stage_workers.graph.winograd_kernels import Knobs

TAG = b"winograd:"
"""What a schedule of ours begins with, before it is compressed as MetaSchedule's are."""
MOST_VECTORS = 4
KEPT = 128
"""Settings of each size of tiles."""
BLOCKS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)
"""Into so many parts the tiles of a convolution may be cut, or:"""
ROWS = (1, 2, 4)
"""Times the rows that are held in registers that one part may have."""
MOST_IDLE = 1.25
"""Times the tiles that there are that may be computed."""
ROOM = 2**23
"""Bytes of what lies between the steps, at most."""
FAR = 0.7
"""Logarithm by which the estimate of a size of tiles may be above the best, for one of them to be tried."""
DOUBT = 0.2
"""Logarithm that an estimate may be off where nothing like it was measured."""


def space(workload: Any, target: str) -> dict[str, Knobs]:
    """All settings for a workload, by the hashes of their schedules; none where Winograd's algorithm does not
    apply, or the model was not found to bear it."""
    function = workload["main"]
    most = workloads.winograd_of(function)
    anchored = anchors.find(function) if most and not targets.is_gpu(target) else None
    if anchored is None or anchored.weights not in workloads.weights_of(function):
        return {}
    sizes = [outputs for outputs in winograd.POINTS if outputs <= most]
    settings = [each for outputs in sizes for each in _promising(anchored, target, outputs)[:KEPT]]
    return {hash_of(each): each for each in settings}


def usual(anchored: Anchored, target: str, outputs: int) -> Knobs | None:
    """A setting with tiles of so many outputs that is as good as one can know without a measurement."""
    return next(iter(_promising(anchored, target, outputs)), None)


def _promising(anchored: Anchored, target: str, outputs: int) -> list[Knobs]:
    """All settings with tiles of so many outputs, best first."""
    cores = targets.cores(target)
    found = set(_settings(anchored, target, outputs))
    return sorted(found, key=lambda each: (estimate(anchored, each, cores), each))


def _settings(anchored: Anchored, target: str, outputs: int) -> Iterator[Knobs]:
    inputs, columns = anchored.shape[3], anchored.convolved[3]
    lanes = winograd_kernels.lanes(anchored, target)
    if lanes is None:
        return
    registers, _ = targets.vector_registers(target)
    count, planes = winograd_kernels.tiles_of(anchored, outputs), winograd.inputs_of(outputs) ** 2
    for vectors in range(1, MOST_VECTORS + 1):
        if columns % (vectors * lanes):
            continue
        for rows in range(1, registers):
            # Some registers for what is read.
            if rows * vectors + vectors + 1 > registers or rows * vectors < min(
                winograd_costs.LEAST_HELD, count * vectors
            ):
                continue
            parts = {-(-count // (blocks * rows)) * rows for blocks in BLOCKS}
            for tiles in parts | {each * rows for each in ROWS}:
                idle = -(-count // tiles) * tiles / count
                room = 4 * planes * tiles * (inputs + columns)
                if idle <= MOST_IDLE and (room <= ROOM or tiles == rows):
                    for by_rows in (False, True):
                        yield Knobs(
                            outputs=outputs,
                            tiles=tiles,
                            rows=rows,
                            vectors=vectors,
                            lanes=lanes,
                            by_rows=by_rows,
                        )


def estimate(anchored: Anchored, knobs: Knobs, cores: int) -> float:
    """Cycles of a kernel on so many cores."""
    tiles = winograd_kernels.tiles_of(anchored, knobs.outputs)
    work = winograd_costs.Work(anchored.shape[3], anchored.convolved[3], tiles)
    return winograd_costs.cycles(work, knobs, cores)


def hash_of(knobs: Knobs) -> str:
    """The hash of a schedule: 16 hexadecimal digits, as those of others."""
    return hashlib.sha256(_text(knobs)).hexdigest()[:16]


def pack(knobs: Knobs) -> bytes:
    """The schedule."""
    return zlib.compress(_text(knobs), 9)


def _text(knobs: Knobs) -> bytes:
    return TAG + msgspec.json.encode(knobs)


def is_ours(schedule: bytes) -> bool:
    """Whether a schedule is one of these."""
    try:
        return zlib.decompressobj().decompress(schedule, len(TAG)) == TAG
    except zlib.error:
        return False


def unpack(schedule: bytes) -> Knobs:
    """The setting of a schedule.

    Raises:
        zlib.error, msgspec.MsgspecError: it is damaged.
    """
    return msgspec.json.decode(zlib.decompress(schedule).removeprefix(TAG), type=Knobs)


def way(workload: bytes, schedule: bytes) -> str:
    """How a schedule computes a workload, for people: empty where there is only one way."""
    if is_ours(schedule):
        outputs = unpack(schedule).outputs
        return f"Winograd, tiles of {outputs}x{outputs}"
    function = workloads.load(workload)["main"]
    return "direct" if workloads.winograd_of(function) and anchors.find(function) is not None else ""


def module(workload: Any, schedule: bytes) -> Any:
    """What is compiled for a schedule of a workload.

    Raises:
        ValueError: the workload is no such convolution.
    """
    anchored = anchors.find(workload["main"])
    if anchored is None:
        raise ValueError("Winograd's algorithm does not apply to this task")
    return winograd_kernels.module(anchored, unpack(schedule))


def off_by(workload: Any, target: str, knobs: Knobs, latency: float) -> float | None:
    """The logarithm of a measured latency, in seconds, over the estimate, in cycles; ``None`` where the
    algorithm does not apply to the workload."""
    anchored = anchors.find(workload["main"])
    if anchored is None:
        return None
    return math.log(latency) - math.log(estimate(anchored, knobs, targets.cores(target)))


def propose(
    workload: Any,
    target: str,
    untried: Mapping[str, Knobs],
    measured: Sequence[tuple[float, bytes]],
    want: int,
    similar: Sequence[tuple[Knobs, float]] = (),
) -> list[tuple[str, bytes]]:
    """Hash and schedule of the next to be tried, most promising first.

    Args:
        target: canonical.
        untried: settings, by the hashes of their schedules.
        measured: latencies in seconds, and schedules.
        want: how many.
        similar: settings for similar tasks and what :func:`off_by` says of them; used as long as nothing is
            measured of this one.
    """
    anchored = anchors.find(workload["main"])
    assert anchored is not None
    cores = targets.cores(target)
    known = []
    for latency, schedule in measured:
        knobs = unpack(schedule)
        known.append((knobs, math.log(latency) - math.log(estimate(anchored, knobs, cores))))
    known = known or list(similar)
    usually = sum(error for _, error in known) / len(known) if known else 0.0
    names = list(untried)
    # Of each: how much is known of its like, and what that says of its estimate.
    weight, error = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for knobs, off in known:
        for name in names:
            alike = _likeness(untried[name], knobs)
            weight[name] += alike
            error[name] += alike * (off - usually)
    base = {name: math.log(estimate(anchored, untried[name], cores)) for name in names}
    # Of each size of tiles one is measured, unless it must be far slower.
    best = min(base.values(), default=0.0)
    new = {each.outputs for each in untried.values()} - {each.outputs for each, _ in known}
    new = {
        untried[name].outputs for name in names if untried[name].outputs in new and base[name] < best + FAR
    }
    chosen: list[str] = []
    while len(chosen) < min(want, len(untried)):

        def promise(name: str) -> tuple[float, str]:
            return base[name] + error[name] / (weight[name] + 0.5) - DOUBT / (1.0 + weight[name]), name

        left = [name for name in names if name not in chosen]
        picked = min([name for name in left if untried[name].outputs in new] or left, key=promise)
        chosen.append(picked)
        new.discard(untried[picked].outputs)
        for name in names:
            weight[name] += _likeness(untried[name], untried[picked])
    return [(name, pack(untried[name])) for name in chosen]


def _likeness(one: Knobs, other: Knobs) -> float:
    """From 0 to 1: how much the latency of one setting says of the other's."""
    distance = sum(
        math.log2(a / b) ** 2
        for a, b in ((one.tiles, other.tiles), (one.rows, other.rows), (one.vectors, other.vectors))
    )
    distance += 4.0 * (one.outputs != other.outputs) + 0.5 * (one.by_rows != other.by_rows)
    return math.exp(-distance)
