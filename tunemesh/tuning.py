"""Models in, tuned models out: what ``tunemesh tune`` and the Python interface share."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from tunemesh import checks, zoo
from tunemesh.client import Client
from tunemesh.early_stop import EarlyStop
from tunemesh.following import Ending, Following, Watcher, waves
from tunemesh.layout import MEMORY, keeps_apart
from tunemesh.layout import plan as lay_out
from tunemesh.mesh import LocalMesh
from tunemesh.mesh_address import MeshAddress
from tunemesh.model_files import Given, ModelFile
from tunemesh.out_folders import reserved
from tunemesh.places import Place, describe, of_mesh
from tunemesh.shared.accounts import account_of
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput, TunemeshError
from tunemesh.shared.messages import (
    FINAL_KINDS,
    MOST_KNOWN,
    NAME_LIMIT,
    Blob,
    JobEvent,
    Level,
    Options,
    Quote,
    Request,
    Settings,
    Visibility,
)
from tunemesh.shared.messages.levels import AUTO, MOST_TRIALS
from tunemesh.shared.text import clip
from tunemesh.shared.transport.address import user_of
from tunemesh.stage_workers.frontends.shapes import variants
from tunemesh.stage_workers.stages.recording import NOT_WRITTEN


@dataclass(frozen=True, slots=True)
class Plan:
    """What to tune, for what, and how much."""

    target: str
    out: Path
    level: Level = field(default_factory=Level)
    """What is to be reached, and what it may take."""
    device: str | None = None
    engines: tuple[str, ...] = ()
    """Each searches the tasks that it takes. None: all that are served."""
    options: Mapping[str, Options] = field(default_factory=dict)
    """By engine, or ``graph``: what it is told."""
    seed: int = 0
    tenant: str = ""
    visibility: Visibility = "tenant"
    """Who may use what is measured for it later."""
    priority: int = 10
    samples: bytes | None = None
    """An ``npz`` file with an array for each input, in place of random ones."""
    settings: Settings = field(default_factory=Settings)
    strategy: str = "interleaved"
    prices: Mapping[str, float] = field(default_factory=dict)
    """Of the queues of a mesh of our own, per hour."""
    builders: int | None = None
    memory: float = MEMORY
    """GiB for what each worker of a mesh of our own runs in its sandbox."""
    address: MeshAddress | None = None
    """A running mesh to use instead of one of our own."""
    records: str = ""
    """The database that the workers of a mesh of our own write down in what they measure; empty: none."""
    overwrite: bool = False
    """Whether results that are there already may be replaced."""
    html: bool = True
    """Whether every report gets a page for people."""
    imports: str = ""
    """The folder in which they keep what came of models that they have imported; empty: none."""
    folder: Path | None = None
    """Keeps data, artifacts and logs of a mesh of our own; by default a temporary one that is removed."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise BadInput(f"the seed must be between 0 and {2**31 - 1:,}, not {self.seed}")
        if not 1 <= len(self.target) <= 2000:
            raise BadInput(f"a target has 1 to 2,000 characters, not {len(self.target):,}")
        if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63})?", self.tenant):
            raise BadInput(f"a tenant must be letters, digits, - and _, at most 64, not {self.tenant!r}")
        if not 1 <= self.priority <= 100:
            raise BadInput(f"the priority must be between 1 and 100, not {self.priority}")
        if len(self.engines) > 8:
            raise BadInput(f"a job has at most 8 engines, not {len(self.engines)}")


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a request that was published."""

    job: str
    model: str
    """Its name."""
    answer: Literal["accepted", "rejected", "queued"]
    """``queued``: no coordinator has answered yet; the request waits for one."""
    text: str = ""
    """Why it was rejected."""


def trials_of(count: int | None) -> int:
    """A number of trials as a level has it; ``None``: as many as pay.

    Raises:
        BadInput: it is out of range.
    """
    if count is None:
        return AUTO
    if not 1 <= count <= MOST_TRIALS:
        raise BadInput(f"trials must be between 1 and {MOST_TRIALS:,}, or auto, not {count}")
    return count


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
    models = zoo.expand(given, note or _ignore)
    if plan.samples is not None:
        if len(models) > 1:
            raise BadInput("--inputs has the inputs of one model: tune the others in jobs of their own")
        checks.check_inputs(models[0].data, plan.samples)
        models = [msgspec.structs.replace(models[0], samples=plan.samples, samples_for=None)]
    models = [with_fitting_samples(model, settings_of(model, plan.settings)) for model in models]
    for model in models:
        checks.check_model(model.name, model.data, plan.engines)
        request = make_request("job", model, plan, None)
        if problem := request.problem():
            raise BadInput(f"bad request: {problem}")
    checks.check_target(plan.target, plan.engines)
    return models


def with_fitting_samples(model: ModelFile, settings: Settings) -> ModelFile:
    """A model whose example inputs, if its framework has brought some, have the shapes of its job.

    Raises:
        BadModel: the model cannot have these shapes.
    """
    if model.samples_for is None or not (settings.shapes or settings.dims):
        return model
    return msgspec.structs.replace(model, samples=model.samples_for(variants(settings)))


def job_ids(names: Sequence[str], unique: bool) -> list[str]:
    """An id per model, from its name; with a suffix where ids must not clash with others' jobs."""
    ids: list[str] = []
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(name).stem).strip("-_")[:40] or "model"
        candidate = f"{stem}-{uuid.uuid4().hex[:6]}" if unique else stem
        number = 2
        while candidate in ids:
            candidate = f"{stem}-{number}"
            number += 1
        ids.append(candidate)
    return ids


def make_request(
    job: str, model: ModelFile, plan: Plan, store: ArtifactStore | None, known: Sequence[str] = ()
) -> Request:
    """The message for one model, which ``store`` gets; without one its blobs are only as large.

    Args:
        known: jobs that are done, whose measurements serve this one.

    Raises:
        BadInput: its own settings are not valid.
    """
    if store is None:
        blob = Blob("0" * 64, len(model.data))
        samples = None if model.samples is None else Blob("0" * 64, len(model.samples))
        files = dict.fromkeys(model.files, Blob("0" * 64, 0))
    else:
        blob = store.put(model.data)
        samples = None if model.samples is None else store.put(model.samples, inline=False)
        files = {name: store.put_file(path) for name, path in model.files.items()}
    return Request(
        job=job,
        model=blob,
        files=files,
        target=plan.target,
        level=plan.level,
        engines=list(plan.engines),
        options=dict(plan.options),
        name=clip(model.name, NAME_LIMIT),
        tenant=plan.tenant,
        visibility=plan.visibility,
        priority=plan.priority,
        seed=plan.seed,
        settings=settings_of(model, plan.settings),
        samples=samples,
        known=list(known)[-MOST_KNOWN:],
    )


def settings_of(model: ModelFile, common: Settings) -> Settings:
    """The settings of the job of a model: those of all, and its own.

    Raises:
        BadInput: its own are not valid.
    """
    try:
        return msgspec.convert({**msgspec.structs.asdict(common), **model.settings}, Settings)
    except msgspec.ValidationError as error:
        raise BadInput(f"bad settings of the model {model.name}: {error}") from None


def submit(
    given: Sequence[Given], plan: Plan, address: MeshAddress, note: Callable[[str], None] | None = None
) -> list[Submitted]:
    """Hand models to a running mesh, and wait for a few seconds for what its coordinator says.

    Raises:
        BadInput: a model or the target cannot be used.
        BrokerUnavailable: the broker cannot be used.
    """
    models = read_models(given, replace(plan, address=address), note)
    ids = job_ids([model.name for model in models], unique=True)
    store = _store(address, plan)
    with Client(address.broker, ids) as client:
        for job, model in zip(ids, models, strict=True):
            client.submit(make_request(job, model, plan, store))
        answers = client.answers(ids)
    return [_submitted(job, model.name, answers.get(job)) for job, model in zip(ids, models, strict=True)]


@dataclass(frozen=True, slots=True)
class Quoted:
    """What a mesh says that tuning a model would take."""

    model: str
    """Its name."""
    quote: Quote | None
    error: str = ""
    """Why there is none."""


def quote(given: Sequence[Given], plan: Plan, watcher: Watcher) -> list[Quoted]:
    """Ask what tuning these models would take: they are imported, and nothing is tried.

    Raises:
        BadInput: a model or the target cannot be used.
        TunemeshError: the mesh could not go on.
    """
    plan = replace(plan, level=msgspec.structs.replace(plan.level, quote_only=True))
    models = read_models(given, plan, watcher.note)
    ids = job_ids([model.name for model in models], unique=True)
    found: dict[str, JobEvent] = {}
    with ExitStack() as stack:
        place = _place(plan, watcher, stack)
        store = _store(place.address, plan)
        client = stack.enter_context(place.client(ids))
        for job, model in zip(ids, models, strict=True):
            client.submit(make_request(job, model, plan, store))
        for event in client.follow(ids):
            place.supervise()
            if event is not None and event.kind in FINAL_KINDS:
                found[event.job] = event
    return [_quoted(model.name, found[job]) for job, model in zip(ids, models, strict=True)]


def _store(address: MeshAddress, plan: Plan) -> ArtifactStore:
    """That of the tenant on whose account the jobs will be."""
    account = account_of(user_of(address.broker))
    bound = account.bound_to if account is not None else None
    return ArtifactStore(address.artifacts, plan.tenant if bound is None else bound)


def _place(plan: Plan, watcher: Watcher, stack: ExitStack) -> Place:
    """The mesh that runs, or one of our own that ends with ``stack``."""
    if plan.address is not None:
        return Place(plan.address)
    layout = lay_out(plan.device, plan.builders, keeps_apart(plan.strategy))
    describe(layout, watcher)
    mesh = LocalMesh(
        layout,
        plan.target,
        plan.engines,
        plan.strategy,
        plan.folder,
        memory=plan.memory,
        records=plan.records,
        prices=plan.prices,
        imports=plan.imports,
    )
    stack.enter_context(mesh)
    return of_mesh(mesh, watcher)


def _quoted(model: str, event: JobEvent) -> Quoted:
    said = event.progress.quote if event.progress is not None else None
    return Quoted(model, said, "" if said is not None else event.text)


def _submitted(job: str, model: str, answer: JobEvent | None) -> Submitted:
    if answer is None:
        return Submitted(job, model, "queued")
    if answer.kind == "rejected":
        return Submitted(job, model, "rejected", answer.text)
    return Submitted(job, model, "accepted")


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
    ids = job_ids([model.name for model in models], unique=plan.address is not None)
    with ExitStack() as stack:
        for job in ids:
            stack.enter_context(reserved(plan.out / job, plan.overwrite))
        place = _place(plan, watcher, stack)
        mesh, store = place.mesh, _store(place.address, plan)
        client = stack.enter_context(place.client(ids))
        watcher.submitting()
        if early_stop is not None:
            stack.enter_context(early_stop)
        following = Following(
            client,
            store,
            plan.out,
            lambda job, model, known: make_request(job, model, plan, store, known),
            watcher,
            early_stop,
            place.supervise,
            plan.html,
        )
        try:
            for wave in waves(models):
                following.follow({ids[number]: models[number] for number in wave})
        except KeyboardInterrupt:
            if mesh is None:
                for job in following.open:
                    client.cancel(job)
            raise
        endings = following.endings
        if mesh is not None and any(e.report is None and "cannot write" in e.error for e in endings.values()):
            watcher.note(f"the results are kept in {mesh.keep()}")
        if mesh is not None and any(map(_unwritten, endings.values())):
            watcher.note(write_now(client, store, plan.records))
    return [endings[job] for job in ids]


def _unwritten(ending: Ending) -> bool:
    """Whether workers could not write down what they measured."""
    report = ending.report
    return report is not None and any(NOT_WRITTEN in note for note in report.notes)


def write_now(client: Client, store: ArtifactStore, records: str) -> str:
    """Write down what workers could not, before a mesh of our own is gone with its histories. What came of
    it, in one line."""
    # Slow to import, and hardly ever needed.
    from tunemesh import record_exchange
    from tunemesh.stage_workers.records.database import Database

    try:
        with Database(records) as database:
            synced = list(record_exchange.sync(client, store, database))
    except TunemeshError as error:
        return f"what was measured is not in the records, and gone with this mesh: {error}"
    if lost := [each for each in synced if each.error]:
        return f"what job {lost[0].job} measured is not in the records: {lost[0].error}"
    return f"what workers could not write is in the records now: {sum(each.new for each in synced):,} rows"


def _ignore(text: str) -> None:
    """Nobody wants to know."""
