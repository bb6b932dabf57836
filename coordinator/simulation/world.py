"""A broker and workers in virtual time, around the real core.

It keeps what matters of RabbitMQ: a delivery stays with the coordinator until it is acknowledged, and all
of them come again when the coordinator starts afresh; a step stays in its queue until its worker has
published the result.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import simpy

from tunemesh.coordinator.core import Core
from tunemesh.coordinator.events import (
    CHECK,
    TICK,
    Acknowledge,
    Arrived,
    CaughtUp,
    Connected,
    Dispatch,
    Event,
    Purge,
    QueueSeen,
    Save,
    Tell,
    Tick,
    WorkerSeen,
)
from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.coordinator.simulation import doing
from tunemesh.coordinator.simulation.drawing import Durations
from tunemesh.coordinator.simulation.scenario import Scenario
from tunemesh.coordinator.simulation.timing import TimedStrategy
from tunemesh.coordinator.simulation.workers import Executed, Worker, workers_of
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import (
    FINAL_KINDS,
    Blob,
    Level,
    Request,
    Result,
    Settings,
    Stage,
    Step,
    StepResult,
    Timing,
)

STATUS = 2.0
"""Seconds between two statuses of a worker, as in the AMQP ones."""
SUCCESSOR = 2.0
"""Seconds until a successor of the coordinator is connected."""

EPOCH = 1e6
"""What the core's clock shows at the start of the simulation."""


@dataclass
class World:
    """Run with :meth:`run`; then look at what happened."""

    scenario: Scenario
    executed: list[Executed] = field(default_factory=list)
    arrivals: dict[str, float] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)
    """Of queues, as a coordinator takes them."""
    result: Callable[[Step, Scenario, Durations], Result] = doing.result
    """What workers make of a step."""
    dispatches: int = 0
    core_seconds: float = 0.0
    """Wall time spent in the core."""
    lost: int = 0
    """Steps whose worker died."""
    env: simpy.Environment = field(default_factory=simpy.Environment)
    """Its time, which several worlds may share."""

    def __post_init__(self) -> None:
        self.durations = Durations(self.scenario)
        self.strategies: list[TimedStrategy] = []
        self._ids = itertools.count(1)
        self._held: dict[int, Request | Ledger | StepResult] = {}
        self._queues: dict[str, deque[Step]] = defaultdict(deque)
        self._idle: dict[str, list[Worker]] = defaultdict(list)
        self._draw = random.Random(f"{self.scenario.seed}/faults")
        self.workers = list(workers_of(self.scenario))
        self.core: Core | None = None
        self._epoch = 0
        self._restarts = 0

    def run(self) -> None:
        """Until all jobs have ended.

        Raises:
            TunemeshError: a job failed, or they take longer than the scenario's limit.
        """
        scenario = self.scenario
        self.begin()
        for number in range(scenario.jobs):
            self._at(number * scenario.every, self._arrive, number)
        while len(self.ends) < scenario.jobs:
            if self.env.peek() > scenario.limit:
                left = scenario.jobs - len(self.ends)
                raise TunemeshError(f"{left} jobs have not ended after {scenario.limit:g} virtual seconds")
            self.env.step()

    def begin(self) -> None:
        """Let everything be at work, but for jobs."""
        scenario = self.scenario
        for worker in self.workers:
            self._idle[worker.queue].append(worker)
            if scenario.failures_every:
                self._at(self._draw.expovariate(1 / scenario.failures_every), self._die, worker)
        for away in scenario.away:
            gone = [worker for worker in self.workers if worker.queue == away.queue]
            for worker in gone:
                self._at(away.since, self._leave, worker)
                self._at(away.until, self._return, worker)
        self._connect()
        for moment in scenario.restarts:
            self._at(moment, self._restart)
        self._every(TICK, self._tick)
        self._every(STATUS, self._report)
        if scenario.failures_every or scenario.away or scenario.restarts:
            self._every(CHECK, self._check)

    # -- Time -----------------------------------------------------------------------------------------------

    def _at(self, delay: float, action: Callable[..., None], *arguments: object) -> None:
        event = self.env.timeout(delay)
        event.callbacks.append(lambda _: action(*arguments))

    def _every(self, seconds: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self._at(seconds, again)

        self._at(seconds, again)

    # -- The coordinator ------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self.core = Core(self.scenario.strategy, self._timed, self.prices, self.scenario.reserved)
        self._epoch += 1
        self._give(Connected(wall=EPOCH + self.env.now))
        for handle, message in list(self._held.items()):
            self._give(Arrived(handle, message))
        self._give(CaughtUp())
        self._report()

    def _restart(self) -> None:
        self.core = None
        self._restarts += 1
        self._at(SUCCESSOR, self._succeed, self._restarts)

    def _succeed(self, restart: int) -> None:
        if restart == self._restarts:  # else it died again before a successor was there
            self._connect()

    def _timed(self, name: str) -> TimedStrategy:
        self.strategies.append(TimedStrategy(name))
        return self.strategies[-1]

    def _give(self, event: Event) -> None:
        if self.core is None:
            return
        began = perf_counter()
        instructions = self.core.handle(event, EPOCH + self.env.now)
        self.core_seconds += perf_counter() - began
        for instruction in instructions:
            match instruction:
                case Dispatch(queue, step):
                    self.dispatches += 1
                    self._at(self.scenario.hop, self._enqueue, queue, step)
                case Save(ledger):
                    self._send(ledger)
                case Acknowledge(handle):
                    self._held.pop(handle, None)
                case Tell(event=told) if told.kind in FINAL_KINDS and told.job not in self.ends:
                    if told.kind != "done":
                        raise TunemeshError(f"simulated job {told.job} {told.kind}: {told.text}")
                    self.ends[told.job] = self.env.now
                case Purge(queue):
                    self._queues[queue].clear()

    def _send(self, message: Request | Ledger | StepResult) -> None:
        handle = next(self._ids)
        self._held[handle] = message
        self._at(self.scenario.hop, self._deliver, handle, self._epoch)

    def _deliver(self, handle: int, epoch: int) -> None:
        # What was on its way when the coordinator died is among what its successor is given.
        if handle in self._held and epoch == self._epoch:
            self._give(Arrived(handle, self._held[handle]))

    def _tick(self) -> None:
        self._give(Tick())

    def _report(self) -> None:
        for worker in self.workers:
            if worker.alive:
                self._give(WorkerSeen(worker.status()))

    def _check(self) -> None:
        consumers: dict[str, int] = defaultdict(int)
        for worker in self.workers:
            consumers[worker.queue] += worker.alive
        for queue, count in consumers.items():
            self._give(QueueSeen(queue, len(self._queues[queue]), count))

    def _arrive(self, number: int) -> None:
        self.accept(number, self.request(number))

    def accept(self, number: int, request: Request) -> None:
        """The coordinator is sent a request, that of the job with this number."""
        self.arrivals[request.job] = self.env.now
        self.durations.job(request.job, number)
        self._send(request)

    def request(self, number: int) -> Request:
        """Of the job with this number."""
        scenario = self.scenario
        return Request(
            job=f"job{number:04}",
            model=Blob(f"{number:064x}", 0, b""),
            target=scenario.targets[number % len(scenario.targets)],
            level=self.level(number),
            tenant=scenario.tenants[number % len(scenario.tenants)],
            priority=scenario.priorities[number % len(scenario.priorities)],
            engines=["mock"],
            settings=Settings(batch=scenario.batch, chunk=scenario.chunk, lookahead=scenario.lookahead),
        )

    def level(self, number: int) -> Level:
        """What the job of this number asks for."""
        scenario = self.scenario
        trials = scenario.trials or scenario.tasks * scenario.rounds * scenario.batch
        class_ = scenario.classes[number % len(scenario.classes)]
        return Level(trials=trials, class_=class_, split=scenario.split)

    # -- Workers --------------------------------------------------------------------------------------------

    def _enqueue(self, queue: str, step: Step) -> None:
        self._queues[queue].append(step)
        self._start(queue)

    def _start(self, queue: str) -> None:
        while self._queues[queue] and self._idle[queue]:
            worker = self._idle[queue].pop()
            step = self._queues[queue].popleft()
            seconds = self.durations.seconds(step)
            now = self.env.now
            worker.running = Executed(step, queue, worker.name, now, now + seconds * worker.slowness, seconds)
            self._at(seconds * worker.slowness, self._finish, worker, worker.life)

    def _finish(self, worker: Worker, life: int) -> None:
        if worker.life != life or worker.running is None:
            return
        done, worker.running = worker.running, None
        self.executed.append(done)
        self._idle[worker.queue].append(worker)
        self._send(_result(done, self.result(done.step, self.scenario, self.durations)))
        self._start(worker.queue)

    def _die(self, worker: Worker) -> None:
        if worker.alive:
            self._stop(worker)
            self._at(self.scenario.repair, self._revive, worker)
        self._at(self._draw.expovariate(1 / self.scenario.failures_every), self._die, worker)

    def _leave(self, worker: Worker) -> None:
        worker.away = True
        if worker.alive:
            self._give(WorkerSeen(worker.status(leaving=True)))
            self._stop(worker)

    def _return(self, worker: Worker) -> None:
        worker.away = False
        self._revive(worker)

    def _stop(self, worker: Worker) -> None:
        """Its step goes back to the front of its queue."""
        worker.alive = False
        worker.life += 1
        if worker in self._idle[worker.queue]:
            self._idle[worker.queue].remove(worker)
        if worker.running is not None:
            lost, worker.running = worker.running, None
            lost.finished, lost.completed = self.env.now, False
            self.executed.append(lost)
            self.lost += 1
            self._queues[worker.queue].appendleft(lost.step)
            self._start(worker.queue)

    def _revive(self, worker: Worker) -> None:
        if not worker.alive and not worker.away:
            worker.alive = True
            self._idle[worker.queue].append(worker)
            self._give(WorkerSeen(worker.status()))
            self._start(worker.queue)


def _result(done: Executed, made: Result) -> StepResult:
    step = done.step
    size = len(getattr(step.work, "candidates", getattr(step.work, "artifacts", [None])))
    timing = Timing(
        step=step.id,
        stage=cast(Stage, step.work.__struct_config__.tag),
        resource=done.resource,
        worker=done.worker,
        started=EPOCH + done.started,
        finished=EPOCH + done.finished,
        size=max(size, 1),
    )
    return StepResult.of(step, timing, made)
