"""Models in, tuned models out: what ``tunemesh tune`` and the Python interface share."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from tunemesh.client import Client
from tunemesh.early_stop import EarlyStop
from tunemesh.layout import DISTURBED, Layout, keeps_apart, plan
from tunemesh.mesh import LocalMesh
from tunemesh.mesh_address import Place
from tunemesh.report import Report, save_results
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput, BrokerUnavailable, LinkDown, TunemeshError
from tunemesh.shared.messages import NAME_LIMIT, EngineName, JobEvent, Options, Request, Settings
from tunemesh.shared.text import clip

STOPPING = (
    "stopping early: what is under way is finished and the best is kept, where something was measured;"
    " Ctrl-C again leaves at once"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to tune, for what, and how much."""

    target: str
    trials: int
    out: Path
    device: str | None = None
    engine: EngineName = "metaschedule"
    seed: int = 0
    tenant: str = ""
    priority: int = 10
    settings: Settings = field(default_factory=Settings)
    options: dict[str, Options] = field(default_factory=dict)
    """By the name of an engine, or ``graph``."""
    strategy: str = "interleaved"
    builders: int | None = None
    place: Place | None = None
    """A running mesh to use instead of one of our own."""
    folder: Path | None = None
    """Keeps data, artifacts and logs of a mesh of our own; by default a temporary one that is removed."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise BadInput(f"the seed must be between 0 and {2**31 - 1:,}, not {self.seed}")


@dataclass(frozen=True, slots=True)
class Ending:
    """How one job ended: with a report, or with the reason why there is none."""

    job: str
    report: Report | None
    error: str = ""


class Watcher:
    """Told of what goes on; does nothing by itself."""

    def note(self, text: str) -> None:
        """One line on what is going on."""

    def submitting(self) -> None:
        """The mesh is up, and the first request is about to be published."""

    def event(self, event: JobEvent) -> None:
        """Something happened to a job."""

    def refresh(self) -> None:
        """Called about twice a second."""


def read_model(path: Path) -> bytes:
    """The bytes of a model file.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read model {path}: {error.strerror or error}") from None


def job_ids(paths: Sequence[Path], unique: bool) -> list[str]:
    """An id per model, from its file name; with a suffix where ids must not clash with others' jobs."""
    ids: list[str] = []
    for path in paths:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-_")[:40] or "model"
        candidate = f"{stem}-{uuid.uuid4().hex[:6]}" if unique else stem
        number = 2
        while candidate in ids:
            candidate = f"{stem}-{number}"
            number += 1
        ids.append(candidate)
    return ids


def check_engine(name: str) -> EngineName:
    """The engine of this name.

    Raises:
        BadInput: there is none.
    """
    for known in get_args(EngineName):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise BadInput(f"there is no engine {name!r}; known: {', '.join(get_args(EngineName))}")


def make_request(job: str, path: Path, model: bytes, plan: Plan, store: ArtifactStore) -> Request:
    """The message for one model; a large one goes through the store."""
    return Request(
        job=job,
        model=store.put(model),
        target=plan.target,
        trials=plan.trials,
        engines=[plan.engine],
        name=clip(path.name, NAME_LIMIT),
        tenant=plan.tenant,
        priority=plan.priority,
        seed=plan.seed,
        settings=plan.settings,
        options=plan.options,
    )


def submit(paths: Sequence[Path], plan_: Plan, place: Place) -> list[str]:
    """Hand models to a running mesh. Returns the ids of the jobs.

    Raises:
        BadInput: a model cannot be read, or the broker cannot be used.
    """
    models = [(path, read_model(path)) for path in paths]
    ids = job_ids(paths, unique=True)
    store = ArtifactStore(place.artifacts)
    with Client(place.broker) as client:
        for job, (path, model) in zip(ids, models, strict=True):
            client.submit(make_request(job, path, model, plan_, store))
    return ids


def tune(
    paths: Sequence[Path], plan_: Plan, watcher: Watcher, early_stop: EarlyStop | None = None
) -> list[Ending]:
    """Tune all models at once. Every model is a job; one that fails does not affect the others.

    Results are written to ``plan_.out/<job>/``. Once ``early_stop`` is asked for nothing new is tried, and
    the results are the best so far.

    Raises:
        BadInput: something that was handed in cannot be used; nothing was started.
        TunemeshError: the mesh could not go on.
    """
    models = [(path, read_model(path)) for path in paths]
    ids = job_ids(paths, unique=plan_.place is not None)
    _check_writable(plan_.out, ids)
    with ExitStack() as stack:
        supervise: Callable[[], None] = _nothing
        mesh: LocalMesh | None = None
        if plan_.place is None:
            layout = plan(plan_.device, plan_.builders, keeps_apart(plan_.strategy))
            _describe(layout, watcher)
            mesh = LocalMesh(layout, plan_.target, plan_.engine, plan_.strategy, plan_.folder)
            stack.enter_context(mesh)
            place, supervise = Place(broker=mesh.url, artifacts=mesh.artifacts), mesh.supervise
            password = mesh.node.password("monitor")
            watcher.note(f"mesh is up; RabbitMQ UI: {mesh.node.management_url} monitor {password}")
        else:
            place = plan_.place
        store = ArtifactStore(place.artifacts)
        client = stack.enter_context(Client(place.broker, ids))
        if mesh is None:
            client.snapshot()  # somebody must be there to take the requests
        watcher.submitting()
        for job, (path, model) in zip(ids, models, strict=True):
            client.submit(make_request(job, path, model, plan_, store))
        endings: dict[str, Ending] = {}
        if early_stop is not None:
            stack.enter_context(early_stop)
        to_stop: set[str] | None = None
        try:
            for event in client.follow(ids):
                supervise()
                if early_stop is not None and early_stop.asked and to_stop is None:
                    to_stop = set(ids)
                    watcher.note(STOPPING)
                if to_stop:
                    to_stop = _stop(client, to_stop - set(endings))
                if event is None:
                    watcher.refresh()
                    continue
                watcher.event(event)
                ending = _ending(event, store, plan_.out)
                if ending is not None:
                    endings[event.job] = ending
        except KeyboardInterrupt:
            if mesh is None:
                for job in set(ids) - set(endings):
                    client.cancel(job)
            raise
        if mesh is not None and any(e.report is None and "cannot write" in e.error for e in endings.values()):
            watcher.note(f"the results are kept in {mesh.keep()}")
    return [endings[job] for job in ids]


def _stop(client: Client, jobs: set[str]) -> set[str]:
    """Ask for ``jobs`` to be stopped early. Returns those for which the broker could not be reached."""
    for job in sorted(jobs):
        try:
            client.cancel(job, keep=True)
        except (BrokerUnavailable, LinkDown):
            return jobs
        jobs = jobs - {job}
    return jobs


def _describe(layout: Layout, watcher: Watcher) -> None:
    watcher.note(
        f"starting a mesh on this machine: device {layout.device}{' on its own' if layout.apart else ''},"
        f" {layout.builders} build and {layout.updaters} model-update worker(s)"
        f" on core(s) {', '.join(map(str, sorted(layout.other_cpus)))}"
    )
    if not layout.apart:
        watcher.note(DISTURBED)
    elif layout.shared:
        watcher.note(
            "there is one core only: steps take turns (strategy sequential), to disturb no measurement"
        )


def _ending(event: JobEvent, store: ArtifactStore, out: Path) -> Ending | None:
    match event.kind:
        case "done" if event.progress is not None:
            try:
                report = save_results(
                    store, event.progress, event.assembled, event.validated, out / event.job
                )
            except TunemeshError as error:
                return Ending(event.job, None, str(error))
            return Ending(event.job, report)
        case "failed" | "cancelled" | "rejected":
            return Ending(event.job, None, event.text)
    return None


def _check_writable(out: Path, ids: Sequence[str]) -> None:
    """Better now than after hours of tuning."""
    for folder in (out, *(out / job for job in ids if (out / job).exists())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise BadInput(f"cannot write to {folder}: {error.strerror or error}") from None


def _nothing() -> None:
    """There is nothing to supervise."""
