"""Learning from the records: nobody's job, done by a worker while the mesh has nothing else to do.

Whoever asks for it sends a :class:`Learn`, which is held until it is done; after jobs have ended the
coordinator asks by itself. A lesson is a step of no job, sent to a queue for model updates when no job is
under way. It occupies the queue for nobody: a worker that learns gives way to the first step that comes, and
the lesson is asked for again later. One that is lost with its worker, or with its coordinator, costs nothing
but time.
"""

from __future__ import annotations

from typing import NamedTuple

from tunemesh.coordinator.events import Acknowledge, Arrived, Dispatch
from tunemesh.coordinator.jobs import nonces
from tunemesh.coordinator.jobs.ledger import Handle
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.state import State
from tunemesh.shared.messages import Failure, Learn, LearnDone, LearnWork, Settings, Step, StepResult
from tunemesh.shared.messages.basics import step_id

JOB = "learn"
"""In place of a job in the id of the step."""
STEP = step_id(JOB, "-", None, None, "learn")
"""There is one lesson at a time."""
QUIET = 2.0
"""Seconds without a job before one begins."""
KEPT = 24 * 3600.0
"""Seconds after which what nobody had time for is forgotten."""
LOST = 30.0
"""Seconds after which one that no worker says it does is sent again."""


class Asked(NamedTuple):
    """A lesson to come."""

    wanted: Learn
    handle: Handle | None
    """That of who has asked; ``None``: the coordinator itself."""
    at: float
    """When."""


class Lessons:
    """Asks for lessons, one after the other.

    Args:
        after: new trials after which the coordinator asks by itself, once jobs have ended; 0: never.
    """

    def __init__(self, state: State, after: int) -> None:
        self._state = state
        self._after = after
        self._asked: dict[str, Asked] = {}
        """By engine, in the order in which they came."""
        self._sent: str | None = None
        """The engine of the one under way."""
        self._sent_at = self._seen_at = 0.0
        self._busy_at = -1e9
        """When a job was under way last."""
        self._ended: set[str] = set()
        """Jobs that were seen to end."""

    def asked(self, event: Arrived, wanted: Learn) -> None:
        """Somebody asks. Asked twice is asked once."""
        state, before = self._state, self._asked.get(wanted.engine)
        if before is not None and before.handle is not None:
            state.out.append(Acknowledge(event.handle))
            return
        self._asked[wanted.engine] = Asked(wanted, event.handle, state.now)
        state.log("info", f"asked to learn from the records of {wanted.engine}, once nothing else is due")

    def done(self, handle: Handle, message: StepResult) -> None:
        """A worker has answered."""
        state = self._state
        state.out.append(Acknowledge(handle))
        if message.nonce != self._nonce():
            return  # of another coordinator's lesson, or nobody's
        engine, self._sent = self._sent, None
        asked = self._asked.get(engine or "")
        match message.result:
            case LearnDone(said=said, learned=learned, gave_way=gave_way):
                # After every job it would say that there is too little that is new.
                lines = said if learned or (asked is not None and asked.handle is not None) else []
            case Failure(error=error):
                lines, gave_way = [f"nothing learned: {error}"], False
            case _:
                return
        for line in lines:
            state.log("info", line, worker=message.timing.worker)
        if engine is not None and not gave_way:
            self._forget(engine)

    def _forget(self, engine: str) -> None:
        asked = self._asked.pop(engine, None)
        if asked is not None and asked.handle is not None:
            self._state.out.append(Acknowledge(asked.handle))

    def look(self) -> None:
        """Send the next one, where there is nothing else to do."""
        state = self._state
        self._note_ends()
        if state.active:
            self._busy_at = state.now
            return
        if state.now - self._busy_at < QUIET:
            return
        if self._sent is not None:
            if STEP in state.resources.running():
                self._seen_at = state.now
            if state.now - max(self._sent_at, self._seen_at) < LOST:
                return
            self._sent = None
        for engine, asked in list(self._asked.items()):
            if state.now - asked.at > KEPT:
                state.log(
                    "warning", f"nothing is learned from the records of {engine}: no worker had time for it"
                )
                self._forget(engine)
            elif queue := state.resources.idle(Need.of("model-update", [engine])):
                self._sent, self._sent_at = engine, state.now
                state.out.append(Dispatch(queue.name, _step(asked.wanted, self._nonce())))
                return

    def _nonce(self) -> str:
        return nonces.nonce_of(self._state.seed, STEP)

    def _note_ends(self) -> None:
        """Ask for a lesson of each engine that jobs had which have ended since."""
        if not self._after:
            return
        ended = {job.id: job for job in self._state.jobs.values() if job.ended}
        for name in sorted(ended.keys() - self._ended):
            for engine in ended[name].ledger.request.engines:
                wanted = Learn(engine=engine, after=self._after)
                self._asked.setdefault(engine, Asked(wanted, None, self._state.now))
        self._ended = set(ended)


def _step(wanted: Learn, nonce: str) -> Step:
    return Step(
        id=STEP,
        job=JOB,
        engines=[wanted.engine],
        target="-",
        seed=0,
        settings=Settings(),
        work=LearnWork(engine=wanted.engine, after=wanted.after),
        nonce=nonce,
    )


def is_lesson(event: Arrived) -> bool:
    """Whether a message is what came of one."""
    return isinstance(event.message, StepResult) and event.message.timing.stage == "learn"
