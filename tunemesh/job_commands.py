"""Commands on a running mesh and its jobs: ``status``, ``watch``, ``cancel``, ``fetch``, ``export``,
``story`` and ``strategy``."""

from __future__ import annotations

import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tunemesh import exporting, live, measured_files, mesh_address, options, past_jobs, status_tables, tables
from tunemesh.checks import check_job_id
from tunemesh.client import Client
from tunemesh.completion import job_argument
from tunemesh.report import check_empty, read_report
from tunemesh.shared.errors import BadInput, JobFailed
from tunemesh.shared.messages import FINAL_KINDS, JobEvent, Snapshot
from tunemesh.terminal import print_json, say, tell, working

DATABASE = "database"
EXPORTS = (*exporting.KINDS, DATABASE)


def status(
    job: Annotated[str | None, job_argument("One job; all by default.")] = None,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
) -> None:
    """Show jobs and resources."""
    if job is not None:
        check_job_id(job)
    address = mesh_address.find(broker, artifacts, store=False)
    with Client(address.broker) as client:
        snapshot = client.snapshot() if job is None else _known(client, job)
    if as_json:
        print_json(
            {
                "strategy": snapshot.strategy,
                "jobs": snapshot.jobs,
                "left_out": snapshot.left_out,
                "resources": snapshot.resources,
                "waiting": snapshot.waiting,
                "cells": snapshot.cells,
            }
        )
        return
    console = Console()
    console.print(status_tables.jobs_table(snapshot.jobs, time.time()))
    if job is not None:
        console.print(status_tables.tasks_table(snapshot.jobs[0]))
    if snapshot.left_out:
        say(console, f"{snapshot.left_out} more jobs, not listed; ask for one: tunemesh status JOB")
    console.print(status_tables.resources_table(snapshot.resources, snapshot.waiting))
    if snapshot.cells and job is None:
        console.print(status_tables.cells_table(snapshot.cells))


def strategy(
    name: Annotated[
        str | None, typer.Argument(help="The one to go on with; shows the present one if left out.")
    ] = None,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
) -> None:
    """Show or change how the coordinator chooses who goes next. It stays so after a restart."""
    address = mesh_address.find(broker, artifacts, store=False)
    with Client(address.broker) as client:
        snapshot = client.snapshot() if name is None else client.set_strategy(name)
    if as_json:
        print_json({"strategy": snapshot.strategy})
    else:
        tell(snapshot.strategy)


def watch(
    job: Annotated[str, job_argument("The job to follow.")],
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print an object on a line for each event.")
    ] = False,
) -> None:
    """Follow a job until it ends. Exit code 1 if it fails."""
    address = mesh_address.find(broker, artifacts, store=False)
    last: JobEvent | None = None
    with Client(address.broker, [job]) as client:
        _known(client, job)
        with live.JsonLines() if as_json else live.LiveView(Console()) as view:
            for event in client.follow([job]):
                if event is None:
                    view.refresh()
                    continue
                last = event
                view.event(event)
    if last is None or last.kind != "done":
        raise JobFailed(f"job {job}: {last.text if last else 'nothing was heard of it'}")


def cancel(
    job: Annotated[str, job_argument("The job to stop.")],
    keep: Annotated[
        bool, typer.Option("--keep", help="Try nothing new, and end with the best so far.")
    ] = False,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
) -> None:
    """Stop a job. What was found is dropped, unless --keep is given."""
    address = mesh_address.find(broker, artifacts, store=False)
    with Client(address.broker, [job]) as client:
        progress = _known(client, job).jobs[0]
        if progress.phase in FINAL_KINDS:
            raise BadInput(f"job {job} has ended already: {progress.phase}")
        client.cancel(job, keep)
        for event in client.follow([job]):
            if event is not None and event.kind in FINAL_KINDS:
                if as_json:
                    print_json({"job": job, "ended": event.kind, "text": event.text})
                else:
                    tell(f"{job}: {event.kind}" + (f": {event.text}" if event.text else ""))
                if event.kind not in ("done", "cancelled"):
                    raise typer.Exit(JobFailed.exit_code)


def fetch(
    job: Annotated[str, job_argument("A finished job.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("tuned"),
    html: options.Html = True,
    overwrite: options.Overwrite = False,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
) -> None:
    """Get the results of a finished job, also of one that ended long ago: see tunemesh jobs."""
    if not overwrite:
        check_job_id(job)
        check_empty(out / job)
    address = mesh_address.find(broker, artifacts)
    with working(f"fetching what job {job} has left"):
        report = past_jobs.fetch(job, out / job, address, html)
    if as_json:
        print_json(report)
    else:
        tables.print_reports(Console(), [report], out)


def export(
    job: Annotated[str, job_argument("A folder that tune or fetch has written, or a finished job.")],
    kind: Annotated[str, typer.Option("--as", help=f"What for: {', '.join(EXPORTS)}.")],
    to: Annotated[Path | None, typer.Option(help="Folder for it. [default: <job>-<kind>]")] = None,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a finished model as something that runs without Tunemesh: see docs/deploy.md. Or, as `database`,
    what was measured for a job that was lost on its way."""
    if kind == DATABASE:
        _written(measured_files.database(Path(job), to or Path(job)), as_json)
        return
    exporting.check_kind(kind)
    with tempfile.TemporaryDirectory(prefix="tunemesh-export-") as fetched:
        result = Path(job)
        if not result.is_dir() and "/" not in job:
            result = Path(fetched)
            past_jobs.fetch(job, result, mesh_address.find(broker, artifacts))
        target = read_report(result).target
        with working(f"writing {job} for {kind}"):
            made = exporting.export(result, target, kind, to or Path(f"{Path(job).name}-{kind}"))
    _written(made, as_json)


def _written(folder: Path, as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(folder)})
    else:
        print(folder)


def story(
    job: Annotated[str, job_argument("The job to tell of.")],
    journal: Annotated[
        Path | None, typer.Option(help="The coordinator's journal; by default that of tunemesh up.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Tell what happened to a job, line by line, from the coordinator's journal."""
    from tunemesh.coordinator.journal.records import read
    from tunemesh.coordinator.journal.story import tell as tell_story

    check_job_id(job)
    path = journal if journal is not None else mesh_address.journal()
    if not path.is_file():
        raise BadInput(f"there is no journal {path}; a coordinator writes one with: --journal FILE")
    older = path.with_name(path.name + ".1")
    records = chain(read(older) if older.exists() else (), read(path))
    lines = []
    for line in tell_story(records, job):
        lines.append(line)
        if not as_json:
            tell(line)
    if not lines:
        raise BadInput(f"the journal {path} knows nothing of job {job}")
    if as_json:
        print_json({"job": job, "story": lines})


def _known(client: Client, job: str) -> Snapshot:
    """How one job is doing.

    Raises:
        BadInput: the coordinator does not know it.
        JobFailed: its request was rejected lately.
    """
    snapshot = client.snapshot(job)
    past_jobs.check_known(snapshot, job)
    return snapshot
