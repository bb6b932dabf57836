"""What a job needs next. Pure functions over a job's ledger and its held results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import msgspec

from coordinator import allocation
from coordinator.jobs import Job, Round, StepRef
from shared.messages import (
    AssembleWork,
    BuildWork,
    Built,
    Candidate,
    ImportWork,
    Ledger,
    Profiled,
    ProfileWork,
    Stage,
    Step,
    StepResult,
    TaskLedger,
    TaskRecords,
    Timing,
    Trial,
    UpdateDone,
    UpdateWork,
    Usage,
    ValidateWork,
    Work,
)

NEEDS = {"import": "build-cpu", "assemble": "build-cpu", "build": "build-cpu", "model-update": "model-update"}
"""Which queue serves a stage; ``profile`` and ``validate`` need a device of the right target."""


ERROR_ROOM = 128 * 1024
"""Characters for the error texts of one round in a ``model-update`` step."""


def need_of(job: Job, ref: StepRef) -> str:
    """The kind of resource that a step needs."""
    return NEEDS.get(ref.stage) or f"profile:{job.ledger.request.target}"


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
    """The same for one task."""
    if task.round < 0 or task.closed:
        return []
    round_ = job.task(task.spec.id).rounds.get(task.round)
    if round_ is None or round_.update is None:
        return [StepRef(job.id, "model-update", task.spec.id, task.round)]
    due: list[StepRef] = []
    for chunk in range(round_.chunk_count(job.ledger.request.settings.chunk)):
        stage = chunk_stage(task, round_, chunk)
        if stage is not None:
            due.append(StepRef(job.id, stage, task.spec.id, task.round, chunk))
    return due


def chunk_stage(task: TaskLedger, round_: Round, chunk: int) -> Stage | None:
    """What a chunk needs next, or ``None`` when it is back."""
    state = round_.chunks.get(chunk)
    if state is None or state.built is None:
        return "build"
    if state.profiled is not None:
        return None
    measurable = any(built.artifact is not None for built in state.built.built)
    return "profile" if measurable or wants_baseline(task, chunk) else None


def wants_baseline(task: TaskLedger, chunk: int) -> bool:
    """The first chunk of a task also measures the untuned workload."""
    return task.round == 0 and chunk == 0


def round_is_back(job: Job, task: TaskLedger) -> bool:
    """Whether the current round has nothing more to wait for."""
    round_ = job.task(task.spec.id).rounds.get(task.round)
    return round_ is not None and round_.update is not None and not task_steps(job, task)


def can_make(job: Job, ref: StepRef) -> bool:
    """Whether everything that the step is made from is at hand.

    Only a ``model-update`` after the first has sources: the round before, which is held until its result
    arrives. While deliveries come in again after a reconnect, part of them may still be missing.
    """
    if ref.stage != "model-update" or ref.round == 0:
        return True
    before = job.task(ref.task).rounds.get(ref.round - 1)
    if before is None or before.update is None:
        return False
    settings = job.ledger.request.settings
    for chunk in range(before.chunk_count(settings.chunk)):
        state = before.chunks.get(chunk)
        if state is None or state.built is None:
            return False
        measurable = any(built.artifact is not None for built in state.built.built)
        if state.profiled is None and (measurable or (ref.round == 1 and chunk == 0)):
            return False
    return True


# -- Their content ------------------------------------------------------------------------------------------


def make_step(job: Job, ref: StepRef, attempt: int) -> Step:
    """The message for a step."""
    request = job.ledger.request
    return Step(
        id=ref.id,
        job=job.id,
        engine=request.engine,
        target=request.target,
        seed=request.seed,
        settings=request.settings,
        work=_work(job, ref),
        task=ref.task,
        round=max(ref.round, 0),
        chunk=max(ref.chunk, 0),
        attempt=attempt,
    )


def _work(job: Job, ref: StepRef) -> Work:
    ledger = job.ledger
    match ref.stage:
        case "import":
            return ImportWork(model=ledger.request.model)
        case "assemble":
            assert ledger.model is not None
            closed = [TaskRecords(task=t.spec, history=t.history) for t in ledger.tasks]
            return AssembleWork(model=ledger.model, tasks=closed)
        case "validate":
            assert ledger.assembled is not None
            made = ledger.assembled
            return ValidateWork(tuned=made.tuned, untuned=made.untuned, signature=made.signature)
    task = job.task_ledger(ref.task)
    assert task is not None
    rounds = job.task(ref.task)
    size = ledger.request.settings.chunk
    if ref.stage == "model-update":
        before = rounds.rounds.get(ref.round - 1, Round())
        proposal = before.proposal
        return UpdateWork(
            task=task.spec,
            want=task.want,
            state=proposal.state if proposal else None,
            trials=_fitting(trials_of(before, size)),
            timings=[held.message.timing for held in before.held()],
        )
    round_ = rounds.round(ref.round)
    if ref.stage == "build":
        return BuildWork(task=task.spec, candidates=round_.candidates(ref.chunk, size))
    built = round_.chunks[ref.chunk].built
    assert built is not None
    return ProfileWork(
        task=task.spec,
        artifacts=[b for b in built.built if b.artifact is not None],
        baseline=wants_baseline(task, ref.chunk),
    )


# -- What came of a round -----------------------------------------------------------------------------------


def trials_of(round_: Round, size: int) -> list[Trial]:
    """The trials of a round, in the order of the batch: one per candidate that has failed to build or whose
    profile is back."""
    trials: list[Trial] = []
    for number, chunk in sorted(round_.chunks.items()):
        if chunk.built is None:
            continue
        built = {b.index: b for b in chunk.built.built}
        profiled = {p.index: p for p in chunk.profiled.profiled} if chunk.profiled else {}
        for candidate in round_.candidates(number, size):
            made, seen = built.get(candidate.index), profiled.get(candidate.index)
            failed = made is not None and made.outcome is not None
            if failed or chunk.profiled is not None:
                trials.append(_trial(candidate, made, seen))
    return trials


def _fitting(trials: list[Trial]) -> list[Trial]:
    """The same trials, with error texts short enough for all of them to fit into one message."""
    room = max(ERROR_ROOM // max(len(trials), 1), 100)
    return [
        trial if len(trial.error) <= room else msgspec.structs.replace(trial, error=trial.error[:room])
        for trial in trials
    ]


def _trial(candidate: Candidate, made: Built | None, seen: Profiled | None) -> Trial:
    if made is not None and made.outcome is not None:
        return Trial(candidate=candidate, outcome=made.outcome, error=made.error)
    if seen is None or (seen.outcome == "measured" and not seen.latencies):
        return Trial(candidate=candidate, outcome="run-failed", error="the worker reported nothing for it")
    return Trial(candidate=candidate, outcome=seen.outcome, latencies=seen.latencies, error=seen.error)


def fold(task: TaskLedger, round_: Round, size: int) -> TaskLedger:
    """``task`` with what its round has brought so far."""
    trials = trials_of(round_, size)
    outcomes = dict(task.outcomes)
    for trial in trials:
        outcomes[trial.outcome] = outcomes.get(trial.outcome, 0) + 1
    measured = [statistics.median(t.latencies) for t in trials if t.outcome == "measured"]
    best = min(measured + ([task.best] if task.best is not None else []), default=None)
    saved = task.best - best if task.best is not None and best is not None else 0.0
    errors = [t.error for t in trials if t.error]
    untuned = [c.profiled.untuned for c in round_.chunks.values() if c.profiled and c.profiled.untuned]
    proposal = round_.proposal
    return msgspec.structs.replace(
        task,
        trials=task.trials + len(trials),
        outcomes=outcomes,
        best=best,
        gain=saved / len(trials) if trials else 0.0,
        untuned=untuned[0] if untuned else task.untuned,
        last_error=errors[-1] if errors else task.last_error,
        exhausted=task.exhausted or (proposal is not None and len(proposal.candidates) < task.want),
    )


def current(job: Job, task: TaskLedger) -> TaskLedger:
    """``task`` as it stands now: the ledger plus what is held of the round under way."""
    round_ = job.task(task.spec.id).rounds.get(task.round)
    return fold(task, round_, job.ledger.request.settings.chunk) if round_ else task


def add_usage(usage: dict[str, Usage], timings: Iterable[Timing]) -> dict[str, Usage]:
    """``usage`` with more steps."""
    total = dict(usage)
    for timing in timings:
        before = total.get(timing.resource, Usage())
        busy = max(timing.finished - timing.started, 0.0)
        total[timing.resource] = Usage(steps=before.steps + 1, busy=before.busy + busy)
    return total


def current_usage(job: Job) -> dict[str, Usage]:
    """Usage with the results held for rounds that the ledger does not yet contain."""
    usage = job.ledger.usage
    for task in job.ledger.tasks:
        round_ = job.task(task.spec.id).rounds.get(task.round)
        if round_ is not None and not task.closed:
            usage = add_usage(usage, (held.message.timing for held in round_.held()))
    return usage


# -- Decisions ----------------------------------------------------------------------------------------------


def granted(job: Job) -> int:
    """Trials that are tried or under way. A round that proposed fewer than granted gives the rest back."""
    total = 0
    for task in job.ledger.tasks:
        round_ = job.task(task.spec.id).rounds.get(task.round)
        proposal = round_.proposal if round_ else None
        under_way = len(proposal.candidates) if proposal else task.want
        total += task.trials + (0 if task.closed or task.round < 0 else under_way)
    return total


def standing(job: Job, task: TaskLedger) -> allocation.Standing:
    """What the allocation needs to know of a task."""
    now = current(job, task)
    closing = task.round >= 0 and task.want == 0
    busy = task.round >= 0 and not task.closed and (closing or not round_is_back(job, task))
    return allocation.Standing(
        task=task.spec.id,
        weight=task.spec.weight,
        trials=now.trials,
        rounds=task.round + 1,
        busy=busy,
        best=now.best,
        gain=now.gain,
        exhausted=now.exhausted or task.closed or closing,
    )


def decide(job: Job) -> Ledger | None:
    """The next revision of the ledger while tuning, or ``None`` when there is nothing to decide now.

    Gives out trials, closes tasks when nothing is left to give, and moves on to ``assembling`` when all are
    closed.
    """
    ledger = job.ledger
    request = ledger.request
    left = request.trials - granted(job)
    standings = [standing(job, task) for task in ledger.tasks]
    given = dict(allocation.grants(standings, request.trials, left, request.settings.batch))
    nothing_more = not given and not any(s.busy for s in standings)
    tasks: list[TaskLedger] = []
    usage = ledger.usage
    for task in ledger.tasks:
        want = given.get(task.spec.id)
        if want is None and nothing_more and not task.closed:
            if task.round < 0:
                tasks.append(msgspec.structs.replace(task, closed=True))
                continue
            want = 0
        if want is None:
            tasks.append(task)
            continue
        folded = current(job, task)
        round_ = job.task(task.spec.id).rounds.get(task.round)
        if round_ is not None:
            usage = add_usage(usage, (h.message.timing for h in round_.held()))
        tasks.append(msgspec.structs.replace(folded, round=task.round + 1, want=want))
    phase = "assembling" if all(task.closed for task in tasks) else ledger.phase
    if tasks == ledger.tasks and phase == ledger.phase:
        return None
    return msgspec.structs.replace(
        ledger, revision=ledger.revision + 1, tasks=tasks, usage=usage, phase=phase
    )


def close(job: Job, task: TaskLedger, result: StepResult, update: UpdateDone) -> Ledger:
    """The revision that closes ``task``, with the history in the state that its last update returned."""
    closed = msgspec.structs.replace(task, closed=True, history=update.state.history)
    ledger = job.ledger
    return msgspec.structs.replace(
        ledger,
        revision=ledger.revision + 1,
        tasks=[closed if t.spec.id == task.spec.id else t for t in ledger.tasks],
        usage=add_usage(ledger.usage, [result.timing]),
    )
