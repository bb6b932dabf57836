"""What a search knows: every genome that it has proposed, and what came of it. That is its whole state."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from msgspec import Struct

from tunemesh.stage_workers.engines.template.space import Genome, Space

WAITING = math.nan
"""In place of a latency that is not known yet."""


@dataclass(frozen=True)
class Tried:
    """A genome that was proposed.

    Attributes:
        genome: itself.
        latency: seconds; infinite where it failed, NaN where nothing is known yet.
        round: the proposal it was part of, from 0.
        maker: the search that it came from.
    """

    genome: Genome
    latency: float
    round: int
    maker: str


@dataclass
class History:
    """All that was proposed, oldest first.

    Attributes:
        space: that it is from.
        tried: see :class:`Tried`.
    """

    space: Space
    tried: list[Tried] = field(default_factory=list)

    @property
    def known(self) -> list[Tried]:
        """Those that something came of."""
        return [each for each in self.tried if not math.isnan(each.latency)]

    @property
    def measured(self) -> list[Tried]:
        """Those that have a latency, fastest first; the older one where two are as fast."""
        return sorted(
            (each for each in self.tried if math.isfinite(each.latency)), key=lambda each: each.latency
        )

    @property
    def round(self) -> int:
        """The number of the next proposal."""
        return max((each.round for each in self.tried), default=-1) + 1

    def note(self, results: Iterable[tuple[Genome, float]]) -> None:
        """What came of some. One that was not proposed here is taken, too; NaN says that it was tried, and no
        more."""
        places = {each.genome: number for number, each in enumerate(self.tried)}
        for genome, latency in results:
            number = places.get(genome)
            if math.isnan(latency) and number is not None:
                continue
            if number is None:
                places[genome] = len(self.tried)
                self.tried.append(Tried(genome, latency, self.round, ""))
            else:
                old = self.tried[number]
                self.tried[number] = Tried(genome, latency, old.round, old.maker)


class _Stored(Struct, frozen=True, array_like=True):
    ranks: list[int]
    latencies: bytes
    rounds: list[int]
    makers: list[int]
    names: list[str]


def encode(history: History) -> bytes:
    """The bytes of a history: some 6 for each trial. Equal ones give equal bytes."""
    names = sorted({each.maker for each in history.tried})
    stored = _Stored(
        ranks=[history.space.rank(each.genome) for each in history.tried],
        latencies=np.array([each.latency for each in history.tried], np.float32).tobytes(),
        rounds=[each.round for each in history.tried],
        makers=[names.index(each.maker) for each in history.tried],
        names=names,
    )
    return zlib.compress(msgspec.msgpack.encode(stored), 9)


def decode(space: Space, state: bytes | None) -> History:
    """The history of :func:`encode`'s bytes; an empty one where there are none.

    Raises:
        zlib.error, msgspec.MsgspecError: when they are damaged.
    """
    if not state:
        return History(space)
    stored = msgspec.msgpack.decode(zlib.decompress(state), type=_Stored)
    latencies: Sequence[float] = np.frombuffer(stored.latencies, np.float32).tolist()
    return History(
        space,
        [
            Tried(space.genome(rank), latency, number, stored.names[maker])
            for rank, latency, number, maker in zip(
                stored.ranks, latencies, stored.rounds, stored.makers, strict=True
            )
        ],
    )
