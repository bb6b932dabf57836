"""Tensor intrinsics for the instructions of :mod:`.graph.dots`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tunemesh.stage_workers.engines.metaschedule import blocks
from tunemesh.stage_workers.graph import dots

_registered: set[str] = set()

TENSORIZED = "meta_schedule.auto_tensorize"
"""MetaSchedule's annotation of a block in whose place an intrinsic comes."""
ROW_OF_TILES = 2
"""The loop over tiles in a row of an image, behind those over images and rows."""

HEAD = """
@T.prim_func(s_tir=True)
def intrinsic(
    data: T.Buffer(({group},), "{data}", offset_factor=1),
    weights: T.Buffer(({lanes}, {group}), "{weights}", offset_factor=1),
    sums: T.Buffer(({lanes},), "{total}", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(sums[0:{lanes}], data[0:{group}], weights[0:{lanes}, 0:{group}])
        T.writes(sums[0:{lanes}])
"""
MEANING = """
        for i in T.serial(0, {lanes}):
            for k in T.serial(0, {group}):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    sums[vi] = sums[vi] + T.cast({value}, "{total}") * T.cast(weights[vi, vk], "{total}")
"""
CALL = """
        sums[T.ramp(0, 1, {lanes})] = T.call_extern(
            "{total}x{lanes}",
            "{name}",
            sums.vload([0], dtype="{total}x{lanes}"),
            T.reinterpret("int32", data.vload([0], dtype="{data}x{group}")),
            T.reinterpret("int32x{lanes}", weights.vload([0, 0], dtype="{weights}x{all}")),
        )
"""


def require(names: Iterable[str]) -> None:
    """Register the intrinsics of these names, where that was not done."""
    for name in names:
        if name not in _registered:
            _register(name)
            _registered.add(name)


def around() -> Any:
    """A rule of MetaSchedule for what stands around instructions.

    It keeps the loop around one from being vectorised: the instruction is a vector already. MetaSchedule
    leaves out loops that say something, whatever it is. And an image with zeros around it is made whole, or
    tile by tile; not where the instruction reads it, which MetaSchedule would try as well.
    """

    def apply(schedule: Any, block: Any) -> list[Any]:
        # It is shown what was there before: instructions are in blocks that are new.
        if schedule.get(block).name_hint != blocks.ROOT:
            return [schedule]
        made = [schedule]
        for each in schedule.get_child_blocks(block):
            if TENSORIZED in schedule.get(each).annotations:
                schedule.annotate(schedule.get_loops(each)[-1], dots.MARK, True)
                for image in schedule.get_producers(each):
                    by_tile = schedule.copy()
                    by_tile.compute_at(image, by_tile.get_loops(each)[ROW_OF_TILES], True)
                    made.append(by_tile)
        return made

    return blocks.python_rule(apply)


def _register(name: str) -> None:
    from tvm.s_tir import TensorIntrin

    TensorIntrin.register(name, _function(MEANING, name), _function(CALL, name))


def _function(body: str, name: str) -> object:
    import tvm
    from tvm.script import tirx

    dot, data = dots.named(name)
    text = (HEAD + body).format(
        data=data,
        value="data[vk]" if data == dot.data else f'T.reinterpret("{dot.data}", data[vk])',
        weights=dot.weights,
        total=dot.total,
        lanes=dot.lanes,
        group=dot.group,
        all=dot.lanes * dot.group,
        name=dot.name,
    )
    return tvm.script.from_source(text, {"T": tirx})
