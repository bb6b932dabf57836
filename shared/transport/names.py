"""What a process is called on the mesh."""

from __future__ import annotations

import os
import socket


def process_name(role: str) -> str:
    """The name of this process: ``<role>@<host>:<pid>``."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}"
