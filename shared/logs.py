"""How a process logs: set up in one place, the same for all processes of a mesh.

A line is text for people, or one JSON object. What a line is about is passed as ``extra``: ``job``, ``step``,
``worker``. In JSON these are fields of their own.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from tunemesh.shared.errors import BadInput
from tunemesh.shared.text import printable

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
LEVEL_VARIABLE = "TUNEMESH_LOG_LEVEL"
FORMAT_VARIABLE = "TUNEMESH_LOG_FORMAT"
"""Environment variables with the same meaning as the options, which processes of a mesh inherit."""

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_chosen: dict[str, str] = {}


def setup(
    level: str | None = None, form: str | None = None, process: str | None = None, default: str = "info"
) -> None:
    """Log to standard error from now on. May be called again.

    Args:
        level: one of :data:`LEVELS`; by default that of the environment, else ``default``.
        form: one of :data:`FORMATS`; by default that of the environment, else ``text``.
        process: what this process is called in JSON lines.
        default: the level where nobody has chosen one.

    Raises:
        BadInput: there is no such level or format.
    """
    chosen = {
        LEVEL_VARIABLE: level or os.environ.get(LEVEL_VARIABLE) or "",
        FORMAT_VARIABLE: form or os.environ.get(FORMAT_VARIABLE) or "",
    }
    level, form = chosen[LEVEL_VARIABLE] or default, chosen[FORMAT_VARIABLE] or "text"
    if level.lower() not in LEVELS:
        raise BadInput(f"there is no log level {level!r}; known: {', '.join(LEVELS)}")
    if form.lower() not in FORMATS:
        raise BadInput(f"there is no log format {form!r}; known: {', '.join(FORMATS)}")
    _chosen.clear()
    _chosen.update({name: value for name, value in chosen.items() if value})
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonLines(process) if form.lower() == "json" else Text())
    root = logging.getLogger()
    for each in [other for other in root.handlers if isinstance(other, _Handler)]:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # pika logs every step of every attempt to connect, as errors; the link says what matters.
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def for_children() -> Mapping[str, str]:
    """The environment that makes child processes log as somebody has chosen for this one."""
    return dict(_chosen)


class _Handler(logging.StreamHandler[TextIO]):
    """The one that :func:`setup` has added."""


class Text(logging.Formatter):
    """``2026-01-31 12:00:00,000 WARNING tunemesh.stage_workers.loop: …``, free of what a terminal obeys."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class JsonLines(logging.Formatter):
    """One JSON object per line."""

    def __init__(self, process: str | None) -> None:
        super().__init__()
        self._process = process or os.path.basename(sys.argv[0] or "python")

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": self._process,
            "pid": record.process,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        return msgspec.json.encode(line, enc_hook=str).decode()
