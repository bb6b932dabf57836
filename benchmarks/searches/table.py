"""A surrogate of real kernels: all kernels of an operator that some values of the knobs make, each measured
once on one machine. A search over it costs no compiler and no clock, so that many seeds can be compared; what
it says holds for that machine, that day and these templates only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from tunemesh.stage_workers.engines.template.space import Genome, Knob, Space

FOLDER = Path(__file__).parent / "tables"


class About(Struct, frozen=True, kw_only=True):
    """What a table is of.

    Attributes:
        operator: by its name in :mod:`.operators`.
        template: that made the kernels.
        knobs: names and values. Templates may have got other ones since.
        revision: of the source that made the kernels.
        cpu: that they ran on.
        compiler: that compiled them.
        measured: the day.
    """

    operator: str
    template: str
    knobs: list[tuple[str, list[int]]]
    revision: str
    cpu: str
    compiler: str
    measured: str


@dataclass(frozen=True)
class Table:
    """Attributes:
    about: see :class:`About`.
    space: its valid genomes are those of the table.
    latencies: in seconds, infinite where a kernel failed.
    best: the lowest latency.
    """

    about: About
    space: Space
    latencies: Mapping[Genome, float]
    best: float


def names() -> list[str]:
    """The operators of the tables that are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


def load(path: Path) -> Table:
    """The table in a file of :func:`save`."""
    with np.load(path) as arrays:
        about = msgspec.json.decode(arrays["about"].item(), type=About)
        knobs = tuple(Knob(name, tuple(values)) for name, values in about.knobs)
        plain = Space(knobs, lambda _: True)
        genomes = [plain.genome(rank) for rank in np.cumsum(arrays["steps"]).tolist()]
        latencies = dict(zip(genomes, arrays["latencies"].tolist(), strict=True))
        promises = {
            tuple(plain.values(genome)): promise
            for genome, promise in zip(genomes, arrays["promises"].tolist(), strict=True)
        }
    space = Space(knobs, lambda values: tuple(values) in promises, lambda values: promises[tuple(values)])
    return Table(about, space, latencies, min(latencies.values()))


def save(path: Path, about: About, space: Space, latencies: Mapping[Genome, float]) -> None:
    """Write a table: an ``npz`` file with the ranks of the genomes as steps from one to the next, latencies
    in seconds, and what the template promised of each."""
    genomes = sorted(latencies, key=space.rank)
    if not any(math.isfinite(latency) for latency in latencies.values()):
        raise ValueError("nothing was measured")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        about=np.array(msgspec.json.encode(about)),
        steps=np.diff(np.array([space.rank(genome) for genome in genomes]), prepend=0).astype(np.int32),
        latencies=np.array([latencies[genome] for genome in genomes], np.float32),
        promises=np.array([space.promise(space.values(genome)) for genome in genomes], np.float32),
    )
