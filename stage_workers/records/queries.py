"""Questions to the records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    LABEL_STYLE_TABLENAME_PLUS_COL,
    ColumnElement,
    Connection,
    Select,
    and_,
    delete,
    func,
    or_,
    select,
)

from tunemesh.stage_workers.records import rows, schema
from tunemesh.stage_workers.records.database import Database, row_of
from tunemesh.stage_workers.records.questions import (
    ALL,
    Best,
    Counts,
    Filter,
    Found,
    Similar,
    kind_of,
    main_of,
)
from tunemesh.stage_workers.records.schema import (
    CONDITIONS,
    CONFIRMATIONS,
    JOBS,
    METADATA,
    RESULTS,
    TASKS,
    TRIALS,
    WORKLOADS,
)

FROM_EACH = 16
"""Of the fastest schedules of each similar task."""
MOST_LIKE = 2000
"""Tasks with a similar operator that are looked at, by their names alone."""
SEVERAL = 8
"""Of the fastest schedules of a task that are looked at."""
AT_ONCE = 1000
"""Rows that are read at a time where all are wanted."""


_NAMED = (
    TRIALS.join(TASKS, TASKS.c.key == TRIALS.c.task)
    .join(JOBS, JOBS.c.id == TRIALS.c.job)
    .outerjoin(CONDITIONS, CONDITIONS.c.id == TRIALS.c.conditions)
)
"""Trials beside what they name."""


class Answering(Database):
    """A database that answers what a worker asks."""

    def known(self, tasks: Sequence[str], which: Filter) -> dict[str, Best]:
        """What is known of tasks, by their keys; those of which nothing is are left out.

        Raises:
            RecordsUnavailable, BadInput: as :meth:`.Database.reading`.
        """
        with self.reading() as connection:
            answers = {task: known(connection, task, which) for task in tasks}
        return {task: best for task, best in answers.items() if best is not None}

    def similar(self, task: str, operator: str, target: str, which: Filter, limit: int) -> list[Similar]:
        """The fastest schedules of other tasks with the same main operator, for targets of the same kind.

        Args:
            task: key of the one that they are to be similar to.
            operator: its.
            target: its, in canonical form; tasks for the same one come first.
            limit: tasks.

        Raises:
            RecordsUnavailable, BadInput: as :meth:`.Database.reading`.
        """
        with self.reading() as connection:
            return similar(connection, task, operator, target, which, limit)

    def leaders(self, task: str, which: Filter, limit: int) -> list[Found]:
        """The fastest schedules of a task.

        Raises:
            RecordsUnavailable, BadInput: as :meth:`.Database.reading`.
        """
        with self.reading() as connection:
            return fastest(connection, task, which, limit)


def newest(connection: Connection, which: Filter, limit: int) -> list[Found]:
    """The latest trials, latest first."""
    return answers(connection, joined(which).order_by(TRIALS.c.at.desc(), TRIALS.c.id).limit(limit))


def models(connection: Connection) -> list[str]:
    """Names of the models that were tuned to their end."""
    asked = select(JOBS.c.model).join(RESULTS, RESULTS.c.job == JOBS.c.id).distinct()
    return list(connection.execute(asked.order_by(JOBS.c.model)).scalars())


def tasks_of(connection: Connection, model: str, engine: str) -> list[rows.Task]:
    """The tasks of a model by name that an engine has tuned."""
    tuned = select(TRIALS.c.task).join(JOBS, JOBS.c.id == TRIALS.c.job)
    tuned = tuned.where(JOBS.c.model == model, TRIALS.c.engine == engine)
    asked = select(TASKS).where(TASKS.c.key.in_(tuned)).order_by(TASKS.c.name, TASKS.c.key)
    return [row_of(rows.Task, each) for each in connection.execute(asked).mappings()]


def by_id(connection: Connection, prefix: str, which: Filter = ALL) -> list[Found]:
    """The trials whose ids begin so; two at most."""
    return answers(connection, joined(which).where(TRIALS.c.id.between(prefix, prefix + "g")).limit(2))


def answers(connection: Connection, asked: Select[Any]) -> list[Found]:
    """What a query of :func:`joined` gives."""
    return _with_confirmations(connection, [_found(each) for each in connection.execute(asked).mappings()])


def tasks(connection: Connection, which: Filter) -> list[str]:
    """Keys of the tasks that a filter is about, by operator."""
    asked = select(TASKS.c.key).where(*_of_task(which)).order_by(TASKS.c.operator, TASKS.c.key)
    return list(connection.execute(asked).scalars())


def fastest(
    connection: Connection, task: str, which: Filter = ALL, limit: int = 1, *, done: bool = False
) -> list[Found]:
    """The fastest schedules of a task, fastest first, each once, by the fastest of its measurements, for
    disturbances only slow down; a confirmed latency counts where there is one. With ``done`` only those of
    jobs that were."""
    of_trials = joined(which).where(TRIALS.c.task == task, TRIALS.c.latency.is_not(None))
    if done:
        ended = select(schema.BASELINES.c.job).where(schema.BASELINES.c.task == task)
        of_trials = of_trials.where(TRIALS.c.job.in_(ended))
    by_speed = of_trials.order_by(TRIALS.c.latency, TRIALS.c.id)
    again = of_trials.join(CONFIRMATIONS, CONFIRMATIONS.c.trial == TRIALS.c.id)
    confirmed = again.where(CONFIRMATIONS.c.task == task).order_by(CONFIRMATIONS.c.latency)
    found: dict[str, Found] = {}
    # Of the trials that look fastest some turn out slower when they are confirmed: some more are looked at.
    for asked in (by_speed.limit(2 * limit + 4), confirmed.limit(2 * limit + 4)):
        for each in connection.execute(asked).mappings():
            found.setdefault(each["trials_id"], _found(each))
    ordered = sorted(_with_confirmations(connection, list(found.values())), key=_speed)
    distinct: dict[tuple[str, int, str], Found] = {}
    for one in ordered:
        distinct.setdefault((one.trial.engine, one.trial.format, one.trial.hash), one)
    return list(distinct.values())[:limit]


def similar(
    connection: Connection, task: str, operator: str, target: str, which: Filter, limit: int
) -> list[Similar]:
    """See :meth:`Answering.similar`."""
    main = main_of(operator)
    like = or_(TASKS.c.operator.startswith(main), TASKS.c.operator.startswith(f"fused_{main}"))
    order = TASKS.c.target != target, TASKS.c.operator != operator, TASKS.c.key
    asked = select(TASKS.c.key, TASKS.c.operator, TASKS.c.target).where(like, TASKS.c.key != task)
    keys = [
        key
        for key, name, its in connection.execute(asked.order_by(*order).limit(MOST_LIKE))
        if main_of(name) == main and kind_of(its) == kind_of(target)
    ][:limit]
    best = _best_of_each(which, FROM_EACH, TRIALS.c.task.in_(keys)).subquery().select()
    rows_ = connection.execute(joined(ALL).where(TRIALS.c.id.in_(best))).mappings()
    found = sorted(_with_confirmations(connection, [_found(each) for each in rows_]), key=_speed)
    made: dict[str, list[Similar]] = {key: [] for key in keys}
    for data, trials in by_workload(connection, found):
        newest = max(each.trial.format for each in trials)
        made[trials[0].trial.task].append(
            Similar(
                task=trials[0].trial.task,
                workload=data,
                target=trials[0].task.target,
                found=[each for each in trials if each.trial.format == newest],
            )
        )
    return [each for of_task in made.values() for each in of_task]


def known(connection: Connection, task: str, which: Filter) -> Best | None:
    """The best of a task that a job has found which was done; of others it is not known whether they searched
    to the end."""
    found = fastest(connection, task, which, SEVERAL, done=True)
    if not found:
        return None
    best, table = found[0], schema.BASELINES
    asked = select(table.c.job, table.c.latency).where(
        table.c.task == task, table.c.job.in_([each.job.id for each in found])
    )
    untuned = {str(job): float(latency) for job, latency in connection.execute(asked)}
    searched = max(_searched(connection, task, job, which) for job in untuned)
    return Best(found=best, searched=searched, untuned=untuned[best.job.id])


def _searched(connection: Connection, task: str, job: str, which: Filter) -> float:
    """Trials of a task in a job, or of its tasks on average, by an engine. Trials go where they pay: where a
    task got fewer than others it had no more to give, or the job had no more to spend."""
    of_task = _chosen(which).with_only_columns(func.count())
    of_task = of_task.where(TRIALS.c.task == task, TRIALS.c.job == job)
    of_job = select(func.count(), func.count(TRIALS.c.task.distinct())).where(TRIALS.c.job == job)
    if which.engine:
        of_job = of_job.where(TRIALS.c.engine == which.engine)
    trials, tasks = connection.execute(of_job).one()
    return max(float(connection.execute(of_task).scalar_one()), trials / max(tasks, 1))


def by_workload(connection: Connection, found: Sequence[Found]) -> Iterator[tuple[bytes, list[Found]]]:
    """Trials by the workload that their schedules are made for."""
    grouped: dict[str, list[Found]] = {}
    for each in found:
        grouped.setdefault(each.trial.workload, []).append(each)
    for name, trials in grouped.items():
        data = connection.execute(select(WORKLOADS.c.data).where(WORKLOADS.c.id == name)).scalar()
        if data is not None:
            yield data, trials


def baseline(connection: Connection, task: str, visible_to: str | None = None) -> float | None:
    """Latency of a task without tuning in seconds, the newest; ``None`` where nobody has measured it."""
    table = schema.BASELINES
    asked = select(table.c.latency).where(table.c.task == task).order_by(table.c.at.desc()).limit(1)
    if visible_to is not None:
        asked = asked.join(JOBS, JOBS.c.id == table.c.job).where(*_of_job(Filter(visible_to=visible_to)))
    return connection.execute(asked).scalar()


def counts(connection: Connection) -> Counts:
    """What there is."""
    tables = {
        kind.table: int(connection.execute(select(func.count()).select_from(_table(kind))).scalar_one())
        for kind in rows.KINDS
    }
    named = CONDITIONS.c.device
    devices = select(named, func.count()).join(TRIALS, TRIALS.c.conditions == CONDITIONS.c.id).group_by(named)
    first, last = connection.execute(select(func.min(TRIALS.c.at), func.max(TRIALS.c.at))).one()
    return Counts(
        rows=tables,
        outcomes=_grouped(connection, TRIALS.c.outcome),
        engines=_grouped(connection, TRIALS.c.engine),
        devices={str(name): int(count) for name, count in connection.execute(devices)},
        targets=_grouped(connection, TASKS.c.target),
        sources=_grouped(connection, JOBS.c.source),
        first=first,
        last=last,
    )


def everything(connection: Connection, which: Filter, best: int = 0) -> Iterator[rows.Row]:
    """The rows that a filter is about, with all that they name: what is exported.

    Args:
        best: of each task no more than so many of the fastest trials; 0: all trials.
    """
    trials = _best_of_each(which, best) if best else _chosen(which)
    results = and_(RESULTS.c.job == JOBS.c.id, *_of_job(which))
    jobs = trials.with_only_columns(TRIALS.c.job).union(
        select(RESULTS.c.job).join(JOBS, results) if _is_of_jobs(which) else _none(RESULTS.c.job)
    )
    conditions = trials.with_only_columns(TRIALS.c.conditions).union(
        select(RESULTS.c.conditions).where(RESULTS.c.job.in_(jobs)),
        select(CONFIRMATIONS.c.conditions).where(
            CONFIRMATIONS.c.trial.in_(trials.with_only_columns(TRIALS.c.id))
        ),
    )
    of_tasks = trials.with_only_columns(TRIALS.c.task)
    baselines = schema.BASELINES
    conditions_of: dict[type[rows.Row], ColumnElement[bool]] = {
        rows.Task: TASKS.c.key.in_(of_tasks),
        rows.Workload: WORKLOADS.c.id.in_(trials.with_only_columns(TRIALS.c.workload)),
        rows.Conditions: CONDITIONS.c.id.in_(conditions),
        rows.Job: JOBS.c.id.in_(jobs),
        rows.Trial: TRIALS.c.id.in_(trials.with_only_columns(TRIALS.c.id)),
        rows.Confirmation: CONFIRMATIONS.c.trial.in_(trials.with_only_columns(TRIALS.c.id)),
        rows.Baseline: and_(baselines.c.task.in_(of_tasks), baselines.c.job.in_(jobs)),
        rows.Result: RESULTS.c.job.in_(jobs) if _is_of_jobs(which) else RESULTS.c.id.is_(None),
    }
    for kind, condition in conditions_of.items():
        table = _table(kind)
        asked = select(table).order_by(next(iter(table.primary_key)))
        if which != ALL or best:
            asked = asked.where(condition)
        streamed = connection.execution_options(yield_per=AT_ONCE).execute(asked)
        for each in streamed.mappings():
            yield row_of(kind, each)


def prune(connection: Connection, which: Filter, before: float, keep: int) -> int:
    """Forget trials from before a time, but for the fastest of each task under each conditions, and what was
    confirmed.

    Args:
        keep: how many of the fastest.

    Returns:
        How many trials.
    """
    place = func.row_number().over(
        partition_by=(TRIALS.c.task, TRIALS.c.conditions),
        order_by=(TRIALS.c.latency.is_(None), TRIALS.c.latency),
    )
    ranked = select(TRIALS.c.id, place.label("place"), TRIALS.c.latency).subquery()
    best = select(ranked.c.id).where(ranked.c.place <= keep, ranked.c.latency.is_not(None))
    old = (
        _chosen(which)
        .with_only_columns(TRIALS.c.id)
        .where(
            TRIALS.c.at < before,
            TRIALS.c.id.not_in(best),
            TRIALS.c.id.not_in(select(CONFIRMATIONS.c.trial)),
        )
    )
    forgotten = connection.execute(delete(TRIALS).where(TRIALS.c.id.in_(old.subquery().select())))
    connection.execute(delete(WORKLOADS).where(WORKLOADS.c.id.not_in(select(TRIALS.c.workload))))
    return int(forgotten.rowcount)


def joined(which: Filter) -> Select[Any]:
    """Trials with what they name; columns are called ``table_column``."""
    asked = select(TRIALS, TASKS, JOBS, CONDITIONS).set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL)
    return asked.select_from(_NAMED).where(*_of_trial(which))


def _chosen(which: Filter) -> Select[Any]:
    """Trials alone, for subqueries."""
    return select(TRIALS.c.id).select_from(_NAMED).where(*_of_trial(which)).correlate(None)


def _best_of_each(which: Filter, count: int, *conditions: ColumnElement[bool]) -> Select[Any]:
    """The fastest trials of each task, for subqueries."""
    place = func.row_number().over(partition_by=TRIALS.c.task, order_by=(TRIALS.c.latency, TRIALS.c.id))
    ranked = (
        _chosen(which).add_columns(place.label("place")).where(TRIALS.c.latency.is_not(None), *conditions)
    )
    best = ranked.subquery()
    return (
        select(TRIALS.c.id)
        .select_from(_NAMED)
        .join(best, best.c.id == TRIALS.c.id)
        .where(best.c.place <= count)
    )


def _of_trial(which: Filter) -> list[ColumnElement[bool]]:
    found = [*_of_task(which), *_of_job(which)]
    if which.device:
        found.append(CONDITIONS.c.device.icontains(which.device, autoescape=True))
    if which.conditions:
        found.append(TRIALS.c.conditions == which.conditions)
    if which.engine:
        found.append(TRIALS.c.engine == which.engine)
    if which.since is not None:
        found.append(TRIALS.c.at >= which.since)
    return found


def _of_task(which: Filter) -> list[ColumnElement[bool]]:
    found = []
    if which.task:
        found.append(TASKS.c.key.startswith(which.task, autoescape=True))
    if which.operator:
        found.append(TASKS.c.operator.icontains(which.operator, autoescape=True))
    if which.target:
        found.append(TASKS.c.target.icontains(which.target, autoescape=True))
    return found


def _of_job(which: Filter) -> list[ColumnElement[bool]]:
    found = []
    if which.model:
        found.append(JOBS.c.model.icontains(which.model, autoescape=True))
    if which.tenant:
        found.append(JOBS.c.tenant == which.tenant)
    if which.source:
        found.append(JOBS.c.source == which.source)
    if which.without_model:
        found.append(JOBS.c.model != which.without_model)
    if which.visible_to is not None:
        own = JOBS.c.tenant.in_(["", which.visible_to])
        found.append(or_(own, JOBS.c.visibility == "all"))
    return found


def _is_of_jobs(which: Filter) -> bool:
    """Whether it says nothing of tasks or trials, so that it is about whole models, too."""
    return which == Filter(model=which.model, tenant=which.tenant, visible_to=which.visible_to)


def _none(column: ColumnElement[str]) -> Select[Any]:
    return select(column).where(column.is_(None))


def _grouped(connection: Connection, column: ColumnElement[str]) -> dict[str, int]:
    asked = select(column, func.count()).group_by(column).order_by(func.count().desc())
    return {str(name): int(count) for name, count in connection.execute(asked)}


def _table(kind: type[rows.Row]) -> Any:
    return METADATA.tables[kind.table]


def _found(columns: Any) -> Found:
    def row(kind: type[Any]) -> Any:
        return row_of(kind, {name: columns[f"{kind.table}_{name}"] for name in kind.__struct_fields__})

    known = columns["conditions_id"] is not None
    return Found(
        trial=row(rows.Trial),
        task=row(rows.Task),
        job=row(rows.Job),
        conditions=row(rows.Conditions) if known else None,
    )


def _with_confirmations(connection: Connection, found: Sequence[Found]) -> list[Found]:
    confirmed: dict[str, rows.Confirmation] = {}
    for start in range(0, len(found), AT_ONCE):
        ids = [each.trial.id for each in found[start : start + AT_ONCE]]
        asked = select(CONFIRMATIONS).where(CONFIRMATIONS.c.trial.in_(ids))
        confirmed |= {
            each["trial"]: row_of(rows.Confirmation, each) for each in connection.execute(asked).mappings()
        }
    return [
        Found(
            trial=each.trial,
            task=each.task,
            job=each.job,
            conditions=each.conditions,
            confirmed=confirmed.get(each.trial.id),
        )
        for each in found
    ]


def _speed(found: Found) -> tuple[float, str]:
    assert found.latency is not None
    return found.latency, found.trial.id
