"""Decisions about trials: which search gets how many, when one is closed. Each makes a new ledger revision.

Pure functions from a job to the revision, or to ``None`` where there is nothing to decide.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from tunemesh.coordinator.jobs import allocation, searches, steps
from tunemesh.coordinator.jobs import rounds as job_rounds
from tunemesh.coordinator.jobs.job import Job, StepRef
from tunemesh.coordinator.jobs.ledger import Ledger, TaskLedger
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.shared.messages import ImportDone, Known, Request, Stage, Timing, Usage
from tunemesh.shared.messages.levels import AUTO, CANDIDATES, MOST_TRIALS
from tunemesh.shared.messages.requests import MOST_ROUNDS

TIMINGS_KEPT = 500
"""Timings of job-wide and closing steps that a ledger keeps, so that it stays a message."""


def granted(job: Job) -> int:
    """Trials that are tried or under way. A round that proposed fewer than granted gives the rest back."""
    total = 0
    for task in job.ledger.tasks:
        total += task.trials
        if task.closed or task.round < 0:
            continue
        rounds = job.task(task.spec.id).rounds
        for number in range(task.folded + 1, task.round + 1):
            round_ = rounds.get(number)
            proposal = round_.proposal if round_ else None
            if job_rounds.closes(task, number):
                continue
            total += len(proposal.candidates) if proposal else task.want
    return total


def searched(request: Request, done: ImportDone) -> Mapping[str, Known]:
    """By search: what is known of it that serves a job, because as much was tried to find it as the job would
    try, or because it is to try nothing."""
    tuned = len({spec.key for spec in done.tasks if spec.engine is not None})
    level = request.level
    budget = level.trials if level.trials != AUTO else None
    full = level.effort == "full"
    wanted = allocation.enough(budget, tuned, request.settings.batch) if full else CANDIDATES[level.effort]
    return {
        task: known
        for task, known in done.known.items()
        if known.searched is None or known.searched >= wanted or request.settings.known == "only"
    }


def budgeted(request: Request, tasks: Sequence[TaskLedger]) -> Request:
    """``request`` with a number of trials, which may depend on how many tasks there are to tune. With less
    than full effort every task gets the same few, whatever they bring.

    Args:
        tasks: the searches that are to begin.
    """
    level, patience = request.level, request.level.patience
    distinct = len(searches.by_task(tasks))
    if level.effort != "full":
        trials = CANDIDATES[level.effort] * max(distinct, 1)
        return msgspec.structs.replace(
            request, level=msgspec.structs.replace(level, trials=trials, patience=0.0)
        )
    if level.trials != AUTO:
        return request
    if patience is None:
        patience = allocation.PATIENCE
    most = min(MOST_TRIALS, MOST_ROUNDS * request.settings.batch)
    trials = min(allocation.automatic(distinct, patience), most)
    return msgspec.structs.replace(
        request, level=msgspec.structs.replace(level, trials=trials, patience=patience)
    )


def left(job: Job, waits: Collection[str] = ()) -> int:
    """Trials that can still be granted; ``waits`` are the tasks that another job tunes."""
    if job.ledger.stopped:
        return 0
    return job.ledger.request.level.trials - granted(job) - _borrowed(job, waits)


def _borrowed(job: Job, waits: Collection[str]) -> int:
    """Trials of other jobs that count as those of this one. Of its budget they take no more than the part of
    the tasks that they are of, so that its other tasks get theirs. What is still waited for gets that part,
    until it is known."""
    tasks = [task for task in job.ledger.tasks if _is_tuned(task)]
    taken = [task.taken.trials for task in tasks if task.taken is not None and task.spec.id not in waits]
    if not taken and not waits:
        return 0
    part = job.ledger.request.level.trials * (len(taken) + len(waits)) // len(tasks)
    return part if waits else min(sum(taken), part)


def _is_tuned(task: TaskLedger) -> bool:
    """Whether somebody searches for this job: it was not closed before it had begun."""
    return task.round >= 0 or not task.closed or task.taken is not None


def standing(job: Job, task: TaskLedger) -> allocation.Standing:
    """What the allocation needs to know of a search."""
    now = job_rounds.current(job, task)
    taken = task.taken
    closing = task.round >= 0 and task.want == 0
    busy = task.round >= 0 and not task.closed and (closing or not steps.is_back(job, task))
    return allocation.Standing(
        search=task.spec.id,
        task=task.spec.key,
        engine=str(task.spec.engine),
        regions=task.spec.region.of if task.spec.region is not None else 1,
        weight=task.spec.weight,
        trials=now.trials + (taken.trials if taken is not None else 0),
        rounds=task.round + 1 + (taken.rounds if taken is not None else 0),
        busy=busy,
        best=now.best,
        lead=job_rounds.lead(job, task),
        gain=now.gain,
        exhausted=now.exhausted or task.closed or closing,
    )


def decide(
    job: Job, durations: Durations, waits: Collection[str] = (), most: int | None = None
) -> Ledger | None:
    """Give out trials, close searches when nothing is left to give, and move on to ``assembling`` when all
    are closed.

    Args:
        waits: searches that another job does: they stay as they are, and nothing waits for them.
        most: trials of a round, where there is little time; by default as many as of others.
    """
    ledger = job.ledger
    request = ledger.request
    begun = [task for task in ledger.tasks if _is_tuned(task) and task.spec.id not in waits]
    standings = [standing(job, task) for task in begun]
    patience, known = _patience(job), _known_latency(job)
    model = allocation.model_latency(standings) + known
    rest = left(job, waits)
    only = 0 if ledger.stopped else CANDIDATES.get(request.level.effort, 0)
    batch = min(request.settings.batch, most or request.settings.batch)
    # Something else than the number of trials may end the search.
    first = allocation.IN_TIME if request.level.has_limit else None
    given = dict(
        allocation.grants(standings, request.level.trials, rest, batch, patience, only, known, first)
    )
    nothing_more = not given and not any(s.busy for s in standings)
    tasks: list[TaskLedger] = []
    usage = ledger.usage
    for task in ledger.tasks:
        want = given.get(task.spec.id)
        if want is None and nothing_more and not task.closed and task.spec.id not in waits:
            task = msgspec.structs.replace(task, ended=_reason(job, task, model, patience))
            if task.round < 0 and (task.taken is None or task.taken.closed):
                tasks.append(msgspec.structs.replace(task, closed=True))
                continue
            want = 0
        if want is None:
            tasks.append(task)
            continue
        folded, usage = _next_round(job, task, want, usage, durations)
        tasks.append(folded)
    phase = "assembling" if all(task.closed for task in tasks) else ledger.phase
    if tasks == ledger.tasks and phase == ledger.phase:
        return None
    return msgspec.structs.replace(
        ledger, revision=ledger.revision + 1, tasks=tasks, usage=usage, phase=phase
    )


def _patience(job: Job) -> float:
    """The share of the model's latency that one more trial has to be expected to take off.

    A number of trials is meant for the whole model. Tasks that are known need none of theirs. Once the others
    have had their own part, they get more only as long as that pays, even where no patience was asked for.
    """
    patience = job.ledger.request.level.patience or 0.0
    if any(map(is_known, job.ledger.tasks)) and granted(job) >= share(job.ledger):
        return max(patience, allocation.PATIENCE)
    return patience


def _known_latency(job: Job) -> float:
    """Seconds of one run of the model that tasks take of which what is known is used."""
    known = [task for task in job.ledger.tasks if is_known(task)]
    return sum(task.spec.weight * task.best for task in known if task.best is not None)


def share(ledger: Ledger) -> int:
    """The part of a job's trials that is meant for the tasks of which nothing usable is known."""
    level = ledger.request.level
    if level.effort != "full":
        return level.trials  # a number for each of those
    found = searches.by_task(task for task in ledger.tasks if task.spec.engine is not None)
    known = sum(any(map(is_known, each)) for each in found)
    return level.trials * (len(found) - known) // max(len(found), 1)


def is_known(task: TaskLedger) -> bool:
    """Whether what an earlier job has found is used as it is."""
    return task.closed and task.round < 0 and task.taken is None and task.best is not None


def _reason(job: Job, task: TaskLedger, model: float, patience: float) -> str:
    """Why a task gets no more trials. ``model`` is the latency of the model in seconds."""
    if task.taken is not None and task.round < 0:
        return f"job {task.taken.job} has tuned it"
    if job.ledger.stopped:
        return job.ledger.enough or "the job was stopped early"
    return allocation.reason(standing(job, task), model, patience)


def look_ahead(
    job: Job, durations: Durations, *, device_slots: int, build_slots: int, shared: bool
) -> Ledger | None:
    """Grant the next round of a task while its present one is still being measured, if the device would run
    out of work before a model-update could bring more. For a job that is alone.

    Args:
        device_slots, build_slots: workers that profile and build for the job.
        shared: builds and model updates run on the same cores, so that an update now would slow the builds
            down that the device waits for.
    """
    ledger = job.ledger
    request = ledger.request
    rest = left(job)
    if not request.settings.lookahead or rest <= 0 or not device_slots or not build_slots:
        return None
    building = profiling = 0.0
    unbuilt = 0
    able: list[tuple[float, TaskLedger]] = []
    begun = [standing(job, task) for task in ledger.tasks if task.round >= 0]
    model, patience = allocation.model_latency(begun) + _known_latency(job), _patience(job)
    for task in ledger.tasks:
        if task.closed or task.round < 0 or not task.want:
            continue
        kept = job.task(task.spec.id)
        newest = kept.rounds.get(task.round)
        if newest is None or newest.proposal is None:
            return None  # a proposal is on its way
        left_over: dict[str, list[int]] = {"build": [], "profile": []}
        for number in job_rounds.open_rounds(task, kept):
            round_ = kept.rounds[number]
            for chunk in range(round_.chunk_count()):
                stage = round_.stage(chunk) if chunk not in round_.back else None
                if stage is not None:
                    left_over[stage].append(len(round_.candidates(chunk)))
        unbuilt += len(left_over["build"])
        building += _seconds(durations, "build", task, left_over["build"])
        profiling += _seconds(durations, "profile", task, left_over["build"] + left_over["profile"])
        standing_ = standing(job, task)
        pays = allocation.may_go_on(standing_) and allocation.pays(standing_, model, patience)
        pays = pays and allocation.expected_gain(standing_) > 0
        if pays and _may_look_ahead(job, task):
            able.append((allocation.expected_gain(standing_), task))
    if not able or (shared and building):
        return None
    _, task = max(able, key=lambda each: each[0])
    # With fewer chunks than builders some of these have nothing to do now.
    until_idle = building / build_slots if unbuilt >= build_slots else 0.0
    if max(until_idle, profiling / device_slots) > durations.seconds("model-update", task.spec.pace_key):
        return None
    regions = max(each.regions for each in begun)
    tasks_, searches_ = len(searches.by_task(ledger.tasks)) * regions, len(ledger.tasks)
    batch = allocation.next_batch(request.level.trials, rest, tasks_, searches_, request.settings.batch)
    ahead, usage = _next_round(job, task, batch, ledger.usage, durations)
    ahead = msgspec.structs.replace(ahead, ahead=True, rounds_ahead=task.rounds_ahead + 1)
    tasks = [ahead if each is task else each for each in ledger.tasks]
    return msgspec.structs.replace(ledger, revision=ledger.revision + 1, tasks=tasks, usage=usage)


def _seconds(durations: Durations, stage: Stage, task: TaskLedger, chunks: list[int]) -> float:
    """Of work on chunks with so many candidates."""
    if not chunks:
        return 0.0
    step = durations.seconds(stage, task.spec.pace_key, 0)
    return step * (len(chunks) - 1) + durations.seconds(stage, task.spec.pace_key, sum(chunks))


def _may_look_ahead(job: Job, task: TaskLedger) -> bool:
    """Whether the round under way is the only one, and something of it is back to learn from."""
    rounds = job.task(task.spec.id).rounds
    newest = rounds[task.round]
    older = range(task.folded + 1, task.round)
    return (
        all(number in rounds and rounds[number].complete for number in older)
        and not newest.complete
        and bool(newest.back)
    )


def _next_round(
    job: Job, task: TaskLedger, want: int, usage: dict[str, Usage], durations: Durations
) -> tuple[TaskLedger, dict[str, Usage]]:
    """``task`` with what its complete rounds have brought, and ``want`` trials granted to another one."""
    kept = job.task(task.spec.id)
    now = task
    for number in job_rounds.open_rounds(task, kept):
        if not kept.rounds[number].complete:
            break
        now = job_rounds.fold(now, number, kept.rounds[number])
        usage = job_rounds.add_usage(usage, (held.message.timing for held in kept.rounds[number].held()))
    pace = durations.known(task.spec.pace_key)
    if task.round >= 0:
        # The first update has put it into a history.
        now = msgspec.structs.replace(now, rest=[], rest_of=None)
    ending = 0 if want else job.ledger.revision + 1
    changes = {"round": task.round + 1, "want": want, "ending": ending, "ahead": False, "pace": pace}
    return msgspec.structs.replace(now, **changes), usage


def cut(job: Job, task: TaskLedger, running: Collection[StepRef]) -> TaskLedger:
    """``task`` with its rounds under way ended after the last chunk that was begun: it is ``running``, or
    something of it is back. A round that closes the task stays as it is."""
    if task.closed or task.round < 0 or not task.want:
        return task
    rounds = job.task(task.spec.id).rounds
    limits = {}
    for number in range(task.folded + 1, task.round + 1):
        begun = {ref.chunk for ref in running if (ref.task, ref.round) == (task.spec.id, number)}
        if number in rounds:
            begun.update(rounds[number].chunks)
        limits[number] = max(begun, default=-1) + 1
    return msgspec.structs.replace(task, limits=limits)


def close(job: Job, names: Collection[str]) -> Ledger:
    """The revision that closes some searches: each with the history in the state that its last update
    returned, and with what was confirmed."""
    ledger = job.ledger
    tasks: list[TaskLedger] = []
    timings: list[Timing] = []
    for task in ledger.tasks:
        if task.spec.id in names:
            round_ = job.task(task.spec.id).rounds[task.round]
            assert round_.proposal is not None
            timings += (held.message.timing for held in round_.held())
            task = msgspec.structs.replace(
                job_rounds.confirm(task, round_),
                closed=True,
                history=round_.proposal.state.history,
                rest=[],
                rest_of=None,
            )
        tasks.append(task)
    return msgspec.structs.replace(
        ledger,
        revision=ledger.revision + 1,
        tasks=tasks,
        usage=job_rounds.add_usage(ledger.usage, timings),
        timings=kept_timings(ledger.timings, timings),
    )


def kept_timings(before: list[Timing], more: list[Timing]) -> list[Timing]:
    """Both, as far as a ledger has room for them."""
    return (before + more)[:TIMINGS_KEPT]
