"""``tunemesh zeroshot-eval``: how good what is chosen without a measurement is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import Struct
from rich.console import Console

from tunemesh import evaluating, mesh_address, options
from tunemesh.evaluating import Chosen, Evaluation, OfTask
from tunemesh.layout import MEMORY
from tunemesh.shared.errors import BadInput, unusable
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.sandbox import allocator
from tunemesh.stage_workers.sandbox.sandbox import Sandbox
from tunemesh.terminal import add_row, print_json, say, table

GIB = 2**30


class Row(Struct, frozen=True, kw_only=True):
    """A network left out, or all of them."""

    network: str
    share: float
    """Of the records of the others that were asked."""
    tasks: int
    instant: float
    """Geometric mean of the best known latency over that of what was chosen."""
    top: dict[int, float]
    seconds: float
    """For choosing and building one candidate of every task, one after the other."""


def zeroshot_eval(
    network: Annotated[
        list[str] | None, typer.Argument(help="Models to leave out in turn, by name; by default all.")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="Of the records: a file, or the URL of a database; by default that of this machine."
        ),
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(
            help="Part of the other tasks' records to choose from, 0 to 1; may be given again.",
            show_default="1",
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="Whose schedules they are.")] = "metaschedule",
    device: options.Device = None,
    tasks: Annotated[int, typer.Option(min=0, help="Tasks of each network, at most; 0: all.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="A file for what came of every task, in JSON.", show_default="none")
    ] = None,
    memory: options.Memory = MEMORY,
    as_json: options.AsJson = False,
) -> None:
    """Leave one network out of the records, and see how good the schedules are that the others suggest for
    its tasks: the one of level instant, and the first of level quick, relative to the best known. All of them
    are measured on this machine now."""
    from tunemesh.stage_workers.records.database import Database

    shares = share or [1.0]
    if not all(0 <= each <= 1 for each in shares):
        raise BadInput("--share is a part of the records: 0 to 1")
    address = database or mesh_address.records_of_this_machine()
    if not address:
        raise BadInput(f"{mesh_address.RECORDS} says that there are no records: give --database")
    from tunemesh.comparing import comparison

    chosen = comparison.device_of(device or f"cpu:{max(os.sched_getaffinity(0))}")
    console = Console(stderr=as_json)
    with (
        Database(address) as records,
        Sandbox(
            preload=[engine],
            platforms=[platforms.TVM],
            memory=round(memory * GIB),
            cpus=chosen.cores,
            environment={**allocator.environment(), **chosen.environment},
        ) as sandbox,
    ):
        if not records.exists:
            raise BadInput(f"there are no records in {records.name} yet: tune something, or import some")
        evaluation = Evaluation(records, sandbox, engine, chosen.inside, shares)
        found: list[OfTask] = []
        for each in network or evaluation.networks():
            found += evaluation.of_network(each, lambda text: say(console, text), tasks)
            done = rows_of([one for one in found if one.network == each])
            say(console, "; ".join(f"{row.network}, {row.share:.0%}: {_said(row)}" for row in done))
    if out is not None:
        try:
            out.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
        except OSError as error:
            raise unusable(f"cannot write {out}", error) from None
    made = rows_of(found)
    if as_json:
        print_json({"networks": made})
        return
    columns = ("network", "records", "tasks", "instant", *(f"best of {n}" for n in evaluating.TOPS), "s")
    shown = table("latency of the best known over that of what was chosen, geometric means", columns)
    for row in made:
        texts = [f"{row.instant:.3f}", *(_shown(row.top.get(count)) for count in evaluating.TOPS)]
        add_row(shown, row.network, f"{row.share:.0%}", str(row.tasks), *texts, f"{row.seconds:.1f}")
    console.print(shown)


def rows_of(found: list[OfTask]) -> list[Row]:
    """For each network and share, and for all networks together where there are several."""
    networks = list(dict.fromkeys(each.network for each in found))
    groups = [(name, [each for each in found if each.network == name]) for name in networks]
    if len(networks) > 1:
        groups.append(("all", found))
    made = []
    for name, tasks in groups:
        for number in range(len(tasks[0].chosen)):
            chosen = [(each.best, each.chosen[number]) for each in tasks]
            made.append(_row(name, chosen))
    return made


def _row(name: str, chosen: list[tuple[float, Chosen]]) -> Row:
    return Row(
        network=name,
        share=chosen[0][1].share,
        tasks=len(chosen),
        instant=evaluating.mean(best / each.instant for best, each in chosen),
        top={
            count: evaluating.mean(best / each.top[count] for best, each in chosen)
            for count in chosen[0][1].top
        },
        seconds=sum(each.choosing + each.building for _, each in chosen),
    )


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:.3f}"


def _said(row: Row) -> str:
    best = "".join(f", best of {count} {number:.3f}" for count, number in row.top.items())
    return f"instant {row.instant:.3f}{best}, {row.seconds:.1f} s"
