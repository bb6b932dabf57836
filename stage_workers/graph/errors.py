"""Error texts of TVM, made fit for people."""

from __future__ import annotations

from tunemesh.shared.text import clip


def first_line(error: BaseException) -> str:
    """What an error says, on one line. TVM appends a native stack trace that helps nobody here."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return clip(lines[0].rstrip(".") if lines else type(error).__name__)
