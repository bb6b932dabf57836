"""How a database gets to the newest schema: numbered steps, of which each runs once.

A step is never changed once it was released: what comes later is a further step. It is a list of statements
that SQLite and PostgreSQL both take, but for ``{bytes}``, which they call differently.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from sqlalchemy import Connection, inspect, text

from tunemesh.shared.errors import BadInput

FIRST: tuple[str, ...] = (
    "CREATE TABLE tasks (key VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, operator VARCHAR NOT NULL,"
    " target VARCHAR NOT NULL)",
    "CREATE TABLE workloads (id VARCHAR NOT NULL PRIMARY KEY, task VARCHAR NOT NULL, data {bytes} NOT NULL)",
    "CREATE INDEX workloads_by_task ON workloads (task)",
    "CREATE TABLE conditions (id VARCHAR NOT NULL PRIMARY KEY, device VARCHAR NOT NULL,"
    " versions VARCHAR NOT NULL, cache_flush BOOLEAN NOT NULL, reference DOUBLE PRECISION NOT NULL)",
    "CREATE TABLE jobs (id VARCHAR NOT NULL PRIMARY KEY, job VARCHAR NOT NULL,"
    " accepted DOUBLE PRECISION NOT NULL, tenant VARCHAR NOT NULL, model VARCHAR NOT NULL,"
    " source VARCHAR NOT NULL)",
    "CREATE TABLE trials (id VARCHAR NOT NULL PRIMARY KEY, task VARCHAR NOT NULL, job VARCHAR NOT NULL,"
    " engine VARCHAR NOT NULL, format INTEGER NOT NULL, hash VARCHAR NOT NULL, workload VARCHAR NOT NULL,"
    " schedule {bytes} NOT NULL, outcome VARCHAR NOT NULL, latency DOUBLE PRECISION,"
    " estimate DOUBLE PRECISION, latencies TEXT NOT NULL, drift DOUBLE PRECISION NOT NULL,"
    " attempts INTEGER NOT NULL, cut_short BOOLEAN NOT NULL, error TEXT NOT NULL,"
    " conditions VARCHAR NOT NULL, at DOUBLE PRECISION NOT NULL)",
    "CREATE INDEX trials_by_speed ON trials (task, estimate)",
    "CREATE INDEX trials_by_conditions ON trials (task, conditions, estimate)",
    "CREATE INDEX trials_by_job ON trials (job)",
    "CREATE INDEX trials_by_time ON trials (at)",
    "CREATE TABLE confirmations (id VARCHAR NOT NULL PRIMARY KEY, trial VARCHAR NOT NULL,"
    " task VARCHAR NOT NULL, latency DOUBLE PRECISION NOT NULL, latencies TEXT NOT NULL,"
    " conditions VARCHAR NOT NULL, at DOUBLE PRECISION NOT NULL)",
    "CREATE INDEX confirmations_by_speed ON confirmations (task, latency)",
    "CREATE INDEX confirmations_by_trial ON confirmations (trial)",
    "CREATE TABLE baselines (id VARCHAR NOT NULL PRIMARY KEY, task VARCHAR NOT NULL, job VARCHAR NOT NULL,"
    " latency DOUBLE PRECISION NOT NULL, at DOUBLE PRECISION NOT NULL)",
    "CREATE INDEX baselines_by_task ON baselines (task)",
    "CREATE TABLE results (id VARCHAR NOT NULL PRIMARY KEY, job VARCHAR NOT NULL, target VARCHAR NOT NULL,"
    " latency_before DOUBLE PRECISION NOT NULL, latency_after DOUBLE PRECISION NOT NULL,"
    " equal BOOLEAN NOT NULL, wrong TEXT NOT NULL, drift DOUBLE PRECISION NOT NULL,"
    " conditions VARCHAR NOT NULL, at DOUBLE PRECISION NOT NULL)",
    "CREATE INDEX results_by_job ON results (job)",
)
LEARNED: tuple[str, ...] = (
    "CREATE TABLE priors (id VARCHAR NOT NULL PRIMARY KEY, family VARCHAR NOT NULL, engine VARCHAR NOT NULL,"
    " data {bytes} NOT NULL, used BOOLEAN NOT NULL, trials INTEGER NOT NULL, tasks INTEGER NOT NULL,"
    " held_out INTEGER NOT NULL, correlation DOUBLE PRECISION NOT NULL, top1 DOUBLE PRECISION NOT NULL,"
    " top8 DOUBLE PRECISION NOT NULL, at DOUBLE PRECISION NOT NULL)",
    "CREATE INDEX priors_by_family ON priors (engine, family, at)",
)
HISTORY: tuple[str, ...] = (
    "ALTER TABLE jobs ADD COLUMN visibility VARCHAR NOT NULL DEFAULT 'tenant'",
    "CREATE TABLE history (id VARCHAR NOT NULL PRIMARY KEY, job VARCHAR NOT NULL,"
    " accepted DOUBLE PRECISION NOT NULL, finished DOUBLE PRECISION NOT NULL, phase VARCHAR NOT NULL,"
    " name VARCHAR NOT NULL, tenant VARCHAR NOT NULL, target VARCHAR NOT NULL, trials BIGINT NOT NULL,"
    " before DOUBLE PRECISION, after DOUBLE PRECISION, error TEXT NOT NULL, asked_by VARCHAR NOT NULL,"
    " cancelled_by VARCHAR NOT NULL, cancelled_at DOUBLE PRECISION)",
    "CREATE INDEX history_by_time ON history (finished)",
    "CREATE INDEX history_by_job ON history (job)",
    "CREATE TABLE endings (id VARCHAR NOT NULL PRIMARY KEY, event {bytes} NOT NULL)",
)
"""Who may use records, and how jobs ended."""
MEASURED: tuple[str, ...] = (
    "DROP INDEX trials_by_speed",
    "DROP INDEX trials_by_conditions",
    "ALTER TABLE trials DROP COLUMN estimate",
    "CREATE INDEX trials_by_speed ON trials (task, latency)",
    "CREATE INDEX trials_by_conditions ON trials (task, conditions, latency)",
)
"""Schedules are ranked by what was measured, and not by that without the drift of the device around it."""
STEPS: tuple[Sequence[str], ...] = (FIRST, LEARNED, HISTORY, MEASURED)

LOCK = 7_361_540_221
"""Of PostgreSQL, for as long as the schema changes: any number that others do not use."""
BYTES = {"sqlite": "BLOB", "postgresql": "BYTEA"}


def version_of(connection: Connection) -> int:
    """How many steps a database has behind it; 0 for an empty one."""
    if not inspect(connection).has_table("about"):
        return 0
    found = connection.execute(text("SELECT value FROM about WHERE name = 'version'")).scalar()
    return int(found) if found is not None else 0


def migrate(connection: Connection, steps: Sequence[Sequence[str]] = STEPS) -> None:
    """Bring a database to the newest schema, within the transaction of ``connection``, which nobody else may
    write beside. Does nothing where it has it.

    Raises:
        BadInput: it was written by a newer Tunemesh.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
    version = version_of(connection)
    if version > len(steps):
        raise BadInput(
            f"the records have schema {version}, this Tunemesh knows {len(steps)}: use a newer one for them"
        )
    if version == len(steps):
        return
    if version == 0:
        connection.execute(
            text("CREATE TABLE about (name VARCHAR NOT NULL PRIMARY KEY, value VARCHAR NOT NULL)")
        )
        about = {"id": uuid.uuid4().hex, "created": str(time.time()), "version": "0"}
        rows = [{"name": name, "value": value} for name, value in about.items()]
        connection.execute(text("INSERT INTO about (name, value) VALUES (:name, :value)"), rows)
    kind = BYTES[connection.dialect.name]
    for step in steps[version:]:
        for statement in step:
            connection.execute(text(statement.format(bytes=kind)))
    connection.execute(
        text("UPDATE about SET value = :version WHERE name = 'version'"), {"version": str(len(steps))}
    )
