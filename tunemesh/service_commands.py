"""``tunemesh worker``, ``tunemesh coordinator`` and ``tunemesh desk``: the long-running parts of a mesh."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from tunemesh import checks, mesh_address, options
from tunemesh.broker_config.topology import BUILD_CPU
from tunemesh.children import Child, Children, worker_arguments
from tunemesh.job_options import engine_names
from tunemesh.layout import MEMORY
from tunemesh.shared import logs
from tunemesh.shared.environment import keep_private
from tunemesh.shared.errors import BadInput
from tunemesh.shared.given import given
from tunemesh.stage_workers import engines
from tunemesh.stopping import until_terminated

if TYPE_CHECKING:
    from tunemesh.coordinator.service.metrics import Metrics
    from tunemesh.coordinator.service.traces import Traces

TRACES_TO = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Where OpenTelemetry's traces go; where neither says that, there are none."""

log = logging.getLogger(__name__)


@until_terminated()
def worker(
    queues: Annotated[list[str], typer.Argument(help="model-update, build-cpu or profile-<device>.")],
    device: Annotated[
        str | None, typer.Option(help="cpu:<cores> or cuda:<n>, for profile-<device>.", show_default="none")
    ] = None,
    target: Annotated[str, typer.Option(help="What the device is: native, a tag, or JSON.")] = "native",
    engine: options.Engines = None,
    cell: options.Cell = "",
    cpus: Annotated[
        str | None,
        typer.Option(help="Cores for the work, such as 0,2-3.", show_default="all that this process may use"),
    ] = None,
    memory: options.Memory = MEMORY,
    retention: options.Retention = options.RETENTION,
    metrics_port: options.MetricsPort = None,
    temporary: Annotated[
        bool, typer.Option("--temporary", help="The artifact store goes with the mesh.")
    ] = False,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    as_json: options.LogsAsJson = False,
) -> None:
    """Serve queues until SIGTERM. Several queues make several processes, one each."""
    checks.check_workers()
    from tunemesh.stage_workers.devices.devices import parse_cores
    from tunemesh.stage_workers.worker import GIB, WorkerConfig, run_worker

    keep_private()
    options.retention_of(retention)
    logs.setup(log_level, "json" if as_json else log_format, " ".join(["worker", *queues]))
    address = mesh_address.find(broker, artifacts)
    if len(queues) > 1:
        if metrics_port is not None:
            raise BadInput("one port shows the metrics of one worker: start a worker per queue")
        keeping = ["--retention", retention, *(["--temporary"] if temporary else [])]
        keeping += ["--cell", cell] if cell else []
        _several(queues, device, target, engine, cpus, memory, keeping, address)
        return
    served = _served(engine, queues[0])
    target = checks.usual_target(target, served)
    records, imports = given(mesh_address.RECORDS), given(mesh_address.IMPORTS)
    config = WorkerConfig(
        broker=address.worker_broker,
        queue=queues[0],
        artifacts=address.artifacts,
        engines=served,
        device=device,
        targets=(target,) if device is not None else (),
        cpus=parse_cores(cpus) if cpus is not None else None,
        memory=round(memory * GIB),
        records="" if records == mesh_address.NONE else records,
        imports="" if imports == mesh_address.NONE else imports,
        retention=options.retention_of(retention),
        shipped=os.environ.get(mesh_address.SHIPPED) != mesh_address.NONE,
        temporary=temporary,
        metrics=metrics_port or "",
        by_hand=sys.stdin.isatty(),
        cell=cell,
    )
    raise typer.Exit(run_worker(config))


def _served(named: list[str] | None, queue: str) -> tuple[str, ...]:
    """Which engines a worker is to serve. What one that builds lacks for those that come with Tunemesh is
    logged; to propose takes nothing."""
    if names := engine_names(named):
        return names
    if queue != BUILD_CPU:
        return engines.OWN
    for name in engines.OWN:
        if why := engines.missing(name):
            log.warning("engine %s is not served: %s", name, why)
    return engines.served_by_default()


def _several(
    queues: list[str],
    device: str | None,
    target: str,
    engine: list[str] | None,
    cpus: str | None,
    memory: float,
    keeping: list[str],
    address: mesh_address.MeshAddress,
) -> None:
    if sum(queue.startswith("profile-") for queue in queues) > 1:
        raise BadInput("one command starts one device; start a worker per device")
    if device is not None and not any(queue.startswith("profile-") for queue in queues):
        raise BadInput(f"no queue of {', '.join(queues)} has a device; devices have queues profile-<device>")
    in_file = f"{mesh_address.BROKER}_FILE"  # they are told what it says
    # The children are this very command, one queue each, and need what it needs: for its artifact store, say.
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", in_file)},
        **logs.for_children(),
        mesh_address.BROKER: address.worker_broker,
        mesh_address.ARTIFACTS: address.artifacts,
    }
    children = Children()
    try:
        for queue in queues:
            own = device if queue.startswith("profile-") else None
            arguments = worker_arguments(queue, engine or [], memory, own, target)
            arguments += keeping
            if cpus is not None:
                arguments += ["--cpus", cpus]
            children.start(Child(queue, arguments, environment))
        while True:
            children.supervise()
            time.sleep(0.2)
    finally:
        children.stop()


@until_terminated()
def coordinator(
    strategy: options.Strategy = "interleaved",
    journal: options.Journal = None,
    price: options.Prices = None,
    reserve: options.Reserved = 0.0,
    learn_after: options.LearnAfter = options.LEARN_AFTER,
    limit: options.Limits = None,
    metrics_port: options.MetricsPort = None,
    cell: options.Cell = "",
    broker: options.Broker = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    as_json: options.LogsAsJson = False,
) -> None:
    """Coordinate until SIGTERM. A second one on the same broker stands by and takes over."""
    from tunemesh.coordinator.service.service import Service

    keep_private()
    logs.setup(log_level, "json" if as_json else log_format, "coordinator")
    address = mesh_address.find(broker, None, store=False)
    prices = options.prices_of(price)
    limits = options.limits_of(limit)
    shown = _shown(metrics_port) if metrics_port is not None else None
    service = Service(
        address.coordinator_broker,
        strategy,
        journal,
        prices,
        reserve,
        learn_after,
        limits,
        shown,
        _traces(),
        cell,
    )
    raise typer.Exit(service.run())


@until_terminated()
def desk(
    limit: options.Limits = None,
    give_up_after: Annotated[
        float,
        typer.Option(
            min=15.0, help="Seconds without a coordinator after which the jobs of a cell go to other cells."
        ),
    ] = 60.0,
    broker: options.Broker = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    as_json: options.LogsAsJson = False,
) -> None:
    """Give what clients ask to the cells of a mesh, until SIGTERM. A second one stands by and takes over."""
    from tunemesh.coordinator.service.desk_service import DeskService

    keep_private()
    logs.setup(log_level, "json" if as_json else log_format, "desk")
    address = mesh_address.find(broker, None, store=False)
    service = DeskService(address.coordinator_broker, options.limits_of(limit), give_up_after)
    raise typer.Exit(service.run())


def _traces() -> Traces | None:
    """What the environment asks for, as far as it can be had here."""
    if not any(os.environ.get(name) for name in TRACES_TO):
        return None
    try:
        from tunemesh.coordinator.service.traces import to_environment
    except ModuleNotFoundError as error:
        log.warning("no traces are sent: %s is not installed: pip install 'tunemesh[otel]'", error.name)
        return None
    return to_environment()


def _shown(address: str) -> Metrics:
    from tunemesh.coordinator.service.metrics import Metrics
    from tunemesh.shared import metrics

    shown = Metrics()
    metrics.serve(address, shown.registry)
    return shown
