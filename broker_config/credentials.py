"""What makes a private node the same node again: its ports, its cookie and its passwords, kept in a file."""

from __future__ import annotations

import os
import random
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tunemesh.shared.accounts import ROLES, Role
from tunemesh.shared.errors import BadInput

PORTS = range(15_000, 32_768)
"""Below Linux's ephemeral range, so that no outgoing connection takes a port while the node is down."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Ports and secrets of one node."""

    amqp_port: int
    management_port: int
    metrics_port: int
    """Where RabbitMQ shows its metrics to Prometheus."""
    dist_port: int
    epmd_port: int
    cookie: str
    passwords: dict[Role, str]


def load_credentials(folder: Path, keep_ports: bool) -> Credentials:
    """Read ``credentials.json`` of a folder, or make it (mode 0600).

    The ports are kept if ``keep_ports`` is set or all of them are free, so that clients find the node again;
    else they are chosen anew. The secrets never change.
    """
    path = folder / "credentials.json"
    if path.exists():
        try:
            known = msgspec.json.decode(path.read_bytes(), type=Credentials)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read {path}: {error}; remove the folder to begin anew") from None
        taken = (known.amqp_port, known.management_port, known.metrics_port, known.dist_port, known.epmd_port)
        ports = {} if keep_ports or all(_is_free(port) for port in taken) else _free_ports()
        # Of roles that came later.
        lacking = {role: secrets.token_urlsafe(24) for role in ROLES if role not in known.passwords}
        if not ports and not lacking:
            return known
        credentials = msgspec.structs.replace(known, passwords=known.passwords | lacking, **ports)
    else:
        credentials = Credentials(
            cookie=secrets.token_hex(20),
            passwords={role: secrets.token_urlsafe(24) for role in ROLES},
            **_free_ports(),
        )
    write_private(path, msgspec.json.encode(credentials).decode())
    return credentials


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, at no moment half-written or open to others."""
    draft = path.with_name(path.name + ".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def free_ports(count: int) -> list[int]:
    """Different loopback ports on which nothing listens."""
    free = _free()
    return [next(free) for _ in range(count)]


def _free() -> Iterator[int]:
    candidates = random.SystemRandom().sample(PORTS, 200)
    return (port for port in candidates if _is_free(port))


def _free_ports() -> dict[str, int]:
    names = ("amqp_port", "management_port", "metrics_port", "dist_port", "epmd_port")
    return dict(zip(names, free_ports(len(names)), strict=True))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the node does: a port in TIME_WAIT after a crash counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
