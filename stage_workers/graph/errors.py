"""Errors of TVM, made fit for people and for the sandbox."""

from __future__ import annotations

from tunemesh.shared.text import clip


def first_line(error: BaseException) -> str:
    """What an error says, on one line. TVM appends a native stack trace that helps nobody here."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return clip(lines[0].rstrip(".") if lines else type(error).__name__)


def reraise_memory_error(error: BaseException) -> None:
    """Raise ``MemoryError`` where ``error`` says that there was no memory left, in Python or in C++. A
    handler that takes whatever it meets for the fault of a candidate or of a model calls this first: only the
    sandbox can help, by a fresh process."""
    if isinstance(error, MemoryError) or "std::bad_alloc" in str(error):
        raise MemoryError from error
