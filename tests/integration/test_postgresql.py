"""Records in PostgreSQL, for real: what differs from SQLite, or may."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from tests import postgresql
from tests.unit.past import ended
from tests.unit.record_rows import around, trial
from tunemesh.shared.messages import AskHistory
from tunemesh.stage_workers.records import history, rows, schema
from tunemesh.stage_workers.records.database import Database, RecordsUnavailable, row_of


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a database without any tables."""
    if reason := postgresql.missing():
        if os.environ.get("CI"):
            pytest.fail(f"CI {reason}")
        pytest.skip(reason)
    # Not pytest's own folder: whoever runs the server must get there.
    with tempfile.TemporaryDirectory(prefix="tunemesh-pg-") as folder:
        Path(folder).chmod(0o755)
        with postgresql.running(Path(folder) / "server") as address:
            yield address


@pytest.fixture
def address(server: str) -> Iterator[str]:
    yield server
    with Database(server) as database, database.writing() as connection:
        for table in schema.METADATA.tables.values():
            connection.execute(text(f"DROP TABLE IF EXISTS {table.name}"))


def test_the_migrations_make_what_the_tables_say(address: str) -> None:
    with Database(address) as database, database.reading() as connection:
        found = inspect(connection)
        assert set(found.get_table_names()) == set(schema.METADATA.tables)
        for name, table in schema.METADATA.tables.items():
            columns = {each["name"]: bool(each["nullable"]) for each in found.get_columns(name)}
            assert columns == {each.name: bool(each.nullable) for each in table.columns}
            indexes = {str(each["name"]) for each in found.get_indexes(name)}
            assert indexes == {str(each.name) for each in table.indexes}


def test_what_is_written_is_read_as_it_was_and_is_there_once(address: str) -> None:
    written = sorted([trial(0), trial(1, None), trial(2, 5e-324)], key=lambda each: each.id)
    with Database(address) as database:
        assert database.add([*around(), *written]) == 6
        assert database.add([*around(), *written, trial(3)]) == 1
        assert database.add([trial(0, 9.0)]) == 0
        with database.reading() as connection:
            found = connection.execute(schema.TRIALS.select().order_by(schema.TRIALS.c.id)).mappings().all()
    assert [row_of(rows.Trial, each) for each in found if each["hash"] != "h3"] == written


def test_how_jobs_ended_is_kept_and_forgotten(address: str) -> None:
    with Database(address) as database:
        for name, at in (("old", 1000.0), ("new", 2000.0)):
            assert history.keep(database, ended(name, at=at, error="a\0b"))
            assert not history.keep(database, ended(name, at=at))
        with database.writing() as connection:
            history.note_sweep(connection, "store", 5.0)
            assert history.last_sweep(connection, "store") == 5.0
            assert [each.job for each in history.endings(connection, 1500.0)] == ["new"]
            assert history.endings_before(connection, 1500.0) == 1
            assert history.forget_endings(connection, 1500.0) == 1
        with database.reading() as connection:
            found = history.answered(connection, AskHistory(answer="0" * 32, phases=["done"]))
            assert {each.job: each.results for each in found.jobs} == {"new": True, "old": False}
            one = history.answered(connection, AskHistory(answer="0" * 32, job="new"))
            assert one.ended == ended("new", at=2000.0, error="a\0b")


def test_all_who_open_a_new_database_at_once_write_to_the_same(address: str) -> None:
    def write(number: int) -> int:
        with Database(address) as database:
            return database.add([*around(), trial(number)])

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(write, range(6))) == 6 + 3


def test_a_lock_is_waited_for_a_short_time(address: str) -> None:
    with Database(address) as one, Database(address, wait=0.3) as other:
        one.add([trial(0)])
        with one.writing() as connection:
            connection.execute(text("LOCK TABLE trials IN ACCESS EXCLUSIVE MODE"))
            began = time.monotonic()
            with pytest.raises(RecordsUnavailable, match="timeout"):
                other.add([trial(1)])
            assert time.monotonic() - began < 3.0
        assert other.add([trial(1)]) == 1
