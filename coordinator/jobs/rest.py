"""What a job still takes if nothing new is tried from now on: chunks that were begun, the best few of every
task measured again, the model assembled and validated.

It is an estimate, neither a bound nor a sum of all worst cases: a job that is stopped for it gives away what
was too much. Steps of a kind run beside each other on all workers there are; builds and the device overlap.
What is known of the spread of durations is counted once, in the last candidate of a chunk that others wait
for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tunemesh.coordinator.jobs import forecast, rounds, steps
from tunemesh.coordinator.jobs.job import Job, StepRef
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.shared.messages import Stage

CONFIRMED = 4
"""Candidates of a task that are confirmed at its end, at most: one chunk."""

NEAR = 1.1
"""Times the best of a task up to which what a search has found is confirmed."""

CONFIRMING = 2.0
"""Times as long as another one a candidate takes that is confirmed: with all its repeats."""

ASSEMBLING, VALIDATING = 0.5, 1.0
"""Of the time that it took to import a model, where no model was assembled or validated yet. In 80 reports of
networks on one core assembling took 0.1 to 1.8 times as long as the import, and validating 0.2 to 4 times;
both together 1.4 times in the middle. On a GPU it was 0.6 and 0.1."""

ROUND: tuple[Stage, ...] = ("model-update", "build", "profile")

CARE, CARE_GUESSED = 1.15, 1.3
"""What is predicted is multiplied by, where a deadline or a budget depends on it: what was seen, and the end
of a model where none was seen."""

CROWD = 1.3
"""Seconds are multiplied by that, too, where other jobs have work: what they have begun until then is not
known."""

BUDGET_CARE = 1.3
"""The same for what a budget is for."""

ENOUGH_ENDINGS = 8
"""Jobs that have to have ended here before what they took counts."""

DELAY = 2.0
"""Seconds that looking, and sending a few steps one after the other, may take besides."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What a job still takes."""

    seconds: float
    """Most likely."""
    device_seconds: float
    cost: float
    careful: float
    """Seconds that it should be given."""
    learned: bool
    """Whether all of it follows from durations that were seen, and no other job is in the way."""


NOTHING = Rest(0.0, 0.0, 0.0, 0.0, learned=True)


@dataclass(frozen=True, slots=True)
class Mesh:
    """What is known of the mesh."""

    durations: Durations
    load: Dispatcher
    price: Callable[[Need], float]
    """What a busy second of a worker for a need costs at most."""
    endings: Sequence[float] = ()
    """How long the ends of earlier jobs took, by what they were thought to take, :data:`DELAY` included."""

    @property
    def knows_endings(self) -> bool:
        """Whether enough jobs have ended to judge by them."""
        return len(self.endings) >= ENOUGH_ENDINGS


def rest(job: Job, mesh: Mesh) -> Rest:
    """What it takes to end with the best so far."""
    return _Estimate(job, mesh).made()


def another_round(job: Job, mesh: Mesh) -> Rest:
    """What one more round of the task that takes longest would take."""
    open_ = [task for task in job.ledger.tasks if not task.closed]
    batch = job.ledger.request.settings.batch
    return max((_Estimate(job, mesh).round_of(task, batch) for task in open_), key=lambda each: each.seconds)


class _Estimate:
    """One estimate under way."""

    def __init__(self, job: Job, mesh: Mesh) -> None:
        self._job = job
        self._mesh = mesh
        self._durations = mesh.durations
        self._work: dict[Stage, float] = {}
        """Busy seconds of workers."""
        self._own = forecast.key_of(job, "-")
        begun = [task for task in job.ledger.tasks if not task.closed and task.round >= 0]
        self._keys = [task.spec.pace_key for task in begun or job.ledger.tasks] or [self._own]
        self._paces: dict[Stage, tuple[float, float]] = {}

    def made(self) -> Rest:
        phase, tasks = self._job.ledger.phase, self._job.ledger.tasks
        seconds = 0.0
        learned = True
        if phase == "importing":
            seconds += self._one("import", self._durations.seconds("import", self._own))
        begun = [task for task in tasks if not task.closed and _has_some(self._job, task)]
        if phase == "tuning":
            seconds += self._tuning(begun)
            self._spend([task for task in tasks if not task.closed and (task.round >= 0 or task.taken)])
            learned = not begun or all(self._durations.seen(stage) for stage in ROUND)
        crowd = 1.0 if self._mesh.load.alone(self._job.id) else CROWD
        careful = CARE * crowd * seconds
        last: tuple[Stage, ...] = ("validate",) if phase == "validating" else ("assemble", "validate")
        for stage in last:
            known = self._durations.seen(stage)
            took = self._one(stage, self._last(stage))
            seconds += took
            careful += (CARE if known else CARE_GUESSED) * crowd * took
            learned = learned and known
        careful += DELAY
        if self._mesh.knows_endings:
            # What did not happen here may still: the factors above stay.
            careful = max(careful, max(self._mesh.endings) * (seconds + DELAY))
        return self._rest(seconds, careful, learned and crowd == 1.0)

    def round_of(self, task: TaskLedger, batch: int) -> Rest:
        """What another round of a task takes."""
        key = task.spec.pace_key
        chunks = [1] * batch
        seconds = self._one("model-update", self._durations.seconds("model-update", key))
        seconds += self._built_and_measured(chunks, chunks, 1.0, waits=True)
        for stage in ("build", "profile"):
            self._note(stage, [self._chunk(stage, batch)])
        return self._rest(seconds, CARE * seconds, learned=True)

    def _rest(self, seconds: float, careful: float, learned: bool) -> Rest:
        cost = sum(each * self._mesh.price(self._need(stage)) for stage, each in self._work.items())
        device = self._work.get("profile", 0.0) + self._work.get("validate", 0.0)
        return Rest(seconds, device, cost, careful, learned)

    # -- Rounds ---------------------------------------------------------------------------------------------

    def _tuning(self, begun: Collection[TaskLedger]) -> float:
        running = [StepRef.parse(step) for step in self._mesh.load.running(self._job.id)]
        building: list[int] = []
        measuring: list[int] = []
        tried: dict[str, int] = {}
        for task in begun:
            of_task = [ref for ref in running if ref.task == task.spec.id]
            found = _under_way(self._job, task, of_task)
            # What was proposed and not begun is left out, and not confirmed either.
            tried[task.spec.id] = _measured(self._job, task) + sum(size for size, _ in found)
            for size, stage in found:
                measuring.append(size)
                if stage == "build":
                    building.append(size)
        updates = [self._update(ref) for ref in running if ref.stage == "model-update"]
        drained = max(self._built_and_measured(building, measuring, 1.0), max(updates, default=0.0))
        # Of what was not tried there is nothing to learn, and nothing to confirm.
        closing = [t for t in begun if not rounds.closes(t, t.round) and tried[t.spec.id]]
        keys = [task.spec.pace_key for task in closing]
        closed = self._spread("model-update", [self._durations.closing(key) for key in keys])
        best = [min(tried[task.spec.id], CONFIRMED) for task in closing if _may_win(self._job, task)]
        return drained + closed + self._built_and_measured(best, best, CONFIRMING, waits=True)

    def _spend(self, tasks: Collection[TaskLedger]) -> None:
        """Note what rounds take of workers. A budget cannot be given back: all tasks that have begun count,
        and of what is to be built as much as may begin before anybody looks again."""
        most = self._job.ledger.request.settings.chunk * max(self._mesh.load.slots(self._need("build")), 1)
        for task in tasks:
            key = task.spec.pace_key
            building, built = _open_candidates(self._job, task)
            building, most = min(building, most), max(most - building, 0)
            self._note("model-update", [self._update_of(key)])
            self._note("build", [self._chunk("build", building + CONFIRMED)])
            measuring = [self._chunk("profile", building + built)]
            self._note("profile", [*measuring, CONFIRMING * self._chunk("profile", CONFIRMED)])

    def _update(self, ref: StepRef) -> float:
        """Seconds of an update that is running."""
        key = forecast.key_of(self._job, ref.task)
        task = self._job.task_ledger(ref.task)
        if task is not None and rounds.closes(task, ref.round):
            return self._durations.closing(key)
        return self._update_of(key)

    def _update_of(self, key: str) -> float:
        return self._durations.seconds("model-update", key) if self._durations.seen("model-update") else 0.0

    def _built_and_measured(
        self,
        building: Collection[int],
        measuring: Collection[int],
        factor: float,
        waits: bool = False,
    ) -> float:
        """Seconds until chunks of so many candidates are through both stages.

        Args:
            factor: times as long as others that candidates are measured.
            waits: whether they wait for the steps of other jobs that are before them.
        """
        built = self._spread("build", [self._chunk("build", size) for size in building], waits)
        if building and self._durations.seen("build"):
            # Whoever takes longest is waited for.
            built += self._chunk("build", 1) * (self._durations.longest("build") - 1)
        each = [factor * self._chunk("profile", size) for size in measuring]
        measured = self._spread("profile", each, waits)
        return max(built + max(each, default=0.0), measured) if building else measured

    def _chunk(self, stage: Stage, size: int) -> float:
        """Seconds of a step, by the mean of the tasks that have begun: of each alone too little was seen.
        What
        was never seen is not counted: a guess is no reason to stop."""
        if not size or not self._durations.seen(stage):
            return 0.0
        if stage not in self._paces:
            one = [self._durations.seconds(stage, key) for key in self._keys]
            two = [self._durations.seconds(stage, key, 2) for key in self._keys]
            each = (sum(two) - sum(one)) / len(one)
            self._paces[stage] = sum(one) / len(one) - each, each
        step, each = self._paces[stage]
        return step + size * each

    # -- Steps ----------------------------------------------------------------------------------------------

    def _spread(self, stage: Stage, each: Collection[float], waits: bool = True) -> float:
        """Seconds until steps that are due together are done by all workers there are, none of which idles
        while one is left (Graham, 1966)."""
        if not any(each):
            return 0.0
        need, load = self._need(stage), self._mesh.load
        slots, longest = max(load.slots(need), 1), max(each)
        first = self._job.ledger.request.level.deadline is not None
        wait = load.next_free if first else load.others
        before = wait(self._job.id, need) if waits else 0.0
        return before + (sum(each) - longest) / slots + longest

    def _one(self, stage: Stage, seconds: float) -> float:
        self._note(stage, [seconds])
        return self._spread(stage, [seconds])

    def _note(self, stage: Stage, each: Collection[float]) -> None:
        self._work[stage] = self._work.get(stage, 0.0) + sum(each)

    def _need(self, stage: Stage) -> Need:
        return steps.need_of(self._job, stage)

    def _last(self, stage: Stage) -> float:
        """Seconds to assemble or validate the model: what others took, more where importing took more; or a
        part of the time for importing."""
        durations = self._durations
        known, imported = durations.seconds(stage, self._own), durations.seconds("import", self._own)
        if durations.seen(stage):
            usual = durations.usual("import")
            larger = imported / usual if usual and not durations.seen(stage, self._own) else 1.0
            return known * max(larger, 1.0)
        guess = ASSEMBLING if stage == "assemble" else VALIDATING
        return max(known, guess * imported if durations.seen("import") else 0.0)


def _has_some(job: Job, task: TaskLedger) -> bool:
    """Whether something of a task was tried, or will be, so that it is not just closed."""
    return task.taken is not None or (task.round >= 0 and _measured(job, task) > 0) or bool(_held(job, task))


def _may_win(job: Job, task: TaskLedger) -> bool:
    """Whether something of a search is worth to be confirmed: another one of its task may be far ahead."""
    best, lead = rounds.current(job, task).best, rounds.lead(job, task)
    return best is None or lead is None or best <= NEAR * lead


def _held(job: Job, task: TaskLedger) -> list[int]:
    return rounds.open_rounds(task, job.task(task.spec.id))


def _measured(job: Job, task: TaskLedger) -> int:
    """Candidates of a task that are measured, or were by another job."""
    now = rounds.current(job, task)
    return now.outcomes.get("measured", 0) + (CONFIRMED if task.taken is not None else 0)


def _under_way(job: Job, task: TaskLedger, running: Collection[StepRef]) -> list[tuple[int, Stage]]:
    """The chunks of a task that are finished in any case, with their candidates and the next stage: those
    that were begun, and those before them in the same batch."""
    kept = job.task(task.spec.id)
    found: list[tuple[int, Stage]] = []
    for number in _held(job, task):
        round_ = kept.rounds[number]
        begun = {*round_.chunks, *(ref.chunk for ref in running if ref.round == number and ref.chunk >= 0)}
        closes = rounds.closes(task, number)
        limit = round_.chunk_count() if closes else min(max(begun, default=-1) + 1, round_.chunk_count())
        for chunk in range(limit):
            stage = round_.stage(chunk) if chunk not in round_.back else None
            if stage is not None:
                found.append((len(round_.candidates(chunk)), stage))
    return found


def _open_candidates(job: Job, task: TaskLedger) -> tuple[int, int]:
    """Candidates that are to be built, and those that are built and not yet measured."""
    kept = job.task(task.spec.id)
    found: dict[Stage, int] = {"build": 0, "profile": 0}
    for number in _held(job, task):
        round_ = kept.rounds[number]
        for chunk in range(round_.chunk_count()):
            stage = round_.stage(chunk) if chunk not in round_.back else None
            if stage is not None:
                found[stage] += len(round_.candidates(chunk))
    return found["build"], found["profile"]
