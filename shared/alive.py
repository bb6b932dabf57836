"""A file that is touched while a process goes on, for what watches processes from outside.

Docker and Kubernetes ask by a command whether a container is healthy. Starting Python for that every few
seconds would disturb what is measured; looking at the age of a file does not.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

ALIVE = "TUNEMESH_ALIVE"
"""The variable that names the file. Without it there is none."""
EVERY = 5.0
"""Seconds between two touches, at least."""


class Alive:
    """Touches the file that the environment names, if it names one."""

    def __init__(self) -> None:
        named = os.environ.get(ALIVE)
        self._path = Path(named) if named else None
        self._next = 0.0

    def beat(self) -> None:
        """Say that this process goes on. A file that cannot be written is said once, and given up."""
        now = time.monotonic()
        if self._path is None or now < self._next:
            return
        self._next = now + EVERY
        try:
            self._path.touch()
        except OSError as error:
            log.warning("cannot touch %s, which %s names: %s", self._path, ALIVE, error.strerror)
            self._path = None
