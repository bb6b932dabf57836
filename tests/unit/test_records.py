"""The database of records: its schema, and that nothing in it is lost, changed or doubled. On SQLite;
PostgreSQL is in tests/integration/test_postgresql.py."""

from __future__ import annotations

import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect, text

from tests.unit.record_rows import HERE, ORIGIN, around, task, trial
from tunemesh.shared.errors import BadInput, Unavailable
from tunemesh.shared.messages import Origin
from tunemesh.stage_workers.records import gathering, migrations, rows, schema
from tunemesh.stage_workers.records.database import (
    Database,
    RecordsUnavailable,
    address_of,
    row_of,
    values_of,
)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "deep" / "records.sqlite"), wait=0.2)


def trials_in(database: Database) -> list[rows.Trial]:
    with database.reading() as connection:
        found = connection.execute(schema.TRIALS.select().order_by(schema.TRIALS.c.id)).mappings()
        return [row_of(rows.Trial, each) for each in found]


# -- Schema -----------------------------------------------------------------------------------------------


def test_the_migrations_make_what_the_tables_say(database: Database) -> None:
    with database.reading() as connection:
        found = inspect(connection)
        assert set(found.get_table_names()) == set(schema.METADATA.tables)
        for name, table in schema.METADATA.tables.items():
            columns = {each["name"]: bool(each["nullable"]) for each in found.get_columns(name)}
            assert columns == {each.name: bool(each.nullable) for each in table.columns}
            indexes = {str(each["name"]): each["column_names"] for each in found.get_indexes(name)}
            assert indexes == {
                str(each.name): [column.name for column in each.columns] for each in table.indexes
            }


NOT_EXCHANGED = {"about", "history", "endings", "priors"}


def test_every_row_has_the_columns_of_its_table() -> None:
    assert {kind.table for kind in rows.KINDS} == set(schema.METADATA.tables) - NOT_EXCHANGED
    for kind in rows.KINDS:
        assert set(kind.__struct_fields__) == {
            each.name for each in schema.METADATA.tables[kind.table].columns
        }


def test_a_database_goes_through_the_steps_that_it_lacks_and_through_each_once(database: Database) -> None:
    database.add([trial()])
    further = (*migrations.STEPS, ["ALTER TABLE jobs ADD COLUMN note VARCHAR NOT NULL DEFAULT ''"])
    for _ in range(2):
        with database.writing() as connection:
            migrations.migrate(connection, further)
            assert migrations.version_of(connection) == len(further)
    assert trials_in(database) == [trial()]


def test_what_a_newer_version_has_written_is_left_alone(database: Database) -> None:
    database.add([trial()])
    with database.writing() as connection:
        connection.execute(text("UPDATE about SET value = '99' WHERE name = 'version'"))
    assert database.file is not None
    with pytest.raises(BadInput, match=f"schema 99, this Tunemesh knows {len(migrations.STEPS)}: use"):
        Database(str(database.file)).add([trial(1)])


def test_a_database_keeps_its_name_and_each_has_its_own(database: Database, tmp_path: Path) -> None:
    assert database.file is not None
    assert database.id() == Database(str(database.file)).id()
    assert database.id() != Database(str(tmp_path / "other")).id()


def test_nobody_else_may_read_them(database: Database) -> None:
    database.add([trial()])
    assert database.file is not None
    assert stat.S_IMODE(database.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(database.file.parent.stat().st_mode) == 0o700


# -- Writing ----------------------------------------------------------------------------------------------


def test_what_is_written_is_read_as_it_was(database: Database) -> None:
    written = sorted([trial(0), trial(1, None)], key=lambda each: each.id)
    assert database.add(written) == 2
    assert trials_in(database) == written


def test_a_row_that_is_there_is_left_as_it_is(database: Database) -> None:
    database.add([trial(0, 1e-3)])
    assert database.add([trial(0, 5e-3), trial(1)]) == 1
    assert {each.hash: each.latency for each in trials_in(database)} == {"h0": 1e-3, "h1": 1e-3}


def test_the_same_schedule_for_another_job_of_the_same_name_is_another_trial(database: Database) -> None:
    again = Origin(job=ORIGIN.job, accepted=ORIGIN.accepted + 1)
    assert database.add([trial(), trial(origin=again)]) == 2


def test_a_job_is_from_where_it_was_first_written(database: Database, tmp_path: Path) -> None:
    elsewhere = Database(str(tmp_path / "other"))
    elsewhere.add([gathering.of_job(ORIGIN)])
    with elsewhere.reading() as connection:
        (job,) = connection.execute(schema.JOBS.select()).mappings()
    assert job["source"] == elsewhere.id()
    database.add([row_of(rows.Job, job), gathering.of_job(Origin(job="own", accepted=1.0))])
    with database.reading() as connection:
        sources = {
            each["job"]: each["source"] for each in connection.execute(schema.JOBS.select()).mappings()
        }
    assert sources == {"net": elsewhere.id(), "own": database.id()}


batches = st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=8)


@settings(max_examples=10, deadline=None)
@given(batches=batches)
def test_whatever_is_written_again_each_record_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]
) -> None:
    """Workers are killed before they answer, and their steps done again by others, in any order."""
    database = Database(str(tmp_path_factory.mktemp("records") / "records"))
    new = [database.add([*around(), *(trial(number) for number in batch)]) for batch in batches]
    numbers = {number for batch in batches for number in batch}
    assert {each.hash for each in trials_in(database)} == {f"h{number}" for number in numbers}
    assert sum(new) == len(numbers) + (3 if batches else 0)


def test_all_who_open_a_new_database_at_once_write_to_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        new = list(
            pool.map(lambda number: Database(str(tmp_path / "records")).add([trial(number)]), range(8))
        )
    assert new == [1] * 8
    assert len(trials_in(Database(str(tmp_path / "records")))) == 8


# -- Trouble ----------------------------------------------------------------------------------------------


def test_a_locked_database_is_unavailable_after_a_short_wait(database: Database) -> None:
    database.add([trial()])
    assert database.file is not None
    with sqlite3.connect(database.file, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(RecordsUnavailable, match="locked"):
            database.add([trial(1)])
        assert 0.1 < time.monotonic() - began < 2.0
        # Whoever only reads is not in the way of those who write.
        assert len(trials_in(database)) == 1
    assert database.add([trial(1)]) == 1


def test_a_database_that_is_gone_is_made_anew(database: Database) -> None:
    database.add([trial()])
    assert database.file is not None
    for file in database.file.parent.iterdir():
        file.unlink()
    with pytest.raises(Unavailable, match="no such table"):
        database.add([trial()])
    assert database.add([trial()]) == 1


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "records").write_bytes(b"something else" * 1000)
    with pytest.raises(RecordsUnavailable, match=r"records in sqlite:////.*not a database"):
        Database(str(tmp_path / "records")).add([trial()])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordsUnavailable, match=r"Not a directory|File exists"):
        Database(str(tmp_path / "file" / "records")).add([trial()])


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("mysql://host/records", "SQLite or in PostgreSQL, not in mysql"),
        ("sqlite://", "not in sqlite"),
        ("postgresql//:x@://", None),
        ("://", "no URL"),
    ],
)
def test_what_cannot_be_an_address_is_refused(address: str, reason: str | None) -> None:
    if reason is None:
        assert address_of(address.replace("://", "")).database
        return
    with pytest.raises(BadInput, match=reason):
        address_of(address)


def test_the_password_of_a_database_is_not_told() -> None:
    database = Database("postgresql://tuner:canary@127.0.0.1:1/records", wait=0.5)
    with pytest.raises(RecordsUnavailable) as caught:
        database.add([trial()])
    assert "canary" not in f"{database.name} {caught.value}"
    assert "tuner:***@127.0.0.1" in str(caught.value)


# -- What is written --------------------------------------------------------------------------------------


def test_conditions_are_told_apart_by_all_but_the_reference() -> None:
    from msgspec.structs import replace

    assert replace(HERE, reference=1.0).id == HERE.id
    others = [replace(HERE, device="x"), replace(HERE, versions="x"), replace(HERE, cache_flush=True)]
    assert len({HERE.id, *(each.id for each in others)}) == 4


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("fused_conv2d1_add12_relu", "fused_conv2d_add_relu"),
        ("max_pool2d", "max_pool2d"),
        ("matmul3", "matmul"),
        ("layer_norm_2", "layer_norm_2"),
    ],
)
def test_an_operator_is_the_name_without_what_only_numbers_it(name: str, operator: str) -> None:
    assert task(name).operator == operator


def test_columns_and_rows_are_the_same_thing() -> None:
    assert row_of(rows.Trial, values_of(trial())) == trial()
