"""What a job needs next, and what is in it. Pure functions over a job's ledger and its held results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from tunemesh.coordinator.jobs import closing, nonces, searches
from tunemesh.coordinator.jobs import rounds as job_rounds
from tunemesh.coordinator.jobs.job import Chunk, Held, Job, Round, StepRef, Task
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.shared.messages import (
    AssembleWork,
    BuildWork,
    Built,
    Conditions,
    Device,
    ImportWork,
    ProfileDone,
    ProfileWork,
    Request,
    Settings,
    Stage,
    Step,
    StepResult,
    TaskRecords,
    Trial,
    UpdateDone,
    UpdateWork,
    ValidateWork,
    Work,
)
from tunemesh.shared.messages.levels import CANDIDATES, CONFIRMED

KINDS = {"import": "build-cpu", "assemble": "build-cpu", "build": "build-cpu", "model-update": "model-update"}
"""Which kind of resource does a stage; ``profile`` and ``validate`` need a device of the right target."""

FEEDS: dict[Stage, tuple[Stage, ...]] = {
    "import": ("model-update", "build", "profile"),
    "model-update": ("build", "profile"),
    "build": ("profile",),
    "profile": ("model-update", "build"),
    "assemble": ("validate",),
    "validate": (),
}
"""Which stages come after one, as a rule: up to the device, or from it up to the next build."""

ERROR_ROOM = 128 * 1024
"""Characters for the error texts of one round in a ``model-update`` step."""

CONFIRM_CHUNK = 8
"""The candidates to be confirmed are measured together, in one chunk."""


def engines_of(job: Job, stage: Stage, task: str = "-") -> list[str]:
    """Those that whoever does the step must serve: the search's, or for the whole model all of the job's.
    None on a device: what is measured or compared is the same whoever made it."""
    if stage in ("profile", "validate"):
        return []
    ledger = job.task_ledger(task)
    if ledger is None or ledger.spec.engine is None:
        return job.ledger.request.engines
    return [ledger.spec.engine]


def engines_at_work(job: Job) -> Counter[str]:
    """Engines of the job's open searches, with the number of these; before there are any all of the job's."""
    open_ = [task.spec.id for task in job.ledger.tasks if not task.closed]
    return Counter(
        [engine for task in open_ for engine in engines_of(job, "build", task)] or job.ledger.request.engines
    )


def need_of(job: Job, stage: Stage, task: str = "-") -> Need:
    """What a stage of the job, or of one of its tasks, needs."""
    return need_for(job, stage, engines_of(job, stage, task))


def need_for(job: Job, stage: Stage, engines: Iterable[str]) -> Need:
    """What a stage of the job needs with these engines."""
    kind = KINDS.get(stage)
    return Need.of(kind, engines) if kind is not None else Need(f"profile:{job.ledger.request.target}")


def feeds(job: Job, stage: Stage, task: str = "-") -> tuple[Need, ...]:
    """What the steps need that usually follow."""
    needs: list[Need] = []
    for after in FEEDS[stage]:
        if after in ("model-update", "build") and job.task_ledger(task) is None:
            needs += [need_for(job, after, [engine]) for engine in job.ledger.request.engines]
        else:
            needs.append(need_of(job, after, task))
    return tuple(needs)


# -- Which steps --------------------------------------------------------------------------------------------


def open_steps(job: Job) -> list[StepRef]:
    """Every step of the job that is due and whose result is missing, whether or not it is on its way."""
    ledger = job.ledger
    match ledger.phase:
        case "importing":
            return [StepRef(job.id, "import")]
        case "tuning":
            return [ref for task in ledger.tasks for ref in task_steps(job, task)]
        case "assembling":
            return [StepRef(job.id, "assemble")]
        case "validating":
            return [StepRef(job.id, "validate")]
    return []


def task_steps(job: Job, task: TaskLedger) -> list[StepRef]:
    """The same for one task. With lookahead two of its rounds may be under way."""
    if task.round < 0 or task.closed:
        return []
    rounds = job.task(task.spec.id).rounds
    due: list[StepRef] = []
    for number in range(task.folded + 1, task.round + 1):
        round_ = rounds.get(number)
        if round_ is None or round_.update is None:
            if number == task.round:
                due.append(StepRef(job.id, "model-update", task.spec.id, number))
            continue
        due += [ref for chunk in range(round_.chunk_count()) for ref in chunk_steps(job, task, round_, chunk)]
    return due


def chunk_steps(job: Job, task: TaskLedger, round_: Round, chunk: int) -> list[StepRef]:
    """The same for one chunk. What closes a search is measured with what closes others of its task, in the
    step of one of them."""
    stage = round_.stage(chunk)
    if stage == "profile" and job_rounds.closes(task, round_.number):
        step = closing.step_of(job, task)
        return [step] if step is not None and step.task == task.spec.id else []
    return [StepRef(job.id, stage, task.spec.id, round_.number, chunk)] if stage is not None else []


def to_measure(job: Job, ref: StepRef) -> dict[str, list[Built]]:
    """The artifacts that a ``profile`` step is about, by search. Nothing where they are not built."""
    task = job.task_ledger(ref.task)
    if task is not None and job_rounds.closes(task, ref.round):
        found = dict(closing.measured_with(job, task))
        return found if ref.task in found else {}
    round_ = job.round(ref.task, ref.round)
    chunk = round_.chunks.get(ref.chunk) if round_ is not None else None
    if chunk is None or chunk.built is None:
        return {}
    return {ref.task: [each for each in chunk.built.built if each.artifact is not None]}


def candidates_of(job: Job, ref: StepRef) -> int:
    """How many candidates a step of a chunk is about; 1 for other steps."""
    if ref.stage == "profile":
        return sum(map(len, to_measure(job, ref).values()))
    round_ = job.round(ref.task, ref.round)
    return len(round_.candidates(ref.chunk)) if round_ is not None and ref.chunk >= 0 else 1


def steps_after(job: Job, task: TaskLedger, result: StepResult) -> list[StepRef]:
    """The steps of a task that may have become due by a result of it."""
    round_ = job.task(task.spec.id).rounds.get(result.round)
    if not task.want:
        return [ref for each in closing.together(job, task) for ref in task_steps(job, each)]
    if isinstance(result.result, UpdateDone) or round_ is None:
        return task_steps(job, task)
    return chunk_steps(job, task, round_, result.chunk)


def is_back(job: Job, task: TaskLedger) -> bool:
    """Whether all rounds under way have nothing more to wait for."""
    rounds = job.task(task.spec.id).rounds
    return task.round >= 0 and all(
        number in rounds and rounds[number].complete for number in range(task.folded + 1, task.round + 1)
    )


def is_spent(task: TaskLedger, kept: Task, number: int) -> bool:
    """Whether a round has given all it had: it is part of the ledger's figures, and an update whose result is
    held has learned from all of it."""
    if number > task.folded:
        return False
    later = [n for n, each in kept.rounds.items() if n > number and each.update is not None]
    if any(n > number + 1 for n in later):
        return True
    round_, after = kept.rounds[number], kept.rounds.get(number + 1)
    if after is None or after.proposal is None:
        return False
    return round_.update is None or len(after.proposal.learned) == round_.chunk_count()


def can_make(job: Job, ref: StepRef) -> bool:
    """Whether everything that the step is made from is at hand.

    Only a ``model-update`` after the first has sources: the round before, of which an update that looks ahead
    takes what is back, and what an earlier one has left of the round before that.
    """
    if ref.stage != "model-update" or ref.round == 0:
        return True
    task = job.task_ledger(ref.task)
    rounds = job.task(ref.task).rounds
    before, older = rounds.get(ref.round - 1), rounds.get(ref.round - 2)
    if task is None or before is None or before.update is None:
        return False
    if older is not None and not older.complete:
        return False
    return task.ahead or before.complete


def to_be_held(job: Job, *, fitting: bool) -> int:
    """Deliveries that the coordinator has to hold for all open tasks of the job at once, at most: of each the
    proposal of a round, two results of each of its chunks, and the next proposal.

    Args:
        fitting: chunks may be smaller than the largest allowed, down to one candidate.
    """
    settings, level = job.ledger.request.settings, job.ledger.request.level
    batch = CANDIDATES.get(level.effort) or min(settings.batch, level.trials)
    by_search = 2 + 2 * (batch if fitting else -(-batch // settings.chunk))
    return 2 + by_search * sum(not task.closed for task in job.ledger.tasks)


def named(job: Job, step: str) -> str:
    """A step for people: its stage, and the task that it is of."""
    ref = StepRef.parse(step)
    task = job.task_ledger(ref.task)
    return f"{ref.stage} of {ref.task} ({task.spec.name})" if task is not None else ref.stage


# -- Their content ------------------------------------------------------------------------------------------


def make_step(job: Job, ref: StepRef, attempt: int, chunk_size: int, devices: Sequence[Device] = ()) -> Step:
    """The message for a step.

    Args:
        chunk_size: for the batch that a ``model-update`` proposes.
        devices: what an ``import``, and the first ``model-update`` of a task, are told of those that serve
            the target.
    """
    request = job.ledger.request
    return Step(
        id=ref.id,
        job=job.id,
        engines=engines_of(job, ref.stage, ref.task),
        target=request.target,
        seed=request.seed,
        settings=_settings(request, ref.stage),
        options=request.options,
        work=_work(job, ref, chunk_size, devices),
        task=ref.task,
        round=max(ref.round, 0),
        chunk=max(ref.chunk, 0),
        origin=job.ledger.origin,
        nonce=nonces.nonce_of(job.ledger.secret, ref.id),
        attempt=attempt,
    )


def _settings(request: Request, stage: Stage) -> Settings:
    """Those of a request. Where nothing is to be measured, a kernel is run to check what it computes, and
    once more for a rough idea of its speed: one that is slower than untuned is of no use."""
    if request.level.effort != "instant" or stage != "profile":
        return request.settings
    return msgspec.structs.replace(request.settings, repeats=1, min_repeat_ms=0)


def _work(job: Job, ref: StepRef, chunk_size: int, devices: Sequence[Device]) -> Work:
    ledger = job.ledger
    match ref.stage:
        case "import":
            request = ledger.request
            return ImportWork(
                model=request.model,
                files=request.files,
                samples=request.samples,
                known=ledger.known,
                devices=list(devices),
                split=request.level.split,
            )
        case "assemble":
            assert ledger.model is not None
            return AssembleWork(
                model=ledger.model,
                objects=ledger.objects,
                tasks=[
                    TaskRecords(
                        task=t.spec,
                        history=t.history,
                        confirmed=t.confirmed,
                        untuned=searches.untuned(job.searches(t)),
                    )
                    for t in ledger.tasks
                ],
            )
        case "validate":
            assert ledger.assembled is not None
            made = ledger.assembled
            return ValidateWork(
                tuned=made.tuned, untuned=made.untuned, signature=made.signature, sample=ledger.sample
            )
    task = job.task_ledger(ref.task)
    assert task is not None
    if ref.stage == "model-update":
        work = _update_work(task, job.task(ref.task), ref.round, chunk_size)
        if job_rounds.closes(task, ref.round):
            work = msgspec.structs.replace(
                work,
                rival=job_rounds.lead(job, task, others=True),
                names=CONFIRMED[job.ledger.request.level.effort],
            )
        return msgspec.structs.replace(work, devices=list(devices)) if work.state is None else work
    round_ = job.round(ref.task, ref.round)
    assert round_ is not None
    if ref.stage == "build":
        # One that is not confirmed goes into the model as it is.
        keep = job_rounds.closes(task, ref.round) or not CONFIRMED[job.ledger.request.level.effort]
        return BuildWork(task=task.spec, candidates=round_.candidates(ref.chunk), keep=keep)
    built = to_measure(job, ref)
    return ProfileWork(
        task=task.spec,
        artifacts=built.pop(ref.task),
        rivals=built,
        baseline=round_.wants_baseline(ref.chunk),
        confirm=job_rounds.closes(task, ref.round),
        best=job_rounds.lead(job, task),
        untuned=job_rounds.untuned(job, task),
    )


def _update_work(task: TaskLedger, kept: Task, number: int, chunk_size: int) -> UpdateWork:
    if task.taken is not None and not number:
        return UpdateWork(
            task=task.spec,
            want=task.want,
            trials=_fitting(task.rest),
            origin=task.rest_of if task.rest else None,
            chunk_size=chunk_size if task.want else CONFIRM_CHUNK,
            recall=task.history,
        )
    before, older = kept.rounds.get(number - 1, Round(number - 1)), kept.rounds.get(number - 2)
    sources: list[Held] = [before.update] if before.update is not None else []
    trials: list[Trial] = []
    if older is not None and before.proposal is not None:
        rest = [n for n in range(older.chunk_count()) if n not in before.proposal.learned]
        _collect(older, rest, sources, trials)
    learns = sorted(before.back)
    _collect(before, learns, sources, trials)
    # A round that was cut before it began only learns.
    want = 0 if task.limits.get(number) == 0 else task.want
    return UpdateWork(
        task=task.spec,
        want=want,
        state=before.proposal.state if before.proposal else None,
        trials=_fitting(trials),
        timings=[held.message.timing for held in sources],
        learns=learns,
        conditions=_conditions(sources),
        chunk_size=chunk_size if want else CONFIRM_CHUNK,
    )


def _collect(round_: Round, chunks: list[int], sources: list[Held], trials: list[Trial]) -> None:
    for number in chunks:
        chunk = round_.chunks.get(number, Chunk())
        sources += [held for held in (chunk.build, chunk.profile) if held is not None]
        trials += round_.trials(number)


def _conditions(sources: Iterable[Held]) -> list[Conditions]:
    """Those of the measurements among ``sources``, each once."""
    results = [held.message.result for held in sources]
    found = [each.conditions for each in results if isinstance(each, ProfileDone) and each.conditions]
    return list({each.id: each for each in found}.values())


def _fitting(trials: list[Trial]) -> list[Trial]:
    """The same trials, with error texts short enough for all of them to fit into one message."""
    room = max(ERROR_ROOM // max(len(trials), 1), 100)
    return [
        trial if len(trial.error) <= room else msgspec.structs.replace(trial, error=trial.error[:room])
        for trial in trials
    ]
