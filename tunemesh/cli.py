"""The command line.

Exit codes: 0 done, also where ``submit`` has left a request for a coordinator to come; 1 a job failed or was
rejected, or something is wrong; 2 bad usage or input, or the broker refuses: trying again cannot help; 75 the
broker, the coordinator or room on this machine is missing: trying again may help; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

import tunemesh
from tunemesh import (
    compare_commands,
    dashboard_commands,
    evaluation_commands,
    job_commands,
    mesh_address,
    options,
    report_commands,
    task_commands,
    tune_commands,
)
from tunemesh.broker_commands import broker_app
from tunemesh.checks import check_engines, usual_target
from tunemesh.history_commands import jobs_app, sweep
from tunemesh.job_options import engine_names
from tunemesh.layout import DISTURBED, MEMORY, keeps_apart, plan
from tunemesh.mesh import LocalMesh
from tunemesh.record_commands import records_app
from tunemesh.service_commands import coordinator, desk, worker
from tunemesh.shared import logs
from tunemesh.shared.errors import BadInput, TunemeshError, Unavailable, unusable
from tunemesh.shared.text import clip
from tunemesh.shared.transport.address import redacted
from tunemesh.simulation_commands import record_trace, simulate
from tunemesh.stopping import terminated, until_terminated
from tunemesh.terminal import Column, Fitted, complain, for_eyes, plain, print_json
from tunemesh.usage import in_words

INTERRUPTED = 130
"""Exit code after Ctrl-C, and after SIGTERM of a command that is no service."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What the system says where standard output is a file on a disk that is full or damaged."""

ORDER = (
    *(
        "doctor",
        "tune",
        "up",
        "submit",
        "quote",
        "status",
        "watch",
        "dashboard",
        "cancel",
        "jobs",
        "fetch",
        "report",
    ),
    *(
        "compare",
        "export",
        "records",
        "tasks",
        "story",
        "strategy",
        "sweep",
        "worker",
        "coordinator",
        "desk",
        "broker",
    ),
    *("simulate", "record-trace", "bench", "zeroshot-eval"),
)
"""Commands as people come to need them."""


class InOrder(TyperGroup):
    """Lists its commands in the order of use."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    cls=InOrder,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(records_app, name="records", help="What was ever measured: ask, exchange, forget.")
app.add_typer(
    jobs_app, name="jobs", help="All jobs, also those that ended long ago; jobs show JOB tells of one."
)
app.add_typer(broker_app, name="broker", help="The private RabbitMQ node, and what another broker needs.")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tunemesh {tunemesh.__version__}")
        raise typer.Exit


@app.callback()
def tunemesh_(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Autotuning of neural networks as a service, on a RabbitMQ worker mesh."""


def main() -> NoReturn:
    """Run the command line and exit."""
    _open_standard_streams()
    if os.environ.get("COLUMNS") == "0":  # of a terminal that does not know its size: nothing would be shown
        del os.environ["COLUMNS"]
    signal.signal(signal.SIGTERM, terminated)
    try:
        code = run()
        sys.stdout.flush()
    except BrokenPipeError:
        # `tunemesh status | head`: nobody reads on, and that is no error worth a word.
        code = 1
    except OSError as error:
        if error.errno not in FULL:
            raise
        code = complain(f"cannot write the output: {error.strerror}", Unavailable.exit_code)
    else:
        sys.exit(code)
    # What is still buffered would raise again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _open_standard_streams() -> None:
    """Where a stream was closed (``tunemesh status >&-``), the next file that is opened would get its number,
    and children would write into that file."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def run() -> int:
    """Run the command line. Returns the exit code."""
    try:
        # Who asks a question wants its answer alone. Commands that run for long set up what they say.
        logs.setup(default="warning")
        code = app(prog_name="tunemesh", standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return complain("interrupted", INTERRUPTED)
    except TunemeshError as error:
        return complain(str(error), error.exit_code)
    except UnicodeEncodeError as error:
        if "surrogates" not in error.reason:
            raise
        # An argument that is no UTF-8 is fine as the name of a file, and for nothing else.
        return complain(f"{clip(error.object, 80)!r} is not UTF-8, as texts have to be", BadInput.exit_code)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "tunemesh":
            raise
        advice = f"this needs {missing}, which is not installed: pip install 'tunemesh[worker]'"
        return complain(advice, BadInput.exit_code)
    except Exception as error:
        # Usage errors belong to the click inside typer, which is not public.
        message = getattr(error, "format_message", None)
        if type(error).__name__ == "NoArgsIsHelpError" and message is not None:
            print(message(), file=sys.stderr)
            return BadInput.exit_code
        if message is not None:
            return complain(in_words(message()), BadInput.exit_code)
        if isinstance(error, OSError) and error.filename is not None:
            refusal = unusable(f"cannot use {error.filename}", error)
            return complain(str(refusal), refusal.exit_code)
        raise  # and main knows what to do about standard output
    if code == INTERRUPTED:  # typer has turned Ctrl-C into its exit code
        complain("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


app.command()(tune_commands.tune)


@app.command()
@until_terminated()
def up(
    target: options.Target = "native",
    device: options.Device = None,
    engine: options.Engines = None,
    strategy: options.Strategy = "interleaved",
    price: options.Prices = None,
    reserve: options.Reserved = 0.0,
    learn_after: options.LearnAfter = options.LEARN_AFTER,
    builders: options.Builders = None,
    memory: options.Memory = MEMORY,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where data and logs are kept.", show_default="$XDG_DATA_HOME/tunemesh"),
    ] = None,
    retention: options.Retention = options.RETENTION,
    metrics_port: options.MetricsPort = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    as_json: options.OneLine = False,
) -> None:
    """Start a mesh on this machine and keep it running; submit, status and the others find it."""
    logs.setup(log_level, log_format, "up")
    engines = engine_names(engine)
    check_engines(engines)
    target = usual_target(target, engines)
    home = folder if folder is not None else mesh_address.data_folder()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    layout = plan(device, builders, keeps_apart(strategy))
    if not layout.apart:
        print(DISTURBED, file=sys.stderr)
    journal = home / "journal"
    records = mesh_address.records_in(home)
    with LocalMesh(
        layout,
        target,
        engines,
        strategy,
        home,
        journal,
        memory,
        records,
        options.prices_of(price),
        options.retention_of(retention),
        reserve,
        learn_after,
        metrics_port,
        mesh_address.imports(),
    ) as mesh:
        address = mesh_address.MeshAddress(
            broker=mesh.url,
            artifacts=mesh.artifacts,
            worker_broker=mesh.node.url("worker"),
            coordinator_broker=mesh.node.url("coordinator"),
            ui=mesh.node.management_url,
            monitor_password=mesh.node.password("monitor"),
            journal=str(journal.resolve()),
            records=records,
            retention=retention,
        )
        note = mesh_address.leave_note(address)
        # Whoever needs a password finds it in the note, which is for this user only.
        seen = address.broker if sys.stdout.isatty() else redacted(address.broker)
        if as_json:
            places = {"broker": seen, "artifacts": address.artifacts, "ui": address.ui, "note": str(note)}
            if metrics_port is not None:
                places |= {"metrics": metrics_port, "broker_metrics": mesh.node.metrics_url}
            print_json(
                {
                    "device": layout.device_queue,
                    "target": target,
                    "builders": layout.builders,
                    **places,
                },
                indent=0,
            )
        else:
            print(f"mesh is up: {layout.device_queue} for target {target}, {layout.builders} build worker(s)")
            print(f"broker     {seen}")
            print(f"artifacts  {address.artifacts}")
            print(f"UI         {address.ui}  user monitor, password {for_eyes(address.monitor_password)}")
            if metrics_port is not None:
                print(f"metrics    {metrics_port} of the coordinator, {mesh.node.metrics_url} of RabbitMQ")
            print("watch it   tunemesh dashboard")
            print(f"noted in   {note}; Ctrl-C stops the mesh and loses nothing", flush=True)
        try:
            while True:
                mesh.supervise()
                time.sleep(0.2)
        finally:
            mesh_address.remove_note(address)


for _command in (
    tune_commands.submit,
    tune_commands.quote,
    compare_commands.compare,
    task_commands.tasks,
    evaluation_commands.zeroshot_eval,
    job_commands.status,
    job_commands.watch,
    dashboard_commands.dashboard,
    job_commands.cancel,
    job_commands.fetch,
    report_commands.report,
    job_commands.export,
    job_commands.strategy,
    job_commands.story,
    sweep,
    worker,
    coordinator,
    desk,
    simulate,
    record_trace,
):
    app.command()(_command)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(context: typer.Context) -> None:
    """Compare strategies and settings by experiments; in a checkout of the repository only."""
    root = Path(tunemesh.__file__).resolve().parents[1]
    if not (root / "benchmarks" / "command.py").is_file():
        raise BadInput("benchmarks are not part of an installation: run tunemesh bench in a checkout")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    raise typer.Exit(importlib.import_module("benchmarks.command").run(context.args))


@app.command()
def doctor(as_json: options.AsJson = False) -> None:
    """Say what is installed, what is missing, and what to do."""
    from tunemesh.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
    else:
        rows = [[each.what, "ok" if each.ok else "MISSING", each.found] for each in findings]
        advice = [plain(f"{each.what}: {each.advice}", "yellow") for each in findings if not each.ok]
        columns = [Column("what", 0), Column("state", 1), Column("found", 1)]
        Console().print(Fitted("", columns, rows, advice))
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)
