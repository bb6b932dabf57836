"""Texts for people: cut to a length, on one line, without what a terminal would take for a command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ERROR_TEXT_LIMIT = 2000
"""Characters of an error text that are kept; the middle of a longer one is cut out."""


def clip(text: str, limit: int = ERROR_TEXT_LIMIT) -> str:
    """``text`` cut to ``limit`` characters; what is lost is its middle."""
    if len(text) <= limit:
        return text
    half = limit // 2 - 5
    return f"{text[:half]} [...] {text[-half:]}"


def printable(text: str) -> str:
    """``text`` with ``?`` in place of control characters, but for line ends and tabs: it may come from
    anybody, and goes to a terminal."""
    return "".join(each if each.isprintable() or each in "\n\t" else "?" for each in text)


def one_line(text: str) -> str:
    """``text`` on one line, printable."""
    return printable(" ".join(text.split()))


def nearest(given: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` where a name that is known is near to what was given; else nothing."""
    found = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""
