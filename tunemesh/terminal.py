"""Texts of others on a terminal: what they hold is shown, and neither obeyed nor taken for markup.

Names, targets and error texts come from whoever sent a request, from models, compilers and workers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tunemesh.shared.text import one_line, printable


def plain(text: str, style: str = "") -> Text:
    """``text`` for rich, as it is."""
    return Text(printable(text), style=style)


def table(title: str, columns: Iterable[str]) -> Table:
    """An empty table."""
    made = Table(title=plain(title) if title else None, title_justify="left")
    for name in columns:
        made.add_column(plain(name), overflow="fold")
    return made


def add_row(to: Table, *cells: str | Text) -> None:
    """A row of texts as they are."""
    to.add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in cells))


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that fits."""

    name: str
    rank: int
    """How soon it is left out where there is no place: the highest first, 0 and 1 never."""


NEEDED = 1
"""Up to this rank a column is never left out."""
LEFT_OUT = 9
"""From this rank on a column is not in a paragraph, either."""
GAP = 2
"""Characters between two columns."""


class Fitted:
    """A table that is as wide as there is place: with fewer columns in a narrow terminal, and in a very
    narrow one with a paragraph for each row. What is in the first column is never cut. Columns without any
    content are left out.

    Args:
        rows: a cell for each column.
        notes: lines below the table, such as errors.
    """

    def __init__(
        self, title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], notes: Sequence[Text] = ()
    ) -> None:
        self._title = title
        self._rows = [[one_line(cell) for cell in row] for row in rows]
        self._notes = notes
        used = [n for n in range(len(columns)) if not n or any(row[n] not in ("", "-") for row in self._rows)]
        self._columns = [columns[n] for n in used]
        self._rows = [[row[n] for n in used] for row in self._rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._fitting(options.max_width)
        yield from [plain(self._title, "italic")] if self._title else []
        yield from self._paragraphs() if shown is None else [self._table(shown)]
        yield from self._notes

    def _fitting(self, width: int) -> list[int] | None:
        """Numbers of the columns that there is place for; ``None`` where that are too few."""
        shown = list(range(len(self._columns)))
        while sum(self._width(n) + GAP for n in shown) - GAP > width:
            last = max(shown, key=lambda n: (self._columns[n].rank, n))
            if self._columns[last].rank <= NEEDED:
                return None
            shown.remove(last)
        return shown

    def _width(self, number: int) -> int:
        return max(
            cell_len(text) for text in (self._columns[number].name, *(row[number] for row in self._rows))
        )

    def _table(self, shown: Sequence[int]) -> Table:
        made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for number in shown:
            made.add_column(plain(self._columns[number].name), no_wrap=True)
        for row in self._rows:
            add_row(made, *(row[number] for number in shown))
        return made

    def _paragraphs(self) -> Iterator[RenderableType]:
        for first, *others in self._rows:
            yield plain(first, "bold")
            told = [
                f"{column.name} {text}"
                for column, text in zip(self._columns[1:], others, strict=True)
                if text not in ("", "-") and column.rank < LEFT_OUT
            ]
            yield Padding(plain(", ".join(told)), (0, 0, 0, 2))


def say(console: Console, text: str, style: str = "") -> None:
    """One line, however long."""
    console.print(plain(text, style), soft_wrap=True)


def tell(text: str) -> None:
    """Print one line for people or scripts, whatever is in ``text``."""
    print(one_line(text))


@contextmanager
def working(text: str) -> Iterator[None]:
    """Say what goes on while something takes long, on standard error: with a sign of life on a terminal, once
    where the output goes elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        say(console, text)
        yield
        return
    with console.status(plain(text)):
        yield


def for_eyes(secret: str) -> str:
    """A secret where a person looks on; where it would end up in a log or a file, that it is none of their
    business."""
    return secret if sys.stdout.isatty() else "***"


def complain(text: str, code: int) -> int:
    """One line on what went wrong. Returns ``code``."""
    print(f"error: {one_line(text)}", file=sys.stderr)
    return code


def print_json(value: Any, indent: int = 2) -> None:
    """JSON that is safe on a terminal too: what is not printable is an escape. It occurs in strings only.

    Args:
        indent: by how many spaces; 0: all on one line.
    """
    encoded = msgspec.json.encode(value)
    text = (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()
    shown = (each if each.isprintable() or each == "\n" else _escaped(each) for each in text)
    print("".join(shown), flush=True)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2]):04x}" for at in range(0, len(units), 2))
