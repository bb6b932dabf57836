"""A person's side of the mesh: publish a request, follow it, ask how things are."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Literal

import msgspec

from tunemesh import snapshots
from tunemesh.broker_config import topology
from tunemesh.checks import check_job_id
from tunemesh.early_requests import EarlyRequests
from tunemesh.shared import codec
from tunemesh.shared.accounts import Account, account_of
from tunemesh.shared.errors import (
    BadInput,
    BadMessage,
    BrokerUnavailable,
    TunemeshError,
    Unavailable,
    Unroutable,
)
from tunemesh.shared.messages import (
    FINAL_KINDS,
    AskHistory,
    Cancel,
    Census,
    JobEvent,
    Learn,
    Message,
    PastJobs,
    Query,
    Request,
    SetStrategy,
    Snapshot,
)
from tunemesh.shared.transport.address import user_of
from tunemesh.shared.transport.link import Delivery, Down, Link, Outgoing, Subscription, Up
from tunemesh.shared.transport.names import process_name

PUBLISH_LIMIT = 30.0
"""Seconds that the broker may take to confirm a request."""

SILENCE = 5.0
"""Seconds without an event of a job after which the coordinator is asked. Events are not persistent: one that
was sent while the client or the coordinator was away is lost, but what it said can be asked for."""

CONNECT_LIMIT = 5.0
"""Seconds that a broker may take to answer. That nothing listens at its address, or that it refuses, shows
earlier."""

ANSWER_LIMIT = 5.0
"""Seconds that a coordinator is given to take or refuse a request, before that is left for later."""

HISTORY_LIMIT = 10.0
"""Seconds that a worker may take to answer what is known of jobs that have ended: it may have to load what it
reads a database with."""

FIRST_SILENCE = 1.0
"""The same at the beginning: what happened before is asked for soon."""

UNANSWERED = 60.0
"""Seconds without any answer after which that is said."""

UNKNOWN = 12
"""Answers in a row that do not know a job, after which it counts as rejected. A coordinator that has just
started may not have heard of it yet."""

log = logging.getLogger(__name__)


Role = Literal["client", "monitor"]


class Client:
    """One connection for requests, their events and queries. A context manager.

    Args:
        url: broker URL of a user with the role *client* (or more).
        jobs: ids of the jobs whose events are wanted; their requests may be published later.
        connect_limit: seconds until a broker that does not answer is an error.
        history: whether :meth:`past_jobs` is to be used, for which :meth:`nobody_answers` has said nothing.
        everything: whether the events of all jobs are wanted.
        role: *client*, or *monitor*, who may listen and no more.

    Raises:
        BadInput: what is given cannot be the id of a job.
    """

    def __init__(
        self,
        url: str,
        jobs: Collection[str] = (),
        connect_limit: float = CONNECT_LIMIT,
        history: bool = False,
        everything: bool = False,
        role: Role = "client",
    ) -> None:
        for job in jobs:
            check_job_id(job)
        self._connect_limit = connect_limit
        self._account = _account(url)
        tenant = "*" if self._account.bound_to is None else self._account.bound_to
        wanted = ("*",) if everything else jobs
        bindings = tuple((topology.EVENTS, topology.event_key(tenant, job, "*")) for job in wanted)
        self._answer_key = uuid.uuid4().hex
        if history:
            bindings = (*bindings, (topology.ANSWERS, topology.answer_key(self._answer_key)))
        self._queue = "monitor.own" if role == "monitor" else self._account.own_queues
        self._early = EarlyRequests()
        self.away = ""
        """Why there is no connection at this moment, as far as :meth:`hear` knows; empty while there is."""
        self._link = Link(
            url,
            process_name(role),
            properties={"role": role},
            subscriptions=[Subscription(self._queue, bindings=bindings, digits=topology.OWN_QUEUE_DIGITS)],
        )

    def __enter__(self) -> Client:
        self._link.start(self._connect_limit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()

    def submit(self, request: Request) -> None:
        """Publish a request and wait until the broker has it. Where the coordinator says that it came too
        early for its tenant, :meth:`answers` and :meth:`follow` send it again in time
        (:mod:`tunemesh.early_requests`).

        Raises:
            BadMessage: it is too large; its model belongs into the artifact store.
            BrokerUnavailable: the broker has no place for it.
        """
        self._early.sent(request)
        self._confirmed(self._publish(request, self._key(topology.REQUEST), request.job))

    def _send_early(self) -> None:
        """Requests that came too early, and may come now."""
        for request in self._early.take():
            self.submit(request)

    def answers(self, jobs: Collection[str], timeout: float = ANSWER_LIMIT) -> dict[str, JobEvent]:
        """What the coordinator said first of ``jobs``, whose requests were published: that they are accepted,
        or rejected and why. Those are left out of which nothing was heard in ``timeout`` seconds, counted
        from when they were sent for the last time."""
        deadline = time.monotonic() + timeout
        heard: dict[str, JobEvent] = {}
        while set(jobs) - set(heard) and time.monotonic() < deadline:
            self._send_early()
            message, correlation_id = self._next(min(deadline, self._early.next) - time.monotonic())
            if isinstance(message, JobEvent):
                event = _named(message, correlation_id, jobs)
                if self._early.waits(event):
                    deadline = max(deadline, self._early.due(event.job) + timeout)
                else:
                    heard.setdefault(event.job, event)
        return heard

    def cancel(self, job: str, keep: bool = False) -> None:
        """Ask for a job to be stopped; with ``keep`` it ends with the best that was found so far."""
        self._confirmed(self._publish(Cancel(job=job, keep=keep), self._key(topology.CANCEL)))

    def snapshot(self, job: str | None = None, timeout: float = 10.0) -> Snapshot:
        """How the mesh is doing, or one job of it.

        Raises:
            BrokerUnavailable: no coordinator answers in ``timeout`` seconds.
        """
        return self._await(lambda: self.ask(job), timeout)

    def census(self, timeout: float = 10.0) -> Census:
        """Which artifacts jobs need.

        Raises:
            BrokerUnavailable: no coordinator answers in ``timeout`` seconds.
        """

        def ask() -> str:
            correlation_id = uuid.uuid4().hex
            self._publish(Query(census=True), self._key(topology.QUERY), correlation_id)
            return correlation_id

        found = self._await(ask, timeout).census
        if found is None:
            raise TunemeshError("the coordinator is of another version: it does not say what jobs need")
        return found

    def nobody_answers(self) -> str:
        """Why nobody answers questions about jobs that have ended; empty where somebody does."""
        try:
            if not self._link.depth(topology.QUESTIONS).result(PUBLISH_LIMIT).consumers:
                return "no worker with a database of records is there (see TUNEMESH_RECORDS)"
            if self._link.exchange_exists(topology.ANSWERS).result(PUBLISH_LIMIT):
                return ""
        except (LookupError, PermissionError, ValueError):
            pass
        except TimeoutError:
            raise BrokerUnavailable(f"the broker did not answer within {PUBLISH_LIMIT:.0f} s") from None
        return "its broker has no queue for such questions: import `tunemesh broker definitions` into it"

    def past_jobs(self, asked: AskHistory, timeout: float = HISTORY_LIMIT) -> PastJobs:
        """Ask workers about jobs that have ended.

        Raises:
            Unavailable: none answers in ``timeout`` seconds, or its database is away.
        """
        asked = msgspec.structs.replace(asked, answer=self._answer_key)
        self._confirmed(self._publish(asked, self._key(topology.QUESTION)))
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            message, _ = self._next(left)
            if isinstance(message, PastJobs):
                if message.error:
                    raise Unavailable(f"the history of the mesh cannot be read: {message.error}")
                return message
        raise Unavailable(
            f"no worker has answered within {timeout:.0f} s what is known of jobs that have ended: it may be"
            " busy, or its database; try again"
        )

    def _await(self, ask: Callable[[], str], timeout: float) -> Snapshot:
        """The answer to what ``ask`` asks, which is asked again where it came too early."""
        deadline, asked = time.monotonic() + timeout, ask()
        while (left := deadline - time.monotonic()) > 0:
            message, correlation_id = self._next(left)
            if isinstance(message, Snapshot) and correlation_id == asked:
                return message
            if isinstance(message, JobEvent) and message.kind == "rejected" and message.job == "unknown":
                if not 0 < message.again_in < left:
                    raise BadInput(message.text)
                time.sleep(message.again_in)
                asked = ask()
        raise BrokerUnavailable(
            self._link.refusing
            or "no coordinator answers; start one with: tunemesh coordinator (or tunemesh up)"
        )

    def set_strategy(self, strategy: str, timeout: float = 10.0) -> Snapshot:
        """Let the coordinator go on with another strategy.

        Raises:
            BadInput: there is no such strategy.
            BrokerUnavailable: no coordinator answers in ``timeout`` seconds.
        """
        wanted = SetStrategy(strategy=strategy, at=time.time())

        def ask() -> str:
            correlation_id = uuid.uuid4().hex
            self._confirmed(self._publish(wanted, topology.STRATEGY_KEY, correlation_id))
            return correlation_id

        return self._await(ask, timeout)

    def learn(self, engine: str, after: int) -> None:
        """Ask for a lesson from the records, once the mesh has nothing else to do.

        Raises:
            BrokerUnavailable: the broker does not take it.
        """
        self._confirmed(self._publish(Learn(engine=engine, after=after), topology.LEARN_KEY))

    def follow(self, jobs: Collection[str], idle: float = 0.5) -> Iterator[JobEvent | None]:
        """Events of ``jobs``, whose requests were published, until all have ended; ``None`` about every
        ``idle`` seconds without one. A job that the coordinator does not know counts as rejected."""
        heard = dict.fromkeys(jobs, time.monotonic() - SILENCE + FIRST_SILENCE)
        unknown = dict.fromkeys(jobs, 0)
        asked: dict[str, str] = {}
        answered = time.monotonic()
        while heard:
            event: JobEvent | None = None
            self._send_early()
            message, correlation_id = self._next(min(idle, max(self._early.next - time.monotonic(), 0.0)))
            if message is not None:
                answered = time.monotonic()
            elif time.monotonic() - answered > UNANSWERED:
                answered = self._unanswered()
            match message:
                case JobEvent():
                    event = _named(message, correlation_id, heard)
                case Snapshot() if correlation_id in asked:
                    job = asked.pop(correlation_id)
                    event = snapshots.of_job(message, job)
                    if event is None and job in heard:
                        unknown[job] += 1
                        if unknown[job] == UNKNOWN:
                            event = snapshots.unknown(job)
            now = time.monotonic()
            if event is not None and self._early.waits(event):
                heard[event.job], unknown[event.job] = self._early.due(event.job) + FIRST_SILENCE, 0
            elif event is not None and event.job in heard:
                heard[event.job], unknown[event.job] = now, 0
                if event.kind in FINAL_KINDS:
                    del heard[event.job]
                yield event
            silent = [job for job, since in heard.items() if now - since > SILENCE]
            for job in silent:
                heard[job] = now
                asked[self.ask(job)] = job
            if message is None:
                yield None

    def _unanswered(self) -> float:
        """No coordinator answers. The node of the broker may be one that others do not see: another one is
        tried. Returns since when to wait again."""
        elsewhere = self._link.has_others and not self._link.refusing
        why = self._link.refusing or ("trying another node of the broker" if elsewhere else "waiting for one")
        log.warning("no coordinator has answered for %.0f s; %s", UNANSWERED, why)
        if not elsewhere:
            return math.inf
        self._link.start_over(f"no coordinator answers through it for {UNANSWERED:.0f} s")
        return time.monotonic()

    def poll(self) -> JobEvent | None:
        """The next event of any job, if one is here already."""
        message, _ = self._next(0.0)
        return message if isinstance(message, JobEvent) else None

    def hear(self, timeout: float) -> tuple[Message | None, str | None]:
        """The next message and what it answers, if it comes in ``timeout`` seconds.

        Raises:
            BrokerRefused: this user lacks a right.
        """
        return self._next(timeout)

    def ask(self, job: str | None = None, skip: int = 0) -> str:
        """Ask for a snapshot, and return at once. :meth:`hear` will have it, as the answer to what this
        returns."""
        correlation_id = uuid.uuid4().hex
        self._publish(Query(job=job, skip=skip), self._key(topology.QUERY), correlation_id)
        return correlation_id

    def _key(self, kind: str) -> str:
        return topology.client_key(kind, self._account.tenant)

    def _publish(self, message: Message, key: str, correlation_id: str | None = None) -> Future[None]:
        outgoing = Outgoing(
            exchange=topology.CLIENTS,
            key=key,
            body=codec.encode(message),
            message_id=f"{message.message_id()}/{uuid.uuid4().hex[:8]}",
            type=message.type_name,
            headers=message.headers(),
            correlation_id=correlation_id,
            reply_to=self._link.own_queue(self._queue),
            signed=True,
            expires=60.0 if isinstance(message, Query | AskHistory) else None,
        )
        return self._link.publish(outgoing)

    def _confirmed(self, sent: Future[None]) -> None:
        try:
            sent.result(PUBLISH_LIMIT)
        except TimeoutError:
            why = self._link.refusing or f"the broker did not confirm within {PUBLISH_LIMIT:.0f} s"
            raise BrokerUnavailable(why) from None
        except Unroutable as error:
            raise BrokerUnavailable(
                f"{error}; import `tunemesh broker definitions` into this broker"
            ) from None

    def _next(self, timeout: float) -> tuple[Message | None, str | None]:
        event = self._link.next(timeout)
        if not isinstance(event, Delivery):
            if isinstance(event, Up | Down):
                self.away = event.reason if isinstance(event, Down) else ""
            return None, None
        self._link.ack(event)
        try:
            return codec.decode(event.body, JobEvent, Snapshot, PastJobs), event.correlation_id
        except BadMessage as error:
            raise TunemeshError(f"the mesh sent something unreadable: {error}") from None


def _account(url: str) -> Account:
    """Who is to log in. One whose name says no role is taken for an operator: the coordinator may know it."""
    user = user_of(url)
    return account_of(user) or Account(user, "operator")


def _named(event: JobEvent, correlation_id: str | None, jobs: Collection[str]) -> JobEvent:
    """``event`` with its job. A request that could not even be read is refused without it."""
    if correlation_id is None or correlation_id not in jobs:
        return event
    return msgspec.structs.replace(event, job=correlation_id)
