"""Schedules: a template and what its knobs are set to, as JSON, so that people can read records."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from tunemesh.stage_workers.engines.template.space import Genome, Space


class Schedule(Struct, frozen=True):
    """One candidate.

    Attributes:
        template: by name.
        knobs: their values, by name.
    """

    template: str
    knobs: dict[str, int]


def packed(template: str, space: Space, genome: Genome) -> tuple[str, bytes]:
    """Hash and bytes of a candidate. The hash names template and values."""
    values = space.values(genome)
    names = [knob.name for knob in space.knobs]
    schedule = Schedule(template, dict(zip(names, values, strict=True)))
    return f"{template}.{'-'.join(map(str, values))}", msgspec.json.encode(schedule)


def unpacked(schedule: bytes) -> Schedule:
    """What :func:`packed` was given.

    Raises:
        msgspec.MsgspecError: it is no such thing.
    """
    return msgspec.json.decode(schedule, type=Schedule)


def genome_of(schedule: Schedule, space: Space) -> Genome | None:
    """The genome of a schedule; ``None`` where the space has no such one."""
    genome = []
    for knob in space.knobs:
        value = schedule.knobs.get(knob.name)
        if value not in knob.values:
            return None
        genome.append(knob.values.index(value))
    return tuple(genome)


def genome_of_hash(name: str, template: str, space: Space) -> Genome | None:
    """The genome of a candidate's hash; ``None`` where it is none of this template and space."""
    kind, _, text = name.partition(".")
    values = text.split("-")
    if kind != template or len(values) != len(space.knobs) or not all(map(str.isdecimal, values)):
        return None
    named = {knob.name: int(value) for knob, value in zip(space.knobs, values, strict=True)}
    return genome_of(Schedule(template, named), space)


def values_of(schedule: Schedule, space: Space) -> Sequence[int]:
    """The values of the knobs in their order.

    Raises:
        ValueError: the space has no such ones.
    """
    genome = genome_of(schedule, space)
    if genome is None or not space.is_valid(genome):
        raise ValueError(f"the template {schedule.template} has no kernel with {schedule.knobs}")
    return space.values(genome)
