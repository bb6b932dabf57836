"""``tunemesh records``: what was ever measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from tunemesh import mesh_address, options
from tunemesh.client import Client
from tunemesh.layout import MEMORY
from tunemesh.learn_command import Which, address_of, existing, learn
from tunemesh.record_tables import print_records, shown
from tunemesh.record_times import time_of
from tunemesh.shared import files
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput, TunemeshError, unusable
from tunemesh.stage_workers.records.questions import Filter
from tunemesh.terminal import add_row, complain, print_json, say, table, working

if TYPE_CHECKING:
    pass

# SQLAlchemy takes a third of a second to import: other commands, and workers at their start, do without. So
# what needs it is imported by the commands below.

records_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
records_app.command()(learn)

Format = Literal["jsonl", "metaschedule", "t4"]

Task = Annotated[str, typer.Option(help="The beginning of a task's key.")]
Operator = Annotated[str, typer.Option(help="A part of an operator's name: conv2d.")]
Model = Annotated[str, typer.Option(help="A part of a model's name.")]
TargetPart = Annotated[str, typer.Option(help="A part of a canonical target: znver5.")]
Device = Annotated[str, typer.Option(help="A part of a device's description: EPYC.")]
Engine = Annotated[str, typer.Option(help="Who made the schedules.")]
Tenant = Annotated[str, typer.Option(help="On whose account they were made.")]
Since = Annotated[str, typer.Option(help="30m, 12h, 7d, 2w, or a date such as 2026-11-27.")]
VisibleTo = Annotated[
    str | None,
    typer.Option(
        help="Only what this tenant may use: its own, nobody's, and what was measured for all. Empty: only"
        " what everybody may use.",
        show_default="all",
    ),
]
Limit = Annotated[int, typer.Option(min=1, help="Records that are shown, at most.")]


@records_app.command("list")
def list_(
    task: Task = "",
    operator: Operator = "",
    model: Model = "",
    target: TargetPart = "",
    device: Device = "",
    engine: Engine = "",
    tenant: Tenant = "",
    since: Since = "",
    visible_to: VisibleTo = None,
    limit: Limit = 20,
    database: Which = None,
    as_json: options.AsJson = False,
) -> None:
    """The latest records, latest first."""
    from tunemesh.stage_workers.records import queries

    which = _filter(task, operator, model, target, device, engine, tenant, since, visible_to)
    with existing(database) as records:
        with records.reading() as connection:
            found = queries.newest(connection, which, limit)
        print_records(found, records.id(), as_json)


@records_app.command()
def best(
    task: Task = "",
    operator: Operator = "",
    model: Model = "",
    target: TargetPart = "",
    device: Device = "",
    engine: Engine = "",
    tenant: Tenant = "",
    since: Since = "",
    visible_to: VisibleTo = None,
    top: Annotated[int, typer.Option(min=1, help="Schedules of each task.")] = 1,
    database: Which = None,
    as_json: options.AsJson = False,
) -> None:
    """The fastest schedules of each task."""
    from tunemesh.stage_workers.records import queries

    which = _filter(task, operator, model, target, device, engine, tenant, since, visible_to)
    with existing(database) as records:
        with records.reading() as connection:
            found = [
                each
                for key in queries.tasks(connection, which)
                for each in queries.fastest(connection, key, which, top)
            ]
            untuned = {
                each.task.key: queries.baseline(connection, each.task.key, visible_to) for each in found
            }
        print_records(found, records.id(), as_json, untuned)


@records_app.command()
def show(
    record: Annotated[str, typer.Argument(help="The beginning of its id, as list and best have it.")],
    source: Annotated[
        bool,
        typer.Option(
            "--source",
            help="Print its kernel instead: the program of a template, or the schedule of MetaSchedule and"
            " the function that it makes.",
        ),
    ] = False,
    visible_to: VisibleTo = None,
    memory: options.Memory = MEMORY,
    database: Which = None,
) -> None:
    """All that is known of one record, as JSON, with where it comes from."""
    from tunemesh import record_exchange
    from tunemesh.stage_workers.records import queries

    if not re.fullmatch("[0-9a-f]{1,32}", record):
        raise BadInput(f"{record!r} is no id of a record: tunemesh records list shows them")
    with existing(database) as records:
        with records.reading() as connection:
            found = queries.by_id(connection, record, Filter(visible_to=visible_to))
            if len(found) != 1:
                problem = (
                    "several records have ids that begin" if found else "no record has an id that begins"
                )
                raise BadInput(f"{problem} with {record}")
            if source:
                workload = next(queries.by_workload(connection, found), None)
            untuned = queries.baseline(connection, found[0].task.key, visible_to)
        if source:
            if workload is None:
                raise BadInput(f"the workload of record {record} is not in these records")
            print(record_exchange.source_of(found[0], workload[0], memory).text)
            return
        print_json(shown(found[0], records.id(), untuned))


@records_app.command()
def export(
    to: Annotated[Path, typer.Argument(help="A file; for metaschedule a folder.")],
    form: Annotated[Format, typer.Option("--format", help="jsonl keeps all; .gz compresses it.")] = "jsonl",
    task: Task = "",
    operator: Operator = "",
    model: Model = "",
    target: TargetPart = "",
    device: Device = "",
    engine: Engine = "",
    tenant: Tenant = "",
    since: Since = "",
    best: Annotated[
        int,
        typer.Option(min=0, help="Of each task so many of the fastest trials at most; 0: all. For jsonl."),
    ] = 0,
    visible_to: VisibleTo = None,
    memory: options.Memory = MEMORY,
    database: Which = None,
    as_json: options.AsJson = False,
) -> None:
    """Write records down, for another mesh or another program."""
    from tunemesh import record_exchange
    from tunemesh.stage_workers.records import exchange, queries, t4

    which = _filter(task, operator, model, target, device, engine, tenant, since, visible_to)
    if best and form != "jsonl":
        raise BadInput("--best is for the format jsonl; others get all that was measured")
    with existing(database) as records, working(f"writing records to {to}"):
        if form == "metaschedule":
            count, left = record_exchange.write_metaschedule(records, which, to, memory)
            without = f"; {left:,} by Winograd's algorithm are left out: it has no schedules for them"
            _counted(f"{count:,} trials written to {to}{without if left else ''}", as_json, trials=count)
            return
        if form == "t4":
            with records.reading() as connection:
                found = queries.newest(connection, which, record_exchange.MOST)
            try:
                to.write_bytes(t4.encode(found))
            except OSError as error:
                raise unusable(f"cannot write {to}", error) from None
            _counted(f"{len(found):,} trials written to {to}", as_json, trials=len(found))
            return
        rows = exchange.write(records, which, to, best)
        _counted(f"{rows:,} rows written to {to}", as_json, rows=rows)


def _counted(text: str, as_json: bool, **counts: int) -> None:
    """What was done, for people or for scripts."""
    if as_json:
        print_json(counts)
    else:
        print(text)


@records_app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="A file that export wrote, or of T4; a folder of MetaSchedule.")
    ],
    name: Annotated[str, typer.Option(help="Of T4: the kernel that it is about.")] = "",
    target: Annotated[str, typer.Option(help="Of T4: what that was tuned for.")] = "",
    tool: Annotated[str, typer.Option(help="Of T4: who wrote it.")] = "kernel-tuner",
    memory: options.Memory = MEMORY,
    database: Which = None,
    as_json: options.AsJson = False,
) -> None:
    """Add the records of others. What is there already is left as it is: a second time adds nothing."""
    from tunemesh import record_exchange
    from tunemesh.stage_workers.records import exchange, t4
    from tunemesh.stage_workers.records.database import Database

    if not source.exists():
        raise BadInput(f"there is no {source}")
    with Database(address_of(database)) as records, working(f"reading records from {source}"):
        if source.is_dir():
            trials, new, skipped = record_exchange.read_metaschedule(source, records, source.name, memory)
            text = f"{trials:,} trials of MetaSchedule read from {source}, {new:,} new rows"
            _counted(text, as_json, trials=trials, new=new, skipped=len(skipped))
            for line in skipped:
                complain(f"skipped: {line}", 0)
            return
        files.size_of(source, "records")  # neither a pipe nor a device
        if exchange.is_ours(source):
            rows, new = exchange.read(source, records)
            _counted(f"{rows:,} rows read from {source}, {new:,} of them new", as_json, rows=rows, new=new)
            return
        if not (name and target):
            raise BadInput(
                f"{source} was not written by `tunemesh records export`; if it has the format T4, give"
                " --name and --target: it says neither"
            )
        found = t4.decode(files.read(source, "records"), name, target, tool)
        new = records.add(found)
        text = f"{len(found) - 2:,} trials of {tool} read from {source}, {new:,} new rows"
        _counted(text, as_json, trials=len(found) - 2, new=new)


@records_app.command()
def prune(
    older_than: Annotated[str, typer.Option(help="How old records must be: 90d, or before a date.")] = "90d",
    keep: Annotated[
        int, typer.Option(min=0, help="So many of the fastest of each task and device stay, however old.")
    ] = 64,
    task: Task = "",
    operator: Operator = "",
    model: Model = "",
    target: TargetPart = "",
    device: Device = "",
    engine: Engine = "",
    tenant: Tenant = "",
    database: Which = None,
    as_json: options.AsJson = False,
) -> None:
    """Forget old records. The fastest and those that were confirmed stay."""
    from tunemesh.stage_workers.records import queries

    which = _filter(task, operator, model, target, device, engine, tenant, "", None)
    with existing(database) as records, records.writing() as connection:
        count = queries.prune(connection, which, time_of(older_than), keep)
    _counted(f"trials forgotten: {count:,}", as_json, trials=count)


@records_app.command()
def stats(database: Which = None, as_json: options.AsJson = False) -> None:
    """How many records there are, of what, and where they come from."""
    from tunemesh.stage_workers.records import queries

    with existing(database) as records:
        with records.reading() as connection:
            counts = queries.counts(connection)
        if as_json:
            print_json({"database": records.name, "id": records.id(), "counts": counts})
            return
        console = Console()
        say(console, f"records in {records.name}")
        made = table("", ("what", "which", "how many"))
        own = records.id()
        sources = {"here" if name == own else name: count for name, count in counts.sources.items()}
        for what, numbers in (
            ("rows", counts.rows),
            ("outcome", counts.outcomes),
            ("engine", counts.engines),
            ("device", counts.devices),
            ("target", counts.targets),
            ("jobs from", sources),
        ):
            for name, count in numbers.items():
                add_row(made, what, name.partition(";")[0] or "-", f"{count:,}")
        console.print(made)


@records_app.command()
def sync(
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    database: Which = None,
    as_json: options.AsJson = False,
) -> None:
    """Write what workers could not: everything that the jobs of a running mesh have measured."""
    from tunemesh import record_exchange
    from tunemesh.stage_workers.records.database import Database

    address = mesh_address.find(broker, artifacts)
    synced = []
    with Database(address_of(database)) as records, Client(address.broker) as client:
        for each in record_exchange.sync(client, ArtifactStore(address.artifacts), records):
            synced.append(each)
            if each.error:
                complain(f"job {each.job}: {each.error}", TunemeshError.exit_code)
            elif not as_json:
                print(f"{each.job}: {each.trials:,} trials, {each.new:,} new rows")
    if as_json:
        print_json(synced)
    raise typer.Exit(TunemeshError.exit_code if any(each.error for each in synced) else 0)


def _filter(
    task: str,
    operator: str,
    model: str,
    target: str,
    device: str,
    engine: str,
    tenant: str,
    since: str,
    visible_to: str | None,
) -> Filter:
    return Filter(
        task=task.lower(),
        operator=operator,
        model=model,
        target=target,
        device=device,
        engine=engine,
        tenant=tenant,
        since=time_of(since) if since else None,
        visible_to=visible_to,
    )
