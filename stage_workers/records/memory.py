"""What searches begin with: schedules of a task that were tried before, and cost models that were fitted to
records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, Select, func, insert, select

from tunemesh.stage_workers.records import queries
from tunemesh.stage_workers.records.queries import Answering
from tunemesh.stage_workers.records.questions import Filter, Found, Memory, Prior, Similar, family_of
from tunemesh.stage_workers.records.schema import JOBS, PRIORS, TASKS, TRIALS

SEEN = 4096
"""Schedules of a task that are not tried again, the latest."""
KEPT = 32
"""Of the fastest trials of a task, and of the latest, that a search begins with: each has to be replayed."""
LEARNED_FASTEST, LEARNED_LATEST = 64, 192
"""Trials of a task that a prior is fitted to: more of the fast ones than there are by chance."""
MOST_TASKS = 2000
"""That a prior is fitted to, the latest."""


class Remembering(Answering):
    """A database that searches begin with."""

    def memory(self, task: str, conditions: str, which: Filter) -> Memory:
        """What was tried of a task.

        Args:
            conditions: id of those under which it is measured now; empty where they are not the same for all
                devices, or not known.
            which: by whom and for whom. Its ``source`` says what counts as measured here.

        Raises:
            RecordsUnavailable, BadInput: as :meth:`.Database.reading`.
        """
        with self.reading() as connection:
            return memory(connection, task, conditions, which)

    def prior(self, engine: str, family: str) -> Prior | None:
        """The newest prior that is used; ``None`` where there is none.

        Raises:
            RecordsUnavailable, BadInput: as :meth:`.Database.reading`.
        """
        with self.reading() as connection:
            return prior(connection, engine, family)


def memory(connection: Connection, task: str, conditions: str, which: Filter) -> Memory:
    """See :meth:`Remembering.memory`."""
    here = replace(which, conditions=conditions)
    anywhere = replace(which, source="")
    own: list[Found] = []
    seen: list[str] = []
    if conditions:
        own = _some(connection, task, here, KEPT, KEPT)
        jobs = queries.joined(here).where(TRIALS.c.task == task).with_only_columns(TRIALS.c.job)
        # What failed has no conditions, but was tried beside what did not.
        tried = select(TRIALS.c.hash).where(
            TRIALS.c.task == task, TRIALS.c.engine == which.engine, TRIALS.c.job.in_(jobs)
        )
        ordered = tried.group_by(TRIALS.c.hash).order_by(func.max(TRIALS.c.at).desc(), TRIALS.c.hash)
        seen = list(connection.execute(ordered.limit(SEEN)).scalars())
    known = set(seen)
    others = [each for each in _some(connection, task, anywhere, KEPT, KEPT) if each.trial.hash not in known]
    return Memory(seen=seen, here=_comparable(connection, own), elsewhere=_comparable(connection, others))


def _some(connection: Connection, task: str, which: Filter, fastest: int, latest: int) -> list[Found]:
    """The fastest and the latest trials of a task that were measured, each schedule once."""
    found = queries.fastest(connection, task, which, fastest)
    known = {each.trial.hash for each in found}
    measured = queries.joined(which).where(TRIALS.c.task == task, TRIALS.c.latency.is_not(None))
    newest = measured.order_by(TRIALS.c.at.desc(), TRIALS.c.id).limit(fastest + latest)
    for each in queries.answers(connection, newest):
        if each.trial.hash not in known and len(found) < fastest + latest:
            known.add(each.trial.hash)
            found.append(each)
    return found


def _comparable(connection: Connection, found: Sequence[Found]) -> list[Similar]:
    """Trials of a task in groups whose latencies can be compared."""
    made = []
    for workload, of_workload in queries.by_workload(connection, found):
        groups: dict[tuple[str, int], list[Found]] = {}
        for each in of_workload:
            groups.setdefault((each.trial.conditions, each.trial.format), []).append(each)
        made += [
            Similar(task=one.task.key, workload=workload, target=one.task.target, found=group)
            for group in groups.values()
            for one in group[:1]
        ]
    return made


# -- Priors -------------------------------------------------------------------------------------------------


def prior(connection: Connection, engine: str, family: str, used: bool = True) -> Prior | None:
    """The newest prior of a family; ``None`` where there is none.

    Args:
        used: only of those that are used.
    """
    asked = select(PRIORS).where(PRIORS.c.engine == engine, PRIORS.c.family == family)
    if used:
        asked = asked.where(PRIORS.c.used)
    found = connection.execute(asked.order_by(PRIORS.c.at.desc(), PRIORS.c.id).limit(1)).mappings().first()
    return Prior(**found) if found is not None else None


def keep(connection: Connection, new: Prior) -> None:
    """Write down a prior; the same once."""
    if connection.execute(select(PRIORS.c.id).where(PRIORS.c.id == new.id)).first() is None:
        values: dict[str, Any] = {name: getattr(new, name) for name in new.__struct_fields__}
        connection.execute(insert(PRIORS).values(values))


def families(connection: Connection, engine: str) -> dict[str, list[str]]:
    """Targets that an engine has trials for, by the family of their devices."""
    asked = (
        select(TASKS.c.target)
        .where(TASKS.c.key.in_(select(TRIALS.c.task).where(TRIALS.c.engine == engine)))
        .distinct()
    )
    found: dict[str, list[str]] = {}
    for target in sorted(connection.execute(asked).scalars()):
        found.setdefault(family_of(target), []).append(target)
    return found


def new_since(connection: Connection, engine: str, targets: Sequence[str], at: float) -> int:
    """Trials that were measured since then."""
    asked = select(func.count()).select_from(TRIALS.join(TASKS, TASKS.c.key == TRIALS.c.task))
    asked = asked.where(
        TRIALS.c.engine == engine,
        TASKS.c.target.in_(targets),
        TRIALS.c.at > at,
        TRIALS.c.latency.is_not(None),
    )
    return int(connection.execute(asked).scalar_one())


def to_learn_from(
    connection: Connection, engine: str, targets: Sequence[str], without: Sequence[str] = ()
) -> Iterator[Similar]:
    """What a prior is fitted to: records that are for everybody.

    Args:
        without: names of models that are left out, with all tasks that they have.
    """
    which = Filter(engine=engine, visible_to="")
    latest = _tasks_of(engine, targets).order_by(func.max(TRIALS.c.at).desc(), TRIALS.c.task)
    if without:
        left_out = (
            select(TRIALS.c.task).join(JOBS, JOBS.c.id == TRIALS.c.job).where(JOBS.c.model.in_(without))
        )
        latest = latest.where(TRIALS.c.task.not_in(left_out))
    for task in connection.execute(latest.limit(MOST_TASKS)).scalars().all():
        yield from _comparable(connection, _some(connection, task, which, LEARNED_FASTEST, LEARNED_LATEST))


def _tasks_of(engine: str, targets: Sequence[str]) -> Select[Any]:
    joined = TRIALS.join(TASKS, TASKS.c.key == TRIALS.c.task)
    asked = select(TRIALS.c.task).select_from(joined)
    asked = asked.where(TRIALS.c.engine == engine, TASKS.c.target.in_(targets))
    return asked.group_by(TRIALS.c.task)
