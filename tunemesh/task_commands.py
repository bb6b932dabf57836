"""``tunemesh tasks``: what there is to tune in models, and what they have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from msgspec import Struct
from rich.console import Console

from tunemesh import checks, options, tuning, zoo
from tunemesh.job_options import Told, make_settings, parse_options
from tunemesh.layout import MEMORY
from tunemesh.model_files import ModelFile
from tunemesh.shared.errors import BadInput, JobFailed, TunemeshError
from tunemesh.shared.messages import Options, Settings
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.frontends.shapes import variants
from tunemesh.stage_workers.options import GRAPH
from tunemesh.stage_workers.platforms.protocol import ImportCall, Imported, Platform, TargetCall
from tunemesh.stage_workers.sandbox import allocator
from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox
from tunemesh.terminal import Column, Fitted, complain, print_json, say

TARGET_LIMIT = 120.0
"""Seconds to find out what a target is: TVM is imported first."""
GIB = 2**30
KEY_SHOWN = 12
"""Hex digits of a task's key in the table: enough to tell tasks apart."""


class TaskUse(Struct, frozen=True, kw_only=True):
    """One distinct task and who uses it."""

    key: str
    name: str
    weight: int
    """How often all models together run it, once each."""
    models: dict[str, int]
    """By model: how often it does."""


class Listed(Struct, frozen=True, kw_only=True):
    """What became of one model."""

    model: str
    tasks: int = 0
    """Distinct ones."""
    error: str = ""
    """Why it cannot be imported."""


def tasks(
    models: options.Models,
    target: options.Target = "native",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=1,3,224,224: the shape of an input; may be given again.", show_default="none"
        ),
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(help="NAME=1,4,16: the size of a symbolic dimension, or several.", show_default="none"),
    ] = None,
    option: Told = None,
    import_timeout: Annotated[
        float | None, typer.Option(help="Seconds that one model may take.", show_default="900")
    ] = None,
    memory: options.Memory = MEMORY,
    as_json: options.AsJson = False,
) -> None:
    """List the distinct tasks of models, how often they run, and in which models, without tuning anything.
    Equal keys are the same task, across models and jobs."""
    console = Console(stderr=as_json)
    given = {"shapes": shape, "dims": dim, "import_timeout": import_timeout}
    told = parse_options(option or [])
    if strange := sorted(set(told) - {GRAPH}):
        raise BadInput(f"there are options for {strange[0]}, but only those of {GRAPH} change the tasks")
    found = zoo.expand(models, lambda text: say(console, text))
    listed, used = _gather(found, target, make_settings(given), told.get(GRAPH, {}), memory)
    if as_json:
        print_json({"models": listed, "tasks": used})
    elif used:
        console.print(_table(used, len(found)))
    for each in listed:
        if each.error:
            complain(f"{each.model}: {each.error}", JobFailed.exit_code)
    raise typer.Exit(JobFailed.exit_code if any(each.error for each in listed) else 0)


def _gather(
    models: Sequence[ModelFile], target: str, settings: Settings, graph: Options, memory: float
) -> tuple[list[Listed], list[TaskUse]]:
    platform = platforms.name_of(target)
    checks.check_workers()
    listed: list[Listed] = []
    used: dict[str, TaskUse] = {}
    with Sandbox(
        platforms=[platform],
        memory=round(memory * GIB),
        cpus=os.sched_getaffinity(0),
        environment=allocator.environment(),
    ) as sandbox:
        resolved = sandbox.call(platform, Platform.resolve_target, TargetCall(target=target), TARGET_LIMIT)
        if isinstance(resolved, CallFailure):
            raise TunemeshError(f"cannot resolve the target: {resolved.kind}: {resolved.text}")
        for model in models:
            own = tuning.settings_of(model, settings)
            try:
                imported = _imported(sandbox, platform, model, resolved.canonical, own, graph)
            except TunemeshError as error:
                listed.append(Listed(model=model.name, error=str(error)))
                continue
            listed.append(Listed(model=model.name, tasks=len(imported.tasks)))
            for use in _uses(model.name, imported):
                before = used.get(use.key)
                used[use.key] = use if before is None else _sum(before, use)
    return listed, sorted(used.values(), key=lambda use: -len(use.models))


def _imported(
    sandbox: Sandbox, platform: str, model: ModelFile, target: str, settings: Settings, graph: Options
) -> Imported:
    """Raises:
    TunemeshError: the model is refused, or the process that reads it ends.
    """
    if why := settings.problem():
        raise BadInput(why)
    if platform != platforms.MOCK:
        checks.check_model(model.name, model.data, ())
    call = ImportCall(
        model=model.data,
        files={name: str(path) for name, path in model.files.items()},
        target=target,
        variants=variants(settings),
        options=graph,
        ranges=settings.ranges,
    )
    answer = sandbox.call(platform, Platform.import_model, call, settings.import_timeout)
    if isinstance(answer, CallFailure):
        raise TunemeshError(f"{answer.kind}: {answer.text}")
    return answer


def _uses(model: str, imported: Imported) -> Iterator[TaskUse]:
    for task in imported.tasks:
        yield TaskUse(key=task.key, name=task.name, weight=task.weight, models={model: task.weight})


def _sum(one: TaskUse, other: TaskUse) -> TaskUse:
    models = {
        name: one.models.get(name, 0) + other.models.get(name, 0) for name in {**one.models, **other.models}
    }
    return TaskUse(key=one.key, name=one.name, weight=one.weight + other.weight, models=models)


def _table(used: Sequence[TaskUse], models: int) -> Fitted:
    shared = sum(len(use.models) > 1 for use in used)
    counted = f"{len(used)} distinct tasks of {models} models, {shared} of them in more than one"
    rows = []
    for use in used:
        names = ", ".join(f"{name} {weight}x" for name, weight in use.models.items())
        rows.append([use.key[:KEY_SHOWN], use.name, str(use.weight), names])
    columns = [Column("key", 0), Column("task", 1), Column("weight", 1), Column("models", 1)]
    return Fitted(counted, columns, rows)
