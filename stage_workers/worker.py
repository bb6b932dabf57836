"""One worker: its configuration, and how its parts are put together and taken apart again.

The loop itself is :mod:`stage_workers.loop`.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tunemesh.broker_config import topology
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import ArtifactError, BadInput, Unavailable
from tunemesh.shared.messages import WIRE_VERSION, Serves
from tunemesh.shared.messages import Device as MeasuringDevice
from tunemesh.shared.retry import Retry
from tunemesh.shared.transport.link import Link
from tunemesh.shared.transport.names import process_name
from tunemesh.stage_workers import engines, platforms
from tunemesh.stage_workers.devices.conditions import conditions_of
from tunemesh.stage_workers.devices.devices import Device, DeviceLock, lock_device, parse_device
from tunemesh.stage_workers.historian import Historian
from tunemesh.stage_workers.loop import Worker
from tunemesh.stage_workers.records.recorder import Recorder, check_address, opened
from tunemesh.stage_workers.sandbox import allocator
from tunemesh.stage_workers.sandbox.sandbox import Abandoned, Sandbox
from tunemesh.stage_workers.shutdown import Shutdown
from tunemesh.stage_workers.stages import Context
from tunemesh.stage_workers.stages.context import Learning
from tunemesh.stage_workers.stages.kept_imports import KeptImports
from tunemesh.stage_workers.status import StatusSender
from tunemesh.stage_workers.targets import announced_targets, check_fits

if TYPE_CHECKING:
    from tunemesh.shared.metrics import StepMetrics

log = logging.getLogger(__name__)

GIB = 2**30
RESOURCE_PATTERN = rf"({topology.MODEL_UPDATE}|{topology.BUILD_CPU}|{topology.DEVICE_QUEUE_PATTERN})"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What one worker is told."""

    broker: str
    """``amqp://worker:password@host:port/vhost``."""
    queue: str
    """What it does: ``model-update``, ``build-cpu`` or ``profile-<device>``."""
    artifacts: str
    """URL or folder of the artifact store, shared with coordinator and clients."""
    engines: tuple[str, ...] = ("metaschedule",)
    """Engines to run, imported in advance. ``mock`` is always there. What they need is there, too."""
    device: str | None = None
    """``cpu:<cores>`` or ``cuda:<number>``; for ``profile-…`` queues, and only for them."""
    targets: tuple[str, ...] = ()
    """What the device is, in any form: ``native``, a tag, JSON. Several forms
    must mean the same. Announced with the canonical form first."""
    cpus: frozenset[int] | None = None
    """Cores for the worker, and for its sandbox unless a ``cpu:`` device has its own. ``None``: all, except
    those of the device."""
    memory: int = 4 * GIB
    """Bytes of data that engine code may allocate."""
    status_interval: float = 2.0
    """Seconds between two status messages."""
    grace: float = 20.0
    """Seconds that the present step is given to finish when the worker is asked to leave."""
    records: str = ""
    """The database that it writes down in what was measured; empty: none."""
    retention: float | None = None
    """Days for which artifacts of jobs that have ended are kept; ``None``: for ever."""
    shipped: bool = True
    """Whether that database gets the records that come with Tunemesh."""
    imports: str = ""
    """The folder in which it keeps what came of models that it has imported; empty: none."""
    temporary: bool = False
    """Whether the artifact store goes with the mesh."""
    metrics: str = ""
    """``PORT`` or ``HOST:PORT`` where Prometheus may ask; empty: nowhere."""
    by_hand: bool = False
    """Whether somebody waits at a terminal: a device that has never worked ends the worker there."""
    cell: str = ""
    """To which it belongs, where the mesh has several."""
    name: str | None = None
    """Unique on the mesh; ``<queue>@<host>:<pid>`` by default."""

    @property
    def served(self) -> list[str]:
        """All engines that it serves."""
        return list(dict.fromkeys((*self.engines, topology.MOCK)))

    @property
    def work_queue(self) -> str:
        """The queue that its steps come from: workers that serve other engines have one of their own."""
        return topology.work_queue(self.queue, self.served)


def run_worker(config: WorkerConfig) -> int:
    """Work until SIGTERM or SIGINT, and return the exit status. Belongs into the main thread.

    The first signal lets the present step finish within ``grace`` seconds, a second one hands it back now.
    What is away (the broker, a dead owner's device, the driver, the sandbox's processes) is waited for, for
    ever, and the log says so.

    Raises:
        BadInput: something in ``config`` cannot be used, and trying again would not help: an engine, a core
            or the target does not exist, the broker refuses (its subclass ``BrokerRefused``).
        Unavailable: the device is taken, or there is no room for its lock; or, ``by_hand``, it does not work.
    """
    _check(config)
    with Shutdown(config.grace) as shutdown:
        try:
            store = _persist(lambda: _store(config.artifacts), OSError)
            if config.device is None:
                return _run_with(config, store, None, (), shutdown)
            text = config.device
            device = _persist(lambda: parse_device(text), Unavailable)
            lock: DeviceLock = lock_device(device)
            try:
                return _run_with(config, store, device, lock.descriptors, shutdown)
            finally:
                lock.release()
        except Abandoned:
            return 0  # asked to leave before it was at work


def _run_with(
    config: WorkerConfig,
    store: ArtifactStore,
    device: Device | None,
    held: tuple[int, ...],
    shutdown: Shutdown,
) -> int:
    usable = os.sched_getaffinity(0)
    sandbox = _persist(lambda: _sandbox(config, device, held), OSError)
    shutdown.abort = sandbox.abort
    try:
        os.sched_setaffinity(0, _own_cores(config, device, usable))
        _persist(sandbox.start, OSError)
        _work(config, store, device, sandbox, shutdown)
    finally:
        sandbox.stop()
        os.sched_setaffinity(0, usable)
    return 0


def _sandbox(config: WorkerConfig, device: Device | None, held: tuple[int, ...]) -> Sandbox:
    return Sandbox(
        # What it serves: on a device that is the target, whoever made a kernel.
        config.engines if device is None else (),
        platforms=sorted({platforms.name_of(target) for target in config.targets}),
        memory=config.memory,
        cpus=device.cores if device is not None and device.cores else config.cpus,
        environment=device.environment if device is not None else allocator.environment(),
        held=held,
        gpu=device is not None and not device.inside.startswith("cpu"),
    )


def _work(
    config: WorkerConfig, store: ArtifactStore, device: Device | None, sandbox: Sandbox, shutdown: Shutdown
) -> None:
    queue, name = config.work_queue, config.name or process_name(config.work_queue)
    context = _context(config, store, device, sandbox)
    historian = (
        Historian(config.broker, config.records, store, config.retention, config.temporary)
        if config.records and device is None
        else None
    )
    link = Link(config.broker, f"worker {queue}", properties=_properties(config))
    try:
        link.begin()
        targets = announced_targets(config.targets, sandbox, device.threads if device is not None else 1)
        if device is not None:
            check_fits(device, targets[0])
        log.info(
            "%s: started; queue %s, engines %s, device %s, target %s, cage: %s",
            name,
            topology.in_cell(queue, config.cell),
            ", ".join(config.served),
            config.device or "none",
            targets[0] if targets else "any",
            sandbox.cage,
            extra={"worker": name},
        )
        serves = Serves(
            engines=[] if device is not None else config.served,
            targets=targets,
            device=_announced(context),
        )
        cpus = _work_cores(config, device)
        status = StatusSender(
            link, name, queue, serves, config.status_interval, cpus, context.drift, sandbox.cage, config.cell
        )
        if historian is not None:
            historian.start()
        metrics = _shown(config.metrics) if config.metrics else None
        Worker(
            queue, config.served, link, sandbox, context, status, shutdown, metrics,
            by_hand=config.by_hand, cell=config.cell,
        ).run()  # fmt: skip
    finally:
        if historian is not None:
            historian.stop()
        link.close()


def _context(config: WorkerConfig, store: ArtifactStore, device: Device | None, sandbox: Sandbox) -> Context:
    # The database, like the driver, is asked for when it is needed: SQLAlchemy is slow to import.
    records = Recorder(lambda: opened(config.records, config.shipped)) if config.records else None
    if device is None:
        learning = Learning(
            config.records, lambda engine: _sandbox(replace(config, engines=(engine,)), None, ())
        )
        kept = KeptImports(Path(config.imports)) if config.imports else None
        learns = learning if config.records else None
        return Context(sandbox, store, given=sandbox.given, records=records, learning=learns, kept=kept)
    conditions = _persist(lambda: conditions_of(device), Unavailable)
    return Context(sandbox, store, device.inside, cache=device.cache, conditions=conditions, records=records)


def _shown(address: str) -> StepMetrics:
    # Imported only here, as most workers need none of it.
    from prometheus_client import CollectorRegistry

    from tunemesh.shared import metrics

    registry = CollectorRegistry()
    metrics.serve(address, registry)
    return metrics.StepMetrics(registry)


def _announced(context: Context) -> MeasuringDevice | None:
    conditions = context.conditions
    return MeasuringDevice(conditions=conditions, cache=context.cache) if conditions is not None else None


def _check(config: WorkerConfig) -> None:
    installed = engines.names()
    for engine in config.engines:
        if engine not in installed:
            raise BadInput(f"there is no engine {engine!r}; installed: {', '.join(installed)}")
        building = config.queue == topology.BUILD_CPU
        works = building or config.queue == topology.MODEL_UPDATE
        if works and (why := engines.missing(engine, building=building)):
            raise BadInput(f"the engine {engine!r} cannot be served here: {why}")
    if not re.fullmatch(RESOURCE_PATTERN, config.queue):
        raise BadInput(
            f"{config.queue!r} is no worker's queue; known: model-update, build-cpu, profile-<device>"
        )
    try:
        topology.work_queue(config.queue, config.served)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if config.queue.startswith("profile-") and not (config.device and config.targets):
        raise BadInput(f"a worker on {config.queue} needs a device and the targets that it serves")
    if not config.queue.startswith("profile-") and config.device:
        raise BadInput(f"a worker on {config.queue} has no device; devices have queues profile-<device>")
    if config.targets and not config.device:
        raise BadInput(f"a worker on {config.queue} has no target: only devices have")
    if "://" in config.records:
        check_address(config.records)
    if config.cpus is not None and not (config.cpus and config.cpus <= os.sched_getaffinity(0)):
        raise BadInput(f"cores {sorted(config.cpus)} are not all on this machine and allowed to this process")


def _store(url: str) -> ArtifactStore:
    try:
        return ArtifactStore(url)
    except ArtifactError as error:
        raise BadInput(str(error)) from None


def _persist(attempt: Callable[[], T], away: type[Exception]) -> T:
    """The value of ``attempt``, which is made again for as long as it raises ``away``."""
    retry = Retry(log)
    while True:
        try:
            return attempt()
        except away as error:
            time.sleep(retry.failed(str(error)))


def _own_cores(config: WorkerConfig, device: Device | None, usable: Iterable[int]) -> frozenset[int]:
    """Cores for the worker itself: never those of its device, where there are others."""
    if config.cpus is not None:
        return config.cpus
    cores = device.cores if device is not None and device.cores else frozenset()
    return frozenset(usable) - cores or frozenset(usable)


def _work_cores(config: WorkerConfig, device: Device | None) -> frozenset[int]:
    """Cores that the engine's code runs on; none when it may use all of this machine's."""
    if device is not None and device.cores:
        return device.cores
    cores = config.cpus or frozenset(os.sched_getaffinity(0))
    return cores if len(cores) < (os.cpu_count() or 0) else frozenset()


def _properties(config: WorkerConfig) -> dict[str, str | int]:
    """What the management UI shows of the connection."""
    return {
        "role": "worker",
        "queue": config.work_queue,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": WIRE_VERSION,
        "device": config.device or "-",
    }
