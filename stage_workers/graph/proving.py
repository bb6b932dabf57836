"""Which changes of a model are made: those that were tried, and gave what the model gives without them.

All of it happens at import, before any trial is paid for, and each attempt in a process of its own: what TVM
crashes on is a change that is not made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from tunemesh.shared.messages import OutputCheck, Settings
from tunemesh.stage_workers.engines.metaschedule import probing
from tunemesh.stage_workers.graph import (
    apart,
    attention,
    checking,
    compilation,
    composites,
    convolutions,
    dots,
    integers,
    layouts,
    models,
    narrowing,
    objects,
    optimisation,
    padding,
    products,
    targets,
    tasks,
    turning,
    winograd,
    winograd_tasks,
    workloads,
)
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.checking import Sample, Sampled
from tunemesh.stage_workers.graph.fusing import Group
from tunemesh.stage_workers.graph.options import GraphOptions
from tunemesh.stage_workers.measuring import kernels, loading
from tunemesh.stage_workers.platforms.protocol import ProfileCall

log = logging.getLogger(__name__)

ATTEMPT_LIMIT = 600.0
"""Seconds for the changed model: to compile it, and to run it once."""
PROBE_LIMIT = 120.0
"""Seconds for a few candidates of one function."""
CANDIDATES = 4
"""Of a function that is probed. Of those that lose what lies beyond a Pad, every second one is wrong."""
LARGEST_TILES = max(winograd.POINTS)
ONE_RUN = Settings(repeats=1, min_repeat_ms=0)


class Proven(Struct, frozen=True):
    """Changes that may be made.

    Attributes:
        changes: all of them together.
        notes: what was not done and why, one sentence each.
        module: optimised with them.
        outputs: how those of the model, with the changes of the graph or without any, compare with what they
            should be.
    """

    changes: Changes
    notes: list[str]
    module: Any
    outputs: list[OutputCheck] = []


def prove(model: optimisation.Simplified, sampled: Sampled, options: GraphOptions, wished: Changes) -> Proven:
    """Which changes of a model are right. The model without any is compiled and run only where the changed
    one does not show that it was read right.

    Args:
        model: ``main`` takes the inputs. The proof runs on this machine's CPU, whatever the target's.
        sampled: what the unchanged model gives, and for which inputs.
        options: what the person asks for.
        wished: what the settings of the job say of it. Of these, ``fast_math`` is no change of the graph and
            needs no proof of its own: each kernel is compared with one that has the C library's.

    Raises:
        BadModel: TVM cannot lower the module as it is, or does not compute what it says.
    """
    plain = msgspec.structs.replace(wished, narrow=False)
    read = _Read(model, sampled.sample)
    wanted = _wanted(read, options, wished)
    changes, notes = wanted, list[str]()
    attempted = _attempted(read, wanted) if wanted != plain else None
    if attempted is not None and not attempted.wrong and not wanted.narrow:
        outputs = attempted.outputs
    else:  # what is narrow may be off by so much more that it says little of how the model was read
        outputs = sampled.unchanged()
        if attempted is not None and attempted.wrong:
            changes, notes = _one_by_one(read, plain, wanted, attempted.wrong)
    settled = _settled(read, changes)
    changes = settled.changes
    if changes.narrow and not any(map(dots.uses, models.functions(settled.module))):
        changes = msgspec.structs.replace(changes, narrow=False)
        notes.append(f"{UNDONE['narrow']}: none has constant weights of a size that the instruction takes")
    return Proven(changes, notes + settled.notes, settled.module, outputs)


class _Read:
    """A model and its sample; see :func:`prove`."""

    def __init__(self, model: optimisation.Simplified, sample: Sample) -> None:
        self.module = model.module
        self.signature = model.signature
        self.target = model.target
        self.sample = sample
        self.simplified = model.for_target

    def optimised(self, target: str, changes: Changes) -> optimisation.Optimised:
        """With some changes."""
        return optimisation.optimise(self.module, target, changes, self.simplified(target))


def _wanted(read: _Read, options: GraphOptions, wished: Changes) -> Changes:
    """Changes that a person asks for, and that do something, beside those of ``wished``."""
    module, target = read.module, read.target
    if targets.is_gpu(target):
        return wished
    last = options.layout == "channels-last" and layouts.gains(module, wished.narrow)
    wanted = msgspec.structs.replace(
        wished,
        composed=options.fusion == "extended" and (composites.gains(module) or padding.gains(module)),
        attention=options.fusion == "extended" and _attends(read),
        channels_last=last,
        blocked=options.layout == "channels-last" and (last or turning.gains(module)),
        rounded=options.products == "rounded" and products.gains(module),
        integers=options.quantised == "integers" and integers.gains(module, target),
        dots=wished.narrow or dots.gains(module),
    )
    if options.convolutions == "measured" and convolutions.any_of_three(module):
        return msgspec.structs.replace(wanted, winograd=LARGEST_TILES)
    return wanted


def _attends(read: _Read) -> bool:
    """Whether there is attention in a model, if its scale may be computed of constants, too."""
    if not attention.may_gain(read.module):
        return False
    with targets.load(read.target):
        return attention.gains(read.simplified(read.target), read.target)


UNDONE = {
    "composed": "layer normalisation and padding are computed as the model has them",
    "attention": "attention is computed by the operators that it is written as",
    "channels_last": "tensors lie as the model has them, and not with channels last",
    "blocked": "transpositions are done row by row, and not block by block",
    "rounded": "products have as many rows as in the model, though they cannot be cut into blocks",
    "integers": "products of quantised numbers are computed in floats, and not in integers",
    "dots": "products of small numbers are computed one by one, and not in groups",
    "narrow": "products and convolutions are computed in f32, and not in bf16",
    "winograd": "convolutions are computed as they are defined, and not tried by Winograd's algorithm",
}
"""What a note says where a change is not made."""


def _one_by_one(read: _Read, plain: Changes, wanted: Changes, why: str) -> tuple[Changes, list[str]]:
    """Those of some changes that are right one after the other, where all at once are not, for the reason
    ``why``; and why the others are not made."""
    changes, notes = plain, []
    for name in (each for each in UNDONE if getattr(wanted, each)):
        for value in _values(name, wanted):
            more = msgspec.structs.replace(changes, **{name: value})
            refuted = why if more == wanted else _attempted(read, more).wrong
            if not refuted:
                changes = more
                break
        else:
            notes.append(f"{UNDONE[name]}: {refuted}")
    return changes, notes


def _values(name: str, wanted: Changes) -> list[int]:
    """What a change may be, best first: of Winograd's algorithm, smaller tiles are more exact."""
    most = getattr(wanted, name)
    return (
        [each for each in sorted(winograd.POINTS, reverse=True) if each <= most]
        if name == "winograd"
        else [most]
    )


def _attempted(read: _Read, changes: Changes) -> _Attempt:
    """What comes of a changed model: whether it is what the unchanged one is."""
    here = targets.here(read.target)
    read.simplified(here)  # it is the same for all attempts, and as safe as the unchanged model

    def attempt() -> bytes:
        changed = read.optimised(here, changes).module
        if changes.winograd:
            changed = winograd_tasks.everywhere(changed, here)
        with objects.collected(here) as made:
            main = compilation.main_of(changed, here)
        got = loading.flatten(main(*map(tvm.runtime.tensor, read.sample.arrays())))
        names = [each.name for each in read.signature.outputs]
        wanted = read.sample.widened(narrowing.tolerated(changes.narrow)).expected()
        found = checking.agreements(names, got, wanted, "the model as given")
        return msgspec.msgpack.encode(_Attempt(checking.first_wrong(found), checking.told(found), made))

    import tvm

    try:
        attempted = msgspec.msgpack.decode(apart.run(attempt, ATTEMPT_LIMIT), type=_Attempt)
    except apart.Died as error:
        return _Attempt(str(error))
    # The process that made them is gone.
    objects.remember(attempted.made)
    return attempted


class _Attempt(Struct, frozen=True):
    """What is wrong with a changed model, how its outputs compare, and the objects that were compiled for
    it."""

    wrong: str
    outputs: list[OutputCheck] = []
    made: dict[str, bytes] = {}


# -- Functions that were fused -------------------------------------------------------------------------------


def _settled(read: _Read, changes: Changes) -> Proven:
    """``changes`` with functions set apart, so that there are right candidates of every fused one."""
    target = read.target
    optimised = read.optimised(target, changes)
    notes: list[str] = []
    if targets.is_gpu(target):  # there is none here to try them on
        return Proven(changes, notes, optimised.module)
    known: dict[str, str] = {}
    while True:
        found = set(changes.apart)
        made = {group.name: workloads.of_function(optimised.module[group.name]) for group in optimised.groups}
        keys = {name: workloads.structural_hash(workload) for name, workload in made.items()}
        # Most of them are looked at in one process. Where that comes to no end each has one of its own.
        usual = {keys[each.name]: made[each.name] for each in optimised.groups if not each.odd}
        known |= _without_space({key: each for key, each in usual.items() if key not in known}, target)
        for group in optimised.groups:
            key = keys[group.name]
            if key not in known:
                known[key] = _wrong(made[group.name], group, target)
            if not known[key]:
                continue
            # One part after the other, until what is left is right.
            culprits = [part for part in group.parts if set(part) - found]
            if culprits:
                found |= set(culprits[0])
                notes.append(f"{group.name} is not fused into one function: {known[key]}")
        if found == set(changes.apart):
            return Proven(changes, notes, optimised.module)
        changes = msgspec.structs.replace(changes, apart=sorted(found))
        optimised = read.optimised(target, changes)


def _without_space(functions: Mapping[str, Any], target: str) -> dict[str, str]:
    """What is wrong with fused functions of which nothing is tried but whether there are candidates, by
    their keys; nothing where the process that looks does not come to its end."""
    if not functions:
        return {}

    def probe() -> bytes:
        here = targets.here(target)
        found = {}
        for key, workload in functions.items():
            found[key] = "" if tasks.unfit(workload["main"]) else _objection(workload, here)
        return msgspec.msgpack.encode(found)

    try:
        return msgspec.msgpack.decode(apart.run(probe, PROBE_LIMIT), type=dict[str, str])
    except apart.Died as error:
        log.info("functions are looked at one by one: %s", error)
        return {}


def _objection(workload: Any, here: str) -> str:
    why = probing.objection(workload, here)
    return f"it would have no search space ({why})" if why else ""


def _wrong(workload: Any, group: Group, target: str) -> str:
    """What is wrong with the candidates of a fused function; empty when nothing is, or it is no task."""
    if tasks.unfit(workload["main"]):
        return ""

    def probe() -> bytes:
        here = targets.here(target)
        why = _objection(workload, here)
        if why or not group.odd:
            return why.encode()
        found = probing.candidates(workload, here, CANDIDATES)
        if not found:
            return b"none of its candidates could be built"
        untuned = compilation.build_untuned(workload, here)
        packed = workloads.pack(workload)
        outcomes = [
            kernels.profile(
                ProfileCall(
                    workload=packed,
                    target=here,
                    artifact=each,
                    untuned=untuned,
                    device="cpu",
                    settings=ONE_RUN,
                )
            )
            for each in found
        ]
        wrong = [each for each in outcomes if each.outcome != "measured"]
        return (
            f"{len(wrong)} of {len(found)} candidates were wrong ({wrong[0].error})".encode()
            if wrong
            else b""
        )

    try:
        return apart.run(probe, PROBE_LIMIT).decode()
    except apart.Died as error:
        return f"its candidates could not be tried ({error})"
