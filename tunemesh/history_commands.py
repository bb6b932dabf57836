"""``tunemesh jobs`` and ``tunemesh sweep``: what was ever asked for, and what is still kept of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, get_args

import typer
from rich.console import Console

from tunemesh import mesh_address, options, past_jobs, status_tables, tables
from tunemesh.checks import check_job_id
from tunemesh.client import Client
from tunemesh.completion import job_argument
from tunemesh.record_times import time_of
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput, BrokerUnavailable, Unavailable
from tunemesh.shared.given import given
from tunemesh.shared.messages import AskHistory, JobEvent, JobProgress, PastJob, Phase, past_job
from tunemesh.shared.messages.history import MOST_PAST
from tunemesh.shared.text import nearest, one_line
from tunemesh.terminal import Column, Fitted, plain, print_json, say

jobs_app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)

ENDED: tuple[Phase, ...] = ("done", "failed", "cancelled")
RECENT = 300 * 86_400.0
"""Seconds for which nobody takes a day for one of another year."""
STATES = (past_jobs.RUNNING, *get_args(Phase))

Which = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="Ask this database of records (a file, or a URL) and no mesh: jobs that have ended. By default"
        " the mesh is asked, where one is known, else the database of this machine.",
    ),
]


@jobs_app.callback()
def jobs(
    context: typer.Context,
    state: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(STATES)}; may be given again.", show_default="all")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="On whose account.", show_default="all")] = None,
    since: Annotated[str, typer.Option(help="Those that run, or ended since: 12h, 7d, or a date.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=MOST_PAST, help="Jobs that are shown, at most.")] = 50,
    database: Which = None,
    broker: options.Broker = None,
    as_json: options.AsJson = False,
) -> None:
    """All jobs, also those that ended long ago: the latest first. Without a mesh those of this machine's
    database."""
    if context.invoked_subcommand is not None:
        return
    asked = AskHistory(
        answer=past_jobs.NO_KEY,
        phases=_phases(state or []),
        tenant=tenant,
        since=time_of(since) if since else 0.0,
        limit=limit,
    )
    console = Console()
    known, past, notes = _asked(asked, database, broker)
    found = past_jobs.merged(known, past, asked)
    for note in notes:
        print_note(note)
    if as_json:
        print_json(found)
        return
    if not found:
        say(console, "no jobs")
        return
    console.print(jobs_table(found))
    if len(found) == limit:
        say(console, f"the latest {limit}; more with --limit, or with --since and --state")


@jobs_app.command()
def show(
    job: Annotated[str, job_argument("The job, running or not.")],
    database: Which = None,
    broker: options.Broker = None,
    as_json: options.AsJson = False,
) -> None:
    """All that is known of one job: who asked for it and who stopped it, what it took, its tasks."""
    check_job_id(job)
    past, progress = _one(job, database, broker)
    if as_json:
        print_json({"job": past, "progress": progress})
        return
    console = Console()
    for name, text in _lines(past, progress):
        say(console, f"{name:<12} {text}")
    if progress is not None and progress.tasks:
        console.print(status_tables.tasks_table(progress))


def sweep(
    retention: Annotated[
        str | None,
        typer.Option(
            help="Days for which the results of jobs are kept.",
            show_default=f"what tunemesh up was told, else {options.RETENTION}",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed, and remove nothing.")
    ] = False,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            help="Of the mesh's records: a file, or a URL; by default TUNEMESH_RECORDS, else that of tunemesh"
            " up.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove artifacts that no job needs any more. Workers of a mesh do it every day by themselves."""
    address = mesh_address.find(broker, artifacts)
    days = kept_for(retention, address)
    records = database or given(mesh_address.RECORDS) or address.records
    if not records or records == mesh_address.NONE:
        # That of another mesh would not say what this one keeps.
        raise BadInput(f"give the mesh's database of records (--database, or {mesh_address.RECORDS})")
    # Slow to import.
    from tunemesh.stage_workers.records.database import Database
    from tunemesh.stage_workers.records.sweeping import sweep as swept

    with Client(address.broker) as client:
        census = client.census()
    with Database(records) as opened:
        if not opened.exists:
            raise BadInput(f"there are no records in {opened.name}: what is to be kept is not known")
        done = swept(ArtifactStore(address.artifacts), opened, census, days, dry_run)
    if as_json:
        print_json(done)
        return
    what = "would be removed" if dry_run else "removed"
    freed = "would be freed" if dry_run else "freed"
    print(f"{done.removed:,} artifacts {what}, {done.freed / 1e6:,.1f} MB {freed}")
    print(f"stored before {past_jobs.day(done.before)}; {done.kept:,} older ones stay: a job needs them")
    if done.jobs:
        print(f"{done.jobs:,} jobs ended longer ago than {days:g} days: their results are not kept any more")


def kept_for(retention: str | None, address: mesh_address.MeshAddress) -> float:
    """Days for which results are kept: what is asked for, or what the mesh does.

    Raises:
        BadInput: they are kept for ever, or it is no number of days.
    """
    days = options.retention_of(retention or address.retention or options.RETENTION)
    if days is None and retention is None:
        raise BadInput("this mesh keeps results for ever: say with --retention which are to go")
    if days is None:
        raise BadInput("--retention none keeps everything: there is nothing to sweep")
    return days


def _asked(
    asked: AskHistory, database: str | None, broker: str | None
) -> tuple[list[JobProgress], Sequence[PastJob], list[str]]:
    """What the coordinator knows, what the history knows, and what is to be said of both."""
    if database is not None or not _has_mesh(broker):
        return [], past_jobs.ask_database(_records(database), asked).jobs, []
    address = mesh_address.find(broker, None, store=False)
    known: list[JobProgress] = []
    past: list[PastJob] = []
    notes: list[str] = []
    away: BrokerUnavailable | None = None
    try:
        with Client(address.broker) as client:
            snapshot = client.snapshot()
        known = snapshot.jobs
        if snapshot.left_out:
            notes.append(f"{snapshot.left_out} more jobs of the coordinator are not listed")
    except BrokerUnavailable as error:
        away = error
        notes.append(f"jobs that have not ended are not listed: {error}")
    wants_ended = not asked.phases or set(asked.phases) & set(ENDED)
    if away is not None and not wants_ended:
        raise away
    if wants_ended:
        try:
            past = past_jobs.ask_mesh(address.broker, asked).jobs
        except Unavailable as error:
            if away is not None:
                raise away from None
            notes.append(f"only jobs that the coordinator knows are listed: {error}")
    return known, past, notes


def _one(job: str, database: str | None, broker: str | None) -> tuple[PastJob, JobProgress | None]:
    """A job in short, and what else is known of it."""
    asked = past_jobs.about(job)
    if database is not None or not _has_mesh(broker):
        found = past_jobs.ask_database(_records(database), asked)
        if not found.jobs:
            raise BadInput(f"no job {job!r} is known there: tunemesh jobs lists them")
        return found.jobs[0], _progress(found.ended)
    address = mesh_address.find(broker, None, store=False)
    with Client(address.broker) as client:
        snapshot = client.snapshot(job)
    progress = snapshot.jobs[0] if snapshot.jobs else None
    if progress is not None and progress.finished is None:
        return past_job(progress), progress
    if progress is None and snapshot.rejected:
        raise BadInput(f"job {job} was rejected: {snapshot.rejected}")
    try:
        found = past_jobs.ask_mesh(address.broker, asked)
    except Unavailable as error:
        if progress is None:
            raise Unavailable(f"the coordinator knows no job {job!r}, and {error}") from None
        return past_job(progress), progress
    if found.jobs:
        return found.jobs[0], _progress(found.ended) or progress
    if progress is None:
        raise BadInput(f"nobody knows a job {job!r}: tunemesh jobs lists them")
    return past_job(progress), progress


def _progress(event: JobEvent | None) -> JobProgress | None:
    return event.progress if event is not None else None


def _has_mesh(broker: str | None) -> bool:
    return mesh_address.named(broker) is not None or mesh_address.is_noted()


def _records(database: str | None) -> str:
    address = database or mesh_address.records_of_this_machine()
    if not address:
        raise BadInput(
            f"no mesh is known, and {mesh_address.RECORDS} says that there are no records:"
            " give --broker or --database"
        )
    return address


def _phases(states: Sequence[str]) -> list[Phase]:
    every: tuple[Phase, ...] = get_args(Phase)
    for state in states:
        if state not in STATES:
            raise BadInput(
                f"there is no state {state!r} of jobs; known: {', '.join(STATES)}{nearest(state, STATES)}"
            )
    running = past_jobs.RUNNING in states
    return [phase for phase in every if phase in states or (running and phase not in ENDED)]


def print_note(text: str) -> None:
    """One line beside the answer."""
    typer.echo(text, err=True)


COLUMNS = (
    Column("job", 0),
    Column("model", 6),
    Column("tenant", 3),
    Column("state", 1),
    Column("trials", 5),
    Column("latency", 2),
    Column("faster", 1),
    Column("ended", 4),
    Column("target", 7),
)


def jobs_table(found: Sequence[PastJob]) -> Fitted:
    """One row per job, and a line below for each that has failed."""
    rows = [
        [
            each.job,
            each.name,
            each.tenant,
            each.phase,
            str(each.trials),
            tables.latency(each.after),
            f"{each.before / each.after:.1f}x" if each.before and each.after else "-",
            _ended(each.finished),
            tables.target_text(each.target),
        ]
        for each in found
    ]
    errors = [plain(f"{each.job}: {one_line(each.error)}", "red") for each in found if each.error]
    return Fitted("", COLUMNS, rows, errors)


def _ended(at: float) -> str:
    """Without what goes without saying: the year, or of long ago the hour."""
    if not at:
        return "-"
    text = past_jobs.day(at)
    return text[5:] if time.time() - at < RECENT else text[:10]


def _lines(past: PastJob, progress: JobProgress | None) -> list[tuple[str, str]]:
    """What is known of a job, for people."""
    took = (past.finished or time.time()) - past.accepted
    found = [
        ("job", past.job),
        ("model", past.name),
        ("state", past.phase + (f": {past.error}" if past.error else "")),
        ("target", past.target),
        ("tenant", past.tenant),
        ("asked for", past_jobs.day(past.accepted) + (f" by {past.asked_by}" if past.asked_by else "")),
    ]
    if past.cancelled_at is not None:
        by = f" by {past.cancelled_by}" if past.cancelled_by else ""
        found.append(("stopped", past_jobs.day(past.cancelled_at) + by))
    if past.finished:
        found.append(("ended", past_jobs.day(past.finished)))
    found += [("took", tables.seconds(took)), ("trials", str(past.trials))]
    if past.before and past.after:
        gain = past.before / past.after
        found.append(
            ("latency", f"{tables.latency(past.before)} -> {tables.latency(past.after)} ({gain:.1f}x)")
        )
    if progress is not None:
        found += [("quote", tables.quote_text(progress.quote))] if progress.quote is not None else []
        found += [("cost", f"{progress.cost:.4g}")] if progress.cost is not None else []
        standing = progress.standing
        found += [("level", f"{standing.verdict}: {standing.reason}")] if standing is not None else []
    if past.phase in ENDED:
        kept = "kept" if past.results else "not kept here" if past.phase == "done" else "none"
        found.append(("results", kept))
    return [(name, text) for name, text in found if text]
