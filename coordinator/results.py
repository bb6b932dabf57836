"""What workers give back: whether it makes sense, where it belongs, and what is to be learned from it."""

from __future__ import annotations

from collections.abc import Iterable

from tunemesh.coordinator.events import Acknowledge, Arrived
from tunemesh.coordinator.jobs import forecast, nonces, rest, rounds, steps
from tunemesh.coordinator.jobs.job import Held, Job, StepRef
from tunemesh.coordinator.jobs.ledger import Handle, TaskLedger
from tunemesh.coordinator.lifecycle import Lifecycle
from tunemesh.coordinator.mishaps import Mishaps
from tunemesh.coordinator.scheduling.durations import seconds_of
from tunemesh.coordinator.state import State
from tunemesh.shared.messages import (
    AssembleDone,
    BuildDone,
    Failure,
    ImportDone,
    ProfileDone,
    StepResult,
    UpdateDone,
    ValidateDone,
)
from tunemesh.shared.messages.basics import step_id

_ORDER = (UpdateDone, BuildDone, ProfileDone)
"""Results of a round in the order of its stages: each says what the next one was asked for."""


class Results:
    """Deals with the results of steps."""

    def __init__(self, state: State, lifecycle: Lifecycle, mishaps: Mishaps) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._mishaps = mishaps
        self._recovering = False

    def take(self, handle: Handle, message: StepResult) -> Job | None:
        """Note a result. Returns its job, or ``None`` when the result is of no use any more."""
        state = self._state
        job = state.jobs.get(message.job)
        why = message.problem()
        if not why and job is not None:
            forged = not self.holds(message.timing.step, message.nonce)
            why = "it does not have the nonce of its step" if forged else self._problem(job, message)
        if why:
            self._senseless(handle, message, why)
            return None
        timing = message.timing
        seconds = seconds_of(timing)
        flight = state.dispatcher.ended(timing.step, seconds)
        state.trouble.pop(timing.step, None)
        if job is not None and not isinstance(message.result, Failure):
            elapsed = state.resources.elapsed(flight, state.now) if flight is not None else None
            self._learn(job, message, elapsed)
        if flight is not None:
            slowness = state.durations.slowness(timing.stage, timing.resource)
            state.resources.account(flight.queue, seconds, slowness, state.now)
        if job is None or job.ended or not self._note(job, Held(handle, message)):
            state.out.append(Acknowledge(handle))
            return None
        job.changed = True
        return job

    def holds(self, step: str, nonce: str) -> bool:
        """Whether whoever gives a nonce was given the step: others may not answer for it."""
        job = self._state.jobs.get(step.partition("/")[0])
        return job is not None and nonce == nonces.nonce_of(job.ledger.secret, step)

    def _learn(self, job: Job, message: StepResult, elapsed: float | None) -> None:
        """Learn how long steps take."""
        durations, timing, key = self._state.durations, message.timing, forecast.key_of(job, message.task)
        each: list[float] = []
        task = job.task_ledger(message.task)
        if task is not None and rounds.closes(task, message.round):
            self._learn_closing(job, task, message)
            return
        match message.result:
            case UpdateDone(candidates=[]):
                return  # its round was left out, or there was nothing to try
            case AssembleDone() | ValidateDone():
                reckoned = rest.reckoned(job, timing.stage, durations)
                durations.learn_again(timing.stage, seconds_of(timing), reckoned)
            case BuildDone(built=built):
                each = [one.seconds for one in built]
            case ProfileDone(profiled=profiled, untuned=None, untuned_error=""):
                each = [one.seconds for one in profiled]
        durations.learn(timing, key, elapsed, each)

    def _learn_closing(self, job: Job, task: TaskLedger, message: StepResult) -> None:
        """The same for the last round of a search, which proposes nothing new, and does again what was
        done."""
        durations, timing = self._state.durations, message.timing
        seconds, key = seconds_of(timing) / max(timing.size, 1), task.spec.pace_key
        match message.result:
            case UpdateDone(learned=learned, candidates=candidates):
                if learned:
                    durations.learn_closing(timing, len(candidates))
            case BuildDone(built=built) if built and durations.seen("build", key):
                durations.learn_again("build", seconds, durations.seconds("build", key))
            case ProfileDone(profiled=profiled) if profiled:
                durations.learn_again("profile", seconds, rest.repeated(job, task, durations))

    def recover(self, results: Iterable[Arrived]) -> None:
        """Put what was delivered again in its place. Proposals come first: what has no proposal is of no use
        any more. What was built comes before what was measured: a step may measure what several searches have
        built."""
        for job in self._state.jobs.values():
            self._lifecycle.guarded(job.id, self._recall, job)
        self._recovering = True
        for event in sorted(results, key=_in_order):
            assert isinstance(event.message, StepResult)
            arguments = event.handle, event.message
            self._lifecycle.guarded(event.message.job, self.take, *arguments, handle=event.handle)
        self._recovering = False

    def _recall(self, job: Job) -> None:
        for task in job.ledger.tasks:
            self._state.durations.recall(task.spec.pace_key, task.pace)

    def resume(self, job: Job) -> None:
        """Go on with a job that was recovered."""
        state = self._state
        running = state.resources.running()
        for task in job.ledger.tasks:
            self._lifecycle.drop_spent(job, task)
        for ref in steps.open_steps(job):
            if ref.id in running:
                ready = forecast.ready(job, ref, state.durations)
                state.dispatcher.is_running(ready, running[ref.id], state.now)
        self._lifecycle.go_on(job)

    # -- Sense ----------------------------------------------------------------------------------------------

    def _senseless(self, handle: Handle, message: StepResult, why: str) -> None:
        """Set the result aside. The step that it claims to be for is done again, or the one whose id it
        carries, if that is another one: whichever its worker had, by the nonce. A liar about all of this only
        keeps its own step from being answered, which is noticed in time."""
        state, timing = self._state, message.timing
        state.put_aside(handle, f"a senseless result of {timing.worker}: {why}")
        state.log("warning", f"a result makes no sense: {why}", job=message.job, worker=timing.worker)
        stage = timing.stage
        claimed = (
            step_id(message.job, message.task, message.round, message.chunk, stage),
            step_id(message.job, message.task, message.round, None, stage),
            step_id(message.job, message.task, None, None, stage),
        )
        for step in dict.fromkeys((timing.step, *claimed)):
            if state.resources.queue_of(step) == timing.resource and self.holds(step, message.nonce):
                self._mishaps.senseless(step, timing.worker, why)

    def _problem(self, job: Job, message: StepResult) -> str:
        """Why a result is no answer to what its step asked for; nothing where it is, or is of no use
        anyway."""
        ledger, task = job.ledger, job.task_ledger(message.task)
        match message.result:
            case ImportDone() as imported if ledger.phase == "importing":
                return imported.problem(ledger.request.engines)
            case AssembleDone() as assembled if ledger.phase == "assembling":
                return assembled.problem()
            case ValidateDone() as validated if ledger.phase == "validating":
                return validated.problem()
            case UpdateDone() | BuildDone() | ProfileDone() if ledger.phase == "tuning":
                if task is None:
                    return f"the job has no task {message.task}"
                return "" if task.closed else self._problem_of_round(job, task, message)
        return ""

    def _problem_of_round(self, job: Job, task: TaskLedger, message: StepResult) -> str:
        if message.round > task.round:
            return f"round {message.round} has not begun"
        kept = job.task(task.spec.id)
        round_ = kept.rounds.get(message.round)
        match message.result:
            case UpdateDone() as update:
                if round_ is not None and round_.update is not None:
                    return ""  # a duplicate
                return self._problem_of_update(job, task, message, update)
            case BuildDone() as build if round_ is not None and round_.update is not None:
                return build.problem([each.index for each in round_.candidates(message.chunk)])
            case ProfileDone() as profile if round_ is not None and round_.update is not None:
                ref = StepRef(job.id, "profile", message.task, message.round, message.chunk)
                found = steps.to_measure(job, ref)
                if message.task not in found:
                    return "its candidates are not built"
                asked = {search: [each.index for each in built] for search, built in found.items()}
                baseline = round_.wants_baseline(message.chunk)
                return profile.problem(asked.pop(message.task), baseline, asked)
        return ""

    def _problem_of_update(self, job: Job, task: TaskLedger, message: StepResult, update: UpdateDone) -> str:
        settings = job.ledger.request.settings
        # What an older round was asked for is not known any more: it was looked at when it was new. A round
        # that was cut meanwhile may have been asked for before that.
        if message.round == task.round and task.limits.get(message.round) != 0:
            largest = settings.chunk if task.want else steps.CONFIRM_CHUNK
            # The first update keeps what is in no history yet of what was taken over, in one more.
            recalled = len(task.history) + 1 if task.taken is not None else 0
            if why := update.problem(task.want, message.round, settings.batch, largest, recalled):
                return why
        before = job.round(task.spec.id, message.round - 1)
        # While a coordinator recovers, the chunks are not all in their places yet.
        if self._recovering or before is None or before.update is None:
            return ""
        known = set(before.back)
        # An update that looked ahead was asked before the last of them were back.
        if not known.issuperset(update.learned) or (not task.ahead and len(update.learned) < len(known)):
            return f"it has learned from chunks {update.learned}, which it was not asked to"
        return ""

    # -- Places ---------------------------------------------------------------------------------------------

    def _note(self, job: Job, held: Held) -> bool:
        """Put a result in its place. Returns whether it is held; what is not is a duplicate or stale."""
        message, ledger = held.message, job.ledger
        match message.result:
            case UpdateDone() | BuildDone() | ProfileDone() if ledger.phase == "tuning":
                return self._note_round(job, held)
            case Failure(error=error):
                if not any(ref.id == message.timing.step for ref in steps.open_steps(job)):
                    return False
                place = "" if message.task == "-" else f" of {_task_name(job, message.task)}"
                text = f"{message.timing.stage}{place}: {error}"
                self._lifecycle.finish(job, "failed", text, [held])
                return True
            case ImportDone() as imported if ledger.phase == "importing":
                self._lifecycle.imported(job, imported, held)
                return True
            case AssembleDone() as assembled if ledger.phase == "assembling":
                self._lifecycle.revise(job, [held], phase="validating", assembled=assembled)
                return True
            case ValidateDone() as validated if ledger.phase == "validating":
                self._lifecycle.validated(job, validated, held)
                return True
        return False

    def _note_round(self, job: Job, held: Held) -> bool:
        message = held.message
        task = job.task_ledger(message.task)
        if task is None or task.closed or message.round > task.round:
            return False
        round_ = job.round(message.task, message.round)
        if isinstance(message.result, UpdateDone):
            if round_ is None and message.round < task.round and not self._recovering:
                return False  # the update of a round that is spent
            if not job.place(held):
                return False
            if not self._recovering:
                self._lifecycle.drop_spent(job, task)
            return True
        if round_ is None or round_.update is None:
            return False  # its round is spent
        if message.chunk >= round_.chunk_count():
            return False  # left out when the job was stopped early
        return job.place(held)


def _in_order(event: Arrived) -> tuple[int, int]:
    result = event.message.result if isinstance(event.message, StepResult) else None
    place = next((number for number, kind in enumerate(_ORDER) if isinstance(result, kind)), len(_ORDER))
    number = event.message.round if isinstance(event.message, StepResult) else 0
    return place, number


def _task_name(job: Job, task: str) -> str:
    ledger = job.task_ledger(task)
    return f"{task} ({ledger.spec.name})" if ledger else task
