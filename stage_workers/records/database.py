"""One database of records: a file of SQLite, or PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Table, create_engine, event, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from tunemesh.shared.errors import BadInput, Unavailable
from tunemesh.stage_workers.records import migrations, schema
from tunemesh.stage_workers.records.rows import KINDS, Job, Row

WAIT = 5.0
"""Seconds that a lock, or a server, may take."""
AGAIN = 0.01
"""Seconds until a lock is tried again for which SQLite does not wait."""
STATEMENT_LIMIT = 600.0
"""Seconds that PostgreSQL may take for one statement: an export of millions of rows is slow, too."""
WRITES = "tunemesh_writes"
"""The option of connections whose transactions write: SQLite then takes its lock at the beginning, where it
waits for others; later it would fail."""

R = TypeVar("R", bound=Row)


class RecordsUnavailable(Unavailable):
    """The database of records is away, locked or full."""


def address_of(text: str) -> URL:
    """The address of a database: a URL, or the path of a file.

    Raises:
        BadInput: there is no such kind of database, or what it needs is not installed.
    """
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        url = make_url(text)
    except ArgumentError:
        raise BadInput("the address of the records is no URL: sqlite:///FILE or postgresql://…") from None
    match url.get_backend_name():
        case "sqlite" if url.database:
            return url.set(drivername="sqlite")
        case "postgresql":
            if importlib.util.find_spec("psycopg") is None:
                raise BadInput("records in PostgreSQL need psycopg: pip install 'tunemesh[postgres]'")
            return url.set(drivername="postgresql+psycopg")
    raise BadInput(f"records are kept in a file of SQLite or in PostgreSQL, not in {url.get_backend_name()}")


class Database:
    """Opened when it is first used, and made then where it is not there; a context manager. One thread at a
    time.

    Args:
        address: as :func:`address_of` takes it.
        wait: seconds that a lock, or a server, may take.

    Raises:
        BadInput: the address cannot be one.
    """

    def __init__(self, address: str, wait: float = WAIT) -> None:
        url = address_of(address)
        self.name = url.render_as_string(hide_password=True)
        """Its address without the password."""
        self.file = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
        self._opened = False
        self._id = ""
        if self.file is not None:
            self._engine = create_engine(url, connect_args={"timeout": wait}, poolclass=NullPool)
            event.listen(self._engine, "connect", partial(_sqlite_settings, wait))
            event.listen(self._engine, "begin", _sqlite_begin)
            self._insert: Any = sqlite.insert
        else:
            limit = (
                f"-c statement_timeout={round(1000 * STATEMENT_LIMIT)} -c lock_timeout={round(1000 * wait)}"
            )
            arguments = {"connect_timeout": max(round(wait), 2), "options": limit}
            self._engine = create_engine(url, connect_args=arguments, pool_size=1, pool_pre_ping=True)
            self._insert = postgresql.insert

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()

    @property
    def exists(self) -> bool:
        """Whether there is anything to read: a file that is not there holds no records."""
        return self.file is None or self.file.exists()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that reads.

        Raises:
            RecordsUnavailable: the database is away, locked or damaged.
            BadInput: a newer Tunemesh has written it.
        """
        with self._errors():
            self._open()
            with self._engine.connect() as connection, connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes, as a whole or not at all.

        Raises:
            RecordsUnavailable: the database is away, locked, full or damaged.
            BadInput: a newer Tunemesh has written it.
        """
        with self._errors():
            self._open()
            with self._connection() as connection, connection.begin():
                yield connection

    def add(self, rows: Iterable[Row]) -> int:
        """Write rows in one transaction; those that are there already are left as they are.

        Returns:
            How many were new.

        Raises:
            RecordsUnavailable, BadInput: as :meth:`writing`.
        """
        by_table: dict[str, list[dict[str, Any]]] = {kind.table: [] for kind in KINDS}
        for row in rows:
            by_table[row.table].append(values_of(row))
        new = 0
        with self.writing() as connection:
            for job in by_table[Job.table]:
                job["source"] = job["source"] or self._id
            for table, values in by_table.items():
                if values:
                    new += connection.execute(self.insert(schema.METADATA.tables[table]), values).rowcount
        return new

    def insert(self, table: Table) -> Any:
        """A statement that inserts rows, and counts those that were not there before."""
        return self._insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)

    def id(self) -> str:
        """What tells this database from all others.

        Raises:
            RecordsUnavailable, BadInput: as :meth:`reading`.
        """
        with self._errors():
            self._open()
        return self._id

    def _open(self) -> None:
        if self._opened:
            return
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.file.exists():
                # Schedules and models of a person: for nobody else.
                os.close(os.open(self.file, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with self._engine.connect() as connection, connection.begin():
            ready = migrations.version_of(connection) == len(migrations.STEPS)
        if not ready:
            with self._connection() as connection, connection.begin():
                migrations.migrate(connection)
        with self._engine.connect() as connection, connection.begin():
            found = connection.execute(select(schema.ABOUT.c.value).where(schema.ABOUT.c.name == "id"))
            self._id = str(found.scalar_one())
        self._opened = True

    def _connection(self) -> Connection:
        return self._engine.connect().execution_options(**{WRITES: True})

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            self._opened = False
            raise RecordsUnavailable(f"the records in {self.name} cannot be used: {_cause(error)}") from None
        except OSError as error:
            raise RecordsUnavailable(
                f"the records in {self.name} cannot be used: {error.strerror or error}"
            ) from None


def values_of(row: Row) -> dict[str, Any]:
    """The columns of a row."""
    values = msgspec.structs.asdict(row)
    if "latencies" in values:
        values["latencies"] = msgspec.json.encode(values["latencies"]).decode()
    return values


def row_of(kind: type[R], values: Mapping[Any, Any]) -> R:
    """The row that has these columns."""
    known = {name: values[name] for name in kind.__struct_fields__}
    if "latencies" in known:
        known["latencies"] = msgspec.json.decode(known["latencies"], type=list[float])
    return kind(**known)


def _cause(error: SQLAlchemyError) -> str:
    """What went wrong, without the statement and its values."""
    origin = getattr(error, "orig", None)
    return " ".join(str(origin if origin is not None else error).split())[:300]


def _sqlite_settings(wait: float, connection: Any, _record: Any) -> None:
    # Transactions begin where SQLAlchemy says so, and not where Python's module thinks.
    connection.isolation_level = None
    _to_write_ahead(connection, wait)
    # A record that was acknowledged outlives a loss of power.
    connection.execute("PRAGMA synchronous = FULL")


def _to_write_ahead(connection: Any, wait: float) -> None:
    """Where others open a new database at the same moment, SQLite says that it is locked and does not wait
    for them, as it does in all other cases."""
    until = time.monotonic() + wait
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(AGAIN)
        else:
            return


def _sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
