"""Error texts of TVM, made fit for people."""

from __future__ import annotations

from shared.messages import ERROR_TEXT_LIMIT


def shorten(text: str) -> str:
    """Cut the middle out of a text longer than :data:`~shared.messages.ERROR_TEXT_LIMIT` characters."""
    if len(text) <= ERROR_TEXT_LIMIT:
        return text
    mark = " [...] "
    half = (ERROR_TEXT_LIMIT - len(mark)) // 2
    return text[:half] + mark + text[-half:]


def first_line(error: BaseException) -> str:
    """What an error says, on one line. TVM appends a native stack trace that helps nobody here."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shorten(lines[0].rstrip(".") if lines else type(error).__name__)
