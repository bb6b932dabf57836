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
from tests.unit.record_rows import ELSEWHERE, HERE, ORIGIN, around, confirmation, trial
from tunemesh.shared.messages import AskHistory, Origin
from tunemesh.stage_workers.records import exchange, history, memory, queries, rows, schema
from tunemesh.stage_workers.records.database import Database, RecordsUnavailable, row_of
from tunemesh.stage_workers.records.memory import Remembering
from tunemesh.stage_workers.records.questions import ALL, Filter, Prior

pytestmark = pytest.mark.waiting


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


def test_two_meshes_exchange_what_they_have_and_lose_and_double_nothing(address: str, tmp_path: Path) -> None:
    """One has its records in PostgreSQL, the other in a file."""
    theirs = Origin(job="their-net", accepted=50.0, model="other.onnx", tenant="gold")
    with Database(address) as here, Database(str(tmp_path / "records.sqlite")) as there:
        here.add(
            [*around(), *(trial(number, latency) for number, latency in ((0, 1e-3), (1, None), (2, 2e-9)))]
        )
        here.add([confirmation(trial(0), 0.9e-3)])
        there.add(
            [*around(theirs, ELSEWHERE), *(trial(n, origin=theirs, conditions=ELSEWHERE) for n in range(3))]
        )
        # An earlier exchange has brought some of it.
        exchange.write(here, Filter(model="net.onnx"), tmp_path / "before")
        exchange.read(tmp_path / "before", there)
        here.add([trial(3)])
        files = tmp_path / "from-here.gz", tmp_path / "from-there.gz"
        for turn in range(2):
            for database, file in zip((here, there), files, strict=True):
                exchange.write(database, ALL, file)
            new = [
                exchange.read(file, database)[1] for database, file in zip((there, here), files, strict=True)
            ]
            # A task, a job, conditions and three trials; of ours only the newest was missing.
            assert new == ([1, 5] if turn == 0 else [0, 0])
        assert everything(here) == everything(there)
        assert sum(isinstance(row, rows.Trial) for row in everything(here)) == 7
        # Each still knows what it has measured itself.
        for database, job in ((here, "net"), (there, "their-net")):
            jobs = [row for row in everything(database) if isinstance(row, rows.Job)]
            assert [row.job for row in jobs if row.source == database.id()] == [job]


def everything(database: Database) -> list[rows.Row]:
    with database.reading() as connection:
        return sorted(queries.everything(connection, ALL), key=repr)


def test_what_a_search_begins_with_is_the_same_as_in_sqlite(address: str, tmp_path: Path) -> None:
    prior = Prior(
        id="p", family="mock", engine="mock", data=b"\0prior", used=True, trials=1, tasks=1, held_out=1,
        correlation=0.5, top1=0.9, top8=1.0, at=1.0,
    )  # fmt: skip
    told = []
    for where in (address, str(tmp_path / "records.sqlite")):
        database = Remembering(where)
        with database:
            workload = rows.Workload(id="w" * 32, task="a" * 64, data=b"workload")
            database.add(
                [*around(ORIGIN, HERE, ELSEWHERE), workload, trial(0), trial(1, None), trial(2, 2e-3)]
            )
            theirs = Origin(job="their-net", accepted=50.0, model="net.onnx")
            database.add([*around(theirs), trial(3, 1e-4, origin=theirs, conditions=ELSEWHERE)])
            with database.writing() as connection:
                memory.keep(connection, prior)
                memory.keep(connection, prior)
                families = memory.families(connection, "mock")
                new = memory.new_since(connection, "mock", ["mock"], 0.0)
                lessons = list(memory.to_learn_from(connection, "mock", ["mock"], ["other.onnx"]))
            assert database.prior("mock", "mock") == prior
            found = database.memory("a" * 64, HERE.id, Filter(engine="mock", source=database.id()))
            hashes = [[each.trial.hash for each in group.found] for group in (*found.here, *found.elsewhere)]
            told.append((families, new, len(lessons), sorted(found.seen), hashes))
    assert told[0] == told[1]
    assert told[0][4] == [["h0", "h2"], ["h3"]]
