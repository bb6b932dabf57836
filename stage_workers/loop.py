"""The consumer loop: takes steps from one queue, one at a time, does them, publishes the results.

The order of things is what makes it safe to kill: a step is acknowledged after the broker has confirmed its
result, so that a step is lost by no crash and done twice by some. What was done is remembered for a while, so
that a step which comes again after a lost connection is answered and not repeated.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from concurrent import futures
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from tunemesh.broker_config import topology
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage, LinkDown, Unroutable
from tunemesh.shared.messages import (
    BuildWork,
    Failure,
    ProfileWork,
    Result,
    Stage,
    Step,
    StepResult,
    Timing,
    UpdateDone,
)
from tunemesh.shared.messages.basics import tag_of
from tunemesh.shared.retry import Retry
from tunemesh.shared.text import clip
from tunemesh.shared.transport.letters import dead_letter
from tunemesh.shared.transport.link import Delivery, Down, Link, Outgoing, Subscription, Up
from tunemesh.stage_workers.device_guard import DeviceGuard
from tunemesh.stage_workers.done_before import Memory
from tunemesh.stage_workers.sandbox.sandbox import Abandoned, Sandbox
from tunemesh.stage_workers.shutdown import Shutdown
from tunemesh.stage_workers.stages import Context, DeviceFault, run_stage
from tunemesh.stage_workers.stages.context import Learning
from tunemesh.stage_workers.status import StatusSender

if TYPE_CHECKING:
    from tunemesh.shared.metrics import StepMetrics

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
"""Seconds between two looks whether the queue is there, and before a result is offered again."""
MOST_WAITED = 1e6
"""Seconds that a step can have waited; a clock that is further off says nothing."""
WARM_LOOK = 0.05
"""Seconds between two looks whether the sandbox is warm."""
LONG: frozenset[Stage] = frozenset({"import", "assemble", "validate", "learn"})
"""Stages of a whole model: few steps, in which most that can go wrong with a model does."""
TURN = 0.5
"""Seconds that the loop waits at most for an event."""
LOOK_SOON = 0.05
"""The same for the first look after a queue was not there; each further one comes twice as late."""
MANY_MISSES = 6
"""Looks in vain after which that is worth a warning."""
ANSWER_LIMIT = 10.0
"""Seconds that the broker may take to answer whether a queue is there."""


class Worker:
    """One worker. All of it runs in the thread that calls :meth:`run`.

    Args:
        queue: where its steps come from.
        engines: those that it runs; a step for another one is put aside.
        link: started.
        sandbox: started; a step is taken once it is warm.
        status: not started yet.
        metrics: told of every step, if given.
        by_hand: whether somebody waits at a terminal who should be told if the device has never worked.
        cell: to which it belongs; empty on a mesh without cells.
    """

    def __init__(
        self,
        queue: str,
        engines: Collection[str],
        link: Link,
        sandbox: Sandbox,
        context: Context,
        status: StatusSender,
        shutdown: Shutdown,
        metrics: StepMetrics | None = None,
        by_hand: bool = False,
        cell: str = "",
    ) -> None:
        self._resource = queue
        self._cell = cell
        self._queue = topology.in_cell(queue, cell)
        """As the broker calls it."""
        self._engines = engines
        self._link = link
        self._sandbox = sandbox
        self._context = replace(context, learning=self._learning(context.learning))
        self._status = status
        self._name = status.worker
        self._shutdown = shutdown
        self._metrics = metrics
        self._memory = Memory()
        self._up: Up | None = None
        self._look_at = 0.0
        """When to look for the queue again (monotonic); infinite while it is consumed from."""
        self._standing_by = False
        self._misses = 0
        """Looks at a queue that is not there, one after the other."""
        self._retry = Retry(log)
        self._ran_for: str | None = None
        """The tenant, or nobody (empty), whose steps the sandbox's present process has run; ``None``: it has
        run none."""
        self._device = DeviceGuard(sandbox, context, status, by_hand)

    def _learning(self, learning: Learning | None) -> Learning | None:
        """What ``learn`` works with, here: it is to notice what waits for this worker."""
        return replace(learning, wanted=self._is_wanted) if learning is not None else None

    def _is_wanted(self) -> bool:
        """Whether a step waits for this worker, or it is to leave."""
        if self._shutdown.asked:
            return True
        try:
            return self._link.depth(self._queue).result(ANSWER_LIMIT).ready > 0
        except (LookupError, LinkDown, TimeoutError, ValueError, PermissionError):
            return False

    def run(self) -> None:
        """Work until asked to leave.

        Raises:
            Unavailable: somebody waits at a terminal, and the device does not work.
        """
        self._shutdown.wake = lambda: self._link.events.put(None)
        self._status.start()
        try:
            while not self._shutdown.asked:
                self._turn()
        except Abandoned:
            log.info("%s: told to leave at once; its step is handed back", self._name)
        finally:
            log.info("%s: leaving", self._name, extra={"worker": self._name})
            self._link.stop_consuming()
            self._status.leave()

    def _turn(self) -> None:
        self._status.alive()
        if self._up is not None and time.monotonic() >= self._look_at:
            self.begin(self._up)
        match self._link.next(min(TURN, self._look_at - time.monotonic()) if self._up is not None else TURN):
            case Up() as up:
                self._up, self._look_at = up, 0.0
            case Down(reason):
                self._up = None
                log.warning(
                    "%s: connection lost (%s); reconnecting",
                    self._name,
                    reason,
                    extra={"worker": self._name},
                )
            case Delivery() as delivery:
                self._handle(delivery)

    def begin(self, up: Up) -> None:
        """Consume, once the sandbox is warm, the device works and the queue is there: the coordinator makes a
        device's queue when it sees the device's worker. A device's queue has one worker; another one stands
        by."""
        self._look_at = time.monotonic() + LOOK_AGAIN
        if not self._sandbox.ready(0.0):
            self._look_at = time.monotonic() + WARM_LOOK
            return
        if pause := self._device.test():
            self._look_at = time.monotonic() + pause
            return
        try:
            depth = self._link.depth(self._queue).result(ANSWER_LIMIT)
        except LookupError:
            self._announce_without_queue()
            return
        except (LinkDown, TimeoutError):
            return
        except (ValueError, PermissionError) as error:
            # Somebody else's queue of this name, or a right that is missing: a person can mend both.
            self._look_at = time.monotonic() + self._retry.failed(f"{self._name}: {error}")
            return
        self._retry.succeeded(f"{self._name}: queue {self._queue} can be looked at")
        has_device = self._context.device is not None
        if depth.consumers and has_device:
            self._stand_by()
            return
        self._link.consume(up, Subscription(self._queue, prefetch=1, exclusive=has_device))
        self._look_at = float("inf")
        self._standing_by, self._misses = False, 0
        self._status.serve()
        log.info("%s: waiting for steps", self._name, extra={"worker": self._name})

    def _announce_without_queue(self) -> None:
        """The coordinator declares the queue of a worker that it hears of."""
        self._status.send()
        # It does so at once, where it is there.
        self._look_at = time.monotonic() + min(LOOK_SOON * 2**self._misses, LOOK_AGAIN)
        self._misses = min(self._misses + 1, MANY_MISSES)
        if self._misses == MANY_MISSES - 1:
            log.warning(
                "%s: queue %s is not there; waiting for the coordinator to declare it",
                self._name,
                self._queue,
                extra={"worker": self._name},
            )

    def _stand_by(self) -> None:
        """Two machines on one queue would measure each other's candidates, under one target."""
        if not self._standing_by:
            self._standing_by = True
            # Otherwise it would be missed, with the step that it had before it lost its connection.
            self._status.pause()
            log.warning(
                "%s: %s has a worker already; this one stands by until that has left."
                " Another device needs a queue of its own",
                self._name,
                self._queue,
            )

    def _handle(self, delivery: Delivery) -> None:
        received = time.time()
        try:
            step = codec.decode(delivery.body, Step)
        except BadMessage as error:
            self._put_aside(delivery, str(error))
            return
        unserved = [engine for engine in step.engines if engine not in self._engines]
        if unserved:
            # No failure of the job: the coordinator misses the step after a while, and sends it again.
            served = ", ".join(sorted(self._engines))
            reason = f"{self._name} does not serve engine {unserved[0]!r}, only {served}"
            self._put_aside(delivery, reason, kind="not-served")
            return
        done = self._memory.recall(step)
        if done is None:
            self._status.step = step.id
            if delivery.redelivered or _stage(step) in LONG:
                # Said at once: a step that kills its workers must be known by its victims.
                self._status.send()
            try:
                done = self._do(step, delivery.sent_at, received)
            except Abandoned:
                self._link.hand_back(delivery)
                raise
            except DeviceFault as fault:
                self._device_failed(delivery, step, fault)
                return
            finally:
                self._status.step = None
            self._memory.keep(step, done)
        self._settle(delivery, _outgoing(done, step, self._cell))

    def _device_failed(self, delivery: Delivery, step: Step, fault: DeviceFault) -> None:
        """The device has stopped working during ``step``: that goes back, for later or for another device,
        unless it is what stops it."""
        self._link.stop_consuming()
        pause, blame = self._device.failed(step.id, fault)
        if blame:
            now = time.time()
            timing = self._timing(step, delivery.sent_at, now, now, 1)
            failed = StepResult.of(step, timing, Failure(error=blame))
            self._settle(delivery, _outgoing(failed, step, self._cell))
        else:
            self._link.hand_back(delivery)
        self._look_at = time.monotonic() + pause

    def _do(self, step: Step, sent_at: float | None, received: float) -> StepResult:
        started = time.monotonic()
        result = self._run(step)
        seconds = time.monotonic() - started
        timing = self._timing(step, sent_at, received, received + seconds, _size(step, result))
        done = StepResult.of(step, timing, result)
        try:
            # What the coordinator could not read would be put aside there, and the job would wait for ever.
            codec.decode(codec.encode(done), StepResult)
        except BadMessage as error:
            done = StepResult.of(
                step, timing, Failure(error=f"the result of {step.id} cannot be sent: {error}")
            )
        if self._metrics is not None:
            self._metrics.answered(done)
        about = {"job": step.job, "step": step.id, "worker": self._name}
        if isinstance(done.result, Failure):
            log.warning("%s failed after %.3f s: %s", step.id, seconds, done.result.error, extra=about)
        else:
            log.debug("%s done in %.3f s: %s", step.id, seconds, tag_of(done.result), extra=about)
        return done

    def _timing(
        self, step: Step, sent_at: float | None, received: float, finished: float, size: int
    ) -> Timing:
        return Timing(
            step=step.id,
            stage=_stage(step),
            resource=self._resource,
            worker=self._name,
            started=received,
            finished=finished,
            waited=waited(sent_at, received),
            size=size,
        )

    def _apart(self, step: Step) -> None:
        """Let a step of another tenant find a process that has run nothing but what is ours: one that a
        kernel has taken over could falsify what is done there later. Not for each job: where two take turns,
        what is known in a process is worth a third of an update and some per cent of a build or profile."""
        tenant = _tenant(step)
        if self._ran_for not in (None, tenant):
            self._sandbox.renew()
        self._ran_for = tenant

    def _run(self, step: Step) -> Result:
        try:
            self._apart(step)
            return run_stage(step, replace(self._context, store=self._context.store.of(_tenant(step))))
        except (Abandoned, DeviceFault):
            raise
        except MemoryError:
            # This process's own, and no fault of the step: it comes again when this worker has ended.
            log.error("%s: no memory left in the worker itself; leaving", step.id, extra={"step": step.id})
            raise
        except Exception as error:  # a defect of ours must not take every worker that gets the step
            log.exception("%s failed", step.id, extra={"job": step.job, "step": step.id})
            return Failure(error=clip(f"{type(error).__name__}: {error}"))

    def _settle(self, delivery: Delivery, answer: Outgoing) -> None:
        """Publish ``answer``, and acknowledge ``delivery`` once the broker has confirmed it; else let it come
        again."""
        future = self._link.publish(answer)
        while not (future.done() or self._shutdown.now):
            # Bounded by the link: it gives up a silent broker after 30 s, a blocked one after 120 s.
            futures.wait([future], TURN)
        error = future.exception() if future.done() else LinkDown("leaving before the broker confirmed")
        if error is None:
            self._link.ack(delivery)
            return
        log.warning("%s is not delivered, so its step will come again: %s", answer.message_id, error)
        if isinstance(error, Unroutable):
            time.sleep(LOOK_AGAIN)
        self._link.hand_back(delivery)

    def _put_aside(self, delivery: Delivery, reason: str, kind: str = "undecodable") -> None:
        """Dead-letter what cannot be decoded or done here, together with the reason."""
        log.warning("dead-lettered %s from %s: %s", delivery.message_id[:200], delivery.queue, reason)
        letter = dead_letter(delivery, topology.DEAD, reason, kind)
        self._settle(delivery, letter)


def waited(sent_at: float | None, received: float) -> float:
    """Seconds between sending, by the sender's clock, and receiving, by ours; they may differ by decades."""
    return min(max(received - sent_at, 0.0), MOST_WAITED) if sent_at is not None else 0.0


def _stage(step: Step) -> Stage:
    return cast(Stage, step.work.__struct_config__.tag)


def _tenant(step: Step) -> str:
    """On whose account it is done; empty: nobody's."""
    return step.origin.tenant if step.origin is not None else ""


def _size(step: Step, result: Result) -> int:
    """The candidates that a step dealt with; 1 where it is not about candidates."""
    match step.work, result:
        case BuildWork(candidates=candidates), _:
            return len(candidates)
        case ProfileWork(artifacts=artifacts, rivals=rivals), _:
            return max(len(artifacts) + sum(map(len, rivals.values())), 1)
        case _, UpdateDone(candidates=candidates):
            return max(len(candidates), 1)
    return 1


def _outgoing(done: StepResult, step: Step, cell: str) -> Outgoing:
    return Outgoing(
        exchange=topology.RESULTS,
        key=topology.result_key(done.timing.stage, cell),
        body=codec.encode(done),
        message_id=done.message_id(),
        type=done.type_name,
        headers=done.headers(),
        correlation_id=step.job,
    )
