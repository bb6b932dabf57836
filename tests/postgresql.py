"""A PostgreSQL of the tests' own: an ordinary process in a folder of its own, reached by a socket."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
"""Debian's, newest first; none of them is in the path."""
START_LIMIT = 30.0
USER = "nobody"
"""Who runs it where the tests run as root, whom it refuses."""


def missing() -> str:
    """Why it cannot be started here; empty where it can."""
    return "" if _binary("initdb") and _binary("postgres") else "needs Debian's package postgresql"


def _binary(name: str) -> str | None:
    found = next((str(folder / name) for folder in BINARIES if (folder / name).exists()), None)
    return found or shutil.which(name)


def _as_user(command: list[str]) -> list[str]:
    if os.getuid() != 0:
        return command
    return ["setpriv", f"--reuid={USER}", f"--regid={pwd.getpwnam(USER).pw_gid}", "--clear-groups", *command]


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """The URL of its database ``postgres``, while it runs."""
    folder.mkdir()
    if os.getuid() == 0:
        owner = pwd.getpwnam(USER)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    data = folder / "data"
    initdb, postgres = _binary("initdb"), _binary("postgres")
    assert initdb is not None
    assert postgres is not None
    made = subprocess.run(
        _as_user([initdb, "-D", str(data), "-U", "tuner", "-A", "trust", "-E", "UTF8", "--no-sync"]),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
    )
    assert made.returncode == 0, made.stderr
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            _as_user([postgres, "-D", str(data), "-k", str(folder), "-c", "listen_addresses="]),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=folder,
        )
    try:
        deadline = time.monotonic() + START_LIMIT
        while "ready to accept connections" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield f"postgresql://tuner@/postgres?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
