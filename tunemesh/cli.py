"""The command line. Exit codes: 0 done, 1 a job failed or something is wrong, 2 bad usage or input, 130
interrupted."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from tunemesh import live, mesh_address, options, tuning
from tunemesh.bench_commands import bench
from tunemesh.broker_commands import broker_app
from tunemesh.client import Client
from tunemesh.early_stop import EarlyStop
from tunemesh.layout import DISTURBED, keeps_apart, plan
from tunemesh.mesh import LocalMesh
from tunemesh.report import Report, save_results
from tunemesh.service_commands import coordinator, worker
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput, JobFailed, TunemeshError
from tunemesh.shared.messages import FINAL_KINDS, JobEvent, Snapshot
from tunemesh.simulation_commands import record_trace, simulate
from tunemesh.stage_workers.devices.drift import THRESHOLD

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Autotuning of neural networks as a service, on a RabbitMQ worker mesh.",
)
app.add_typer(broker_app, name="broker", help="The private RabbitMQ node, and what another broker needs.")
app.command()(worker)
app.command()(coordinator)
app.command()(bench)
app.command()(simulate)
app.command()(record_trace)


def main() -> NoReturn:
    """Run the command line and exit."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    # Also where SIGINT is ignored, as it is for what a script has put into the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer has turned Ctrl-C into its exit code
            _complain("interrupted", INTERRUPTED)
    except typer.Exit as error:
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        code = _complain("interrupted", INTERRUPTED)
    except TunemeshError as error:
        code = _complain(str(error), error.exit_code)
    except Exception as error:
        # Usage errors belong to the click inside typer, which is not public.
        message = getattr(error, "format_message", None)
        if type(error).__name__ == "NoArgsIsHelpError" and message is not None:
            print(message(), file=sys.stderr)
            code = BadInput.exit_code
        elif message is not None:
            code = _complain(message(), BadInput.exit_code)
        elif isinstance(error, OSError) and error.filename is not None:
            code = _complain(f"cannot use {error.filename}: {error.strerror}", BadInput.exit_code)
        else:
            raise
    sys.exit(code if isinstance(code, int) else 0)


def _terminated(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _complain(text: str, code: int) -> int:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return code


@app.command()
def tune(
    models: options.Models,
    target: options.Target = "native",
    trials: options.Trials = 256,
    device: options.Device = None,
    seed: options.Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the results, one folder per job.")] = Path("tuned"),
    engine: options.Engine = "metaschedule",
    strategy: options.Strategy = "interleaved",
    builders: options.Builders = None,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
    shape: options.Shapes = None,
    batch: options.Batch = None,
    chunk: options.Chunk = None,
    repeats: options.Repeats = None,
    min_repeat_ms: options.MinRepeat = None,
    cache_flush: options.CacheFlush = None,
    build_timeout: options.BuildTimeout = None,
    profile_timeout: options.ProfileTimeout = None,
    lookahead: options.Lookahead = None,
    cut_short: options.CutShort = None,
    tenant: options.Tenant = "",
    priority: options.Priority = 10,
) -> None:
    """Tune models, all at once, and write the results. Without a broker (--broker, or TUNEMESH_BROKER_URL) it
    brings its own mesh. Ctrl-C stops early and keeps what was found; a second one leaves at once."""
    options.check_tenant(tenant, priority)
    place = mesh_address.find(broker, artifacts) if artifacts or mesh_address.named(broker) else None
    if place is not None and (device is not None or builders is not None):
        raise BadInput("--device and --builders are for a mesh of its own; a running one has its workers")
    wanted = tuning.Plan(
        target=target,
        trials=options.check_trials(trials),
        out=out,
        device=device,
        engine=tuning.check_engine(engine),
        seed=seed,
        tenant=tenant,
        priority=priority,
        settings=options.make_settings(
            shapes=shape,
            batch=batch,
            chunk=chunk,
            repeats=repeats,
            min_repeat_ms=min_repeat_ms,
            cache_flush=cache_flush,
            build_timeout=build_timeout,
            profile_timeout=profile_timeout,
            lookahead=lookahead,
            cut_short=cut_short,
        ),
        strategy=strategy,
        builders=builders,
        place=place,
    )
    console = Console(stderr=as_json)
    with live.LiveView(console) as view:
        endings = tuning.tune(models, wanted, view, EarlyStop())
    reports = [ending.report for ending in endings if ending.report is not None]
    if as_json:
        _print_json(
            [
                {"job": e.job, "error": e.error, "folder": str(out / e.job), "report": e.report}
                for e in endings
            ]
        )
    elif reports:
        _print_reports(console, reports, out)
    for ending in endings:
        if ending.report is None:
            print(f"error: job {ending.job} failed: {ending.error}", file=sys.stderr)
    raise typer.Exit(0 if len(reports) == len(endings) else 1)


@app.command()
def up(
    target: options.Target = "native",
    device: options.Device = None,
    engine: options.Engine = "metaschedule",
    strategy: options.Strategy = "interleaved",
    builders: options.Builders = None,
    folder: Annotated[Path | None, typer.Option(help="Where data and logs are kept.")] = None,
) -> None:
    """Start a mesh on this machine and keep it running; submit, status and the others find it."""
    home = folder if folder is not None else mesh_address.data_folder()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    layout = plan(device, builders, keeps_apart(strategy))
    if not layout.apart:
        print(DISTURBED, file=sys.stderr)
    with LocalMesh(layout, target, tuning.check_engine(engine), strategy, home) as mesh:
        place = mesh_address.Place(
            broker=mesh.url,
            artifacts=mesh.artifacts,
            worker_broker=mesh.node.url("worker"),
            coordinator_broker=mesh.node.url("coordinator"),
            ui=mesh.node.management_url,
            monitor_password=mesh.node.password("monitor"),
        )
        note = mesh_address.leave_note(place)
        print(f"mesh is up: {layout.device_queue} for target {target}, {layout.builders} build worker(s)")
        print(f"broker     {place.broker}")
        print(f"artifacts  {place.artifacts}")
        print(f"UI         {place.ui}  user monitor, password {place.monitor_password}")
        print(f"noted in   {note}; Ctrl-C stops the mesh and loses nothing", flush=True)
        try:
            while True:
                mesh.supervise()
                time.sleep(0.2)
        finally:
            mesh_address.remove_note(place)


@app.command()
def submit(
    models: options.Models,
    target: options.Target = "native",
    trials: options.Trials = 256,
    seed: options.Seed = 0,
    engine: options.Engine = "metaschedule",
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
    shape: options.Shapes = None,
    batch: options.Batch = None,
    chunk: options.Chunk = None,
    repeats: options.Repeats = None,
    min_repeat_ms: options.MinRepeat = None,
    cache_flush: options.CacheFlush = None,
    build_timeout: options.BuildTimeout = None,
    profile_timeout: options.ProfileTimeout = None,
    lookahead: options.Lookahead = None,
    cut_short: options.CutShort = None,
    tenant: options.Tenant = "",
    priority: options.Priority = 10,
) -> None:
    """Hand models to a running mesh and return at once. Prints the job ids."""
    options.check_tenant(tenant, priority)
    place = mesh_address.find(broker, artifacts)
    wanted = tuning.Plan(
        target=target,
        trials=options.check_trials(trials),
        out=Path(),
        engine=tuning.check_engine(engine),
        seed=seed,
        tenant=tenant,
        priority=priority,
        settings=options.make_settings(
            shapes=shape,
            batch=batch,
            chunk=chunk,
            repeats=repeats,
            min_repeat_ms=min_repeat_ms,
            cache_flush=cache_flush,
            build_timeout=build_timeout,
            profile_timeout=profile_timeout,
            lookahead=lookahead,
            cut_short=cut_short,
        ),
    )
    ids = tuning.submit(models, wanted, place)
    if as_json:
        _print_json([{"job": job, "model": str(path)} for job, path in zip(ids, models, strict=True)])
    else:
        print("\n".join(ids))


@app.command()
def status(
    job: Annotated[str | None, typer.Argument(help="One job; all by default.")] = None,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
) -> None:
    """Show jobs and resources."""
    place = mesh_address.find(broker, artifacts, store=False)
    with Client(place.broker) as client:
        snapshot = client.snapshot() if job is None else _known(client, job)
    if as_json:
        _print_json(
            {
                "strategy": snapshot.strategy,
                "jobs": snapshot.jobs,
                "left_out": snapshot.left_out,
                "resources": snapshot.resources,
            }
        )
        return
    console = Console()
    console.print(live.jobs_table(snapshot.jobs, time.time()))
    if job is not None:
        console.print(live.tasks_table(snapshot.jobs[0]))
    if snapshot.left_out:
        console.print(f"{snapshot.left_out} more jobs, not listed; ask for one: tunemesh status JOB")
    console.print(live.resources_table(snapshot.resources))


@app.command()
def strategy(
    name: Annotated[
        str | None, typer.Argument(help="The one to go on with; shows the present one if left out.")
    ] = None,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
) -> None:
    """Show or change how the coordinator chooses who goes next. It stays so after a restart."""
    place = mesh_address.find(broker, artifacts, store=False)
    with Client(place.broker) as client:
        snapshot = client.snapshot() if name is None else client.set_strategy(name)
    print(snapshot.strategy)


@app.command()
def watch(
    job: Annotated[str, typer.Argument(help="The job to follow.")],
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
) -> None:
    """Follow a job until it ends. Exit code 1 if it fails."""
    place = mesh_address.find(broker, artifacts, store=False)
    last: JobEvent | None = None
    with Client(place.broker, [job]) as client:
        _known(client, job)
        with live.LiveView(Console()) as view:
            for event in client.follow([job]):
                if event is None:
                    view.refresh()
                    continue
                last = event
                view.event(event)
    if last is None or last.kind != "done":
        raise JobFailed(f"job {job}: {last.text if last else 'nothing was heard of it'}")


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="The job to stop.")],
    keep: Annotated[
        bool, typer.Option("--keep", help="Try nothing new, and end with the best so far.")
    ] = False,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
) -> None:
    """Stop a job. What was found is dropped, unless --keep is given."""
    place = mesh_address.find(broker, artifacts, store=False)
    with Client(place.broker, [job]) as client:
        progress = _known(client, job).jobs[0]
        if progress.phase in FINAL_KINDS:
            raise BadInput(f"job {job} has ended already: {progress.phase}")
        client.cancel(job, keep)
        for event in client.follow([job]):
            if event is not None and event.kind in FINAL_KINDS:
                print(f"{job}: {event.kind}" + (f": {event.text}" if event.text else ""))
                if event.kind not in ("done", "cancelled"):
                    raise typer.Exit(1)


@app.command()
def fetch(
    job: Annotated[str, typer.Argument(help="A finished job.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("tuned"),
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
) -> None:
    """Get the results of a finished job."""
    place = mesh_address.find(broker, artifacts)
    with Client(place.broker) as client:
        snapshot = _known(client, job)
    store = ArtifactStore(place.artifacts)
    report = save_results(store, snapshot.jobs[0], snapshot.assembled, snapshot.validated, out / job)
    if as_json:
        _print_json(report)
    else:
        _print_reports(Console(), [report], out)


@app.command()
def doctor(as_json: options.AsJson = False) -> None:
    """Say what is installed, what is missing, and what to do."""
    from tunemesh.doctor import examine

    findings = examine()
    if as_json:
        _print_json(findings)
    else:
        table = Table("", "what", "found", "what to do")
        for finding in findings:
            advice = "" if finding.ok else finding.advice
            table.add_row("ok" if finding.ok else "MISSING", finding.what, finding.found, advice)
        Console().print(table)
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


def _known(client: Client, job: str) -> Snapshot:
    """How one job is doing.

    Raises:
        BadInput: the coordinator does not know it.
    """
    snapshot = client.snapshot(job)
    if not snapshot.jobs:
        raise BadInput(f"the coordinator knows no job {job!r}")
    return snapshot


def _print_json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _print_reports(console: Console, reports: list[Report], out: Path) -> None:
    table = Table(title="tuned models", title_justify="left")
    for name in ("job", "before", "after", "speed-up", "difference", "trials", "time"):
        table.add_column(name, overflow="fold")
    for report in reports:
        table.add_row(
            report.job,
            live.latency(report.latency_before_s),
            live.latency(report.latency_after_s),
            f"{report.speedup:.1f}x",
            f"{report.largest_difference:.1e}",
            f"{report.trials}/{report.budget}",
            live.seconds(report.wall_s),
        )
    console.print(table)
    for report in reports:
        shares = ", ".join(f"{q} {r.utilisation:.0%}" for q, r in report.resources.items())
        lines = f"{report.job}: {out / report.job}/model.so and report.json; kept busy: {shares}"
        console.print(lines, highlight=False, soft_wrap=True)
        if report.rejected_s is not None:
            rejected = f"tuned it would take {live.latency(report.rejected_s)}: model.so is the untuned model"
            advice = f"{report.job}: {rejected}; try more than {report.trials} trials"
            console.print(advice, style="yellow", highlight=False, soft_wrap=True)
        if report.drift > THRESHOLD:
            slower = f"the device was {report.drift:.0%} slower than usual when the models were measured"
            console.print(f"{report.job}: {slower}", style="yellow", highlight=False, soft_wrap=True)


with contextlib.suppress(AttributeError):
    # A closed pipe (tunemesh status | head) is no error worth a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
