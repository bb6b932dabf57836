"""Fit cost models to records: what is known of tasks that were never measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from msgspec import Struct

from tunemesh.record_exchange import sandbox_of
from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.engines.protocol import Engine, Examples, LearnCall, Learned, Quality
from tunemesh.stage_workers.records import memory, rows
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.questions import Prior, Similar
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages.known import examples_of

LEARN_LIMIT = 3600.0
"""Seconds: a schedule is replayed in some 10 ms."""
HELD_OUT = 5
"""One task of so many is not learned from, by any version: priors are compared on those."""


class Lesson(Struct, frozen=True, kw_only=True):
    """What came of learning for one family of devices."""

    engine: str
    family: str
    trials: int = 0
    """That the prior was fitted to."""
    tasks: int = 0
    before: Quality | None = None
    """Of the prior before, on tasks that none was fitted to; ``None`` where there was none."""
    after: Quality | None = None
    """Of the new one, on the same."""
    used: bool = False
    """Not where it ranks worse than the one before."""
    why: str = ""
    """Why there is no new one."""
    prior: bytes = b""


def learn(database: Database, engine: str, after: int, gib: float) -> Iterator[Lesson]:
    """Fit one prior per family of devices, and keep each that ranks no worse than the one before.

    Args:
        after: new trials that there must be since the last time.
        gib: memory that the engine may take.

    Raises:
        RecordsUnavailable: the database is away, locked or damaged.
    """
    with database.reading() as connection:
        families = memory.families(connection, engine)
    for family, targets in families.items():
        with database.reading() as connection:
            last = memory.prior(connection, engine, family, used=False)
            known = memory.prior(connection, engine, family)
            new = memory.new_since(connection, engine, targets, last.at if last is not None else 0.0)
            if new < max(after, 1):
                yield Lesson(engine=engine, family=family, why=f"{new:,} new trials since the last time")
                continue
            call = lesson(memory.to_learn_from(connection, engine, targets), known)
        at = time.time()
        with sandbox_of(engine, gib) as sandbox:
            try:
                learned = sandbox.call(engine, Engine.learn, call, LEARN_LIMIT)
            except BadInput as error:
                yield Lesson(engine=engine, family=family, why=str(error))
                continue
        if isinstance(learned, CallFailure):
            yield Lesson(engine=engine, family=family, why=f"{learned.kind}: {learned.text}")
            continue
        used = learned.before is None or learned.after.correlation >= learned.before.correlation
        with database.writing() as connection:
            memory.keep(connection, _prior(learned, engine, family, used, at))
        yield Lesson(
            engine=engine,
            family=family,
            trials=learned.trials,
            tasks=learned.tasks,
            before=learned.before,
            after=learned.after,
            used=used,
            why="" if used else "it ranks worse than the one before, which stays in use",
            prior=learned.prior,
        )


def lesson(known: Iterable[Similar], prior: Prior | None) -> LearnCall:
    """What an engine is to learn from, and what it is tried on."""
    examples: list[Examples] = []
    held_out: list[Examples] = []
    for each in known:
        (held_out if is_held_out(each.task) else examples).append(examples_of(each))
    return LearnCall(examples=examples, held_out=held_out, prior=prior.data if prior is not None else None)


def is_held_out(task: str) -> bool:
    """Whether no prior is fitted to the task with this key."""
    return int(task[:8], 16) % HELD_OUT == 0


def _prior(learned: Learned, engine: str, family: str, used: bool, at: float) -> Prior:
    return Prior(
        id=rows.made_id("prior", engine, family, learned.prior),
        family=family,
        engine=engine,
        data=learned.prior,
        used=used,
        trials=learned.trials,
        tasks=learned.tasks,
        held_out=learned.after.tasks,
        correlation=learned.after.correlation,
        top1=learned.after.top1,
        top8=learned.after.top8,
        at=at,
    )
