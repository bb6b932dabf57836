"""What goes into a link and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    signed: bool = False
    """Says which user sends it, which the broker verifies."""


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
    user: str = ""
    """Who sent it, as the broker verified it; empty where the sender did not say."""
    redelivered: bool = False
    """Whether somebody had it before, who has not answered it."""


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
    """Deliveries that may be unacknowledged at a time; 0 for any number."""
    bindings: tuple[tuple[str, str], ...] | None = None
    digits: int = 12
    """Of that suffix. Where they are few, a name may be taken; the link then starts over with another."""
    exclusive: bool = False
    """Nobody else may consume from it. When somebody does, the link starts over."""


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """What a passive declare shows. Unacknowledged messages are in neither figure."""

    ready: int
    consumers: int
