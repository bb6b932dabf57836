"""What a client can do to a broker that means no good: as fast as it can, until it is killed.

It uses pika itself, since a link of ours waits for confirms, and stops for a moment when the broker refuses.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable
from multiprocessing.sharedctypes import Synchronized

import pika
from pika.exceptions import AMQPError

from tunemesh.broker_config import topology
from tunemesh.shared import codec
from tunemesh.shared.accounts import Account
from tunemesh.shared.messages import AskHistory, Blob, Level, Message, Query, Request, Settings

EVE = Account("client.zeta.eve", "client", "zeta")
CONNECTIONS = 70
"""More than a user may have."""
TOGETHER = 100
"""Messages between two looks at what the broker says."""


def _publish(
    url: str,
    sent: Synchronized[float],
    kind: str,
    make: Callable[[], Message | bytes],
    together: int = TOGETHER,
) -> None:
    properties = pika.BasicProperties(reply_to=f"{EVE.user}.000", user_id=EVE.user)
    key = topology.client_key(kind, EVE.tenant)
    link = pika.BlockingConnection(pika.URLParameters(url))
    channel = link.channel()
    channel.queue_declare(f"{EVE.user}.000", exclusive=True)  # for answers, which it never reads
    while True:
        for _ in range(together):
            message = make()
            body = message if isinstance(message, bytes) else codec.encode(message)
            channel.basic_publish(topology.CLIENTS, key, body, properties)
        link.process_data_events(0)
        sent.value += together


def _queries(url: str, sent: Synchronized[float]) -> None:
    _publish(url, sent, topology.QUERY, Query)


def _requests(url: str, sent: Synchronized[float]) -> None:
    def make() -> Message:
        job, model = uuid.uuid4().hex, Blob("0" * 64, 0, b"")
        return Request(job=job, model=model, target="nowhere", engines=["mock"])

    _publish(url, sent, topology.REQUEST, make)


POISON = b"""
tasks: [{name: a, space: 1000000}]
failures:
  build-hang: {every: 3}
  build-memory: {every: 5}
  profile-hang: {every: 4}
  profile-memory: {every: 7}
"""
"""Of a model whose candidates hang and allocate without end, where they are built and where they run."""
RUNNING = 20
"""Jobs of it at once; one more every second."""


def _poison(url: str, sent: Synchronized[float]) -> None:
    model = Blob(hashlib.sha256(POISON).hexdigest(), len(POISON), POISON)
    link = pika.BlockingConnection(pika.URLParameters(url))
    channel = link.channel()
    while True:
        body = codec.encode(
            Request(
                job=uuid.uuid4().hex,
                model=model,
                target="mock",
                engines=["mock"],
                level=Level(trials=10_000, shared=False),
                settings=Settings(chunk=8, batch=512),
            )
        )
        properties = pika.BasicProperties(user_id=EVE.user)
        channel.basic_publish(
            topology.CLIENTS, topology.client_key(topology.REQUEST, EVE.tenant), body, properties
        )
        sent.value += 1
        link.sleep(0 if sent.value < RUNNING else 1)


def _disk(url: str, sent: Synchronized[float]) -> None:
    """Messages of the largest size for its own queue, which the broker may have to write to its disk."""
    body = os.urandom(2**20 - 2**12)
    _publish(url, sent, topology.REQUEST, lambda: body, 1)


def _garbage(url: str, sent: Synchronized[float]) -> None:
    _publish(url, sent, topology.REQUEST, lambda: b"garbage" * 100)


def _history(url: str, sent: Synchronized[float]) -> None:
    _publish(url, sent, topology.QUESTION, lambda: AskHistory(answer="0" * 32))


def _connections(url: str, sent: Synchronized[float]) -> None:
    links: list[pika.BlockingConnection] = []
    while True:
        with contextlib.suppress(AMQPError):
            links.append(pika.BlockingConnection(pika.URLParameters(url)))
            for _ in range(4):
                links[-1].channel()
        sent.value += 1
        if len(links) >= CONNECTIONS // 2:
            with contextlib.suppress(AMQPError):
                links.pop(0).close()


def _queues(url: str, sent: Synchronized[float]) -> None:
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    while True:
        name = f"{EVE.user}.{int(sent.value) % 16**topology.OWN_QUEUE_DIGITS:03x}"
        channel.queue_declare(name, durable=True)
        channel.queue_bind(name, topology.EVENTS, topology.event_key(EVE.tenant, "job", "*"))
        sent.value += 1


ATTACKS: dict[str, Callable[[str, Synchronized[float]], None]] = {
    "queries": _queries,
    "requests": _requests,
    "garbage": _garbage,
    "history": _history,
    "connections": _connections,
    "queues": _queues,
    "disk": _disk,
    "poison": _poison,
}


def attack(name: str, url: str, core: int, sent: Synchronized[float]) -> None:
    """Attack until killed, on a core, and count what was sent."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {core})
    while True:
        with contextlib.suppress(AMQPError):
            ATTACKS[name](url, sent)
