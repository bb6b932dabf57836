"""What the coordinator remembers of a job between two events: its ledger, and the deliveries it holds.

Nothing here is of its own making: all of it can be rebuilt from messages that are not yet acknowledged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast, get_args

from tunemesh.coordinator.events import Handle
from tunemesh.coordinator.jobs.ledger import Ledger, TaskLedger
from tunemesh.coordinator.scheduling.strategies import Outlook
from tunemesh.shared.messages import BuildDone, Candidate, ProfileDone, Stage, StepResult, Trial, UpdateDone

_STEP_ID = re.compile(
    r"(?P<job>[^/]+)/(?P<task>.+)/(?P<round>-|[0-9]{1,9})/(?P<chunk>-|[0-9]{1,9})/(?P<stage>[a-z-]+)"
)


@dataclass(frozen=True, slots=True)
class StepRef:
    """Which step of which job. Its :attr:`id` is deterministic: the same step always has the same one."""

    job: str
    stage: Stage
    task: str = "-"
    round: int = -1
    chunk: int = -1

    @property
    def id(self) -> str:
        """``job/task/round/chunk/stage``, ``-`` where a part does not apply."""
        parts = (n if n >= 0 else "-" for n in (self.round, self.chunk))
        return f"{self.job}/{self.task}/{'/'.join(map(str, parts))}/{self.stage}"

    @classmethod
    def parse(cls, step: str) -> StepRef:
        """The parts of an id. Only a task's name may have slashes in it.

        Raises:
            ValueError: it is no id of a step.
        """
        found = _STEP_ID.fullmatch(step)
        if found is not None and found["stage"] in get_args(Stage):
            round_, chunk = (-1 if found[part] == "-" else int(found[part]) for part in ("round", "chunk"))
            ref = cls(found["job"], cast(Stage, found["stage"]), found["task"], round_, chunk)
            if ref.id == step:
                return ref
        raise ValueError(f"{step!r} is no id of a step: job/task/round/chunk/stage")


@dataclass(frozen=True, slots=True)
class Held:
    """A step result that is not yet acknowledged."""

    handle: Handle
    message: StepResult


@dataclass(slots=True)
class Chunk:
    """A part of a batch on its way through build and profile."""

    build: Held | None = None
    profile: Held | None = None
    trials: list[Trial] | None = None
    """What has come of it so far, once computed; ``None`` again when more comes."""

    @property
    def built(self) -> BuildDone | None:
        return (
            self.build.message.result
            if self.build and isinstance(self.build.message.result, BuildDone)
            else None
        )

    @property
    def profiled(self) -> ProfileDone | None:
        result = self.profile.message.result if self.profile else None
        return result if isinstance(result, ProfileDone) else None


@dataclass(slots=True)
class Round:
    """One round of one task: the proposal, and what has come back of its chunks."""

    number: int
    limit: int | None = None
    """How many of its chunks are done, where the job was stopped early."""
    update: Held | None = None
    chunks: dict[int, Chunk] = field(default_factory=dict)
    back: set[int] = field(default_factory=set)
    """The chunks that have nothing more to wait for."""

    @property
    def proposal(self) -> UpdateDone | None:
        result = self.update.message.result if self.update else None
        return result if isinstance(result, UpdateDone) else None

    @property
    def complete(self) -> bool:
        """Whether it has nothing more to wait for."""
        return self.update is not None and len(self.back) == self.chunk_count()

    def place(self, held: Held) -> bool:
        """Put a result of this round in its place. Returns whether the place was free; if not, it is a
        duplicate."""
        message = held.message
        if isinstance(message.result, UpdateDone):
            free = self.update is None
            self.update = self.update or held
            return free
        chunk = self.chunks.setdefault(message.chunk, Chunk())
        chunk.trials = None
        if isinstance(message.result, BuildDone):
            free = chunk.build is None
            chunk.build = chunk.build or held
        else:
            free = chunk.profile is None
            chunk.profile = chunk.profile or held
        if self.stage(message.chunk) is None:
            self.back.add(message.chunk)
        return free

    def stage(self, chunk: int) -> Stage | None:
        """What a chunk needs next, or ``None`` when it is back."""
        state = self.chunks.get(chunk)
        built = state.built if state is not None else None
        if state is None or built is None:
            return "build"
        if state.profiled is not None:
            return None
        measurable = any(each.artifact is not None for each in built.built)
        return "profile" if measurable or self.wants_baseline(chunk) else None

    def wants_baseline(self, chunk: int) -> bool:
        """The first chunk of a task also measures the untuned workload."""
        return self.number == 0 and chunk == 0

    def held(self) -> Iterator[Held]:
        """Everything of this round that is not yet acknowledged, in the order of the stages."""
        if self.update is not None:
            yield self.update
        for chunk in self.chunks.values():
            for held in (chunk.build, chunk.profile):
                if held is not None:
                    yield held

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
        return count if self.limit is None else min(count, self.limit)


@dataclass(slots=True)
class Task:
    """One task of a job: its rounds by number. Only those are kept that have not given all they had."""

    rounds: dict[int, Round] = field(default_factory=dict)
    seen: tuple[TaskLedger, TaskLedger] | None = None
    """A ledger, and how the task stood with what was held on top of it; ``None`` again when more comes."""


@dataclass(slots=True)
class Job:
    """An accepted request."""

    ledger: Ledger
    """The newest revision, perhaps not yet back from the broker."""
    order: int
    """Jobs are numbered in the order in which they were accepted."""
    saved: int = -1
    """The newest revision that came back: it is safe to act on it."""
    handle: Handle | None = None
    """The delivery of that revision."""
    releases: list[tuple[int, Handle]] = field(default_factory=list)
    """Deliveries to acknowledge once a revision is saved."""
    decided: dict[str, int] = field(default_factory=dict)
    """By task (``-`` for the job itself): the revision that must be saved before its next step may start."""
    tasks: dict[str, Task] = field(default_factory=dict)
    waiting: str = ""
    """Why nothing moves, for people."""
    waiting_since: float | None = None
    index: tuple[Ledger, dict[str, TaskLedger]] | None = None
    """The tasks of that revision by id."""
    outlook: tuple[Ledger, Outlook] | None = None
    """What was predicted with that revision."""
    told: float = 0.0
    """When progress was last told."""
    changed: bool = True
    """Whether there is something new to tell."""

    @property
    def id(self) -> str:
        return self.ledger.request.job

    @property
    def ended(self) -> bool:
        return self.ledger.phase in ("done", "failed", "cancelled")

    def may_act(self, task: str) -> bool:
        """Whether what was last decided for ``task`` is saved."""
        return self.saved >= self.decided.get(task, 0)

    def task(self, task: str) -> Task:
        return self.tasks.setdefault(task, Task())

    def round(self, task: str, number: int) -> Round:
        """A round of a task, made if it is not there."""
        rounds = self.task(task).rounds
        if number not in rounds:
            ledger = self.task_ledger(task)
            rounds[number] = Round(number, ledger.limits.get(number) if ledger is not None else None)
        return rounds[number]

    def task_ledger(self, task: str) -> TaskLedger | None:
        if self.index is None or self.index[0] is not self.ledger:
            self.index = self.ledger, {t.spec.id: t for t in self.ledger.tasks}
        return self.index[1].get(task)

    def held(self) -> Iterator[Held]:
        """All results held for this job."""
        for task in self.tasks.values():
            for round_ in task.rounds.values():
                yield from round_.held()
