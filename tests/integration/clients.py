"""The clients of `examples`, as commands; ``None`` where this machine lacks what one needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

CLIENTS = Path(__file__).parents[2] / "examples" / "clients"
_JARS = [
    Path("/usr/share/java") / f"{name}.jar"
    for name in ("amqp-client", "msgpack-core", "slf4j-api", "slf4j-nop")
]
"""As Debian installs them."""


def python() -> list[str]:
    """That in Python has the same features, without any code of Tunemesh."""
    return [sys.executable, str(CLIENTS.parent / "publish_request.py")]


def javascript() -> list[str] | None:
    """Needs Node.js, and ``npm ci`` in its folder."""
    if shutil.which("node") is None or not (CLIENTS / "node" / "node_modules").exists():
        return None
    return ["node", str(CLIENTS / "node" / "publish-request.mjs")]


def java(classes: Path) -> list[str] | None:
    """Needs a JDK and Debian's librabbitmq-client-java and libmsgpack-java; compiled into ``classes``."""
    if shutil.which("javac") is None or not all(jar.exists() for jar in _JARS):
        return None
    path = ":".join(map(str, (*_JARS, classes)))
    sources = sorted((CLIENTS / "java").glob("*.java"))
    subprocess.run(["javac", "-Werror", "-cp", path, "-d", classes, *sources], check=True)
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", path, "PublishRequest"]
