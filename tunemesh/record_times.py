"""Moments as people give them to commands that ask for what was."""

from __future__ import annotations

import re
import time
from datetime import datetime

from tunemesh.shared.errors import BadInput

UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def time_of(text: str) -> float:
    """Unix time of so long ago, or of a date here.

    Raises:
        BadInput: it is neither.
    """
    if found := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return time.time() - int(found[1]) * UNITS[found[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise BadInput(f"{text!r} is no time: give 30m, 12h, 7d, 2w, or a date such as 2026-11-27") from None
