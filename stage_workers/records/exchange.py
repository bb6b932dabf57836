"""Records as JSON lines: the way from one database to another, with nothing lost and nothing doubled.

The first line says what the file is. Each other line is a row (:mod:`.rows`), with the name of its kind in
``row``, and bytes in base64. A name that ends in ``.gz`` is compressed.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tunemesh.shared.errors import BadInput, unusable
from tunemesh.stage_workers.records import queries
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.questions import Filter
from tunemesh.stage_workers.records.rows import AnyRow, Job, Row, Trial, job_id, trial_id

FORMAT = 1
AT_ONCE = 2000
"""Rows of one transaction."""
LONGEST_LINE = 64 * 2**20
"""Bytes. A workload with large constants has some megabytes."""


class Head(Struct, frozen=True, kw_only=True, tag_field="row", tag="tunemesh-records"):
    """The first line of a file."""

    format: int
    source: str
    """Id of the database that it was written from."""


_rows = msgspec.json.Decoder(AnyRow)


def write(database: Database, which: Filter, path: Path, best: int = 0) -> int:
    """Write the rows that a filter is about, with all that they name.

    Args:
        best: of each task no more than so many of the fastest trials, and none that failed; 0: all.

    Returns:
        How many rows.

    Raises:
        BadInput, Unavailable: the file, or the records, cannot be used.
    """
    try:
        with _opened(path, "wb") as file, database.reading() as connection:
            file.write(msgspec.json.encode(Head(format=FORMAT, source=database.id())) + b"\n")
            count = 0
            for row in queries.everything(connection, which, best):
                file.write(msgspec.json.encode(row) + b"\n")
                count += 1
            return count
    except OSError as error:
        raise unusable(f"cannot write {path}", error) from None


def read(path: Path, database: Database) -> tuple[int, int]:
    """Add what a file holds to a database.

    Returns:
        Rows of the file, and how many of them were new.

    Raises:
        BadInput: it is no such file, or a line of it is wrong; what came before that is in the database.
        Unavailable: the records cannot be used.
    """
    try:
        with _opened(path, "rb") as file:
            return add(_lines(file, path), str(path), database)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise unusable(f"cannot read {path}", error) from None


def add(lines: Iterable[bytes], name: str, database: Database) -> tuple[int, int]:
    """Add the lines of such a file to a database.

    Args:
        name: of the file, for people.

    Returns:
        Rows of the file, and how many of them were new.

    Raises:
        BadInput: a line is wrong; what came before that is in the database.
        Unavailable: the records cannot be used.
    """
    seen = new = 0
    numbered = enumerate(lines, 1)
    _check_head(next(numbered, (1, b""))[1], name)
    while batch := list(islice(numbered, AT_ONCE)):
        seen += len(batch)
        new += database.add([_row(line, number, name, database.id()) for number, line in batch])
    return seen, new


def is_ours(path: Path) -> bool:
    """Whether a file begins as one of these does."""
    try:
        with _opened(path, "rb") as file:
            _check_head(file.readline(LONGEST_LINE), str(path))
    except (BadInput, OSError, EOFError, zlib.error):
        return False
    return True


def _check_head(line: bytes, path: str) -> None:
    try:
        head = msgspec.json.decode(line, type=Head)
    except msgspec.DecodeError:
        raise BadInput(f"{path} holds no records of Tunemesh: its first line does not say so") from None
    if head.format != FORMAT:
        raise BadInput(f"{path} has format {head.format} of records; this Tunemesh reads format {FORMAT}")


def _lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise BadInput(f"{path}, line {number}: it has more than {LONGEST_LINE:,} bytes")
        yield line


def _row(line: bytes, number: int, path: str, own: str) -> Row:
    try:
        row = cast(AnyRow, _rows.decode(line))
    except msgspec.DecodeError as error:
        raise BadInput(f"{path}, line {number}: {' '.join(str(error).split())[:200]}") from None
    match row:
        case Job():
            right = row.id == job_id(row.job, row.accepted) and row.source != ""
            # What this database does not know of itself is not of its own measuring.
            row = replace(row, source=f"{own}-lost") if row.source == own else row
        case Trial():
            right = row.id == trial_id(row.task, row.engine, row.format, row.hash, row.job)
            right &= (row.latency is not None) == (row.outcome == "measured")
            right &= row.latency is None or row.latency > 0
        case _:
            right = True
    if not right:
        raise BadInput(
            f"{path}, line {number}: a {line[:40].decode(errors='replace')}… that contradicts itself"
        )
    return row


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[IO[bytes]]:
    with gzip.open(path, mode) if path.suffix == ".gz" else path.open(mode) as file:
        yield cast(IO[bytes], file)
