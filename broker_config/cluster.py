"""Several private nodes that form one cluster on this machine: to try what a lost node does.

A real cluster has its nodes on different machines and is set up by whoever runs it (``docs/operations.md``);
what is done here to replace a node, :meth:`PrivateCluster.replace`, is what is done there.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

from tunemesh.broker_config.credentials import free_port, write_private
from tunemesh.broker_config.definitions import definitions_json
from tunemesh.broker_config.node import (
    LOOPBACK,
    READY_TIMEOUT,
    Membership,
    PrivateNode,
    command_line_tool,
    epmd_binary,
    spawn,
)
from tunemesh.broker_config.topology import VHOST, QueueType
from tunemesh.shared.accounts import ROLES, Role
from tunemesh.shared.errors import BrokerUnavailable

TOOL_LIMIT = 60.0
"""Seconds that one call of RabbitMQ's command line may take; 2 are usual."""
CALM = 1.0
"""Seconds between two looks whether a cluster is whole."""


class PrivateCluster:
    """``count`` nodes with one topology and one set of passwords. A context manager like a single node.

    Args:
        folder: where their data lie; by default a temporary folder, removed on exit.
        count: nodes.
        kind: type of the queues.
    """

    def __init__(self, folder: Path | None = None, count: int = 3, kind: QueueType = "quorum") -> None:
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="tunemesh-cluster-")) if folder is None else folder
        self._kind = kind
        self._passwords: dict[Role, str] = {role: secrets.token_urlsafe(24) for role in ROLES}
        self._epmd_port = free_port()
        self._cookie = secrets.token_hex(20)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._tools = threading.Lock()
        names = tuple(f"tunemesh-{number}@localhost" for number in range(count))
        self.nodes = [
            PrivateNode(
                self.folder / name.partition("@")[0],
                member=Membership(name, names, self._epmd_port, self._cookie, self._passwords),
            )
            for name in names
        ]
        self._names = names

    def __enter__(self) -> PrivateCluster:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start all nodes, and when all are there, import the topology.

        Raises:
            BadInput: RabbitMQ is not installed.
            BrokerUnavailable: they do not come up.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [epmd_binary(), "-port", str(self._epmd_port), "-address", LOOPBACK]
        self._epmd = spawn(command, {"HOME": str(self.folder)}, self.folder, "epmd.out")
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_ready(READY_TIMEOUT * len(self.nodes))
        self._wait_whole(len(self.nodes))
        definitions = self.folder / "definitions.json"
        write_private(definitions, definitions_json(self._passwords, kind=self._kind))
        self.tool(0, "rabbitmqctl", "import_definitions", str(definitions))

    def url(self, role: Role) -> str:
        """The address for a role, with all nodes."""
        hosts = ",".join(f"{LOOPBACK}:{node.credentials.amqp_port}" for node in self.nodes)
        return f"amqp://{role}:{self._passwords[role]}@{hosts}/{VHOST}"

    def name(self, number: int) -> str:
        """What RabbitMQ calls a node."""
        return self._names[number]

    def lose(self, number: int) -> None:
        """A node and its disk are gone from one moment to the next."""
        self.nodes[number].kill()
        shutil.rmtree(self.nodes[number].folder / "data", ignore_errors=True)

    def replace(self, number: int) -> None:
        """Put an empty node in the place of a lost one: the others forget that, the new one joins them, and
        gets a copy of every queue.

        Raises:
            BrokerUnavailable: one of these steps failed.
        """
        other = next(n for n, node in enumerate(self.nodes) if n != number and node.pid is not None)
        self.tool(other, "rabbitmqctl", "forget_cluster_node", self.name(number))
        self.nodes[number].start()
        self.nodes[number].wait_ready(2 * READY_TIMEOUT)
        self._wait_whole(sum(node.pid is not None for node in self.nodes))
        self.tool(other, "rabbitmq-queues", "grow", self.name(number), "all")

    def tool(self, number: int, program: str, *arguments: str) -> str:
        """Run one of RabbitMQ's own commands against a node, and return what it says.

        Raises:
            BrokerUnavailable: it failed; with its words.
        """
        with self._tools:
            try:
                done = subprocess.run(
                    [command_line_tool(program), "-n", self.name(number), "-q", *arguments],
                    env=self.nodes[number].environment(),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=TOOL_LIMIT,
                )
            except subprocess.TimeoutExpired:
                raise BrokerUnavailable(f"{program} {arguments[0]} took over {TOOL_LIMIT:.0f} s") from None
        if done.returncode:
            words = " ".join((done.stderr or done.stdout).split())[-500:]
            raise BrokerUnavailable(f"{program} {' '.join(arguments)}: {words}")
        return done.stdout

    def _wait_whole(self, count: int) -> None:
        """Wait until ``count`` nodes see each other."""
        deadline = time.monotonic() + READY_TIMEOUT
        running = next(number for number, node in enumerate(self.nodes) if node.pid is not None)
        expression = "length(rabbit_nodes:all_running())."
        while True:
            seen = self.tool(running, "rabbitmqctl", "eval", expression).strip()
            if seen == str(count):
                return
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"of {count} nodes, {seen} see each other")
            time.sleep(CALM)

    def close(self) -> None:
        """Stop all nodes, and remove a temporary folder."""
        for node in self.nodes:
            node.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)
