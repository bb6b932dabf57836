"""Several private nodes that form one cluster on this machine: to try what a lost node does.

A real cluster has its nodes on different machines and is set up by whoever runs it (``docs/operations.md``);
what is done here to replace a node, :meth:`PrivateCluster.replace`, is what is done there.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tunemesh.broker_config.credentials import free_ports, write_private
from tunemesh.broker_config.definitions import definitions_json
from tunemesh.broker_config.network import Network
from tunemesh.broker_config.node import (
    LOOPBACK,
    READY_TIMEOUT,
    Membership,
    PrivateNode,
    epmd_binary,
    spawn,
)
from tunemesh.broker_config.tools import run_tool
from tunemesh.broker_config.topology import VHOST, QueueType
from tunemesh.shared.accounts import ROLES, Role
from tunemesh.shared.errors import BrokerUnavailable

TICK = 8
"""Seconds without a word after which nodes of a cluster that can be cut count each other as gone."""
SEEN = "[catch length(rpc:call(N, rabbit_nodes, all_running, [])) || N <- rabbit_nodes:all_running()]."
"""How many nodes each of those sees that a node sees."""
APART = "2 * length(rabbit_node_monitor:partitions()) >= length(rabbit_nodes:all())."
CALM = 1.0
"""Seconds between two looks whether a cluster is whole."""


class PrivateCluster:
    """``count`` nodes with one topology and one set of passwords. A context manager like a single node.

    Args:
        folder: where their data lie; by default a temporary folder, removed on exit.
        count: nodes.
        kind: type of the queues.
        cuttable: nodes can be kept from seeing each other, by :attr:`network`; they notice it after
            :data:`TICK` seconds, not after a minute.
    """

    def __init__(
        self,
        folder: Path | None = None,
        count: int = 3,
        kind: QueueType = "quorum",
        cuttable: bool = False,
    ) -> None:
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="tunemesh-cluster-")) if folder is None else folder
        self._kind = kind
        self._passwords: dict[Role, str] = {role: secrets.token_urlsafe(24) for role in ROLES}
        self._cookie = secrets.token_hex(20)
        self._epmd: subprocess.Popen[bytes] | None = None
        own = [f"tunemesh-{number}" for number in range(count)]
        self._names = tuple(f"{name}@localhost" for name in own)
        self.network = Network(own) if cuttable else None
        """What can be cut."""
        (self._epmd_port,) = free_ports(1)
        epmds = self.network.mappers if self.network is not None else [self._epmd_port] * count
        quick = f"-kernel net_ticktime {TICK}" if cuttable else ""
        self.nodes = [
            PrivateNode(
                self.folder / name,
                member=Membership(
                    f"{name}@localhost", self._names, epmd, self._cookie, self._passwords, quick
                ),
            )
            for name, epmd in zip(own, epmds, strict=True)
        ]

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
        if self.network is not None:
            self.network.start()
        else:
            command = [epmd_binary(), "-port", str(self._epmd_port), "-address", LOOPBACK]
            self._epmd = spawn(command, {"HOME": str(self.folder)}, self.folder, "epmd.out")
        for node in self.nodes:
            node.start()
        self.wait_whole(READY_TIMEOUT * len(self.nodes))
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
        self.wait_whole(2 * READY_TIMEOUT)
        self.tool(other, "rabbitmq-queues", "grow", self.name(number), "all")

    def tool(self, number: int, program: str, *arguments: str) -> str:
        """Run one of RabbitMQ's own commands against a node, and return what it says.

        Raises:
            BrokerUnavailable: it failed; with its words.
        """
        return run_tool(self.nodes[number].environment(), program, *arguments)

    def wait_whole(self, limit: float = READY_TIMEOUT) -> None:
        """Wait until all nodes that run see each other, and serve clients.

        Raises:
            BrokerUnavailable: they do not within ``limit`` seconds.
        """
        deadline = time.monotonic() + limit
        running = [node for node in self.nodes if node.pid is not None]
        for node in running:
            node.wait_ready(max(deadline - time.monotonic(), 1.0))
        self._wait_whole(len(running), deadline)

    def _wait_whole(self, count: int, deadline: float) -> None:
        running = next(number for number, node in enumerate(self.nodes) if node.pid is not None)
        wanted = f"[{','.join([str(count)] * count)}]"
        while True:
            seen = "".join(self.tool(running, "rabbitmqctl", "eval", SEEN).split())
            if seen == wanted:
                return
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"of {count} nodes each sees as many: {seen}")
            time.sleep(CALM)

    def stays_apart(self, number: int) -> bool:
        """Whether a node has gone on without most of the others, and does not come back to them by itself, as
        after it has stood still: it must be started again."""
        return (
            self.nodes[number].pid is not None and self.tool(number, "rabbitmqctl", "eval", APART) == "true\n"
        )

    def close(self) -> None:
        """Stop all nodes, and remove a temporary folder."""
        for node in self.nodes:
            node.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        if self.network is not None:
            self.network.close()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)
