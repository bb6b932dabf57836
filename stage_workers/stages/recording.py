"""What stages write into the records: each what it has in its hands, before it answers.

That the database is away never fails a step, nor holds it up for long.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import Conditions, History, Step, TaskRecords, TaskSpec, ValidateDone
from tunemesh.stage_workers.records import gathering
from tunemesh.stage_workers.records.recorder import Batch
from tunemesh.stage_workers.records.rows import Row
from tunemesh.stage_workers.stages.context import Context

log = logging.getLogger(__name__)

NOT_WRITTEN = "what was measured is not in the records yet, and `tunemesh records sync` writes it later"


def begin(step: Step, task: TaskSpec, history: History, context: Context) -> Batch | None:
    """Begin to write what an update has learned from."""
    if context.records is None or history.origin is None:
        return None
    try:
        workload = context.store.get(task.workload)
    except ArtifactError as error:
        log.warning("%s: its trials are not recorded: %s", step.id, error)
        return None
    found = [*gathering.of_task(task, step.target, workload), *gathering.of_history(task, history)]
    return context.records.write(found)


def end(batch: Batch | None, context: Context) -> str:
    """Wait for it, not for long. Why it is not written; empty where it is, or where nothing is to be."""
    return context.records.why_not(batch) if context.records is not None and batch is not None else ""


def ended(
    step: Step, tasks: Sequence[tuple[TaskRecords, Sequence[History]]], context: Context
) -> Batch | None:
    """Begin to write all that is known of a job at its end: what was confirmed, and what workers could not
    write."""
    if context.records is None or step.origin is None:
        return None
    found: list[Row] = [gathering.of_job(step.origin)]
    for records, histories in tasks:
        if records.task.engine is not None:
            workload = context.store.get(records.task.workload)
            found += gathering.of_task(records.task, step.target, workload)
            found += gathering.of_records(records, histories, step.origin)
    return context.records.write(found)


def validated(step: Step, done: ValidateDone, conditions: Conditions | None, context: Context) -> None:
    """Write what came of a whole model."""
    if context.records is not None and step.origin is not None and conditions is not None:
        batch = context.records.write(gathering.of_result(step.origin, step.target, done, conditions))
        context.records.why_not(batch)
