"""Texts of others on a terminal: what they hold is shown, and neither obeyed nor taken for markup.

Names, targets and error texts come from whoever sent a request, from models, compilers and workers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunemesh.shared.text import printable


def plain(text: str, style: str = "") -> Text:
    """``text`` for rich, as it is."""
    return Text(printable(text), style=style)


def table(title: str, columns: Iterable[str], *, expand: bool = False) -> Table:
    """An empty table."""
    made = Table(title=plain(title) if title else None, title_justify="left", expand=expand)
    for name in columns:
        made.add_column(plain(name), overflow="fold")
    return made


def add_row(to: Table, *cells: str | Text) -> None:
    """A row of texts as they are."""
    to.add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in cells))


def say(console: Console, text: str, style: str = "") -> None:
    """One line, however long."""
    console.print(plain(text, style), soft_wrap=True)


def one_line(text: str) -> str:
    """``text`` on one printable line."""
    return " ".join(printable(text).split())


def tell(text: str) -> None:
    """Print one line for people or scripts, whatever is in ``text``."""
    print(one_line(text))


def complain(text: str, code: int) -> int:
    """One line on what went wrong. Returns ``code``."""
    print(f"error: {one_line(text)}", file=sys.stderr)
    return code


def print_json(value: Any) -> None:
    """JSON that is safe on a terminal too: what is not printable is an escape. It occurs in strings only."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    print("".join(each if each.isprintable() or each == "\n" else _escaped(each) for each in text))


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2]):04x}" for at in range(0, len(units), 2))
