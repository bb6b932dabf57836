"""What was published and is not confirmed yet. All of it runs in the link's thread."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pika
import pika.exceptions
from pika.channel import Channel

from tunemesh.shared.codec import CONTENT_TYPE
from tunemesh.shared.errors import BadMessage, LinkDown, Unroutable
from tunemesh.shared.transport.operations import fail, finish
from tunemesh.shared.transport.refusals import text_of
from tunemesh.shared.transport.values import Outgoing


@dataclass(slots=True)
class _Pending:
    future: Future[None]
    message_id: str
    returned: str | None = None


class Confirms:
    """The messages of one channel at a time, in the order in which they were published.

    Args:
        link: name of the owner, which goes into the messages.
        user: who is logged in, for messages that say so.
    """

    def __init__(self, link: str, user: str = "") -> None:
        self._link = link
        self._user = user
        self._pending: dict[int, _Pending] = {}
        self._published = 0

    @property
    def outstanding(self) -> bool:
        """Whether the broker has not yet confirmed everything."""
        return bool(self._pending)

    def begin(self) -> None:
        """Publish on a fresh channel from now on: it counts from 1."""
        self._published = 0

    def publish(self, channel: Channel, message: Outgoing, future: Future[None]) -> None:
        """Send ``message``; ``future`` completes with the broker's confirm."""
        self._published += 1
        self._pending[self._published] = _Pending(future, message.message_id)
        try:
            self._basic_publish(channel, message, time.time())
        except (pika.exceptions.AMQPConnectionError, pika.exceptions.AMQPChannelError):
            raise  # the connection is done for
        except Exception as error:  # an id that is too long, say: the next one may do
            del self._pending[self._published]
            self._published -= 1
            fail(future, BadMessage(f"{message.message_id[:100]} cannot be sent: {text_of(error)}"))

    def returned(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        """The broker has no queue for a message. It says so just before the confirm of the same one."""
        for pending in self._pending.values():
            if pending.message_id == properties.message_id:
                pending.returned = f"no queue takes {method.routing_key!r} of {method.exchange!r}"
                return

    def confirmed(self, frame: Any) -> bool:
        """The broker has taken messages, or refused them. Returns whether it took them."""
        tag, multiple = frame.method.delivery_tag, getattr(frame.method, "multiple", False)
        tags = [t for t in self._pending if t <= tag] if multiple else [tag]
        refused = isinstance(frame.method, pika.spec.Basic.Nack)
        for each in tags:
            pending = self._pending.pop(each, None)
            if pending is None:
                continue
            if refused:
                fail(pending.future, LinkDown("the broker refused the message"))
            elif pending.returned:
                fail(pending.future, Unroutable(pending.returned))
            else:
                finish(pending.future, None)
        return not refused

    def fail_all(self, reason: str) -> None:
        """The connection is lost: what was not confirmed may or may not have arrived."""
        pending, self._pending = self._pending, {}
        for each in pending.values():
            fail(each.future, LinkDown(f"connection lost: {reason}"))

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
                app_id=self._link,
                user_id=self._user if message.signed and self._user else None,
            ),
            mandatory=message.mandatory,
        )
