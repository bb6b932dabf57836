"""``learn``: fit cost models to the records, so that more is known of tasks that were never measured.

It is nobody's job: the coordinator asks for it while the mesh has nothing to do. So a step that waits for
this worker goes first, at once: what was learned until then is given up, and the coordinator asks again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TYPE_CHECKING

from msgspec import Struct

from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import LearnDone, LearnWork, Step
from tunemesh.shared.messages.results import MOST_LESSONS
from tunemesh.shared.text import clip
from tunemesh.stage_workers.engines.protocol import Engine, Examples, LearnCall, Learned, Quality
from tunemesh.stage_workers.records import rows
from tunemesh.stage_workers.records.questions import Prior, Similar
from tunemesh.stage_workers.sandbox.sandbox import Abandoned, CallFailure
from tunemesh.stage_workers.stages.context import Context, Learning
from tunemesh.stage_workers.stages.known import examples_of

if TYPE_CHECKING:
    from tunemesh.stage_workers.records.database import Database

log = logging.getLogger(__name__)

LEARN_LIMIT = 3600.0
"""Seconds: a schedule is replayed in some 10 ms."""
HELD_OUT = 5
"""One task of so many is not learned from, by any version: priors are compared on those."""
LOOK_EVERY = 0.5
"""Seconds between two looks whether a step waits."""

Ask = Callable[[LearnCall], Learned | CallFailure]
"""Asks an engine."""


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


def learn(step: Step, work: LearnWork, context: Context) -> LearnDone:
    """Learn from the records of this worker's database.

    Raises:
        TunemeshError: the database is away, locked or damaged.
    """
    # Slow to import, and no other step needs it.
    from tunemesh.stage_workers.records.database import Database

    learning = context.learning
    if learning is None:
        return LearnDone(said=["nothing learned: this worker has no records"])
    said: list[str] = []
    learned, gave_way = 0, False
    try:
        with Database(learning.records) as database:
            asked = lessons(
                database, work.engine, work.after, lambda call: _asked(learning, work.engine, call)
            )
            for lesson in asked:
                said.append("; ".join(map(str.strip, told(lesson))))
                learned += lesson.after is not None
                log.info("%s: %s", step.id, said[-1])
    except Abandoned:
        gave_way = True
        log.info("%s: gives way to other work", step.id)
    if not said and not gave_way:
        said.append(f"there are no records of the engine {work.engine} to learn from")
    return LearnDone(said=[clip(each) for each in said[:MOST_LESSONS]], learned=learned, gave_way=gave_way)


def _asked(learning: Learning, engine: str, call: LearnCall) -> Learned | CallFailure:
    """Ask the engine in a sandbox of its own, which is given up when other work comes.

    Raises:
        Abandoned: it has come.
        BadInput: the engine has no use for that, or there is too little to learn from.
    """
    with learning.sandbox(engine) as sandbox, futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(sandbox.call, engine, Engine.learn, call, LEARN_LIMIT)
        while not answer.done():
            if learning.wanted():
                sandbox.abort()
                break
            futures.wait([answer], LOOK_EVERY)
        return answer.result()


def lessons(database: Database, engine: str, after: int, ask: Ask) -> Iterator[Lesson]:
    """Fit one prior per family of devices, and keep each that ranks no worse than the one before.

    Args:
        after: new trials that there must be since the last time.
        ask: the engine, in a sandbox: records come from anywhere.

    Raises:
        RecordsUnavailable: the database is away, locked or damaged.
    """
    from tunemesh.stage_workers.records import memory

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
        try:
            learned = ask(call)
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


def told(lesson: Lesson) -> list[str]:
    """A lesson for people, in lines."""
    who = f"{lesson.engine}, {lesson.family}"
    if lesson.after is None:
        return [f"{who}: nothing learned: {lesson.why}"]
    tried = [("before", lesson.before), ("now", lesson.after)]
    known = "; ".join(
        f"{when} rank correlation {each.correlation:.2f}, top 1 {each.top1:.2f}, top 8 {each.top8:.2f}"
        for when, each in tried
        if each is not None
    )
    return [
        f"{who}: learned from {lesson.trials:,} trials of {lesson.tasks:,} tasks",
        f"  on {lesson.after.tasks:,} others: {known}",
        f"  {'updates use it from now on' if lesson.used else 'not used: ' + lesson.why}",
    ]


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
