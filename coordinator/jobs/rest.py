"""What a job still takes if nothing new is tried from now on: chunks that were begun, the best few of every
task measured again, the model assembled and validated.

It is an estimate, neither a bound nor a sum of all worst cases: a job that is stopped for it gives away what
was too much. Steps of a kind run beside each other on all workers there are; builds and the device overlap.
What is known of the spread of durations is counted once, in the last candidate of a chunk that others wait
for."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from tunemesh.coordinator.jobs import allocation, forecast, rounds, searches, steps
from tunemesh.coordinator.jobs.job import Job, StepRef
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.shared.messages import Stage
from tunemesh.shared.messages.levels import CONFIRMED

NEAR = 1.1
"""Times the best of a task up to which what a search has found is confirmed."""

MANY = 4
"""Candidates that another job has measured of a task, at least: as many as are confirmed."""

USUALLY = 3.0
"""Candidates of a search that are confirmed, where none was closed yet: 2 to 3.8 in the mean of 23 jobs."""

AGAIN = 0.2
"""Of the time of its first build one takes by who has built it before: 0.06 to 0.23 in those jobs. Others
have to build it as if it were new."""

CONFIRMING = 2.0
"""Times as long as another one a candidate takes that is confirmed, where a budget depends on it."""

ASSEMBLING, OF_A_BUILD, LINKING = 0.2, 0.25, 4e-8
"""What putting a model together is reckoned to take: seconds, and of what a build takes for each task, and
seconds for a byte of constants. Half as much to twice in those jobs, and on a GPU."""

VALIDATING, RUNS, LOADING = 1.0, 2.1, 0.15
"""What running it is reckoned to take: seconds, and so many runs of the untuned model, and of what putting it
together is reckoned to take."""

MOST_REPEATED = 5.0
"""Times as long as another one a candidate takes at most that is confirmed: 0.4 to 4 in those jobs."""

UNBUILT = 0.3
"""Of the time that it took to import a model putting it together is reckoned to take at least, where no build
was seen."""

ROUND: tuple[Stage, ...] = ("model-update", "build", "profile")

CARE, CARE_GUESSED = 1.2, 1.4
"""What is predicted is multiplied by, where a deadline or a budget depends on it: what was seen, and what was
reckoned without having seen any."""

CROWD = 1.4
"""Seconds are multiplied by that, too, where other jobs have work: what they have begun until then is not
known."""

LEAST_CARE = 0.7
"""The same at least, where it is known how long ends take."""

BUDGET_CARE = 1.3
"""The same for what a budget is for."""

ENOUGH_ENDINGS = 8
"""Jobs that have to have ended here before what they took counts."""

LATE = 0.07
"""Of those jobs the part that may have taken longer than a job is given."""

DELAY = 1.0
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

    @property
    def longest_ending(self) -> float:
        """As many times as long as thought as an end may take: few took longer."""
        return sorted(self.endings)[math.ceil((1 - LATE) * len(self.endings)) - 1]


def rest(job: Job, mesh: Mesh) -> Rest:
    """What it takes to end with the best so far."""
    return _Estimate(job, mesh).made()


def last_steps(job: Job, mesh: Mesh) -> Rest:
    """What it takes if every task is closed now, whatever is under way."""
    last = _Estimate(job, mesh).of_the_model()
    # Nobody's job: what its own tasks have begun is waited for, too.
    before = mesh.load.next_free("", steps.need_of(job, "assemble"))
    return replace(last, careful=last.careful + CARE * before)


def another_round(job: Job, mesh: Mesh) -> Rest:
    """What a few more trials of the task that takes longest would take: a round ends when it has to."""
    open_ = [task for task in job.ledger.tasks if not task.closed]
    batch = min(job.ledger.request.settings.batch, allocation.IN_TIME)
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
        self._confirmed = CONFIRMED[job.ledger.request.level.effort]
        begun = [task for task in job.ledger.tasks if not task.closed and task.round >= 0]
        self._keys = [task.spec.pace_key for task in begun or job.ledger.tasks] or [self._own]
        self._paces: dict[Stage, tuple[float, float]] = {}
        self._crowd = 1.0 if mesh.load.alone(job.id) else CROWD

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
        last = self.of_the_model()
        careful = CARE * self._crowd * seconds + last.careful
        seconds += last.seconds
        if self._mesh.knows_endings:
            known = self._mesh.longest_ending * (seconds + DELAY)
            careful = max(LEAST_CARE * seconds + DELAY, self._crowd * known)
        return self._rest(seconds, careful, learned and last.learned)

    def of_the_model(self) -> Rest:
        """What assembling and validating take, as far as they are not done."""
        seconds, careful, learned = 0.0, DELAY, self._crowd == 1.0
        last: tuple[Stage, ...] = ("assemble", "validate")
        for stage in last[1:] if self._job.ledger.phase == "validating" else last:
            known = self._durations.again(stage) is not None
            took = self._one(stage, whole_model(self._job, stage, self._durations))
            seconds += took
            careful += (CARE if known else CARE_GUESSED) * self._crowd * took
            learned = learned and known
        return self._rest(seconds, careful, learned)

    def round_of(self, task: TaskLedger, batch: int) -> Rest:
        """What another round of a task takes."""
        key = task.spec.pace_key
        chunks = [1] * batch
        seconds = self._one("model-update", self._durations.seconds("model-update", key))
        seconds += self._built_and_measured(chunks, chunks, waits=True)
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
        measured: list[int] = []
        closing: list[TaskLedger] = []
        confirming: list[tuple[TaskLedger, float, Stage]] = []
        usually = self._durations.confirmed
        most = min(usually if usually is not None else USUALLY, self._confirmed)
        for task in begun:
            of_task = [ref for ref in running if ref.task == task.spec.id]
            found = _under_way(self._job, task, of_task)
            if rounds.closes(task, task.round):
                confirming += [(task, size, stage) for size, stage in found]
                if self._job.round(task.spec.id, task.round) is not None:
                    continue
                found = []
            # What was proposed and not begun is left out, and not confirmed either.
            tried = _measured(self._job, task) + sum(size for size, _ in found)
            measured += [size for size, _ in found]
            building += [size for size, stage in found if stage == "build"]
            if not tried:
                continue  # there is nothing to learn from it, and nothing to confirm
            closing.append(task)
            if _may_win(self._job, task):
                confirming.append((task, min(tried, most), "build"))
        # They have begun: half of each is left, in the mean.
        updates = [self._update(ref) / 2 for ref in running if ref.stage == "model-update"]
        drained = max(self._built_and_measured(building, measured), max(updates, default=0.0))
        keys = [task.spec.pace_key for task in closing]
        closed = self._spread("model-update", [self._durations.closing(key) for key in keys])
        return drained + closed + self._confirming(confirming)

    def _confirming(self, chunks: Collection[tuple[TaskLedger, float, Stage]]) -> float:
        """Seconds until the best few of some searches, so many of each, are through these stages again."""
        built = [
            size * building(self._job, task, self._mesh) for task, size, stage in chunks if stage == "build"
        ]
        by_task: defaultdict[str, float] = defaultdict(
            float
        )  # one step measures what all searches of a task have found
        for task, size, _ in chunks:
            by_task[task.spec.key] += size * measuring(self._job, task, self._durations)
        measured = by_task.values()
        first = self._spread("build", built)
        return max(first + max(measured, default=0.0), self._spread("profile", measured))

    def _spend(self, tasks: Collection[TaskLedger]) -> None:
        """Note what rounds take of workers. A budget cannot be given back: all tasks that have begun count,
        and of what is to be built as much as may begin before anybody looks again."""
        most = self._job.ledger.request.settings.chunk * max(self._mesh.load.slots(self._need("build")), 1)
        for task in tasks:
            key = task.spec.pace_key
            building, built = _open_candidates(self._job, task)
            building, most = min(building, most), max(most - building, 0)
            self._note("model-update", [self._update_of(key)])
            self._note("build", [self._chunk("build", building + self._confirmed)])
            again = self._confirmed * measuring(self._job, task, self._durations)
            again = max(again, CONFIRMING * self._chunk("profile", self._confirmed))
            self._note("profile", [self._chunk("profile", building + built), again])

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
        waits: bool = False,
    ) -> float:
        """Seconds until chunks of so many candidates are through both stages.

        Args:
            waits: whether they wait for the steps of other jobs that are before them.
        """
        built = self._spread("build", [self._chunk("build", size) for size in building], waits)
        if building and self._durations.seen("build"):
            # Whoever takes longest is waited for.
            built += self._chunk("build", 1) * (self._durations.longest("build") - 1)
        each = [self._chunk("profile", size) for size in measuring]
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
        while one is left: for half of the last one, as a rule, no other is left (Graham, 1966, for the
        whole of it)."""
        if not any(each):
            return 0.0
        need, load = self._need(stage), self._mesh.load
        slots, longest = max(load.slots(need), 1), max(each)
        first = self._job.ledger.request.level.deadline is not None
        wait = load.next_free if first else load.others
        before = wait(self._job.id, need) if waits else 0.0
        return before + max(longest, sum(each) / slots + longest * (slots - 1) / (2 * slots))

    def _one(self, stage: Stage, seconds: float) -> float:
        self._note(stage, [seconds])
        return self._spread(stage, [seconds])

    def _note(self, stage: Stage, each: Collection[float]) -> None:
        self._work[stage] = self._work.get(stage, 0.0) + sum(each)

    def _need(self, stage: Stage) -> Need:
        return steps.need_of(self._job, stage)


def building(job: Job, task: TaskLedger, mesh: Mesh) -> float:
    """Seconds to build a candidate of a search again, to confirm it."""
    durations = mesh.durations
    if not durations.seen("build"):
        return 0.0
    times = durations.again("build")
    if times is None:
        others = 1 - 1 / max(mesh.load.slots(steps.need_of(job, "build", task.spec.id)), 1)
        times = AGAIN + (1 - AGAIN) * others
    return times * durations.seconds("build", task.spec.pace_key)


def measuring(job: Job, task: TaskLedger, durations: Durations) -> float:
    """Seconds to measure a candidate of a search again, to confirm it."""
    return _times(durations.again("profile")) * repeated(job, task, durations)


def repeated(job: Job, task: TaskLedger, durations: Durations) -> float:
    """What that is reckoned to take: all its repeats, where another one may be cut short, and those of the
    same task beside it are done with."""
    settings, latency = job.ledger.request.settings, rounds.lead(job, task) or 0.0
    full = settings.repeats * max(settings.min_repeat_ms / 1e3, latency) + latency
    if not durations.seen("profile"):
        return full
    return min(full, MOST_REPEATED * durations.seconds("profile", task.spec.pace_key))


def whole_model(job: Job, stage: Stage, durations: Durations) -> float:
    """Seconds to put the model together, or to run it: what the same model took, where it was here before."""
    own = forecast.key_of(job, "-")
    if durations.seen(stage, own):
        return durations.seconds(stage, own)
    return _times(durations.again(stage)) * reckoned(job, stage, durations)


def reckoned(job: Job, stage: Stage, durations: Durations) -> float:
    """The same where nothing was seen: from what the model is made of, and how long builds take here."""
    found = searches.by_task(job.ledger.tasks)
    weights = max((task.spec.constants for task in job.ledger.tasks), default=0)
    made = ASSEMBLING + LINKING * weights
    if found and durations.seen("build"):
        made += OF_A_BUILD * sum(durations.seconds("build", first.spec.pace_key) for first, *_ in found)
    elif durations.seen("import"):
        made = max(made, UNBUILT * durations.seconds("import", forecast.key_of(job, "-")))
    if stage == "assemble":
        return made
    untuned = sum(first.spec.weight * (rounds.untuned(job, first) or 0.0) for first, *_ in found)
    return VALIDATING + RUNS * untuned + LOADING * made


def _times(seen: float | None) -> float:
    return seen if seen is not None else 1.0


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
    return now.outcomes.get("measured", 0) + (MANY if task.taken is not None else 0)


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
