"""A whole mesh on this machine: private node, coordinator and workers as child processes, kept alive."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tunemesh import checks, mesh_address
from tunemesh.broker_config import topology
from tunemesh.broker_config.node import PrivateNode
from tunemesh.children import Child, Children, worker_arguments
from tunemesh.coordinator.scheduling.strategies import by_name
from tunemesh.layout import MEMORY, Layout, fitting
from tunemesh.shared.accounts import Role
from tunemesh.shared.errors import BrokerUnavailable, Unavailable
from tunemesh.shared.retry import Retry
from tunemesh.stage_workers.devices.devices import owner_of, parse_device
from tunemesh.stage_workers.engines import served_by_default
from tunemesh.topology_watch import TopologyWatch

log = logging.getLogger(__name__)

NODE_LIMIT = 90.0
"""Seconds that the private node may take to start."""

NODE_DEATHS, WITHIN = 5, 120.0
"""Times that the private node may end by itself in so many seconds: one that does cannot come back. That
somebody kills it does not count."""


NODE_STEADY = 20.0
"""Seconds after which a node that was started again has done well."""

NODE_RESTARTS = (0.2, 1.0, 5.0)
"""Seconds between two starts of the private node; the last one repeats."""


class LocalMesh:
    """Use as a context manager, and call :meth:`supervise` at least every second.

    Args:
        layout: who runs where.
        target: what the device is to be tuned for, as the person gave it.
        engines: those that the workers serve; none: those that come with Tunemesh, as far as this machine has
            what they need.
        strategy: of the coordinator; on a single core ``sequential`` whatever it says.
        folder: keeps data and logs; a temporary one is removed at the end.
        journal: file for what the coordinator is told and answers; none by default.
        records: the database that workers write down in what they measure; none by default.
        prices: of queues, per hour; none by default.
        retention: days for which the results of jobs are kept; by default for ever.
        reserved: share of the devices of each target that is kept for jobs of class gold.
        learn_after: new trials after which workers learn from the records; 0: only when somebody asks.
        metrics: where the coordinator shows its metrics; by default nowhere.
        imports: folder in which workers keep what came of models that they have imported; none by default.

    Raises:
        BadInput: there is no such strategy.
    """

    def __init__(
        self,
        layout: Layout,
        target: str,
        engines: Sequence[str] = (),
        strategy: str = "interleaved",
        folder: Path | None = None,
        journal: Path | None = None,
        memory: float = MEMORY,
        records: str = "",
        prices: Mapping[str, float] | None = None,
        retention: float | None = None,
        reserved: float = 0.0,
        learn_after: int = 0,
        metrics: str | None = None,
        imports: str = "",
    ) -> None:
        self._layout = layout
        self._target = target
        self._engines = tuple(engines) or served_by_default()
        by_name(strategy)
        self._strategy = fitting(layout, strategy)
        self._prices = prices or {}
        self._reserved = reserved
        self._learn_after = learn_after
        self._metrics = metrics
        self._temporary = folder is None
        self._journal = journal
        self._memory = memory
        self._records = records
        self._imports = imports
        self._retention = retention
        self.folder = Path(tempfile.mkdtemp(prefix="tunemesh-")) if folder is None else folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "logs").mkdir(exist_ok=True)
        self.node = PrivateNode(self.folder / "node", cpus=layout.other_cpus)
        self._deaths: list[float] = []
        self._node_retry = Retry(log, NODE_RESTARTS)
        self._node_due = 0.0
        self._watch: TopologyWatch | None = None
        self._children = Children()

    def __enter__(self) -> LocalMesh:
        try:
            checks.check_workers()
            self._check_device()
            # Children connect as soon as the broker listens; their own start takes as long as its. Until
            # then nothing is measured.
            self.node.start(also=self._layout.device_cpus)
            self._start_children()
            self._wait_for_node()
            self._watch = TopologyWatch(self.node.url("admin"))
            self._watch.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def url(self) -> str:
        """The broker, for clients."""
        return self.node.url("operator")

    @property
    def artifacts(self) -> str:
        """The artifact store that all parts share."""
        return str(self.folder / "artifacts")

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the running children by name."""
        return self._children.pids

    def supervise(self) -> None:
        """Start again what has ended.

        Raises:
            BadInput: a child cannot run here; with its own words.
            BrokerUnavailable: the node dies whenever it is started.
        """
        if self.node.pid is None:
            self._start_node_again()
        else:
            if time.monotonic() > self._node_due + NODE_STEADY:
                self._node_retry.succeeded("the private RabbitMQ node runs")
            if self._watch is not None:
                self._watch.look()
        self._children.supervise()

    def _start_node_again(self) -> None:
        now = time.monotonic()
        if now < self._node_due:
            return
        if not self.node.killed:
            self._deaths = [*(at for at in self._deaths if now - at < WITHIN), now]
        if len(self._deaths) >= NODE_DEATHS:
            raise BrokerUnavailable(f"the private RabbitMQ node keeps ending: {self.node.last_words()}")
        self._node_due = now + self._node_retry.failed("the private RabbitMQ node has ended")
        try:
            # The same folder and ports, so that everybody finds it again and nothing is lost.
            self.node.start()
        except OSError as error:  # no room on the disk, or for a process
            log.warning("cannot start the private RabbitMQ node now: %s", error)

    def _check_device(self) -> None:
        """Raises:
        Unavailable: somebody measures on the device already; a worker whose mesh was killed leaves soon.
        """
        owner = owner_of(parse_device(self._layout.device))
        if owner is not None:
            raise Unavailable(
                f"device {self._layout.device} is taken: a mesh is running here already (process {owner});"
                " use it (tunemesh submit, or tunemesh tune --broker URL --artifacts FOLDER),"
                " or choose another device with --device"
            )

    def keep(self) -> Path:
        """Keep the temporary folder after all: results could not be written elsewhere."""
        self._temporary = False
        return self.folder

    def _wait_for_node(self) -> None:
        deadline = time.monotonic() + NODE_LIMIT
        while True:
            try:
                self.node.wait_ready(timeout=0.5)
                return
            except BrokerUnavailable:
                ended_by_itself = self.node.pid is None and not self.node.killed
                if ended_by_itself or time.monotonic() > deadline:
                    raise
                self.supervise()

    def _start_children(self) -> None:
        layout = self._layout
        others = layout.other_cpus
        coordinator = ["coordinator", "--strategy", self._strategy]
        if self._journal is not None:
            coordinator += ["--journal", str(self._journal)]
        for queue, price in self._prices.items():
            coordinator += ["--price", f"{queue}={price}"]
        if self._reserved:
            coordinator += ["--reserve", str(self._reserved)]
        coordinator += ["--learn-after", str(self._learn_after)]
        if self._metrics is not None:
            coordinator += ["--metrics-port", self._metrics]
        self._start("coordinator", "coordinator", coordinator, others)
        days = self._retention
        keeping = ["--retention", "none" if days is None else f"{days:g}"]
        keeping += ["--temporary"] if self._temporary else []
        for number in range(layout.builders):
            build = worker_arguments(topology.BUILD_CPU, self._engines, self._memory)
            self._start(f"build-{number}", "worker", [*build, *keeping], others)
        for number in range(layout.updaters):
            update = worker_arguments(topology.MODEL_UPDATE, self._engines, self._memory)
            self._start(f"model-update-{number}", "worker", [*update, *keeping], others)
        # This worker sees all cores: its sandbox takes the device's, the process itself stays off them.
        profile = worker_arguments(
            layout.device_queue, self._engines, self._memory, layout.device, self._target
        )
        self._start(layout.device_queue, "worker", profile, others | layout.device_cpus)

    def _start(self, name: str, role: Role, arguments: list[str], cpus: frozenset[int]) -> None:
        environment = {
            mesh_address.BROKER: self.node.url(role),
            mesh_address.ARTIFACTS: self.artifacts,
        }
        if role == "worker" and self._records:
            environment[mesh_address.RECORDS] = self._records
            environment |= {name: os.environ[name] for name in (mesh_address.SHIPPED,) if name in os.environ}
        if role == "worker" and self._imports:
            environment[mesh_address.IMPORTS] = self._imports
        output = self.folder / "logs" / f"{name}.log"
        self._children.start(Child(name, arguments, environment, cpus, output))

    def _stop(self) -> None:
        """Workers first, so that they hand back their steps; the broker last."""
        if self._watch is not None:
            self._watch.stop()
        self._children.stop()
        if self._temporary:
            self.node.kill()  # nothing on it is needed any more, and an orderly stop takes 6 s
        self.node.close()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)
