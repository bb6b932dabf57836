"""What engines write down of what was measured: files for the person who asked for the job."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import TaskRecords, Trial
from tunemesh.shared.messages.results import FILE_NAME, OWN_FILES
from tunemesh.stage_workers.engines.protocol import ExportCall, Exported, TaskTrials

log = logging.getLogger(__name__)


def files(
    ended: Sequence[tuple[TaskRecords, list[Trial]]],
    engines: Sequence[str],
    target: str,
    store: ArtifactStore,
    export: Callable[[str, ExportCall], Exported],
) -> dict[str, bytes]:
    """The files of all engines that took a task. Where two call one the same, the later one's has its name in
    front. What has a name that no result may have is left out.

    Args:
        ended: tasks, and all that was tried of each.
        engines: in the order of the job.
        export: asks an engine, by its name.
    """
    found: dict[str, bytes] = {}
    for engine in engines:
        tasks = [
            TaskTrials(workload=store.get(records.task.workload), trials=trials)
            for records, trials in ended
            if records.task.engine == engine
        ]
        if not tasks:
            continue
        for name, data in export(engine, ExportCall(target=target, tasks=tasks)).files.items():
            wanted = f"{engine}-{name}" if name in found else name
            if wanted in OWN_FILES or wanted in found or not re.fullmatch(FILE_NAME, wanted):
                log.warning("engine %s exports a file %r: left out", engine, name)
            else:
                found[wanted] = data
    return found
