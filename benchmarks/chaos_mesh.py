"""A mesh of mock workers that is started again, whatever is done to it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil

from benchmarks import chaos_records
from benchmarks.chaos_machine import Machines
from tunemesh.broker_config.cluster import PrivateCluster
from tunemesh.broker_config.node import LOOPBACK, PrivateNode
from tunemesh.broker_config.relays import Loop, Relay
from tunemesh.children import Child, Children
from tunemesh.client import Client
from tunemesh.shared.accounts import Role
from tunemesh.shared.errors import TunemeshError

LIMIT = 1800.0
"""Seconds after which what has not ended counts as hung."""
FORGETFUL = "benchmarks.soak_coordinator"
CLIENT = "client"
"""What clients are called, among the processes."""


class Mesh:
    """The processes, started again whenever they end; the broker not while it is held away.

    Args:
        records: address of the database; by default one of SQLite in ``folder``.
        nodes: of the broker.
        troubled: connections can be cut, and machines have troubles.
        kept: jobs that have ended and that the coordinator remembers, other than by default.
    """

    def __init__(
        self,
        folder: Path,
        records: str = "",
        nodes: int = 1,
        troubled: bool = False,
        kept: int | None = None,
    ) -> None:
        self.cluster = PrivateCluster(folder / "cluster", nodes, cuttable=troubled) if nodes > 1 else None
        self.node = PrivateNode(folder / "node") if self.cluster is None else None
        self.nodes = [self.node] if self.node is not None else self.cluster.nodes  # type: ignore[union-attr]
        self.artifacts = str(folder / "artifacts")
        self.children = Children()
        self.away_until = 0.0
        self.database = None if records else chaos_records.SQLite(folder, self.workers)
        self.records = records or getattr(self.database, "address", "")
        (self.cluster or self.node).start()  # type: ignore[union-attr]
        self.machines = Machines(folder, Path(self.artifacts)) if troubled else None
        self._loop = Loop("connections") if troubled else None
        if self._loop is not None:
            self._loop.start()
        self.connections: dict[str, list[Relay]] = {}
        """To each node of the broker, by process."""
        core = min(os.sched_getaffinity(0))
        for name, role, arguments in (
            ("coordinator", "coordinator", ["coordinator"]),
            ("standby", "coordinator", ["coordinator"]),
            ("build-0", "worker", ["worker", "build-cpu", "--engine", "mock"]),
            ("build-1", "worker", ["worker", "build-cpu", "--engine", "mock"]),
            ("update-0", "worker", ["worker", "model-update", "--engine", "mock"]),
            (
                "profile-0",
                "worker",
                [
                    *("worker", f"profile-cpu-{core}", "--engine", "mock"),
                    *("--device", f"cpu:{core}", "--target", "mock"),
                ],
            ),
        ):
            environment = {
                "TUNEMESH_BROKER_URL": self.url(role, name),  # type: ignore[arg-type]
                "TUNEMESH_ARTIFACTS": self.artifacts,
            }
            if self.machines is not None:
                environment |= self.machines.environment(name)
            if role == "worker":
                environment["TUNEMESH_RECORDS"] = self.records
            child = Child(name, arguments, environment, log=folder / f"{name}.log")
            if role == "coordinator" and kept is not None:
                child.module, child.arguments = FORGETFUL, [str(kept), *arguments]
                environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
            self.children.start(child)

    def url(self, role: Role, name: str) -> str:
        """The address of the broker, with all its nodes, for a process of this name."""
        broker = self.cluster or self.node
        assert broker is not None
        url = broker.url(role)
        if self._loop is None:
            return url
        if name not in self.connections:
            self.connections[name] = [self._loop.relay(partial(_port_of, node)) for node in self.nodes]
        user, _, rest = url.rpartition("@")
        hosts = ",".join(f"{LOOPBACK}:{relay.port}" for relay in self.connections[name])
        return f"{user}@{hosts}/{rest.partition('/')[2]}"

    def workers(self) -> list[int]:
        """Process ids of those who write records."""
        return [pid for name, pid in self.children.pids.items() if name not in ("coordinator", "standby")]

    def supervise(self) -> None:
        """Start again what has ended."""
        if self.node is not None and self.node.pid is None and time.monotonic() >= self.away_until:
            self.node.start()
        self.children.supervise()

    def victims(self) -> dict[str, int]:
        """Process ids by name: everything but the supervisor."""
        found = dict(self.children.pids)
        for name, pid in list(found.items()):
            try:
                below = psutil.Process(pid).children(recursive=True)
            except psutil.Error:
                continue
            found |= {f"{name}/{number}": each.pid for number, each in enumerate(below)}
        if self.node is not None and self.node.pid is not None:
            found["broker"] = self.node.pid
        return found

    def stop(self) -> None:
        self.children.stop()
        if self.cluster is not None:
            self.cluster.close()
        if self.node is not None:
            self.node.kill()
        if self._loop is not None:
            self._loop.close()


def _port_of(node: PrivateNode) -> int | None:
    return node.credentials.amqp_port if node.pid is not None else None


def patiently(what: str, publish: Callable[[], None]) -> None:
    """Publish, again and again while the broker is away.

    Raises:
        TunemeshError: it does not come back.
    """
    for _ in range(200):
        try:
            return publish()
        except TunemeshError:
            time.sleep(0.5)
    raise TunemeshError(f"{what} could not be published")


@contextlib.contextmanager
def connected(mesh: Mesh, jobs: list[str], role: Role = "operator") -> Iterator[Client]:
    """A client that follows ``jobs``, once there is a broker.

    Raises:
        TunemeshError: there is none within :data:`LIMIT`.
    """
    deadline = time.monotonic() + LIMIT
    while True:
        client = Client(mesh.url(role, CLIENT), jobs)
        try:
            client.__enter__()
            break
        except TunemeshError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    try:
        yield client
    finally:
        client.__exit__(None, None, None)
