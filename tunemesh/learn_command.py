"""``tunemesh records learn``: what the records say of tasks that were never measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from tunemesh import mesh_address, options
from tunemesh.checks import check_engine_name
from tunemesh.layout import MEMORY
from tunemesh.shared.errors import BadInput, unusable
from tunemesh.terminal import print_json

if TYPE_CHECKING:
    from tunemesh.stage_workers.records.database import Database

Which = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="Of the records: a file, or the URL of a database; by default that of this machine.",
    ),
]


def learn(
    engine: Annotated[str, typer.Option(help="Whose schedules.")] = "metaschedule",
    after: Annotated[
        int, typer.Option(min=1, help="Only where there are so many new trials since the last time.")
    ] = 1,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Write what was learned into this folder, too, in the engine's format.",
            show_default="nowhere else",
        ),
    ] = None,
    memory: options.Memory = MEMORY,
    database: Which = None,
    as_json: options.AsJson = False,
    mesh: Annotated[
        bool, typer.Option("--mesh", help="Let a worker of a running mesh do it, once nothing else is due.")
    ] = False,
    broker: options.Broker = None,
) -> None:
    """Learn from the records how fast schedules of other tasks should be: searches begin with that."""
    if mesh:
        if to is not None or database is not None or as_json:
            raise BadInput(
                "with --mesh a worker learns from its own records: leave --to, --database and --json out"
            )
        from tunemesh.client import Client

        with Client(mesh_address.find(broker, None, store=False).broker) as client:
            client.learn(check_engine_name(engine), after)
        print("asked: a worker learns once nothing else is due; the coordinator's log says what came of it")
        return
    from tunemesh import record_learning
    from tunemesh.stage_workers.stages.learning import told

    learned = []
    with existing(database) as records:
        for each in record_learning.learn(records, engine, after, memory):
            learned.append(each)
            if to is not None and each.prior:
                _write(to, f"{engine}-{re.sub('[^A-Za-z0-9_.-]+', '-', each.family)}.prior", each.prior)
            if not as_json:
                print(*told(each), sep="\n")
    if not learned:
        raise BadInput(f"there are no records of the engine {engine} to learn from")
    if as_json:
        print_json([replace(each, prior=b"") for each in learned])


def _write(folder: Path, name: str, content: bytes) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    except OSError as error:
        raise unusable(f"cannot write {folder / name}", error) from None


def address_of(named: str | None) -> str:
    """Where the records are.

    Raises:
        BadInput: there are to be none.
    """
    address = named or mesh_address.records_of_this_machine()
    if not address:
        raise BadInput(f"{mesh_address.RECORDS} says that there are no records: give --database")
    return address


def existing(named: str | None) -> Database:
    """The records, where there are some.

    Raises:
        BadInput: nothing was ever recorded there.
    """
    from tunemesh.stage_workers.records.database import Database

    database = Database(address_of(named))
    if not database.exists:
        raise BadInput(f"there are no records in {database.name} yet: tune something, or import some")
    return database
