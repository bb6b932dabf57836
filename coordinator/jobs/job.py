"""What the coordinator remembers of a job between two events: its ledger, and the deliveries it holds.

Nothing here is of its own making: all of it can be rebuilt from messages that are not yet acknowledged.

Over 400 lines: a job, its rounds and their chunks are put together, and given up, as one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import cast, get_args

import msgspec
from msgspec import Struct

from tunemesh.coordinator.jobs import searches
from tunemesh.coordinator.jobs.ledger import Handle, Ledger, TaskLedger
from tunemesh.coordinator.jobs.states import FINAL
from tunemesh.coordinator.scheduling.strategies import Forecast
from tunemesh.shared.messages import (
    BuildDone,
    Built,
    Candidate,
    Profiled,
    ProfileDone,
    Stage,
    StepResult,
    Trial,
    UpdateDone,
)
from tunemesh.shared.messages.basics import step_id

_STAGES = frozenset(get_args(Stage))


class StepRef(Struct, frozen=True):
    """Which step of which job."""

    job: str
    stage: Stage
    task: str = "-"
    round: int = -1
    chunk: int = -1
    id: str = ""
    """Follows from the others: the same step always has the same one. See
    :func:`~shared.messages.basics.step_id`."""

    def __post_init__(self) -> None:
        round_ = self.round if self.round >= 0 else None
        chunk = self.chunk if self.chunk >= 0 else None
        msgspec.structs.force_setattr(self, "id", step_id(self.job, self.task, round_, chunk, self.stage))

    @classmethod
    def parse(cls, step: str) -> StepRef:
        """The parts of an id. Only a task's name may have slashes in it.

        Raises:
            ValueError: it is no id of a step.
        """
        job, _, rest = step.partition("/")
        parts = rest.rsplit("/", 3)
        if len(parts) == 4 and parts[3] in _STAGES:
            task, round_, chunk, stage = parts
            try:
                ref = cls(job, cast(Stage, stage), task, _number(round_), _number(chunk))
            except ValueError:
                pass
            else:
                if ref.id == step and job and task:
                    return ref
        raise ValueError(f"{step!r} is no id of a step: job/task/round/chunk/stage")


def _number(text: str) -> int:
    return -1 if text == "-" else int(text)


class Held(Struct, frozen=True):
    """A step result that is not yet acknowledged."""

    handle: Handle
    message: StepResult


class Together(Struct, frozen=True):
    """What a step of another search of the same task has measured, too."""

    profiled: ProfileDone
    turns: str


def turns_of(message: StepResult) -> str:
    """A name for what was measured in turns; nothing where it was not. It says nothing of the job, whose
    tasks others may take over."""
    if not isinstance(message.result, ProfileDone) or not message.result.in_turns:
        return ""
    return hashlib.sha256(message.timing.step.encode()).hexdigest()[:16]


class Chunk:
    """A part of a batch on its way through build and profile."""

    __slots__ = ("build", "profile", "together")

    def __init__(self) -> None:
        self.build: Held | None = None
        self.profile: Held | None = None
        self.together: Together | None = None
        """In place of ``profile``: what another search of the task holds the result of."""

    @property
    def built(self) -> BuildDone | None:
        result = self.build.message.result if self.build is not None else None
        return result if isinstance(result, BuildDone) else None

    @property
    def profiled(self) -> ProfileDone | None:
        if self.together is not None:
            return self.together.profiled
        result = self.profile.message.result if self.profile is not None else None
        return result if isinstance(result, ProfileDone) else None

    @property
    def turns(self) -> str:
        """What tells its measurement from others; see :attr:`~shared.messages.Confirmed.turns`."""
        if self.together is not None:
            return self.together.turns
        return turns_of(self.profile.message) if self.profile is not None else ""

    @property
    def conditions(self) -> str:
        """Id of those that it was measured under."""
        profiled = self.profiled
        return profiled.conditions.id if profiled is not None and profiled.conditions is not None else ""


class Round:
    """One round of one task: the proposal, and what has come back of its chunks.

    Args:
        number: from 0.
        limit: how many of its chunks are done, where the job was stopped early.
        baseline: whether the untuned workload may be measured with it.
    """

    def __init__(self, number: int, limit: int | None = None, baseline: bool = True) -> None:
        self.number = number
        self._limit = limit
        self._baseline = baseline
        self._update: Held | None = None
        self._chunks: dict[int, Chunk] = {}
        self._back: set[int] = set()
        self._trials: dict[int, list[Trial]] = {}

    @property
    def update(self) -> Held | None:
        """The result that proposed it."""
        return self._update

    @property
    def chunks(self) -> Mapping[int, Chunk]:
        """Those of which something has come back, by number."""
        return self._chunks

    @property
    def back(self) -> Collection[int]:
        """The chunks that have nothing more to wait for."""
        return self._back

    @property
    def proposal(self) -> UpdateDone | None:
        result = self._update.message.result if self._update is not None else None
        return result if isinstance(result, UpdateDone) else None

    @property
    def complete(self) -> bool:
        """Whether it has nothing more to wait for."""
        return self._update is not None and len(self._back) == self.chunk_count()

    def place(self, held: Held) -> bool:
        """Put a result of this round in its place. Returns whether the place was free; if not, it is a
        duplicate."""
        message = held.message
        if isinstance(message.result, UpdateDone):
            free = self._update is None
            self._update = self._update or held
            return free
        chunk = self._chunks.setdefault(message.chunk, Chunk())
        self._trials.pop(message.chunk, None)
        if isinstance(message.result, BuildDone):
            free = chunk.build is None
            chunk.build = chunk.build or held
        else:
            free = chunk.profile is None
            chunk.profile = chunk.profile or held
        if self.stage(message.chunk) is None:
            self._back.add(message.chunk)
        return free

    def measured_with_others(self, together: Together) -> None:
        """Another search has measured the candidates of this round, which has a single chunk."""
        self._trials.pop(0, None)
        self._chunks.setdefault(0, Chunk()).together = together
        if self.stage(0) is None:
            self._back.add(0)

    def cut(self, limit: int) -> None:
        """Leave out the chunks from number ``limit`` on."""
        self._limit = limit

    def stage(self, chunk: int) -> Stage | None:
        """What a chunk needs next, or ``None`` when it is back."""
        state = self._chunks.get(chunk)
        built = state.built if state is not None else None
        if state is None or built is None:
            return "build"
        if state.profiled is not None:
            return None
        measurable = any(each.artifact is not None for each in built.built)
        return "profile" if measurable or self.wants_baseline(chunk) else None

    def wants_baseline(self, chunk: int) -> bool:
        """The first chunk of a task also measures the untuned workload."""
        return self.number == 0 and chunk == 0 and self._baseline

    def held(self) -> Iterator[Held]:
        """Everything of this round that is not yet acknowledged, in the order of the stages."""
        if self._update is not None:
            yield self._update
        for chunk in self._chunks.values():
            if chunk.build is not None:
                yield chunk.build
            if chunk.profile is not None:
                yield chunk.profile

    def candidates(self, chunk: int) -> list[Candidate]:
        """The part of the batch that goes out as ``chunk``."""
        proposal = self.proposal
        if proposal is None:
            return []
        return proposal.candidates[chunk * proposal.chunk_size : (chunk + 1) * proposal.chunk_size]

    def chunk_count(self) -> int:
        """Chunks that the batch is cut into, but for those that are left out."""
        proposal = self.proposal
        count = -(-len(proposal.candidates) // proposal.chunk_size) if proposal is not None else 0
        return count if self._limit is None else min(count, self._limit)

    def trials(self, number: int) -> list[Trial]:
        """What has come of a chunk: one trial per candidate that has failed to build or whose profile is
        back."""
        chunk = self._chunks.get(number)
        if chunk is None:
            return []
        if number not in self._trials:
            self._trials[number] = _trials(chunk, self.candidates(number))
        return self._trials[number]


class Task:
    """One search of a job: its rounds by number. Only those are kept that have not given all they had."""

    def __init__(self) -> None:
        self._rounds: dict[int, Round] = {}
        self._derived: tuple[TaskLedger, TaskLedger] | None = None

    @property
    def rounds(self) -> Mapping[int, Round]:
        return self._rounds

    def place(self, held: Held, limit: int | None, baseline: bool) -> bool:
        """Put a result in its place; ``limit`` and ``baseline`` are those of its round. Returns whether that
        was free."""
        number = held.message.round
        self._derived = None
        return self._rounds.setdefault(number, Round(number, limit, baseline)).place(held)

    def measured_with_others(self, number: int, together: Together) -> None:
        """See :meth:`Round.measured_with_others`."""
        self._derived = None
        if number in self._rounds:
            self._rounds[number].measured_with_others(together)

    def drop(self, number: int) -> list[Held]:
        """Forget a round. Returns what was held of it."""
        self._derived = None
        return list(self._rounds.pop(number).held())

    def cut(self, limits: Mapping[int, int]) -> None:
        """The job is stopped early: leave out what was not begun."""
        self._derived = None
        for number, limit in limits.items():
            if number in self._rounds:
                self._rounds[number].cut(limit)

    def derived(self, ledger: TaskLedger, derive: Callable[[], TaskLedger]) -> TaskLedger:
        """What ``derive`` makes of ``ledger`` and of what is held; made anew only when one of the two is
        another than before."""
        if self._derived is None or self._derived[0] is not ledger:
            self._derived = ledger, derive()
        return self._derived[1]


_EMPTY = Task()


class Job:
    """An accepted request.

    Args:
        ledger: the newest revision, perhaps not yet back from the broker.
        order: jobs are numbered in the order in which they were accepted.
        prices: see :mod:`coordinator.jobs.prices`.
    """

    def __init__(self, ledger: Ledger, order: int, prices: Mapping[str, float] | None = None) -> None:
        self.order = order
        self.prices = prices or {}
        self.saved = -1
        """The newest revision that came back: it is safe to act on it."""
        self.handle: Handle | None = None
        """The delivery of that revision."""
        self.releases: list[tuple[int, Handle]] = []
        """Deliveries to acknowledge once a revision is saved."""
        self.decided: dict[str, int] = {}
        """By task, ``-`` for the job itself: the revision to be saved before its next step may start."""
        self.bare = False
        """Its last revision has nothing but the request: more could not be kept."""
        self.room = 0
        """Deliveries that have to be held for it at most; 0 until its rounds may begin."""
        self.waits: Mapping[str, str] = {}
        """Tasks that another job tunes, and which: seen when something was last decided."""
        self.waiting = ""
        """Why nothing moves, for people."""
        self.waiting_since: float | None = None
        self.told = -math.inf
        """When progress was last told."""
        self.changed = True
        """Whether there is something new to tell."""
        self.delivered: dict[str, tuple[int, int, bool]] = {}
        """By task: how much of what was measured was told. A successor tells all of it again."""
        self.delivered_at = -math.inf
        """When that was looked at last."""
        self.ended_since: float | None = None
        """When this coordinator first knew that it has ended."""
        self._tasks: dict[str, Task] = {}
        self._ledger = ledger
        self.become(ledger)

    def become(self, ledger: Ledger) -> None:
        """Go on with another revision."""
        self._earlier, self._ledger = self._ledger, ledger
        self._index = {task.spec.id: task for task in ledger.tasks}
        self._searches = {each[0].spec.key: each for each in searches.by_task(ledger.tasks)}
        self._forecast: Forecast | None = None
        self.ended = ledger.phase in FINAL

    def revert(self) -> None:
        """Go back to the revision before: the newest one could not be kept."""
        self.become(self._earlier)

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    @property
    def id(self) -> str:
        return self._ledger.request.job

    def may_act(self, task: str) -> bool:
        """Whether what was last decided for ``task`` is saved."""
        return self.saved >= self.decided.get(task, 0)

    def task(self, task: str) -> Task:
        """What is held of a task."""
        return self._tasks.get(task, _EMPTY)

    def round(self, task: str, number: int) -> Round | None:
        """A round of a task, where something is held of it."""
        return self.task(task).rounds.get(number)

    def place(self, held: Held) -> bool:
        """Put a result of a round in its place. Returns whether the place was free."""
        message = held.message
        ledger = self._index.get(message.task)
        limit = ledger.limits.get(message.round) if ledger is not None else None
        closes = ledger is not None and not ledger.want and message.round == ledger.round
        baseline = not closes and (ledger is None or self.searches(ledger)[0] is ledger)
        free = self._tasks.setdefault(message.task, Task()).place(held, limit, baseline)
        if free and isinstance(message.result, ProfileDone):
            self._share(message, message.result)
        return free

    def _share(self, message: StepResult, done: ProfileDone) -> None:
        """A step has measured what other searches of its task have found, too."""
        for search, profiled in done.rivals.items():
            part = ProfileDone(profiled=profiled, drift=done.drift, conditions=done.conditions)
            together = Together(part, turns_of(message))
            self.task(search).measured_with_others(self._index[search].round, together)

    def drop_task(self, task: str) -> list[Held]:
        """Forget a task. Returns what was held of it."""
        dropped = self._tasks.pop(task, _EMPTY)
        return [held for round_ in dropped.rounds.values() for held in round_.held()]

    def drop_tasks(self) -> None:
        """Forget all tasks."""
        self._tasks.clear()

    def task_ledger(self, task: str) -> TaskLedger | None:
        return self._index.get(task)

    def searches(self, task: TaskLedger) -> list[TaskLedger]:
        """All searches of the task that one of its searches is of."""
        return self._searches[task.spec.key]

    def held(self) -> Iterator[Held]:
        """All results held for this job."""
        for task in self._tasks.values():
            for round_ in task.rounds.values():
                yield from round_.held()

    def forecast(self, predict: Callable[[], Forecast]) -> Forecast:
        """What ``predict`` says of it, asked once per revision."""
        if self._forecast is None:
            self._forecast = predict()
        return self._forecast


def _trials(chunk: Chunk, candidates: list[Candidate]) -> list[Trial]:
    if chunk.built is None:
        return []
    built = {b.index: b for b in chunk.built.built}
    profiled = {p.index: p for p in chunk.profiled.profiled} if chunk.profiled else {}
    trials = []
    for candidate in candidates:
        made, seen = built.get(candidate.index), profiled.get(candidate.index)
        failed = made is not None and made.outcome is not None
        if failed or chunk.profiled is not None:
            trials.append(_trial(candidate, made, seen, chunk.conditions))
    return trials


def _trial(candidate: Candidate, made: Built | None, seen: Profiled | None, conditions: str) -> Trial:
    if made is not None and made.outcome is not None:
        return Trial(candidate=candidate, outcome=made.outcome, error=made.error)
    if seen is None:
        return Trial(candidate=candidate, outcome="run-failed", error="the worker reported nothing for it")
    return Trial(
        candidate=candidate,
        outcome=seen.outcome,
        latencies=seen.latencies,
        drift=seen.drift,
        attempts=seen.attempts,
        cut_short=seen.cut_short,
        error=seen.error,
        conditions=conditions,
    )
