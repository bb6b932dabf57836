"""``import``: from a model to its tasks, and which engines search each."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tunemesh.broker_config.topology import OWN_ENGINES
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import (
    Blob,
    ImportDone,
    ImportWork,
    Known,
    Options,
    Step,
    TaskSpec,
)
from tunemesh.shared.text import clip
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.engines.protocol import Engine, TaskRef
from tunemesh.stage_workers.frontends.limits import MODEL_BYTES
from tunemesh.stage_workers.frontends.shapes import variants
from tunemesh.stage_workers.options import GRAPH
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, ImportCall, Imported, Platform
from tunemesh.stage_workers.stages.context import CHECK_LIMIT, Context, Read, whole
from tunemesh.stage_workers.stages.histories import read_records, trials_of
from tunemesh.stage_workers.stages.known import Answer, in_records

log = logging.getLogger(__name__)

NOT_KNOWN = "nothing is known of it, and the job was asked to use what is known only"
OBJECTIONS = 200
"""Characters of the reasons why nobody tunes a task: they are in every revision of the ledger."""


def import_model(step: Step, work: ImportWork, context: Context) -> ImportDone:
    """Optimise the graph and extract the distinct tasks, named ``t00``, ``t01``, … in order of first use,
    each once for every engine that takes it.

    Raises:
        TunemeshError: the model, the target or an option cannot be used, or the store fails.
    """
    _check_options(step, context)
    key = _key(step, work)
    read = _read(key, step, work, context)
    imported = read.imported
    known = _measured_before(work.known, {task.key for task in imported.tasks}, step, context)
    if rest := [task for task in imported.tasks if task.key not in known]:
        known |= in_records(msgspec.structs.replace(imported, tasks=rest), work.devices, step, context)
    said = {engine: _objections(engine, imported.tasks, key, step, context) for engine in step.engines}
    # Not inline: every revision of the ledger names all tasks, and must stay well under a message's limit.
    tasks: list[TaskSpec] = []
    for number, task in enumerate(imported.tasks):
        texts = {engine: of_tasks[number] for engine, of_tasks in said.items()}
        before = known.get(task.key)
        tasks += _searches(number, task, texts, before, imported.constants, step, work, context)
    return ImportDone(
        model=read.model,
        tasks=tasks,
        sample=read.sample,
        judged=imported.judged,
        objects=read.objects,
        known={
            task.id: known[task.key].known
            for task in tasks
            if task.key in known and task.engine == known[task.key].engine
        },
    )


def _searches(
    number: int,
    task: ExtractedTask,
    objections: Mapping[str, str],
    known: Answer | None,
    constants: int,
    step: Step,
    work: ImportWork,
    context: Context,
) -> list[TaskSpec]:
    """A specification for each engine that takes a task, and for the one that made what is known of it; where
    there is none, one for nobody.

    Args:
        objections: of every engine of the job; empty where it takes the task.
    """
    takers = [engine for engine, text in objections.items() if not text]
    objection = clip("; ".join(dict.fromkeys(filter(None, objections.values()))), OBJECTIONS)
    if known is not None:
        takers.append(known.engine)
    engines = [engine for engine in step.engines if engine in takers]
    workload = context.store.put(task.workload, inline=False)
    untuned = context.store.put(task.untuned, inline=False)
    return [
        TaskSpec(
            id=f"t{number:02}.{engine}" if place else f"t{number:02}",
            name=task.name,
            key=task.key,
            weight=task.weight,
            engine=engine,
            objection="" if engine is not None else objection,
            constants=constants,
            operations=task.operations,
            workload=workload,
            untuned=untuned,
            regions=_regions(engine, task, work.split, step, context) if known is None else 1,
        )
        for place, engine in enumerate(engines or [None])
    ]


def _key(step: Step, work: ImportWork) -> str:
    """Of all that the outcome of an import depends on, whoever makes it."""
    call = _call(step)
    files = sorted((name, blob.sha256) for name, blob in work.files.items())
    samples = work.samples.sha256 if work.samples is not None else ""
    platform = platforms.name_of(step.target)
    about = (platform, work.model.sha256, files, samples, call)
    return hashlib.sha256(msgspec.msgpack.encode(about, order="sorted")).hexdigest()


def _call(step: Step) -> ImportCall:
    """What the platform is asked, but for the model."""
    settings = step.settings
    return ImportCall(
        model=b"",
        target=step.target,
        variants=variants(settings),
        options=step.options.get(GRAPH, {}),
        math=settings.math,
        precision=settings.precision,
        seed=step.seed,
        ranges=settings.ranges,
    )


def _read(key: str, step: Step, work: ImportWork, context: Context) -> Read:
    """Import a model, or look up what this worker, or one before it, has made of the same one.

    Raises:
        TunemeshError: it cannot be imported, or the store fails.
    """
    store = context.store
    if store.tenant:
        _require(work, store)
    before = context.imported.get(key)
    if before is not None and all(map(store.kept, filter(None, before[1:]))):
        return before
    imported = context.kept.get(key, Imported) if context.kept is not None else None
    if imported is None:
        imported = _imported(step, work, context)
        if context.kept is not None:
            context.kept.put(key, imported)
    else:
        log.info("%s: the model was imported here before", step.id)
    read = Read(
        imported=msgspec.structs.replace(imported, model=b"", sample=b"", objects=b""),
        model=store.put(imported.model, inline=False),
        sample=store.put(imported.sample, inline=False),
        objects=store.put(imported.objects, inline=False) if imported.objects else None,
    )
    if read.size <= context.imported.maxsize:
        context.imported[key] = read
    return read


def _require(work: ImportWork, store: ArtifactStore) -> None:
    """What is remembered of a model may come of another tenant's: to name a model is not to have it.

    Raises:
        ArtifactError: it is not in the store.
    """
    for blob in (work.model, *filter(None, [work.samples]), *work.files.values()):
        if blob.data is None and not store.kept(blob):
            store.get(blob, limit=MODEL_BYTES)


def _imported(step: Step, work: ImportWork, context: Context) -> Imported:
    """Raises:
    TunemeshError: the model cannot be imported, or the store fails.
    """
    store = context.store
    with tempfile.TemporaryDirectory(prefix="tunemesh-model-", dir=context.given) as folder:
        os.chmod(folder, 0o755)  # who reads it may be another user
        call = msgspec.structs.replace(
            _call(step),
            model=store.get(work.model, limit=MODEL_BYTES),
            files=_placed(work.files, Path(folder), context),
            inputs=store.get(work.samples) if work.samples is not None else None,
        )
        platform = platforms.name_of(step.target)
        return whole(context, platform, Platform.import_model, call, step.settings.import_timeout)


def _measured_before(
    records: Sequence[Blob], keys: Collection[str], step: Step, context: Context
) -> dict[str, Answer]:
    """What earlier jobs have measured of the tasks with these keys: the best by an engine of this job. Of
    several jobs the first one that knows a task.

    Raises:
        ArtifactError: something of it is missing or damaged.
    """
    found: dict[str, Answer] = {}
    for blob in records:
        of_job: dict[str, Answer] = {}
        for each in read_records(blob, context.store):
            task = each.task
            if task.engine not in step.engines or task.key not in keys or task.key in found:
                continue
            best = min((trial.latency for trial in trials_of(each, context.store)), default=math.inf)
            before = of_job.get(task.key)
            if math.isfinite(best) and (before is None or best < before.known.best):
                known = Known(history=each.history, confirmed=each.confirmed, untuned=each.untuned, best=best)
                of_job[task.key] = Answer(str(task.engine), known)
        found |= of_job
    return found


def _placed(files: Mapping[str, Blob], folder: Path, context: Context) -> dict[str, str]:
    """Put what came with a model into files with names of our own; where each is.

    Raises:
        TunemeshError: they are too large, or the store fails.
    """
    total = sum(blob.size for blob in files.values())
    if total > MODEL_BYTES:
        raise BadInput(f"the files of the model have {total:,} bytes; at most {MODEL_BYTES:,} are read here")
    placed = {}
    for number, (name, blob) in enumerate(files.items()):
        path = folder / str(number)
        context.store.save(blob, path)
        path.chmod(0o444)
        placed[name] = str(path)
    return placed


def _check_options(step: Step, context: Context) -> None:
    """Each owner checks its own: now, and not when the first of its steps fails.

    Raises:
        BadInput: an option is unknown or its value is bad.
    """
    check_owners(step.options, step.engines)
    for engine in step.engines:
        options = step.options.get(engine, {})
        whole(context, engine, Engine.check_options, options, CHECK_LIMIT)


def check_owners(options: Mapping[str, Options], engines: list[str]) -> None:
    """Whether somebody reads what is said.

    Raises:
        BadInput: options are for an engine that the job does not have.
    """
    owners = [*engines, GRAPH]
    for owner in options:
        if owner not in owners:
            raise BadInput(f"there are options for {owner!r}, but the job has only {', '.join(owners)}")


def _regions(engine: str | None, task: ExtractedTask, wanted: int, step: Step, context: Context) -> int:
    """Into how many regions an engine splits the space of a task, where so many are wanted."""
    if engine is None or wanted == 1:
        return 1
    ref = TaskRef(workload=task.workload, target=step.target, name=task.name, key=task.key)
    return max(1, min(wanted, whole(context, engine, Engine.regions, ref, CHECK_LIMIT)))


class Objections(Struct, frozen=True):
    """Of an engine to the tasks of a model, in their order; empty where it takes one."""

    texts: list[str]


def _objections(
    engine: str, tasks: Sequence[ExtractedTask], key: str, step: Step, context: Context
) -> Sequence[str]:
    """Those of an engine. What our own have said of the same model before, on this machine, they say again:
    some look for a search space to find out.

    Args:
        key: of the import.
    """
    if step.settings.known == "only":
        return [NOT_KNOWN] * len(tasks)
    kept = context.kept if engine in OWN_ENGINES else None
    name = hashlib.sha256(f"objections of {engine} to {key}".encode()).hexdigest()
    before = kept.get(name, Objections) if kept is not None else None
    if before is not None and len(before.texts) == len(tasks):
        return before.texts
    refs = [
        TaskRef(workload=each.workload, target=step.target, name=each.name, key=each.key) for each in tasks
    ]
    texts = [whole(context, engine, Engine.objection, ref, CHECK_LIMIT) for ref in refs]
    if kept is not None:
        kept.put(name, Objections(texts))
    return texts
