"""Fit cost models to records here, without a mesh."""

from __future__ import annotations

from collections.abc import Iterator

from tunemesh.record_exchange import sandbox_of
from tunemesh.stage_workers.engines.protocol import Engine, LearnCall, Learned
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages import learning
from tunemesh.stage_workers.stages.learning import Lesson


def learn(database: Database, engine: str, after: int, gib: float) -> Iterator[Lesson]:
    """See :func:`.learning.lessons`.

    Args:
        after: new trials that there must be since the last time.
        gib: memory that the engine may take.

    Raises:
        RecordsUnavailable: the database is away, locked or damaged.
    """

    def ask(call: LearnCall) -> Learned | CallFailure:
        with sandbox_of(engine, gib) as sandbox:
            return sandbox.call(engine, Engine.learn, call, learning.LEARN_LIMIT)

    return learning.lessons(database, engine, after, ask)
