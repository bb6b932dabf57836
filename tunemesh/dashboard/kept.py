"""What outlives jobs: how they ended, as workers remember it, and the records of what was measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from tunemesh import past_jobs
from tunemesh.mesh_address import NONE, RECORDS, MeshAddress
from tunemesh.record_tables import ID_SHOWN
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.given import given
from tunemesh.shared.messages import AskHistory, PastJob, Phase
from tunemesh.shared.messages.history import MOST_PAST
from tunemesh.tables import latency, seconds, target_text

MOST_SHOWN = 100
"""Jobs, and tasks, on one page."""
ENDED: tuple[Phase, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class PastRow:
    """How a job ended."""

    job: str
    name: str
    phase: str
    finished: str
    took: str
    trials: str
    latencies: str
    speedup: str
    asked_by: str
    note: str


@dataclass(frozen=True, slots=True)
class RecordRow:
    """The fastest that is known of a task."""

    task: str
    operator: str
    name: str
    target: str
    latency: str
    untuned: str
    speedup: str
    engine: str
    device: str
    model: str
    at: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows, and what is to be said of them."""

    rows: Sequence[PastRow | RecordRow]
    note: str
    summary: str = ""


class Kept:
    """Asks workers, and a database of records where one is known here."""

    def __init__(self, address: MeshAddress) -> None:
        self._address = address
        named = given(RECORDS) or address.records
        self._database = "" if named == NONE else named

    def jobs(self, text: str, state: str) -> Answer:
        """Jobs that have ended and whose id, model, tenant or error contains all words of ``text``."""
        phases = [state] if state in get_args(Phase) else []
        asked = AskHistory(answer=past_jobs.NO_KEY, phases=phases, limit=MOST_PAST)  # type: ignore[arg-type]
        try:
            found = past_jobs.ask_mesh(self._address.broker, asked)
        except TunemeshError as error:
            return Answer([], str(error))
        words = text.casefold().split()
        chosen = [each for each in found.jobs if all(word in _text(each) for word in words)]
        rows = [_past(each) for each in chosen[:MOST_SHOWN]]
        older = " Older ones: tunemesh jobs --since." if found.more else ""
        return Answer(rows, f"{len(rows)} of the latest {len(found.jobs)} jobs that have ended.{older}")

    def records(self, operator: str, model: str) -> Answer:
        """The fastest that is known of each task, of those whose operator and model contain these texts."""
        if not self._database:
            return Answer([], f"No database of records is known here: {RECORDS} names one.")
        # Slow to import.
        from tunemesh.stage_workers.records import queries
        from tunemesh.stage_workers.records.database import Database
        from tunemesh.stage_workers.records.questions import Filter

        try:
            with Database(self._database) as database:
                if not database.exists:
                    return Answer([], f"There are no records in {database.name} yet.")
                with database.reading() as connection:
                    which = Filter(operator=operator, model=model)
                    keys = queries.tasks(connection, which)
                    found = [
                        (each, queries.baseline(connection, key))
                        for key in keys[:MOST_SHOWN]
                        for each in queries.fastest(connection, key, which, 1)
                    ]
                    counts = queries.counts(connection)
        except TunemeshError as error:
            return Answer([], str(error))
        rows = []
        for each, untuned in found:
            best = each.latency
            rows.append(
                RecordRow(
                    task=each.task.key[:ID_SHOWN],
                    operator=each.task.operator,
                    name=each.task.name,
                    target=target_text(each.task.target),
                    latency=latency(best),
                    untuned=latency(untuned),
                    speedup=f"{untuned / best:.1f}x" if untuned and best else "-",
                    engine=each.trial.engine,
                    device=each.conditions.device.split(" (")[0] if each.conditions is not None else "",
                    model=each.job.model,
                    at=past_jobs.day(each.trial.at) if each.trial.at else "-",
                )
            )
        outcomes = sum(counts.outcomes.values())
        age = f", the latest {seconds(time.time() - counts.last)} ago" if counts.last else ""
        summary = f"{outcomes:,} trials of {counts.rows.get('tasks', 0):,} tasks{age}."
        more = f" The first {MOST_SHOWN} of {len(keys)}." if len(keys) > MOST_SHOWN else ""
        return Answer(rows, f"{len(rows)} tasks.{more}", summary)


def _text(job: PastJob) -> str:
    return "\n".join((job.job, job.name, job.tenant, job.error, job.asked_by)).casefold()


def _past(job: PastJob) -> PastRow:
    both = job.before and job.after
    return PastRow(
        job=job.job,
        name=job.name,
        phase=job.phase,
        finished=past_jobs.day(job.finished),
        took=seconds(max(job.finished - job.accepted, 0.0)),
        trials=f"{job.trials:,}",
        latencies=f"{latency(job.before)} to {latency(job.after)}" if both else "-",
        speedup=f"{job.before / job.after:.2f}x" if job.before and job.after else "-",
        asked_by=job.asked_by,
        note=job.error,
    )
