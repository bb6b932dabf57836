"""What a task's search knows, as one compressed value that travels with the task."""

from __future__ import annotations

import itertools
import math
import zlib

import msgspec
import numpy as np
from msgspec import Struct

from tunemesh.shared.messages import Trial
from tunemesh.stage_workers.engines.metaschedule.cost_model import Features, Scored

BEST_KEPT = 64
"""Schedules that the next round may start from."""
ROWS_KEPT = 2000
"""Rows of features kept for the cost model, of 60 to 90 bytes each when compressed: with them the state of
1,000 trials stays below 256 KiB. A candidate has one row per store, usually two or three."""
OTHER_ROWS_KEPT = 500
"""The same for what was measured elsewhere."""
HASH_BYTES = 8


class Example(Struct, frozen=True, array_like=True):
    """A trial as the cost model sees it: its :attr:`~shared.messages.Trial.estimate`, infinite when it
    failed."""

    latency: float
    features: Features


class _Stored(Struct, frozen=True, array_like=True):
    workload: str
    round: int
    seen: bytes
    best: list[tuple[float, bytes, bytes]]
    latencies: list[float]
    rows: list[int]
    features: bytes
    pending: bytes
    inexact: list[int]
    others: list[tuple[float, float]]
    """Scores and weights. Their rows and features come after those of the examples."""


class SearchState:
    """What is known of one task.

    Attributes:
        workload: structural hash of the workload that this belongs to.
        round: proposals made so far.
        seen: hashes of all schedules tried.
        pending: hashes of the schedules that were proposed and whose trials have not come yet.
        best: the fastest schedules, fastest first: estimate in seconds, hash, schedule.
        examples: what the cost model is fitted to, oldest first.
        inexact: sizes of tiles with which Winograd's algorithm has given a wrong result.
        others: what was measured elsewhere, which the cost model is fitted to as well.
    """

    def __init__(self, workload: str) -> None:
        self.workload = workload
        self.round = 0
        self.seen: set[str] = set()
        self.pending: set[str] = set()
        self.best: list[tuple[float, str, bytes]] = []
        self.examples: list[Example] = []
        self.inexact: set[int] = set()
        self.others: list[Scored] = []

    def tried(self, trial: Trial, latency: float) -> None:
        """Note a trial; ``latency`` is infinite when it failed."""
        self.seen.add(trial.candidate.hash)
        self.pending.discard(trial.candidate.hash)
        if math.isfinite(latency):
            self.best.append((latency, trial.candidate.hash, trial.candidate.schedule))
            self.best.sort()
            del self.best[BEST_KEPT:]

    def learn(self, examples: list[Example]) -> None:
        """Add examples. When there are too many, the fastest and the newest are kept, by turns: the model
        must rank the fast ones well, and know the ground that the search now moves on."""
        examples = self.examples + examples
        by_latency = sorted(range(len(examples)), key=lambda i: (examples[i].latency, -i))
        by_age = range(len(examples) - 1, -1, -1)
        kept: set[int] = set()
        rows = 0
        for i in itertools.chain.from_iterable(zip(by_latency, by_age, strict=True)):
            if i not in kept and rows + len(examples[i].features) <= ROWS_KEPT:
                kept.add(i)
                rows += len(examples[i].features)
        self.examples = [examples[i] for i in sorted(kept)]

    def learn_of_others(self, others: list[Scored]) -> None:
        """Add what was measured elsewhere, as far as there is room for it; the first come first."""
        room = OTHER_ROWS_KEPT - sum(len(each.features) for each in self.others)
        for each in others:
            if len(each.features) <= room:
                self.others.append(each)
                room -= len(each.features)


def encode(state: SearchState) -> bytes:
    """The bytes of a state. Equal states give equal bytes."""
    blocks = [example.features for example in state.examples]
    blocks += [other.features for other in state.others]
    table = np.concatenate(blocks) if blocks else np.zeros((0, 0), np.float16)
    stored = _Stored(
        workload=state.workload,
        round=state.round,
        seen=_packed(state.seen),
        # Inflated, so that what the schedules have in common is stored once.
        best=[
            (latency, bytes.fromhex(name), zlib.decompress(schedule))
            for latency, name, schedule in state.best
        ],
        latencies=[example.latency for example in state.examples],
        rows=[len(block) for block in blocks],
        # Column by column: neighbours are then the same feature of different trials, and often equal.
        features=np.ascontiguousarray(table.T).tobytes(),
        pending=_packed(state.pending),
        inexact=sorted(state.inexact),
        others=[(each.score, each.weight) for each in state.others],
    )
    return zlib.compress(msgspec.msgpack.encode(stored), 9)


def decode(search: bytes) -> SearchState:
    """The state of :func:`encode`'s bytes.

    Raises:
        zlib.error, msgspec.MsgspecError: when they are damaged.
    """
    stored = msgspec.msgpack.decode(zlib.decompress(search), type=_Stored)
    state = SearchState(stored.workload)
    state.round = stored.round
    state.seen = _unpacked(stored.seen)
    state.pending = _unpacked(stored.pending)
    state.inexact = set(stored.inexact)
    state.best = [(latency, name.hex(), zlib.compress(trace, 9)) for latency, name, trace in stored.best]
    if stored.rows:
        table = np.frombuffer(stored.features, np.float16).reshape(-1, sum(stored.rows)).T
        blocks = np.split(table, np.cumsum(stored.rows)[:-1])
        state.examples = [
            Example(latency, np.ascontiguousarray(block))
            for latency, block in zip(stored.latencies, blocks, strict=False)
        ]
        state.others = [
            Scored(score, weight, np.ascontiguousarray(block))
            for (score, weight), block in zip(stored.others, blocks[len(stored.latencies) :], strict=True)
        ]
    return state


def _packed(hashes: set[str]) -> bytes:
    return b"".join(bytes.fromhex(each) for each in sorted(hashes))


def _unpacked(data: bytes) -> set[str]:
    return {data[i : i + HASH_BYTES].hex() for i in range(0, len(data), HASH_BYTES)}
