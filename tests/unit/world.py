"""A broker, workers and clients in a few lists, so that the core can be driven through any order of events.

The model keeps what matters of RabbitMQ: a delivery stays in the coordinator's queue until it is
acknowledged, and all of them come again when the coordinator starts afresh; a step stays in its queue until
its worker has published the result.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from tunemesh.coordinator.core import Core
from tunemesh.coordinator.events import (
    Acknowledge,
    Arrived,
    CaughtUp,
    Connected,
    Declare,
    Dispatch,
    DispatchFailed,
    Instruction,
    Log,
    Purge,
    PutAside,
    QueueSeen,
    Save,
    SaveFailed,
    Tell,
    Tick,
    WorkerSeen,
)
from tunemesh.coordinator.jobs.ledger import Ledger, Marker
from tunemesh.coordinator.jobs.limits import Limits
from tunemesh.coordinator.journal.records import Entry, Start
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import (
    AssembleDone,
    AssembleWork,
    Blob,
    BuildDone,
    BuildWork,
    Built,
    Candidate,
    ImportDone,
    ImportWork,
    JobEvent,
    Known,
    LearnDone,
    LearnWork,
    Level,
    Message,
    Profiled,
    ProfileDone,
    ProfileWork,
    Region,
    Request,
    Result,
    Serves,
    Settings,
    Step,
    StepResult,
    TaskSpec,
    TaskState,
    Timing,
    UpdateDone,
    UpdateWork,
    ValidateDone,
    ValidateWork,
    WorkerStatus,
)

BLOB = Blob("0" * 64, 0, b"")
TUNED = Blob(hashlib.sha256(b"tuned").hexdigest(), 5, b"tuned")
SAMPLE = Blob("5" * 64, 4, b"data")
OBJECTS = Blob("6" * 64, 100)
TARGET = "mock"
KNOWN = Known(history=[TUNED], best=0.25, untuned=0.5)


def request(job: str = "job", trials: int = 20, *, shared: bool = False, **given: object) -> Request:
    """Of a job that shares nothing with others, unless it is to. What else is ``given`` are fields of its
    level and of its settings."""
    of_level = {name: given.pop(name) for name in Level.__struct_encode_fields__ if name in given}
    return Request(
        job=job,
        model=BLOB,
        target=TARGET,
        engines=["mock"],
        level=msgspec.convert({**of_level, "trials": trials, "shared": shared}, Level),
        settings=msgspec.convert(given, Settings),
    )


@dataclass
class FakeWorker:
    """Does steps the way a real one does: deterministic results, one step at a time."""

    queue: str
    name: str
    alive: bool = True
    fault: str = ""
    """Why its device does not work."""
    doing: tuple[int, Step] | None = None

    @property
    def engines(self) -> list[str]:
        """Those in the name of the queue."""
        return [engine for engine in self.queue.partition(".")[2].split("+") if engine] + ["mock"]

    def status(self, leaving: bool = False) -> WorkerStatus:
        targets = [TARGET] if self.queue.startswith("profile-") else []
        return WorkerStatus(
            worker=self.name,
            queue=self.queue,
            host="host",
            slots=0 if leaving or self.fault else 1,
            serves=Serves(targets=targets) if targets else Serves(engines=self.engines),
            step=self.doing[1].id if self.doing else None,
            leaving=leaving,
            fault=self.fault,
        )


@dataclass
class World:
    """Everything outside the core. ``spaces`` limits how many schedules a task has."""

    tasks: int = 2
    strategy: str = "interleaved"
    space: int = 10_000
    validated: ValidateDone = ValidateDone(  # noqa: RUF009
        latency_before=2.0, latency_after=1.0, largest_difference=0.0, equal=True
    )
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    defects_expected: bool = False
    compared_with: Blob | None = None
    assembled_from: AssembleWork | None = None
    """The sample that the last ``validate`` was given."""
    queues: tuple[str, ...] = ("model-update", "build-cpu", "profile-cpu-0")
    prices: Mapping[str, float] = field(default_factory=dict)
    reserved: float = 0.0
    learn_after: int = 0
    seed: str = "drawn at "
    """Of secrets, about; without one there are none."""
    limits: Mapping[str, Limits] = field(default_factory=dict)
    regions: int = 16
    """Into how many the engine can split the space of a task."""
    tasks_of: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By job: which tasks its model has; by default the first ``tasks``. Each engine of a job takes all."""
    slowness: Mapping[str, float] = field(default_factory=dict)
    """By engine: how many times as long as others' its kernels take."""
    names: Mapping[str, int] = field(default_factory=dict)
    """By engine: how many candidates are named at the end of a search, by default 2."""

    def __post_init__(self) -> None:
        self.now = 1000.0
        self.ids = itertools.count(1)
        self.coordinator: dict[int, Message] = {}
        self.delivered: set[int] = set()
        self.stage: dict[str, list[tuple[int, Step]]] = defaultdict(list)
        self.workers = [FakeWorker(q, f"{q}@host:{i}") for i, q in enumerate(self.queues)]
        self.events: list[JobEvent] = []
        self.log: list[Instruction] = []
        self.dead: dict[int, str] = {}
        self.records: list[Start | Entry] = []
        """All events since the beginning, and what followed from them."""
        self.failed: list[DispatchFailed | SaveFailed] = []
        self.profiled: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.largest_backlog = 0
        self.behind = 0.0
        """Seconds by which the wall clock of the next coordinator is behind."""
        self.start_coordinator()

    # -- The coordinator -------------------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        """A fresh one, as after a crash: it is delivered again whatever nobody acknowledged."""
        self.core = Core(
            self.strategy,
            prices=self.prices,
            reserved=self.reserved,
            learn_after=self.learn_after,
            limits=self.limits,
        )
        self.records.append(
            Start(self.strategy, dict(self.prices), self.reserved, self.learn_after, dict(self.limits))
        )
        self.delivered.clear()
        self.give(
            Connected(wall=self.now + 1e6 - self.behind, seed=f"{self.seed}{self.now}" if self.seed else "")
        )
        for handle in [h for h, message in self.coordinator.items() if isinstance(message, Marker)]:
            del self.coordinator[handle]
        self.publish(Marker(start="world"))
        self.report()

    def give(self, event: object) -> list[Instruction]:
        instructions = self.core.handle(event, self.now)  # type: ignore[arg-type]
        self.log.extend(instructions)
        self.records.append(Entry(self.now, event, instructions))  # type: ignore[arg-type]
        for instruction in instructions:
            match instruction:
                case Dispatch(queue, step) if why := _too_large(step):
                    self.failed.append(DispatchFailed(step.id, why))
                case Save(ledger) if why := _too_large(ledger):
                    self.failed.append(SaveFailed(ledger.request.job, why))
                case Dispatch(queue, step):
                    self.stage[queue].append((next(self.ids), step))
                    self.largest_backlog = max(self.largest_backlog, self.backlog(queue))
                case Save(ledger):
                    self.coordinator[next(self.ids)] = ledger
                case Acknowledge(handle):
                    self.coordinator.pop(handle, None)
                    self.delivered.discard(handle)
                case PutAside(handle, reason):
                    self.dead[handle] = reason
                    self.coordinator.pop(handle, None)
                    self.delivered.discard(handle)
                case Tell(event, None):
                    self.events.append(event)
                case Purge(queue):
                    self.stage[queue].clear()
                case Log("error", text) if not self.defects_expected:
                    raise AssertionError(text)
                case Declare() | _:
                    pass
        while self.failed:
            self.give(self.failed.pop(0))
        return instructions

    def does(self, event: object) -> list[Instruction]:
        """What follows from an event, but for what is only logged."""
        return [each for each in self.give(event) if not isinstance(each, Log)]

    def backlog(self, queue: str) -> int:
        """Steps that wait in a queue although every live worker of it is busy."""
        idle = sum(w.alive and w.doing is None for w in self.workers if w.queue == queue)
        return len(self.stage[queue]) - idle

    def publish(self, message: Message) -> None:
        self.coordinator[next(self.ids)] = message

    def deliver(self) -> bool:
        """Hand the oldest undelivered message to the coordinator."""
        for handle, message in self.coordinator.items():
            if handle not in self.delivered:
                if isinstance(message, Marker):
                    del self.coordinator[handle]
                    self.give(CaughtUp())
                    return True
                self.delivered.add(handle)
                self.give(Arrived(handle, message))  # type: ignore[arg-type]
                return True
        return False

    def report(self) -> None:
        for worker in self.workers:
            if worker.alive:
                self.give(WorkerSeen(worker.status()))

    def check(self) -> None:
        for queue in dict.fromkeys([*self.queues, *self.core.resources.queues]):
            consumers = sum(w.alive and not w.fault for w in self.workers if w.queue == queue)
            self.give(QueueSeen(queue, len(self.stage[queue]), consumers))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.report()
        self.check()
        self.give(Tick())

    def settle(self) -> None:
        """Let a fresh coordinator find out that there is nothing to recover."""
        while self.deliver():
            pass
        self.pass_time(1.0)

    # -- Workers ---------------------------------------------------------------------------------------------

    def kill(self, worker: FakeWorker) -> None:
        """SIGKILL: its step goes back to the front of its queue, and a supervisor starts another."""
        if worker.doing is not None:
            self.stage[worker.queue].insert(0, worker.doing)
        worker.alive, worker.doing = False, None

    def revive(self, worker: FakeWorker) -> None:
        worker.alive = True
        worker.name = f"{worker.queue}@host:{next(self.ids) + 1000}"

    def strike(self, victim: int) -> None:
        """Kill the worker with a number, and start it again; beyond the workers it is the coordinator."""
        if victim >= len(self.workers):
            self.start_coordinator()
        else:
            self.kill(self.workers[victim])
            self.revive(self.workers[victim])

    def work(self, worker: FakeWorker) -> bool:
        """Take a step, or finish the one in hand."""
        if not worker.alive or worker.fault:
            return False
        if worker.doing is None:
            if not self.stage[worker.queue]:
                return False
            worker.doing = self.stage[worker.queue].pop(0)
            return True
        _, step = worker.doing
        worker.doing = None
        self.publish(self.result(worker, step))
        return True

    def result(self, worker: FakeWorker, step: Step) -> StepResult:
        work = step.work
        stage = type(work).__struct_config__.tag
        timing = Timing(
            step=step.id,
            stage=str(stage),  # type: ignore[arg-type]
            resource=worker.queue,
            worker=worker.name,
            started=self.now - 0.1,
            finished=self.now,
            size=len(getattr(work, "candidates", getattr(work, "artifacts", [None]))),
        )
        match work:
            case ImportWork():
                specs = [
                    TaskSpec(
                        id=f"t{place:02}.{engine}" if which else f"t{place:02}",
                        name=f"task {i}",
                        key=f"{i:064x}",
                        weight=i + 1,
                        engine=engine,
                        workload=BLOB,
                        untuned=BLOB,
                        regions=min(self.regions, work.split),
                    )
                    for place, i in enumerate(self.tasks_of.get(step.job, range(self.tasks)))
                    for which, engine in enumerate(step.engines)
                ]
                # As many tasks are known as there are records.
                known = {spec.id: KNOWN for spec, _ in zip(specs, work.known, strict=False)}
                done: Result = ImportDone(
                    model=BLOB, tasks=specs, sample=SAMPLE, objects=OBJECTS, known=known
                )
            case UpdateWork():
                done = self.update(step, work)
            case BuildWork():
                done = BuildDone(
                    built=[
                        Built(
                            index=each.index,
                            seconds=0.1,
                            artifact=BLOB,
                            objects=objects_of(each.hash) if work.keep else None,
                        )
                        for each in work.candidates
                    ]
                )
            case ProfileWork():
                if not work.confirm:
                    self.profiled[f"{step.job}/{step.task}"] += [
                        (step.round, each.index) for each in work.artifacts
                    ]
                done = ProfileDone(
                    profiled=self.measured(step.id, str(work.task.engine), work.artifacts),
                    rivals={
                        rival: self.measured(f"{step.id} {rival}", _engine_of(rival, work), built)
                        for rival, built in work.rivals.items()
                    },
                    in_turns=work.confirm,
                    untuned=100.0 if work.baseline else None,
                )
            case AssembleWork():
                self.assembled_from = work
                done = AssembleDone(tuned=TUNED, untuned=BLOB, signature=BLOB, files={}, records=BLOB)
            case LearnWork():
                done = LearnDone(said=["learned"])
            case ValidateWork():
                self.compared_with = work.sample
                done = self.validated
        return StepResult.of(step, timing, done)

    def measured(self, name: str, engine: str, artifacts: list[Built]) -> list[Profiled]:
        return [
            Profiled(
                index=built.index,
                seconds=0.1,
                outcome="measured",
                latencies=[(1.0 + _number(name, built.index) % 1000 / 100) * self.slowness.get(engine, 1.0)],
            )
            for built in artifacts
        ]

    def update(self, step: Step, work: UpdateWork) -> UpdateDone:
        """Like an engine: numbers the schedules, knows from its state how many there were. Of several
        regions each has every so-manieth."""
        region = work.task.region or Region(0, 1)
        known = int(work.state.search.data or b"0") if work.state else 0
        history = [*(work.state.history if work.state else work.recall)]
        if not work.state:
            tried = [name for blob in work.recall for name in (blob.data or b"").decode().split()]
            tried += [trial.candidate.hash for trial in work.trials]
            known = max([known, *(int(name.rpartition("/")[2]) // region.of + 1 for name in tried)])
        count = max(min(work.want, len(range(region.number, self.space, region.of)) - known), 0)
        data = str(known + count).encode()
        if work.trials:
            learned = "\n".join(trial.candidate.hash for trial in work.trials).encode()
            history.append(Blob(hashlib.sha256(learned).hexdigest(), len(work.trials), learned))
        state = TaskState(search=Blob(hashlib.sha256(data).hexdigest(), len(data), data), history=history)
        first = known if work.want else 0
        if not work.want:
            count = min(2, known, work.names, self.names.get(str(work.task.engine), 2))  # to be confirmed
        return UpdateDone(
            state=state,
            candidates=[
                Candidate(i, f"{work.task.key[-4:]}/{(first + i) * region.of + region.number}", b"")
                for i in range(count)
            ],
            learned=work.learns,
            chunk_size=work.chunk_size,
            exhausted=0 < work.want > count,
        )

    # -- Together --------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """One thing happens, chosen by chance."""
        choices = [self.deliver, *(lambda w=w: self.work(w) for w in self.workers)]
        self.rng.shuffle(choices)
        if not any(choice() for choice in choices):
            self.pass_time(0.5)
        else:
            self.now += 0.01

    def ledger(self, job: str) -> Ledger:
        return self.core.jobs[job].ledger

    def run(self, *jobs: str, turns: int = 20_000) -> None:
        """Until all ``jobs`` have ended."""
        for _ in range(turns):
            if all(job in self.core.jobs and self.core.jobs[job].ended for job in jobs):
                for _ in range(20):
                    self.turn()
                return
            self.turn()
            if self.rng.random() < 0.02:
                self.pass_time(0.5)
        states = {job: self.core.jobs[job].ledger.phase for job in jobs if job in self.core.jobs}
        raise AssertionError(f"jobs did not end: {states}")


def objects_of(candidate: str) -> Blob:
    """The machine code that was kept of a candidate with this hash."""
    return Blob(hashlib.sha256(candidate.encode()).hexdigest(), 100)


def _engine_of(rival: str, work: ProfileWork) -> str:
    """Of a search, by its name: those of the first engine of a task do not have it in theirs."""
    named = [part for part in rival.split(".")[1:] if not part.isdigit()]
    return named[0] if named else str(work.task.engine)


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def _too_large(message: Message) -> str:
    try:
        codec.encode(message)
    except BadMessage as error:
        return str(error)
    return ""
