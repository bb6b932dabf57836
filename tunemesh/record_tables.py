"""Records as people and scripts read them."""

from __future__ import annotations

import re
from datetime import datetime

from msgspec import Struct
from rich.console import Console

from tunemesh.shared.messages import Visibility
from tunemesh.stage_workers.records.questions import Found
from tunemesh.tables import latency
from tunemesh.terminal import Column, Fitted, print_json, say

ID_SHOWN = 12
"""Hex digits of a record or a task in a table: enough to tell them apart."""


COLUMNS = (
    Column("record", 0),
    Column("task", 3),
    Column("operator", 2),
    Column("latency", 1),
    Column("untuned", 4),
    Column("engine", 5),
    Column("device", 8),
    Column("model", 6),
    Column("from", 9),
    Column("when", 7),
)


class Shown(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A record as ``--json`` has it. Latencies in seconds."""

    id: str
    task: str
    operator: str
    name: str
    target: str
    engine: str
    format: int
    hash: str
    outcome: str
    latency_s: float | None
    """The confirmed one, where there is one."""
    confirmed: bool
    untuned_s: float | None = None
    latencies_s: list[float]
    drift: float
    attempts: int
    cut_short: bool
    error: str = ""
    device: str = ""
    versions: str = ""
    cache_flush: bool = False
    job: str
    model: str
    tenant: str = ""
    visibility: Visibility = "tenant"
    source: str
    """The database that it comes from; ``here``: this one."""
    at: float


def print_records(
    found: list[Found], own: str, as_json: bool, untuned: dict[str, float | None] | None = None
) -> None:
    """Print records as a table, or as JSON.

    Args:
        own: id of the database that they are in.
        untuned: latency without tuning in seconds, by task.
    """
    known = untuned or {}
    if as_json:
        print_json([shown(each, own, known.get(each.task.key)) for each in found])
        return
    console = Console()
    if not found:
        say(console, "no records")
        return
    rows = []
    for each in found:
        trial, job = each.trial, each.job
        measured = latency(each.latency) if trial.latency is not None else trial.outcome
        device = re.split(r" \(|;", each.conditions.device)[0] if each.conditions is not None else ""
        rows.append(
            [
                trial.id[:ID_SHOWN],
                trial.task[:ID_SHOWN],
                each.task.operator,
                measured + " confirmed" * (each.confirmed is not None),
                latency(known.get(trial.task)),
                trial.engine,
                device,
                job.model,
                "here" if job.source == own else job.source[:ID_SHOWN],
                # Of what another program has measured nobody knows when.
                datetime.fromtimestamp(trial.at).isoformat(" ", "minutes") if trial.at else "-",
            ]
        )
    console.print(Fitted("", COLUMNS, rows))


def shown(found: Found, own: str, untuned: float | None) -> Shown:
    """One record; arguments as of :func:`print_records`."""
    trial, job, conditions = found.trial, found.job, found.conditions
    return Shown(
        id=trial.id,
        task=trial.task,
        operator=found.task.operator,
        name=found.task.name,
        target=found.task.target,
        engine=trial.engine,
        format=trial.format,
        hash=trial.hash,
        outcome=trial.outcome,
        latency_s=found.latency if trial.latency is not None else None,
        confirmed=found.confirmed is not None,
        untuned_s=untuned,
        latencies_s=found.confirmed.latencies if found.confirmed is not None else trial.latencies,
        drift=trial.drift,
        attempts=trial.attempts,
        cut_short=trial.cut_short,
        error=trial.error,
        device=conditions.device if conditions is not None else "",
        versions=conditions.versions if conditions is not None else "",
        cache_flush=conditions.cache_flush if conditions is not None else False,
        job=job.job,
        model=job.model,
        tenant=job.tenant,
        visibility=job.visibility,
        source="here" if job.source == own else job.source,
        at=trial.at,
    )
