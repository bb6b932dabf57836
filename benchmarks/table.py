"""A table of runs on disk: CSV, a line per run, appended once the run is done.

A row is written and synced at once. What a killed process left half written has no line end, and is dropped
when the table is opened again.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from tunemesh.shared.errors import BadInput

Value = str | int | float | bool | None
Row = dict[str, str]


class Table:
    """The rows of one file with fixed columns.

    Raises:
        BadInput: the file has other columns: another version of Tunemesh wrote it.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = list(columns)
        self.rows: list[Row] = []
        if not path.exists() or not _drop_broken_end(path):
            self._write(columns, "w")
            return
        with path.open(newline="") as file:
            header, *lines = csv.reader(file)
        if header != self._columns:
            raise BadInput(f"{path} has other columns than this version writes; give another --out")
        self.rows = [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)]

    def append(self, values: Mapping[str, Value]) -> Row:
        """Add a row, on disk when this returns; columns without a value stay empty."""
        unknown = set(values) - set(self._columns)
        assert not unknown, f"no such columns: {sorted(unknown)}"
        row = {name: text(values.get(name)) for name in self._columns}
        self._write(row.values(), "a")
        self.rows.append(row)
        return row

    def drop(self, runs: Iterable[str]) -> None:
        """Take the rows of these runs out."""
        gone = set(runs)
        self.rows = [row for row in self.rows if row["run"] not in gone]
        write(self._path, self._columns, self.rows)

    def _write(self, cells: Iterable[str], mode: str) -> None:
        with self._path.open(mode, newline="") as file:
            file.write(_line(cells))
            file.flush()
            os.fsync(file.fileno())


def write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Value]]) -> None:
    """A whole table at once, or none."""
    lines = [_line(columns), *(_line(text(row.get(name)) for name in columns) for row in rows)]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines), newline="")
    partial.replace(path)


def read(path: Path) -> list[Row]:
    """The rows of a table; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def number(row: Mapping[str, str], column: str) -> float | None:
    """A cell as a number; ``None`` where there is none."""
    cell = row.get(column, "")
    return float(cell) if cell else None


def text(value: Value) -> str:
    """A value as a cell: one line, six significant digits."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.3f}"
    return " ".join(str(value).split())


def by_name(values: Mapping[str, float]) -> str:
    """Numbers by name as one cell."""
    return msgspec.json.encode({name: round(value, 6) for name, value in values.items()}).decode()


def numbers(row: Row, column: str) -> dict[str, float]:
    """A cell that holds numbers by name; none where it is empty."""
    return msgspec.json.decode(row.get(column) or "{}", type=dict[str, float])


def _line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _drop_broken_end(path: Path) -> bool:
    """Cut off what follows the last line end; whether anything is left."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    return whole > 0
