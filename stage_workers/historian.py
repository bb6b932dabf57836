"""A worker's side job: it writes down how jobs ended, answers questions about them, and sweeps.

In a thread with a connection of its own, so that a long step keeps nobody waiting. Every worker does so that
has a database and no device: a device's machine is to be quiet. That the database is away holds up nothing:
the ends of jobs wait in their queue.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict

import msgspec

from tunemesh.broker_config import topology
from tunemesh.shared import codec
from tunemesh.shared.accounts import account_of
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.buckets import Bucket
from tunemesh.shared.errors import BadMessage, LinkDown, TunemeshError
from tunemesh.shared.messages import AskHistory, Census, JobEvent, PastJobs
from tunemesh.shared.text import clip
from tunemesh.shared.transport.letters import dead_letter
from tunemesh.shared.transport.link import Delivery, Down, Link, Outgoing, Subscription, Up
from tunemesh.shared.transport.names import process_name

log = logging.getLogger(__name__)

LOOK_AGAIN = 10.0
"""Seconds between two looks whether the queues are there."""
PAUSE = 10.0
"""Seconds between two attempts at a database that is away."""
WAIT = 1.5
"""Seconds that a lock, or a server, may take."""
TURN = 0.5
"""Seconds that the loop waits at most for an event."""
LOOK_LIMIT = 5.0
"""Seconds that the broker may take to show a queue."""
STOP_LIMIT = 4.0
"""Seconds for what waits to be written down, when the worker leaves."""
ANSWER_LIFE = 30.0
"""Seconds after which nobody waits for an answer any more."""
SWEEP_EVERY = 24 * 3600.0
QUESTIONS_A_SECOND = 5.0
"""Of one tenant, that this worker answers; ten seconds' worth may come at once."""
TOO_MANY = 0.02
"""Seconds that it takes for each one more, so that a flood costs the steps of this worker nothing."""


class Historian:
    """Use :meth:`start` and :meth:`stop`.

    Args:
        broker: URL of a user with the role *worker*.
        records: address of the database.
        store: where artifacts are swept.
        retention: days for which the results of jobs are kept; ``None``: for ever.
        temporary: whether the store goes with the mesh, and so with it the results.
    """

    def __init__(
        self,
        broker: str,
        records: str,
        store: ArtifactStore,
        retention: float | None,
        temporary: bool = False,
    ) -> None:
        self._records = records
        self._store = store
        self._retention = None if temporary else retention
        self._temporary = temporary
        self._link = Link(
            broker, process_name("history"), properties={"role": "worker", "queue": topology.HISTORY}
        )
        self._up: Up | None = None
        self._look_at = 0.0
        """When to look for the queues again (monotonic); infinite while they are consumed from."""
        self._waiting: Delivery | None = None
        """The end of a job that the database does not take now."""
        self._again_at = 0.0
        self._said = ""
        self._leaving = threading.Event()
        self._sweep: threading.Thread | None = None
        self._buckets: defaultdict[str, Bucket] = defaultdict(
            lambda: Bucket(QUESTIONS_A_SECOND, 10 * QUESTIONS_A_SECOND)
        )
        """By tenant."""
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        """Begin, in the background."""
        self._link.begin()
        self._thread.start()

    def stop(self) -> None:
        """Write down what waits for it, but not for long, and leave."""
        self._leaving.set()
        self._link.events.put(None)  # it looks at once
        if self._thread.ident is not None:
            self._thread.join(STOP_LIMIT)
            self._link.close(1.0)

    def _run(self) -> None:
        try:
            while not (self._leaving.is_set() and self._is_done()):
                self._turn()
        except TunemeshError as error:
            log.warning("how jobs end is not written down by this worker: %s", error)
        except Exception:
            log.exception("how jobs end is not written down by this worker")

    def _turn(self) -> None:
        now = time.monotonic()
        if self._waiting is not None and now >= self._again_at:
            self._link.hand_back(self._waiting)  # it comes again, here or to another worker
            self._waiting = None
        if self._up is not None and now >= self._look_at:
            self._begin(self._up)
        match self._link.next(0.05 if self._leaving.is_set() else TURN):
            case Up() as up:
                self._up, self._look_at, self._waiting = up, 0.0, None
            case Down():
                self._up, self._waiting = None, None
            case Delivery(queue=topology.QUESTIONS) as delivery:
                self._answer(delivery)
            case Delivery() as delivery:
                self._told(delivery)

    def _is_done(self) -> bool:
        """Whether nothing waits to be written down, or it cannot be now."""
        if self._up is None or self._waiting is not None:
            return True
        try:
            waiting = self._link.depth(topology.HISTORY).result(LOOK_LIMIT).ready
            return waiting == 0 and self._link.events.empty()
        except (LookupError, LinkDown, TimeoutError, ValueError, PermissionError):
            return True

    def _begin(self, up: Up) -> None:
        self._look_at = time.monotonic() + LOOK_AGAIN
        try:
            for queue in (topology.HISTORY, topology.QUESTIONS):
                self._link.depth(queue).result(LOOK_LIMIT)
        except (LinkDown, TimeoutError):
            return
        except (LookupError, ValueError, PermissionError) as error:
            self._say(
                f"the broker does not show the queues for the history ({error});"
                " import `tunemesh broker definitions` into it"
            )
            return
        for queue in (topology.HISTORY, topology.QUESTIONS):
            self._link.consume(up, Subscription(queue, prefetch=1))
        self._look_at = float("inf")

    def _say(self, text: str) -> None:
        """Once."""
        if text != self._said:
            log.warning("%s", text)
        self._said = text

    # -- What the coordinator tells -------------------------------------------------------------------------

    def _told(self, delivery: Delivery) -> None:
        try:
            message = codec.decode(delivery.body, JobEvent, Census)
            if isinstance(message, JobEvent):
                self._keep(delivery, message)
                return
        except (BadMessage, ValueError) as error:
            self._put_aside(delivery, str(error))
            return
        self._link.ack(delivery)
        if isinstance(message, Census):
            self._sweep_if_due(message)

    def _keep(self, delivery: Delivery, event: JobEvent) -> None:
        # Slow to import, and not needed before the first job has ended.
        from tunemesh.stage_workers.records import history
        from tunemesh.stage_workers.records.database import Database

        try:
            with Database(self._records, WAIT) as database:
                history.keep(database, event, results=not self._temporary)
        except ValueError:
            raise  # it is no end of a job
        except Exception as error:  # whatever a driver raises
            self._say(f"{error}; how jobs end is written down later")
            self._waiting, self._again_at = delivery, time.monotonic() + PAUSE
            return
        self._said = ""
        self._link.ack(delivery)

    def _put_aside(self, delivery: Delivery, reason: str) -> None:
        log.warning("dead-lettered %s from %s: %s", delivery.message_id[:200], delivery.queue, reason)
        letter = dead_letter(delivery, topology.DEAD, reason)
        self._link.publish(letter).add_done_callback(lambda _: self._link.ack(delivery))

    # -- Questions ------------------------------------------------------------------------------------------

    def _answer(self, delivery: Delivery) -> None:
        try:
            asked = codec.decode(delivery.body, AskHistory)
        except BadMessage as error:
            self._put_aside(delivery, str(error))
            return
        self._link.ack(delivery)
        account = account_of(delivery.user, self._link.user)
        tenant = account.bound_to if account is not None and account.may_ask else ""
        wait = self._buckets[tenant].take(time.monotonic()) if tenant is not None else 0.0
        if wait:
            self._leaving.wait(TOO_MANY)
            found = PastJobs(error=f"too many questions: try again in {math.ceil(wait)} s")
        elif account is None or not account.may_ask:
            found = PastJobs(error="the question does not say who asks: set its property user_id")
        elif account.bound_to is not None and asked.tenant not in (None, account.bound_to):
            found = PastJobs(error=f"jobs of tenant {asked.tenant or '-'} are none of user {account.user}'s")
        elif account.bound_to is not None:
            found = self._found(msgspec.structs.replace(asked, tenant=account.bound_to))
        else:
            found = self._found(asked)
        try:
            body = codec.encode(found)
        except BadMessage as error:
            body = codec.encode(
                PastJobs(error=f"the answer does not fit into a message, ask for fewer jobs: {error}")
            )
        self._link.publish(
            Outgoing(
                exchange=topology.ANSWERS,
                key=topology.answer_key(asked.answer),
                body=body,
                message_id=f"{asked.answer}/answer",
                type=found.type_name,
                headers=found.headers(),
                correlation_id=asked.answer,
                expires=ANSWER_LIFE,
                mandatory=False,
            )
        )

    def _found(self, asked: AskHistory) -> PastJobs:
        from tunemesh.stage_workers.records import history
        from tunemesh.stage_workers.records.database import Database

        try:
            with Database(self._records, WAIT) as database, database.reading() as connection:
                return history.answered(connection, asked)
        except Exception as error:  # whatever a driver raises
            return PastJobs(error=clip(str(error), 500))

    # -- Artifacts ------------------------------------------------------------------------------------------

    def _sweep_if_due(self, census: Census) -> None:
        if self._retention is None or (self._sweep is not None and self._sweep.is_alive()):
            return
        retention = self._retention
        self._sweep = threading.Thread(
            target=lambda: _swept(self._records, self._store, census, retention), name="sweep", daemon=True
        )
        self._sweep.start()


def _swept(records: str, store: ArtifactStore, census: Census, retention: float) -> None:
    """Sweep, unless somebody has done it today."""
    from tunemesh.stage_workers.records import history
    from tunemesh.stage_workers.records.database import Database
    from tunemesh.stage_workers.records.sweeping import sweep

    try:
        with Database(records, WAIT) as database:
            with database.writing() as connection:
                now = time.time()
                if 0 <= now - history.last_sweep(connection, store.url) < SWEEP_EVERY:
                    return
                history.note_sweep(connection, store.url, now)
            done = sweep(store, database, census, retention)
    except Exception as error:  # whatever a driver, or a store, raises
        log.warning("old artifacts are not removed today: %s", error)
        return
    log.info(
        "old artifacts: %d removed, %.1f MB freed, %d kept because a job needs them",
        done.removed,
        done.freed / 1e6,
        done.kept,
    )
