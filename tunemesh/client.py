"""A person's side of the mesh: publish a request, follow it, ask how things are."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from types import TracebackType

import msgspec

from broker_config import topology
from shared import codec
from shared.errors import BadInput, BadMessage, BrokerUnavailable, TunemeshError, Unroutable
from shared.messages import (
    FINAL_KINDS,
    Cancel,
    EventKind,
    JobEvent,
    JobProgress,
    Message,
    Query,
    Request,
    SetStrategy,
    Snapshot,
)
from shared.transport import Delivery, Link, Outgoing, Subscription, Up

PUBLISH_LIMIT = 30.0
"""Seconds that the broker may take to confirm a request."""

SILENCE = 5.0
"""Seconds without an event after which the coordinator is asked. Events are not persistent: one that was sent
while the client or the coordinator was away is lost, but what it said can be asked for."""

QUEUE = "client.own"


class Client:
    """One connection for requests, their events and queries. A context manager.

    Args:
        url: broker URL of a user with the role *client* (or more).
        jobs: ids of the jobs whose events are wanted; their requests may be published later.
    """

    def __init__(self, url: str, jobs: Collection[str] = ()) -> None:
        bindings = tuple((topology.EVENTS, topology.event_key(job, "*")) for job in jobs)
        self._link = Link(
            url,
            codec.identity("client"),
            properties={"role": "client"},
            subscriptions=[Subscription(QUEUE, bindings=bindings)],
        )

    def __enter__(self) -> Client:
        self._link.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()

    def submit(self, request: Request) -> None:
        """Publish a request and wait until the broker has it.

        Raises:
            BadMessage: it is too large; its model belongs into the artifact store.
            BrokerUnavailable: the broker has no place for it.
        """
        self._confirmed(self._publish(request, topology.REQUEST_KEY, request.job))

    def cancel(self, job: str) -> None:
        """Ask for a job to be stopped."""
        self._confirmed(self._publish(Cancel(job=job), topology.CANCEL_KEY))

    def snapshot(self, job: str | None = None, timeout: float = 10.0) -> Snapshot:
        """How the mesh is doing, or one job of it.

        Raises:
            BrokerUnavailable: no coordinator answers in ``timeout`` seconds.
        """
        return self._await(self._ask(job), timeout)

    def _await(self, asked: str, timeout: float) -> Snapshot:
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            message, correlation_id = self._next(left)
            if isinstance(message, Snapshot) and correlation_id == asked:
                return message
            if isinstance(message, JobEvent) and message.kind == "rejected" and message.job == "unknown":
                raise BadInput(message.text)
        raise BrokerUnavailable(
            "no coordinator answers; start one with: tunemesh coordinator (or tunemesh up)"
        )

    def set_strategy(self, strategy: str, timeout: float = 10.0) -> Snapshot:
        """Let the coordinator go on with another strategy.

        Raises:
            BadInput: there is no such strategy.
            BrokerUnavailable: no coordinator answers in ``timeout`` seconds.
        """
        wanted = SetStrategy(strategy=strategy, at=time.time())
        correlation_id = uuid.uuid4().hex
        self._confirmed(self._publish(wanted, topology.STRATEGY_KEY, correlation_id))
        return self._await(correlation_id, timeout)

    def follow(self, jobs: Collection[str], idle: float = 0.5) -> Iterator[JobEvent | None]:
        """Events of ``jobs`` until all have ended; ``None`` about every ``idle`` seconds without one."""
        open_jobs = set(jobs)
        # What happened before is asked for soon; later only when nothing is heard.
        heard = time.monotonic() - SILENCE + 1.0
        while open_jobs:
            message, correlation_id = self._next(idle)
            match message:
                case JobEvent() if correlation_id in open_jobs:
                    heard = time.monotonic()
                    if message.kind in FINAL_KINDS:
                        open_jobs.discard(correlation_id)
                    # A request that could not even be read is refused without its job.
                    yield msgspec.structs.replace(message, job=correlation_id)
                case Snapshot():
                    heard = time.monotonic()
                    for event in _as_events(message):
                        if event.job in open_jobs:
                            if event.kind in FINAL_KINDS:
                                open_jobs.discard(event.job)
                            yield event
                case _:
                    if time.monotonic() - heard > SILENCE:
                        heard = time.monotonic()
                        for job in open_jobs:
                            self._ask(job)
                    yield None

    def poll(self) -> JobEvent | None:
        """The next event of any job, if one is here already."""
        message, _ = self._next(0.0)
        return message if isinstance(message, JobEvent) else None

    def _ask(self, job: str | None) -> str:
        correlation_id = uuid.uuid4().hex
        self._publish(Query(job=job), topology.QUERY_KEY, correlation_id)
        return correlation_id

    def _publish(self, message: Message, key: str, correlation_id: str | None = None) -> Future[None]:
        outgoing = Outgoing(
            exchange=topology.REQUESTS,
            key=key,
            body=codec.encode(message),
            message_id=f"{codec.message_id(message)}/{uuid.uuid4().hex[:8]}",
            type=codec.tag(message),
            headers=codec.headers(message),
            correlation_id=correlation_id,
            reply_to=self._link.own_queue(QUEUE),
            expires=60.0 if isinstance(message, Query) else None,
        )
        return self._link.publish(outgoing)

    @staticmethod
    def _confirmed(sent: Future[None]) -> None:
        try:
            sent.result(PUBLISH_LIMIT)
        except TimeoutError:
            raise BrokerUnavailable(f"the broker did not confirm within {PUBLISH_LIMIT:.0f} s") from None
        except Unroutable as error:
            raise BrokerUnavailable(
                f"{error}; import `tunemesh broker definitions` into this broker"
            ) from None

    def _next(self, timeout: float) -> tuple[Message | None, str | None]:
        event = self._link.next(timeout)
        if isinstance(event, Up) or not isinstance(event, Delivery):
            return None, None
        self._link.ack(event)
        try:
            return codec.decode(event.body, JobEvent, Snapshot), event.correlation_id
        except BadMessage as error:
            raise TunemeshError(f"the coordinator sent something unreadable: {error}") from None


def _as_events(snapshot: Snapshot) -> Iterator[JobEvent]:
    """What the events would have said."""
    for progress in snapshot.jobs:
        kind: EventKind = _final(progress) or "progress"
        yield JobEvent(
            job=progress.job,
            kind=kind,
            at=progress.finished or time.time(),
            text=progress.error or progress.waiting,
            progress=progress,
            resources=snapshot.resources,
            assembled=snapshot.assembled,
            validated=snapshot.validated,
        )


def _final(progress: JobProgress) -> EventKind | None:
    phase = progress.phase
    return phase if phase in ("done", "failed", "cancelled") else None
