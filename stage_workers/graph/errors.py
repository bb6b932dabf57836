"""Errors of TVM, made fit for people and for the sandbox."""

from __future__ import annotations

from tunemesh.shared.text import clip

NO_MEMORY = ("std::bad_alloc", "Arena alloc failed", "Failed to serialize proto")
"""What TVM and ONNX Runtime say when there is no memory left, and protobuf when it reads and writes."""


def first_line(error: BaseException) -> str:
    """What an error says, on one line. TVM appends a native stack trace that helps nobody here."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return clip(lines[0].rstrip(".") if lines else type(error).__name__)


def is_memory_error(error: BaseException) -> bool:
    """Whether ``error`` says that there was no memory left, in Python or in C++."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in NO_MEMORY)


def reraise_memory_error(error: BaseException) -> None:
    """Raise ``MemoryError`` where ``error`` says that there was no memory left. A handler that takes whatever
    it meets for the fault of a candidate or of a model calls this first: only the sandbox can help, by a
    fresh process."""
    if is_memory_error(error):
        raise MemoryError from error
