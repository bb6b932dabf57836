"""``import``: from a model to its tasks."""

from __future__ import annotations

from tunemesh.shared.messages import ImportDone, ImportWork, Step, TaskSpec
from tunemesh.stage_workers.engines.protocol import Imported
from tunemesh.stage_workers.frontends.limits import MODEL_BYTES
from tunemesh.stage_workers.stages.context import Context, whole


def import_model(step: Step, work: ImportWork, context: Context) -> ImportDone:
    """Optimise the graph and extract the distinct tasks, named ``t00``, ``t01``, … in order of first use.

    Raises:
        TunemeshError: the model or the target cannot be used, or the store fails.
    """
    model = context.store.get(work.model, limit=MODEL_BYTES)
    args = (model, step.target, step.settings)
    imported = whole(step, context, "import_model", args, Imported, step.settings.import_timeout)
    # Not inline: every revision of the ledger names all tasks, and must stay well under a message's limit.
    tasks = [
        TaskSpec(
            id=f"t{number:02}",
            name=task.name,
            key=task.key,
            weight=task.weight,
            engine=step.engines[0],
            constants=imported.constants,
            workload=context.store.put(task.workload, inline=False),
            untuned=context.store.put(task.untuned, inline=False),
        )
        for number, task in enumerate(imported.tasks)
    ]
    return ImportDone(model=context.store.put(imported.model, inline=False), tasks=tasks)
