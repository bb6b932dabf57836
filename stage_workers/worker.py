"""One worker: its configuration, and how its parts are put together and taken apart again.

The loop itself is :mod:`stage_workers.loop`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from tunemesh.broker_config import topology
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import WIRE_VERSION, Serves
from tunemesh.shared.transport.link import Link
from tunemesh.shared.transport.names import process_name
from tunemesh.stage_workers import engines, platforms
from tunemesh.stage_workers.devices.devices import Device, lock_device, parse_device
from tunemesh.stage_workers.loop import Worker
from tunemesh.stage_workers.platforms.protocol import Platform, TargetCall
from tunemesh.stage_workers.sandbox import allocator
from tunemesh.stage_workers.sandbox.sandbox import Abandoned, CallFailure, Sandbox
from tunemesh.stage_workers.shutdown import Leaving
from tunemesh.stage_workers.stages import Context
from tunemesh.stage_workers.stages.context import Caller, insist
from tunemesh.stage_workers.status import StatusSender

GIB = 2**30
RESOLVE_LIMIT = 120.0
"""Seconds to look at a target: TVM may ask the driver about the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What one worker is told."""

    broker: str
    """``amqp://worker:password@host:port/vhost``."""
    queue: str
    """``model-update``, ``build-cpu`` or ``profile-<device>``."""
    artifacts: str
    """URL or folder of the artifact store, shared with coordinator and clients."""
    engines: tuple[str, ...] = ("metaschedule",)
    """Engines to run, imported in advance. ``mock`` is always there."""
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
    connect_timeout: float = 60.0
    """Seconds until a broker that does not answer at the start is an error."""
    name: str | None = None
    """Unique on the mesh; ``<queue>@<host>:<pid>`` by default."""


def run_worker(config: WorkerConfig) -> int:
    """Work until SIGTERM or SIGINT, and return the exit status. Belongs into the main thread.

    The first signal lets the present step finish within ``grace`` seconds, a second one hands it back now.

    Raises:
        BadInput: something in ``config`` cannot be used: the device is taken, the broker refuses (its
            subclass ``BrokerUnavailable``), an engine or a core does not exist.
        ArtifactError: the artifact store's URL cannot be used.
    """
    _check(config)
    store = ArtifactStore(config.artifacts)
    device = parse_device(config.device) if config.device is not None else None
    lock = lock_device(device) if device is not None else None
    held = lock.descriptors if lock is not None else ()
    try:
        usable = os.sched_getaffinity(0)
        sandbox = Sandbox(
            # What it serves: on a device that is the target, whoever made a kernel.
            config.engines if device is None else (),
            platforms=sorted({platforms.name_of(target) for target in config.targets}),
            memory=config.memory,
            cpus=device.cores if device is not None and device.cores else config.cpus,
            environment=device.environment if device is not None else allocator.environment(),
            held=held,
        )
        os.sched_setaffinity(0, _own_cores(config, device, usable))
        try:
            sandbox.start()
            return _work(config, store, device, sandbox)
        finally:
            sandbox.stop()
            os.sched_setaffinity(0, usable)
    finally:
        if lock is not None:
            lock.release()


def _check(config: WorkerConfig) -> None:
    installed = engines.names()
    for engine in config.engines:
        if engine not in installed:
            raise BadInput(f"there is no engine {engine!r}; installed: {', '.join(installed)}")
    if not re.fullmatch(topology.STAGE_QUEUE_PATTERN, config.queue):
        raise BadInput(
            f"{config.queue!r} is no worker's queue; known: model-update, build-cpu, profile-<device>"
        )
    if config.queue.startswith("profile-") and not (config.device and config.targets):
        raise BadInput(f"a worker on {config.queue} needs a device and the targets that it serves")
    if not config.queue.startswith("profile-") and config.device:
        raise BadInput(f"a worker on {config.queue} has no device; devices have queues profile-<device>")
    if config.cpus is not None and not (config.cpus and config.cpus <= os.sched_getaffinity(0)):
        raise BadInput(f"cores {sorted(config.cpus)} are not all on this machine and allowed to this process")


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


def _work(config: WorkerConfig, store: ArtifactStore, device: Device | None, sandbox: Sandbox) -> int:
    link = Link(config.broker, f"worker {config.queue}", properties=_properties(config))
    name = config.name or process_name(config.queue)
    context = (
        Context(sandbox, store, device.inside, cache=device.cache)
        if device is not None
        else Context(sandbox, store)
    )
    served = list(dict.fromkeys((*config.engines, "mock")))
    with Leaving(config.grace, sandbox.abort) as leaving:
        try:
            targets = announced_targets(config.targets, sandbox)
            if device is not None:
                check_fits(device, targets[0])
            link.start(config.connect_timeout)
            cpus = _work_cores(config, device)
            serves = Serves(engines=[] if device is not None else served, targets=targets)
            status = StatusSender(
                link, name, config.queue, serves, config.status_interval, cpus, context.drift
            )
            Worker(config.queue, served, link, sandbox, context, status, leaving).run()
        except Abandoned:
            pass  # asked to leave before it was connected
        finally:
            link.close()
    return 0


def announced_targets(targets: Sequence[str], sandbox: Caller) -> list[str]:
    """The canonical form of ``targets``, then the forms that were given: requests may name any of them.

    Raises:
        BadInput: one of them is unknown, or they mean different things.
    """
    canonical = list(dict.fromkeys(_canonical(target, sandbox) for target in targets))
    if len(canonical) > 1:
        raise BadInput(f"a device has one target, but these differ: {', '.join(canonical)}")
    return list(dict.fromkeys((*canonical, *targets)))


def check_fits(device: Device, target: str) -> None:
    """A GPU's kernels do not run on a CPU, nor the other way round.

    Raises:
        BadInput: ``target`` (canonical) is for another kind of device.
    """
    try:
        kind = msgspec.json.decode(target, type=dict[str, msgspec.Raw])["kind"]
    except (msgspec.DecodeError, KeyError):
        return  # a platform without kinds of devices
    wanted = {b'"llvm"': "cpu", b'"cuda"': "cuda"}.get(bytes(kind))
    if wanted is not None and wanted != device.name.partition(":")[0]:
        raise BadInput(f"device {device.name} cannot run target {target}; give a {wanted}:… device")


def _canonical(target: str, sandbox: Caller) -> str:
    platform = platforms.name_of(target)
    answer = insist(sandbox, platform, Platform.resolve_target, TargetCall(target=target), RESOLVE_LIMIT)
    if isinstance(answer, CallFailure):
        raise BadInput(f"cannot look at target {target!r}: {answer.kind}: {answer.text}")
    return answer.canonical


def _properties(config: WorkerConfig) -> dict[str, str | int]:
    """What the management UI shows of the connection."""
    return {
        "role": "worker",
        "queue": config.queue,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": WIRE_VERSION,
        "device": config.device or "-",
    }
