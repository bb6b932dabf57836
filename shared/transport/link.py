"""The one place that knows pika: a connection to the broker that keeps itself alive.

A :class:`Link` runs a :class:`~shared.transport.connection.Connection` of pika's in a thread of its own, so
heartbeats go out whatever the rest of the process does. The owner reads *events* from a queue (:class:`Up`,
:class:`Down`, :class:`Delivery`) and calls methods that may be called from any thread.

- Every lost connection, and every channel that the server closes, is answered by a reconnect: to the next
  host where there are several, with backoff when all have been tried. The subscriptions are made again and
  :class:`Up` is sent again.
- A delivery belongs to the connection that brought it (its ``epoch``). Acknowledging it later is a no-op: the
  broker has requeued it by then.
- ``publish`` is confirmed and mandatory. Its future fails with :class:`LinkDown` or :class:`Unroutable`.
- Everything that may fail on purpose (declare, probe, purge) runs on a second channel
  (:mod:`shared.transport.operations`).
- What a link waits for is in the log, at once and then every half minute.

Longer than other files: it is the state of one connection, and all of it belongs to one thread.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pika.exceptions
from pika.channel import Channel

from tunemesh.shared.errors import BrokerRefused, BrokerUnavailable, LinkDown
from tunemesh.shared.retry import Retry
from tunemesh.shared.transport.address import parameters_for, redacted
from tunemesh.shared.transport.confirms import Confirms
from tunemesh.shared.transport.connection import Connection
from tunemesh.shared.transport.operations import Operation, Operations, fail, finish
from tunemesh.shared.transport.refusals import final_refusal, nobody_there, text_of
from tunemesh.shared.transport.values import Delivery, Down, Event, Outgoing, QueueDepth, Subscription, Up

__all__ = ["Delivery", "Down", "Event", "Link", "Outgoing", "QueueDepth", "Subscription", "Up", "redacted"]

log = logging.getLogger(__name__)

NOBODY_THERE = 2.0
"""Seconds until a person is told that nothing listens at the broker's address."""

LATEST = 10**14
"""Milliseconds of Unix time that a sender's clock may show."""


class Link:
    """A named connection.

    Args:
        url: ``amqp://`` or ``amqps://`` with user, password and virtual host, and one host or the nodes of a
            cluster, separated by commas. Which is tried first is drawn, so that each gets its share.
        name: shown in the management UI.
        properties: further client properties shown there (role, device, …).
        subscriptions: consumed from whenever the connection stands.
        refusals: level at which refused declarations are logged; less where somebody looks at each answer.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        properties: Mapping[str, str | int] | None = None,
        subscriptions: Sequence[Subscription] = (),
        refusals: int = logging.WARNING,
    ) -> None:
        self.url = url
        self.name = name
        self.events: queue.SimpleQueue[Event | Any] = queue.SimpleQueue()
        self.refusing = ""
        """Why the broker, though it is there, takes no messages: it is low on memory or disk."""
        self._hosts = parameters_for(url, name, properties or {})
        self._host = random.randrange(len(self._hosts))
        """The one to which it is connected, or which is tried next."""
        self._untried = len(self._hosts)
        """Hosts that have not been tried since the last pause, or since a connection stood."""
        self._subscriptions = list(subscriptions)
        self._own_queues: dict[str, str] = {}
        self._epoch = 0
        self._up = threading.Event()
        self._closing = False
        self._quiet = False
        """Whether the caller of :meth:`start` is told of failed attempts, and nobody else."""
        self._retry = Retry(log)
        self._last_error = "it does not answer"
        self._attempts = 0
        self._somebody_there = False
        """Whether an attempt so far has ended otherwise than with nobody there."""
        self._refused: str | None = None
        self._connection: Connection | None = None
        self._main: Channel | None = None
        self._confirms = Confirms(name, self.user)
        self._operations = Operations(name, refusals)
        self._commands: deque[Callable[[], None]] = deque()
        self._woken = False
        """Whether the link's thread will look at the commands soon in any case."""
        self._gathering: int | None = None
        """The thread that hands over what it asks for at once."""
        self._thread = threading.Thread(target=self._run, name=f"link {name}", daemon=True)

    @property
    def user(self) -> str:
        """Who is logged in."""
        return str(getattr(self._hosts[0].credentials, "username", ""))

    @property
    def has_others(self) -> bool:
        """Whether there are several hosts: :meth:`start_over` takes the next one."""
        return len(self._hosts) > 1

    # -- For the owner, from any thread ---------------------------------------------------------------------

    def begin(self) -> None:
        """Connect, and return at once: :class:`Up` will say when. What it waits for is in the log."""
        log.info("%s: connecting to the broker at %s", self.name, redacted(self.url))
        self._thread.start()

    def start(self, timeout: float | None = 20.0, patience: float | None = NOBODY_THERE) -> None:
        """Connect and wait until the link is up.

        Args:
            timeout: seconds until a broker that does not answer is an error. ``None``: wait for ever, and say
                in the log what for.
            patience: seconds until it is an error that nothing listens there, if no attempt has found
                anything. ``None``: as long as ``timeout``. Counts for nothing without one.

        Raises:
            BrokerRefused: the broker refuses this user.
            BrokerUnavailable: it could not be reached in that time.
        """
        if timeout is None:
            self.begin()
        else:
            self._quiet = True
            self._thread.start()
        began = time.monotonic()
        while not self._up.wait(0.05):
            waited = time.monotonic() - began
            if self._refused:
                self.close()
                raise self._refusal(self._refused)
            if timeout is None:
                continue
            nobody = self._attempts > 0 and not self._somebody_there
            if waited > timeout or (patience is not None and nobody and waited > patience):
                self.close()
                raise BrokerUnavailable(
                    f"cannot reach the broker at {redacted(self.url)}: {self._last_error}"
                )

    def next(self, timeout: float) -> Any | None:
        """The next event, or ``None`` after ``timeout`` seconds.

        Raises:
            BrokerRefused: the broker refused this user for good.
        """
        try:
            return self.events.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            if self._refused and not self._thread.is_alive():
                raise self._refusal(self._refused) from None
            return None

    def _refusal(self, reason: str) -> BrokerRefused:
        return BrokerRefused(f"cannot use the broker at {redacted(self.url)}: {reason}")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Hand all that this thread asks for meanwhile to the link's thread at once, in its order. To change
        from thread to thread for every message takes a third of the time of an owner that has many. One
        thread at a time may do this."""
        self._gathering = threading.get_ident()
        try:
            yield
        finally:
            self._gathering = None
            if self._commands:
                self._wake()

    def publish(self, message: Outgoing, epoch: int | None = None) -> Future[None]:
        """Send, with ``epoch`` only over that connection; the future completes when the broker has taken
        responsibility."""
        future: Future[None] = Future()
        self._call(lambda: self._publish(message, future, epoch))
        return future

    def ack(self, delivery: Delivery) -> None:
        """Done with ``delivery``. Does nothing when its connection is gone."""
        self._call(lambda: self._settle(delivery, lambda c: c.basic_ack(delivery.tag)))

    def hand_back(self, delivery: Delivery) -> None:
        """Let somebody else have ``delivery``."""
        self._call(lambda: self._settle(delivery, lambda c: c.basic_nack(delivery.tag, requeue=True)))

    def own_queue(self, queue: str) -> str:
        """The broker's name of the link's own queue, for ``reply_to``; changes with each connection."""
        return self._own_queues[queue]

    def consume(self, up: Up, subscription: Subscription) -> None:
        """Consume from one more queue for as long as the connection ``up`` stands; ask again after the next
        :class:`Up`. For a queue that may not be there yet: look with :meth:`depth` first, since a missing one
        costs the connection."""

        def begin() -> None:
            if self._up.is_set() and self._epoch == up.epoch:
                self._subscribe(deque([subscription]), lambda: None)

        self._call(begin)

    def start_over(self, reason: str) -> None:
        """Connect anew: all that is held goes back to its queue, and comes again after the next
        :class:`Up`."""
        self._call(lambda: self._start_over(reason))

    def stop_consuming(self) -> None:
        """Take nothing new until :meth:`consume` is called again; deliveries that have arrived can still be
        settled."""

        def cancel() -> None:
            self._subscriptions.clear()
            if self._main is not None and self._main.is_open:
                for tag in list(self._main.consumer_tags):
                    # With an answer: pika never uses the tag again of one that is not waited for.
                    self._main.basic_cancel(tag, lambda _: None)

        self._call(cancel)

    def declare_exchange(
        self, name: str, kind: str, arguments: Mapping[str, Any] | None = None, durable: bool = True
    ) -> Future[None]:
        """Create an exchange. Fails with ``PermissionError``, or ``ValueError`` when it exists otherwise."""
        return self._operate(
            f"declare exchange {name}",
            lambda c, f: c.exchange_declare(
                name,
                kind,
                durable=durable,
                arguments=dict(arguments or {}),
                callback=lambda _: finish(f, None),
            ),
        )

    def declare_queue(
        self, name: str, arguments: Mapping[str, Any] | None = None, durable: bool = True
    ) -> Future[None]:
        """Create a queue. Fails with ``PermissionError``, or ``ValueError`` when it exists otherwise."""
        return self._operate(
            f"declare queue {name}",
            lambda c, f: c.queue_declare(
                name, durable=durable, arguments=dict(arguments or {}), callback=lambda _: finish(f, None)
            ),
        )

    def bind(self, queue: str, exchange: str, key: str) -> Future[None]:
        """Route ``key`` of ``exchange`` to ``queue``."""
        return self._operate(
            f"bind queue {queue} to {exchange}",
            lambda c, f: c.queue_bind(queue, exchange, key, callback=lambda _: finish(f, None)),
        )

    def exchange_exists(self, name: str) -> Future[bool]:
        """Whether ``name`` is there."""
        return self._exists(
            f"look for exchange {name}",
            lambda c, f: c.exchange_declare(name, passive=True, callback=lambda _: finish(f, True)),
        )

    def depth(self, queue: str) -> Future[QueueDepth]:
        """What a passive declare shows. Fails with ``LookupError`` when there is no such queue."""
        return self._operate(
            f"look at queue {queue}",
            lambda c, f: c.queue_declare(
                queue,
                passive=True,
                callback=lambda ok: finish(f, QueueDepth(ok.method.message_count, ok.method.consumer_count)),
            ),
            probe=True,
        )

    def purge(self, queue: str) -> Future[None]:
        """Drop what waits in ``queue``."""
        return self._operate(
            f"purge queue {queue}",
            lambda c, f: c.queue_purge(queue, callback=lambda _: finish(f, None)),
        )

    def close(self, timeout: float = 5.0) -> None:
        """Wait for outstanding confirms, then leave."""
        deadline = time.monotonic() + timeout
        while self._confirms.outstanding and self._up.is_set() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._closing = True

        def leave() -> None:
            connection = self._connection
            if connection is not None and connection.is_open:
                connection.close()
            elif connection is not None:
                connection.ioloop.stop()

        self._call(leave)
        if self._thread.is_alive():
            self._thread.join(max(deadline - time.monotonic(), 1.0))

    # -- In the link's thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing and self._refused is None:
            opened = self._epoch
            try:
                connection = Connection(
                    self._hosts[self._host],
                    on_open_callback=self._opened,
                    on_open_error_callback=lambda c, error: self._lost(c, error),
                    on_close_callback=lambda c, error: self._lost(c, error),
                )
                self._connection = connection
                # What was asked for meanwhile; from now on whoever asks wakes the loop.
                connection.ioloop.add_callback_threadsafe(self._drain)
                connection.ioloop.start()
            except Exception as error:  # a broken connection must never end the link
                self._lost(None, error)
            ended, self._connection = self._connection, None
            if ended is not None:
                with contextlib.suppress(Exception):  # its two sockets would stay until garbage collection
                    ended.ioloop.close()
            self._attempts += 1
            self._drain()
            if not self._closing and self._refused is None:
                problem = "cannot reach" if self._epoch == opened else "has lost"
                where = f"the broker at {redacted(self.url)}"
                pause = self._retry.failed(f"{self.name}: {problem} {where}: {self._last_error}", self._quiet)
                self._rest(pause if self._next_host() else 0.0)
        self._fail_everything("the link was closed")

    def _next_host(self) -> bool:
        """Try another one. Returns whether all have been tried by now."""
        self._host = (self._host + 1) % len(self._hosts)
        self._untried -= 1
        if self._untried > 0:
            return False
        self._untried = len(self._hosts)
        return True

    def _rest(self, delay: float) -> None:
        """Wait before the next attempt, and go on answering callers meanwhile."""
        deadline = time.monotonic() + delay
        while not self._closing and time.monotonic() < deadline:
            self._drain()
            time.sleep(0.02)

    def _opened(self, connection: Any) -> None:
        self._epoch += 1
        connection.add_on_connection_blocked_callback(self._blocked)
        connection.add_on_connection_unblocked_callback(lambda _connection, _frame: self._unblocked())
        connection.channel(on_open_callback=self._main_opened)

    def _main_opened(self, channel: Channel) -> None:
        self._main = channel
        self._confirms.begin()
        channel.add_on_close_callback(self._main_closed)
        channel.add_on_return_callback(self._confirms.returned)
        channel.add_on_cancel_callback(self._cancelled)
        channel.confirm_delivery(self._confirmed, callback=lambda _: self._open_side())

    def _open_side(self) -> None:
        assert self._connection is not None
        self._connection.channel(on_open_callback=self._side_opened)

    def _side_opened(self, channel: Channel) -> None:
        first = not self._up.is_set()
        channel.add_on_close_callback(self._side_closed)
        self._operations.use(channel)
        if first:
            self._subscribe(deque(self._subscriptions), self._announce)

    def _announce(self) -> None:
        self._retry.succeeded(f"{self.name}: connected to the broker at {redacted(self.url)}")
        self._quiet = False
        self._untried = len(self._hosts)
        self._up.set()
        self.events.put(Up(self._epoch))

    def _subscribe(self, rest: deque[Subscription], then: Callable[[], None]) -> None:
        """Make the subscriptions one after the other, then go on with ``then``."""
        channel = self._main
        assert channel is not None
        if not rest:
            then()
            return
        subscription = rest.popleft()
        epoch = self._epoch

        def consume(queue: str) -> None:
            channel.basic_qos(
                prefetch_count=subscription.prefetch,
                callback=lambda _: channel.basic_consume(
                    queue,
                    lambda _c, method, properties, body: self._delivered(
                        epoch, subscription.queue, method, properties, body
                    ),
                    exclusive=subscription.exclusive,
                    consumer_tag=f"{self.name} {subscription.queue}",
                    callback=lambda _: self._subscribe(rest, then),
                ),
            )

        if subscription.bindings is None:
            consume(subscription.queue)
            return
        own = f"{subscription.queue}.{uuid.uuid4().hex[: subscription.digits]}"
        self._own_queues[subscription.queue] = own

        def bind(bindings: deque[tuple[str, str]]) -> None:
            if not bindings:
                consume(own)
                return
            exchange, key = bindings.popleft()
            channel.queue_bind(own, exchange, key, callback=lambda _: bind(bindings))

        channel.queue_declare(own, exclusive=True, callback=lambda _: bind(deque(subscription.bindings)))

    def _delivered(self, epoch: int, queue: str, method: Any, properties: Any, body: bytes) -> None:
        headers = properties.headers or {}
        sent = headers.get("sent-at-ms") if isinstance(headers, dict) else None
        self.events.put(
            Delivery(
                epoch=epoch,
                tag=method.delivery_tag,
                queue=queue,
                exchange=_as_text(method.exchange) or "",
                key=_as_text(method.routing_key) or "",
                body=body,
                message_id=_as_text(properties.message_id) or "",
                reply_to=_as_text(properties.reply_to),
                correlation_id=_as_text(properties.correlation_id),
                sent_at=sent / 1000 if isinstance(sent, int) and 0 <= sent <= LATEST else None,
                user=_as_text(properties.user_id) or "",
                redelivered=bool(method.redelivered),
            )
        )

    def _publish(self, message: Outgoing, future: Future[None], epoch: int | None) -> None:
        channel = self._main
        if channel is None or not channel.is_open or not self._up.is_set():
            fail(future, LinkDown("not connected to the broker"))
            return
        if epoch not in (None, self._epoch):
            fail(future, LinkDown("the connection is another one by now"))
            return
        self._confirms.publish(channel, message, future)

    def _confirmed(self, frame: Any) -> None:
        if not self._confirms.confirmed(frame):
            # As rare as a lost connection, and owners are prepared for that.
            self._start_over("the broker refused a message")

    def _settle(self, delivery: Delivery, how: Callable[[Channel], object]) -> None:
        channel = self._main
        if delivery.epoch == self._epoch and channel is not None and channel.is_open:
            how(channel)

    def _operate(
        self, what: str, run: Callable[[Channel, Future[Any]], object], probe: bool = False
    ) -> Future[Any]:
        operation = Operation(what, run, probe)

        def enqueue() -> None:
            if self._up.is_set():
                self._operations.put(operation)
            else:
                fail(operation.answer, LinkDown("not connected to the broker"))

        self._call(enqueue)
        return operation.answer

    def _exists(self, what: str, run: Callable[[Channel, Future[Any]], object]) -> Future[bool]:
        found: Future[bool] = Future()

        def answer(probe: Future[Any]) -> None:
            error = probe.exception()
            if error is None or isinstance(error, LookupError):
                finish(found, error is None)
            else:
                fail(found, error)

        self._operate(what, run, probe=True).add_done_callback(answer)
        return found

    def _side_closed(self, _channel: Any, reason: Any) -> None:
        connection = self._connection
        if connection is not None and connection.is_open and not self._closing:
            connection.channel(on_open_callback=self._side_opened)
        self._operations.channel_closed(reason)

    def _main_closed(self, _channel: Any, reason: Any) -> None:
        self._main = None
        text, code = text_of(reason), getattr(reason, "reply_code", 0)
        if code == 403 and "exclusive use" not in text:
            self._refused = f"this user lacks a right that its role needs ({text})"
        elif code == 404:
            text = f"a queue to consume from is not there ({text})"
        self._start_over(text)

    def _cancelled(self, frame: Any) -> None:
        """The server took a consumer away: its queue was deleted. Starting over is what notices it."""
        name = str(frame.method.consumer_tag).removeprefix(f"{self.name} ")
        log.warning("%s: somebody has deleted queue %s, which it consumed from", self.name, name)
        self._start_over(f"queue {name} was deleted")

    def _blocked(self, _connection: Any, frame: Any) -> None:
        self.refusing = (
            f"the broker takes no messages: it is {frame.method.reason};"
            " `rabbitmq-diagnostics alarms` says where"
        )
        log.warning("%s: %s", self.name, self.refusing)

    def _unblocked(self) -> None:
        if self.refusing:
            log.info("%s: the broker takes messages again", self.name)
        self.refusing = ""

    def _start_over(self, reason: str) -> None:
        """Connect anew."""
        self._last_error = reason
        connection = self._connection
        if connection is not None and connection.is_open and not self._closing:
            connection.close(320, reason[:200])

    def _lost(self, connection: Any, error: Any) -> None:
        was_up = self._up.is_set()
        self._up.clear()
        self.refusing = ""
        if not (isinstance(error, pika.exceptions.ConnectionClosedByClient) and self._last_error):
            self._last_error = text_of(error)
            if len(self._hosts) > 1:
                tried = self._hosts[self._host]
                self._last_error = f"{tried.host}:{tried.port}: {self._last_error}"
        if self._epoch == 0:
            self._somebody_there = self._somebody_there or not nobody_there(error)
            self._refused = final_refusal(error)
        self._main = None
        self._fail_everything(self._last_error)
        if was_up:
            self.events.put(Down(self._last_error))
        if connection is not None:
            connection.ioloop.stop()

    def _fail_everything(self, reason: str) -> None:
        self._confirms.fail_all(reason)
        self._operations.fail_all(reason)

    def _call(self, function: Callable[[], None]) -> None:
        """Run ``function`` in the link's thread, connected or not. The thread is woken once for all that is
        asked for until it looks: waking it costs more than most commands."""
        self._commands.append(function)
        if self._gathering != threading.get_ident():
            self._wake()

    def _wake(self) -> None:
        connection = self._connection
        if connection is None:
            if not self._thread.is_alive():
                self._drain()
        elif not self._woken:
            self._woken = True
            # The loop may end at this moment; then the commands are drained between two connections.
            with contextlib.suppress(Exception):
                connection.ioloop.add_callback_threadsafe(self._drain)

    def _drain(self) -> None:
        # Before the look: what is added during it, and is not seen any more, wakes the thread again.
        self._woken = False
        connection = self._connection
        with connection.gathering() if connection is not None else contextlib.nullcontext():
            while self._commands:
                self._commands.popleft()()


def _as_text(value: str | bytes | None) -> str | None:
    """A short string of AMQP. pika leaves it as bytes where it is not UTF-8, which any sender may do."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
