"""Models in, tuned models out: what ``tunemesh tune`` and the Python interface share."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tunemesh import checks, model_files
from tunemesh.client import CONNECT_LIMIT, Client
from tunemesh.early_stop import EarlyStop
from tunemesh.layout import DISTURBED, Layout, keeps_apart
from tunemesh.layout import plan as lay_out
from tunemesh.mesh import LocalMesh
from tunemesh.mesh_address import MeshAddress
from tunemesh.model_files import Given, ModelFile
from tunemesh.report import Report, save_results
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput, BrokerUnavailable, LinkDown, TunemeshError
from tunemesh.shared.messages import NAME_LIMIT, Blob, JobEvent, Options, Request, Settings
from tunemesh.shared.text import clip

STOPPING = (
    "stopping early: what is under way is finished and the best is kept, where something was measured;"
    " Ctrl-C again leaves at once"
)


OWN_BROKER_LIMIT = 20.0
"""Seconds that the broker of a mesh of our own may take to answer: it shares the machine with all that has
just been started."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to tune, for what, and how much."""

    target: str
    trials: int
    out: Path
    device: str | None = None
    engines: tuple[str, ...] = ("metaschedule",)
    """A task goes to the first of them that takes it."""
    options: Mapping[str, Options] = field(default_factory=dict)
    """By engine, or ``graph``: what it is told."""
    seed: int = 0
    tenant: str = ""
    priority: int = 10
    settings: Settings = field(default_factory=Settings)
    strategy: str = "interleaved"
    builders: int | None = None
    address: MeshAddress | None = None
    """A running mesh to use instead of one of our own."""
    folder: Path | None = None
    """Keeps data, artifacts and logs of a mesh of our own; by default a temporary one that is removed."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise BadInput(f"the seed must be between 0 and {2**31 - 1:,}, not {self.seed}")
        if not 1 <= self.trials <= 1_000_000:
            raise BadInput(f"trials must be between 1 and 1,000,000, not {self.trials}")
        if not 1 <= len(self.target) <= 2000:
            raise BadInput(f"a target has 1 to 2,000 characters, not {len(self.target):,}")
        if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63})?", self.tenant):
            raise BadInput(f"a tenant must be letters, digits, - and _, at most 64, not {self.tenant!r}")
        if not 1 <= self.priority <= 100:
            raise BadInput(f"the priority must be between 1 and 100, not {self.priority}")
        if not 1 <= len(self.engines) <= 8:
            raise BadInput(f"a job has 1 to 8 engines, not {len(self.engines)}")


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


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a request that was published."""

    job: str
    answer: Literal["accepted", "rejected", "queued"]
    """``queued``: no coordinator has answered yet; the request waits for one."""
    text: str = ""
    """Why it was rejected."""


def read_models(
    given: Sequence[Given], plan: Plan, note: Callable[[str], None] | None = None
) -> list[ModelFile]:
    """The models as they are sent, after all that can be checked without a mesh.

    Raises:
        BadInput: a model cannot be read; no engine of the plan can make anything of it, of the target or of
            the options; or the job is too large.
    """
    if plan.address is None:
        checks.check_engines(plan.engines)  # elsewhere there may be others
    models = [model_files.read(each, note or _ignore) for each in given]
    for model in models:
        checks.check_model(model.path, model.data, plan.engines)
        files = dict.fromkeys(model.files, Blob("0" * 64, 0))
        request = make_request("job", model.path, Blob("0" * 64, len(model.data)), plan, files)
        if problem := request.problem():
            raise BadInput(f"bad request: {problem}")
    checks.check_target(plan.target, plan.engines)
    return models


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


def stored(job: str, model: ModelFile, plan: Plan, store: ArtifactStore) -> Request:
    """The message for one model, once the store has it."""
    files = {name: store.put_file(path) for name, path in model.files.items()}
    return make_request(job, model.path, store.put(model.data), plan, files)


def make_request(job: str, path: Path, model: Blob, plan: Plan, files: Mapping[str, Blob]) -> Request:
    """The message for one model, and for what it keeps in other files."""
    return Request(
        job=job,
        model=model,
        files=dict(files),
        target=plan.target,
        trials=plan.trials,
        engines=list(plan.engines),
        options=dict(plan.options),
        name=clip(path.name, NAME_LIMIT),
        tenant=plan.tenant,
        priority=plan.priority,
        seed=plan.seed,
        settings=plan.settings,
    )


def submit(
    given: Sequence[Given], plan: Plan, address: MeshAddress, note: Callable[[str], None] | None = None
) -> list[Submitted]:
    """Hand models to a running mesh, and wait for a few seconds for what its coordinator says.

    Raises:
        BadInput: a model or the target cannot be used.
        BrokerUnavailable: the broker cannot be used.
    """
    models = read_models(given, replace(plan, address=address), note)
    ids = job_ids([model.path for model in models], unique=True)
    store = ArtifactStore(address.artifacts)
    with Client(address.broker, ids) as client:
        for job, model in zip(ids, models, strict=True):
            client.submit(stored(job, model, plan, store))
        answers = client.answers(ids)
    return [_submitted(job, answers.get(job)) for job in ids]


def _submitted(job: str, answer: JobEvent | None) -> Submitted:
    if answer is None:
        return Submitted(job, "queued")
    if answer.kind == "rejected":
        return Submitted(job, "rejected", answer.text)
    return Submitted(job, "accepted")


def tune(
    given: Sequence[Given], plan: Plan, watcher: Watcher, early_stop: EarlyStop | None = None
) -> list[Ending]:
    """Tune all models at once. Every model is a job; one that fails does not affect the others.

    Results are written to ``plan.out/<job>/``. Once ``early_stop`` is asked for nothing new is tried, and
    the results are the best so far.

    Raises:
        BadInput: something that was handed in cannot be used; nothing was started.
        TunemeshError: the mesh could not go on.
    """
    models = read_models(given, plan, watcher.note)
    ids = job_ids([model.path for model in models], unique=plan.address is not None)
    _check_writable(plan.out, ids)
    with ExitStack() as stack:
        supervise: Callable[[], None] = _nothing
        mesh: LocalMesh | None = None
        if plan.address is None:
            layout = lay_out(plan.device, plan.builders, keeps_apart(plan.strategy))
            _describe(layout, watcher)
            mesh = LocalMesh(layout, plan.target, plan.engines, plan.strategy, plan.folder)
            stack.enter_context(mesh)
            address, supervise = MeshAddress(broker=mesh.url, artifacts=mesh.artifacts), mesh.supervise
            password = mesh.node.password("monitor")
            watcher.note(f"mesh is up; RabbitMQ UI: {mesh.node.management_url} monitor {password}")
        else:
            address = plan.address
        store = ArtifactStore(address.artifacts)
        limit = CONNECT_LIMIT if mesh is None else OWN_BROKER_LIMIT
        client = stack.enter_context(Client(address.broker, ids, limit))
        if mesh is None:
            client.snapshot()  # somebody must be there to take the requests
        watcher.submitting()
        for job, model in zip(ids, models, strict=True):
            client.submit(stored(job, model, plan, store))
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
                ending = _ending(event, store, plan.out)
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


def _ignore(text: str) -> None:
    """Nobody wants to know."""


def _nothing() -> None:
    """There is nothing to supervise."""
