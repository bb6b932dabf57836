"""The one place that knows pika: a connection to the broker that keeps itself alive.

A :class:`Link` runs pika's ``SelectConnection`` in a thread of its own, so heartbeats go out whatever the
rest of the process does. The owner reads *events* from a queue (:class:`Up`, :class:`Down`,
:class:`Delivery`) and calls methods that may be called from any thread.

- Every lost connection, and every channel that the server closes, is answered by a reconnect with backoff.
  The subscriptions are made again and :class:`Up` is sent again.
- A delivery belongs to the connection that brought it (its ``epoch``). Acknowledging it later is a no-op: the
  broker has requeued it by then.
- ``publish`` is confirmed and mandatory. Its future fails with :class:`LinkDown` or :class:`Unroutable`.
- Everything that may fail on purpose (declare, probe, purge) runs on a second channel, one operation at a
  time, so that a refusal is the answer to its own question and disturbs nothing else.
"""

from __future__ import annotations

import contextlib
import queue
import random
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pika
import pika.data
import pika.exceptions
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel

from tunemesh.shared.codec import CONTENT_TYPE
from tunemesh.shared.errors import BadInput, BadMessage, BrokerUnavailable, LinkDown, Unroutable

DecodeTable = Callable[[bytes, int], tuple[dict[str | bytes, Any], int]]

HEARTBEAT = 10
"""Seconds. The broker drops a silent peer after two to three of them and requeues what it held."""

BACKOFF = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts to reconnect; the last one repeats."""

LATEST = 10**14
"""Milliseconds of Unix time that a sender's clock may show."""


def _without_what_is_unreadable(decode: DecodeTable) -> DecodeTable:
    """``decode`` with an empty table in place of an exception. pika decodes headers while it reads
    from the socket, and gives the connection up over a date beyond the year 9999 or deep nesting, which
    brokers pass on; the message would come again, for ever. Nothing that is needed is in headers."""

    def table(encoded: bytes, offset: int) -> tuple[dict[str | bytes, Any], int]:
        try:
            return decode(encoded, offset)
        except Exception:
            return {}, offset + 4 + int.from_bytes(encoded[offset : offset + 4])

    return table


pika.data.decode_table = _without_what_is_unreadable(pika.data.decode_table)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish. Persistent unless ``expires`` gives it a life time in seconds."""

    exchange: str
    key: str
    body: bytes
    message_id: str
    type: str
    headers: Mapping[str, str | int] = field(default_factory=dict)
    correlation_id: str | None = None
    reply_to: str | None = None
    expires: float | None = None
    mandatory: bool = True


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that arrived and waits for :meth:`Link.ack`."""

    epoch: int
    tag: int
    queue: str
    exchange: str
    key: str
    body: bytes
    message_id: str
    reply_to: str | None
    correlation_id: str | None
    sent_at: float | None
    """Seconds since the epoch, to the millisecond."""


@dataclass(frozen=True, slots=True)
class Up:
    """The connection stands and the subscriptions are made."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Down:
    """The connection is lost; every unacknowledged delivery goes back to its queue."""

    reason: str


Event = Up | Down | Delivery


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue to consume from.

    With ``bindings`` (exchange, key), be it none, the queue is the link's own: exclusive, gone with the
    connection, its name made unique by a suffix.
    """

    queue: str
    prefetch: int = 0
    bindings: tuple[tuple[str, str], ...] | None = None
    exclusive: bool = False
    """Nobody else may consume from it. When somebody does, the link starts over."""


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """What a passive declare shows. Unacknowledged messages are in neither figure."""

    ready: int
    consumers: int


@dataclass(slots=True)
class _Pending:
    future: Future[None]
    message_id: str
    returned: str | None = None


class Link:
    """A named connection.

    Args:
        url: ``amqp://`` or ``amqps://`` with user, password and virtual host.
        name: shown in the management UI.
        properties: further client properties shown there (role, device, …).
        subscriptions: consumed from whenever the connection stands.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        properties: Mapping[str, str | int] | None = None,
        subscriptions: Sequence[Subscription] = (),
    ) -> None:
        self.url = url
        self.name = name
        self.events: queue.SimpleQueue[Event | Any] = queue.SimpleQueue()
        self._parameters = _parameters(url, name, properties or {})
        self._subscriptions = list(subscriptions)
        self._own_queues: dict[str, str] = {}
        self._epoch = 0
        self._up = threading.Event()
        self._closing = False
        self._failures = 0
        self._last_error = "no attempt yet"
        self._refused: str | None = None
        self._connection: SelectConnection | None = None
        self._main: Channel | None = None
        self._side: Channel | None = None
        self._pending: dict[int, _Pending] = {}
        self._published = 0
        self._operations: deque[tuple[Callable[[Channel, Future[Any]], None], Future[Any]]] = deque()
        self._running: Future[Any] | None = None
        self._commands: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._run, name=f"link {name}", daemon=True)

    # -- For the owner, from any thread ---------------------------------------------------------------------

    def start(self, timeout: float = 20.0) -> None:
        """Connect and wait until the link is up.

        Raises:
            BrokerUnavailable: when the broker refuses, or does not answer in ``timeout`` seconds.
        """
        self._thread.start()
        deadline = time.monotonic() + timeout
        while not self._up.wait(0.05):
            if self._refused or time.monotonic() > deadline:
                reason = self._refused or self._last_error
                self.close()
                raise self._unusable(reason)

    def next(self, timeout: float) -> Any | None:
        """The next event, or ``None`` after ``timeout`` seconds.

        Raises:
            BrokerUnavailable: the broker refused this user for good.
        """
        try:
            return self.events.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            if self._refused and not self._thread.is_alive():
                raise self._unusable(self._refused) from None
            return None

    def _unusable(self, reason: str) -> BrokerUnavailable:
        return BrokerUnavailable(f"cannot use the broker at {redacted(self.url)}: {reason}")

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

    def stop_consuming(self) -> None:
        """Take nothing new; deliveries that have arrived can still be settled."""

        def cancel() -> None:
            self._subscriptions.clear()
            if self._main is not None and self._main.is_open:
                for tag in list(self._main.consumer_tags):
                    self._main.basic_cancel(tag)

        self._call(cancel)

    def declare_exchange(self, name: str, kind: str, durable: bool = True) -> Future[None]:
        """Create an exchange. Fails with ``PermissionError``, or ``ValueError`` when it exists otherwise."""
        return self._operate(
            lambda c, f: c.exchange_declare(name, kind, durable=durable, callback=lambda _: _finish(f, None))
        )

    def declare_queue(
        self, name: str, arguments: Mapping[str, Any] | None = None, durable: bool = True
    ) -> Future[None]:
        """Create a queue. Fails with ``PermissionError``, or ``ValueError`` when it exists otherwise."""
        return self._operate(
            lambda c, f: c.queue_declare(
                name, durable=durable, arguments=dict(arguments or {}), callback=lambda _: _finish(f, None)
            )
        )

    def bind(self, queue: str, exchange: str, key: str) -> Future[None]:
        """Route ``key`` of ``exchange`` to ``queue``."""
        return self._operate(
            lambda c, f: c.queue_bind(queue, exchange, key, callback=lambda _: _finish(f, None))
        )

    def exchange_exists(self, name: str) -> Future[bool]:
        """Whether ``name`` is there."""
        return self._exists(
            lambda c, f: c.exchange_declare(name, passive=True, callback=lambda _: _finish(f, True))
        )

    def depth(self, queue: str) -> Future[QueueDepth]:
        """What a passive declare shows. Fails with ``LookupError`` when there is no such queue."""
        return self._operate(
            lambda c, f: c.queue_declare(
                queue,
                passive=True,
                callback=lambda ok: _finish(f, QueueDepth(ok.method.message_count, ok.method.consumer_count)),
            )
        )

    def purge(self, queue: str) -> Future[None]:
        """Drop what waits in ``queue``."""
        return self._operate(lambda c, f: c.queue_purge(queue, callback=lambda _: _finish(f, None)))

    def close(self, timeout: float = 5.0) -> None:
        """Wait for outstanding confirms, then leave."""
        deadline = time.monotonic() + timeout
        while self._pending and self._up.is_set() and time.monotonic() < deadline:
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
            try:
                connection = SelectConnection(
                    self._parameters,
                    on_open_callback=self._opened,
                    on_open_error_callback=lambda c, error: self._lost(c, error),
                    on_close_callback=lambda c, error: self._lost(c, error),
                )
                self._connection = connection
                connection.ioloop.start()
            except Exception as error:  # a broken connection must never end the link
                self._lost(None, error)
            ended, self._connection = self._connection, None
            if ended is not None:
                with contextlib.suppress(Exception):  # its two sockets would stay until garbage collection
                    ended.ioloop.close()
            self._drain()
            if not self._closing and self._refused is None:
                delay = BACKOFF[min(self._failures, len(BACKOFF) - 1)] * random.uniform(0.8, 1.2)
                self._failures += 1
                self._rest(delay)
        self._fail_everything("the link was closed")

    def _rest(self, delay: float) -> None:
        """Wait before the next attempt, and go on answering callers meanwhile."""
        deadline = time.monotonic() + delay
        while not self._closing and time.monotonic() < deadline:
            self._drain()
            time.sleep(0.02)

    def _opened(self, connection: Any) -> None:
        self._epoch += 1
        connection.channel(on_open_callback=self._main_opened)

    def _main_opened(self, channel: Channel) -> None:
        self._main = channel
        self._published = 0
        channel.add_on_close_callback(self._main_closed)
        channel.add_on_return_callback(self._returned)
        channel.add_on_cancel_callback(self._cancelled)
        channel.confirm_delivery(self._confirmed, callback=lambda _: self._open_side())

    def _open_side(self) -> None:
        assert self._connection is not None
        self._connection.channel(on_open_callback=self._side_opened)

    def _side_opened(self, channel: Channel) -> None:
        first = not self._up.is_set()
        self._side = channel
        channel.add_on_close_callback(self._side_closed)
        if first:
            self._subscribe(deque(self._subscriptions), self._announce)
        else:
            self._next_operation()

    def _announce(self) -> None:
        self._failures = 0
        self._up.set()
        self.events.put(Up(self._epoch))
        self._next_operation()

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
        own = f"{subscription.queue}.{uuid.uuid4().hex[:12]}"
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
                exchange=method.exchange,
                key=method.routing_key,
                body=body,
                message_id=properties.message_id or "",
                reply_to=properties.reply_to,
                correlation_id=properties.correlation_id,
                sent_at=sent / 1000 if isinstance(sent, int) and 0 <= sent <= LATEST else None,
            )
        )

    def _publish(self, message: Outgoing, future: Future[None], epoch: int | None) -> None:
        channel = self._main
        if channel is None or not channel.is_open or not self._up.is_set():
            _fail(future, LinkDown("not connected to the broker"))
            return
        if epoch not in (None, self._epoch):
            _fail(future, LinkDown("the connection is another one by now"))
            return
        now = time.time()
        self._published += 1
        self._pending[self._published] = _Pending(future, message.message_id)
        try:
            self._basic_publish(channel, message, now)
        except (pika.exceptions.AMQPConnectionError, pika.exceptions.AMQPChannelError):
            raise  # the connection is done for
        except Exception as error:  # an id that is too long, say: the next one may do
            del self._pending[self._published]
            self._published -= 1
            _fail(future, BadMessage(f"{message.message_id[:100]} cannot be sent: {_text(error)}"))

    def _basic_publish(self, channel: Channel, message: Outgoing, now: float) -> None:
        channel.basic_publish(
            message.exchange,
            message.key,
            message.body,
            pika.BasicProperties(
                content_type=CONTENT_TYPE,
                headers={**message.headers, "sent-at-ms": int(now * 1000)},
                delivery_mode=2 if message.expires is None else 1,
                correlation_id=message.correlation_id,
                reply_to=message.reply_to,
                expiration=None if message.expires is None else str(int(message.expires * 1000)),
                message_id=message.message_id,
                timestamp=int(now),
                type=message.type,
                app_id=self.name,
            ),
            mandatory=message.mandatory,
        )

    def _returned(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        # The broker sends the return just before the confirm of the same message.
        for pending in self._pending.values():
            if pending.message_id == properties.message_id:
                pending.returned = f"no queue takes {method.routing_key!r} of {method.exchange!r}"
                return

    def _confirmed(self, frame: Any) -> None:
        tag, multiple = frame.method.delivery_tag, getattr(frame.method, "multiple", False)
        tags = [t for t in self._pending if t <= tag] if multiple else [tag]
        refused = isinstance(frame.method, pika.spec.Basic.Nack)
        for each in tags:
            pending = self._pending.pop(each, None)
            if pending is None:
                continue
            if refused:
                _fail(pending.future, LinkDown("the broker refused the message"))
            elif pending.returned:
                _fail(pending.future, Unroutable(pending.returned))
            else:
                _finish(pending.future, None)
        if refused:
            # As rare as a lost connection, and owners are prepared for that.
            self._start_over("the broker refused a message")

    def _settle(self, delivery: Delivery, how: Callable[[Channel], object]) -> None:
        channel = self._main
        if delivery.epoch == self._epoch and channel is not None and channel.is_open:
            how(channel)

    def _operate(self, operation: Callable[[Channel, Future[Any]], Any]) -> Future[Any]:
        future: Future[Any] = Future()

        def enqueue() -> None:
            if not self._up.is_set():
                _fail(future, LinkDown("not connected to the broker"))
                return
            self._operations.append((operation, future))
            self._next_operation()

        self._call(enqueue)
        return future

    def _exists(self, operation: Callable[[Channel, Future[Any]], Any]) -> Future[bool]:
        found: Future[bool] = Future()

        def answer(probe: Future[Any]) -> None:
            error = probe.exception()
            if error is None or isinstance(error, LookupError):
                _finish(found, error is None)
            else:
                _fail(found, error)

        self._operate(operation).add_done_callback(answer)
        return found

    def _next_operation(self) -> None:
        if self._running is not None or not self._operations:
            return
        if self._side is None or not self._side.is_open:
            return
        operation, future = self._operations.popleft()
        self._running = future
        future.add_done_callback(self._operation_done)
        operation(self._side, future)

    def _operation_done(self, future: Future[Any]) -> None:
        if self._running is future:
            self._running = None
            self._next_operation()

    def _side_closed(self, _channel: Any, reason: Any) -> None:
        """The server closed the side channel: that is the answer to the operation under way."""
        self._side = None
        connection = self._connection
        if connection is not None and connection.is_open and not self._closing:
            connection.channel(on_open_callback=self._side_opened)
        if self._running is not None:
            _fail(self._running, _refusal(reason))

    def _main_closed(self, _channel: Any, reason: Any) -> None:
        self._main = None
        text = _text(reason)
        if getattr(reason, "reply_code", 0) == 403 and "exclusive use" not in text:
            self._refused = f"this user lacks a right that its role needs ({text})"
        self._start_over(text)

    def _cancelled(self, frame: Any) -> None:
        """The server took a consumer away: its queue was deleted. Starting over is what notices it."""
        self._start_over(f"the queue of consumer {frame.method.consumer_tag!r} was deleted")

    def _start_over(self, reason: str) -> None:
        """Connect anew."""
        self._last_error = reason
        connection = self._connection
        if connection is not None and connection.is_open and not self._closing:
            connection.close(320, reason[:200])

    def _lost(self, connection: Any, error: Any) -> None:
        was_up = self._up.is_set()
        self._up.clear()
        if not (isinstance(error, pika.exceptions.ConnectionClosedByClient) and self._last_error):
            self._last_error = _text(error)
        if not was_up and self._epoch == 0:
            self._refused = _final_refusal(error)
        self._main = self._side = None
        self._fail_everything(self._last_error)
        if was_up:
            self.events.put(Down(self._last_error))
        if connection is not None:
            connection.ioloop.stop()

    def _fail_everything(self, reason: str) -> None:
        pending, self._pending = self._pending, {}
        operations, self._operations = self._operations, deque()
        running, self._running = self._running, None
        for future in [*(p.future for p in pending.values()), *(f for _, f in operations), running]:
            if future is not None:
                _fail(future, LinkDown(f"connection lost: {reason}"))

    def _call(self, function: Callable[[], None]) -> None:
        """Run ``function`` in the link's thread, connected or not."""
        self._commands.append(function)
        connection = self._connection
        if connection is not None:
            # The loop may end at this moment; then the commands are drained between two connections.
            with contextlib.suppress(Exception):
                connection.ioloop.add_callback_threadsafe(self._drain)
        elif not self._thread.is_alive():
            self._drain()

    def _drain(self) -> None:
        while self._commands:
            self._commands.popleft()()


def _finish(future: Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _parameters(url: str, name: str, properties: Mapping[str, str | int]) -> pika.URLParameters:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("amqp", "amqps") and parts.hostname
        parameters = pika.URLParameters(url) if usable else None
    except (ValueError, TypeError):  # their texts may quote the password
        parameters = None
    if parameters is None:
        raise BadInput(
            f"{redacted(url)!r} is no broker URL; expected amqp://user:password@host:port/vhost,"
            " with special characters of the password percent-encoded"
        )
    parameters.heartbeat = HEARTBEAT
    parameters.blocked_connection_timeout = 120
    parameters.connection_attempts = 1
    parameters.socket_timeout = 5
    parameters.stack_timeout = 8
    parameters.client_properties = {"connection_name": name, **properties}
    return parameters


def redacted(url: str) -> str:
    """``url`` without its password, whatever that is made of."""
    return re.sub(r"(//[^:/@]*):.*@", r"\1:***@", url)


def _text(error: Any) -> str:
    """The innermost cause in one line."""
    while isinstance(error, BaseException) and error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    inner = getattr(error, "exceptions", None) or getattr(error, "exception", None)
    if inner:
        return _text(inner[0] if isinstance(inner, (list, tuple)) else inner)
    reply = getattr(error, "reply_text", None)
    if reply:
        return f"{getattr(error, 'reply_code', '')} {reply}".strip()
    return " ".join(str(error).split()) or type(error).__name__


def _final_refusal(error: Any) -> str | None:
    """Why trying again would not help, or ``None``."""
    text = _text(error)
    kinds = f"{error!r} {text}"
    if "ACCESS_REFUSED" in kinds or "AuthenticationError" in kinds:
        return "it refuses this user name and password"
    if "NOT_ALLOWED" in kinds or "not found" in kinds or "AccessDenied" in kinds:
        return f"the virtual host does not exist or this user may not enter it ({text})"
    if "gaierror" in kinds or "Name or service not known" in kinds:
        return f"the host name cannot be resolved ({text})"
    return None


def _refusal(reason: Any) -> Exception:
    """The error that a closed channel stands for."""
    code, text = getattr(reason, "reply_code", 0), _text(reason)
    if code == 403:
        return PermissionError(text)
    if code == 404:
        return LookupError(text)
    if code in (405, 406):
        return ValueError(text)
    return LinkDown(text)
