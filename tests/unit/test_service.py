"""The coordinator's loop: whatever a delivery is made of, it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tunemesh.broker_config import topology
from tunemesh.coordinator.jobs.ledger import Marker
from tunemesh.coordinator.service.service import Service
from tunemesh.shared.transport.link import Delivery, Link

BYTES = b"\xff\xfe"


@pytest.fixture
def link() -> Iterator[Link]:
    link = Link("amqp://a:b@127.0.0.1:1/x", "test")
    yield link
    link.close(timeout=0.1)


def test_short_strings_that_are_no_text_arrive_as_text(link: Link) -> None:
    method = SimpleNamespace(delivery_tag=1, exchange=BYTES, routing_key=BYTES, redelivered=False)
    properties = SimpleNamespace(headers=None, message_id=BYTES, reply_to=BYTES, correlation_id=BYTES)
    link._delivered(1, "coordinator", method, properties, b"")
    delivery = link.next(0.1)
    assert isinstance(delivery, Delivery)
    texts = (delivery.exchange, delivery.key, delivery.message_id, delivery.reply_to, delivery.correlation_id)
    assert texts == ("��",) * 5


@pytest.mark.parametrize("where", ["reply_to", "message_id", "correlation_id", "body", "exchange"])
def test_a_delivery_that_nothing_can_be_done_with_does_not_end_the_coordinator(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {
        "epoch": 0,
        "tag": 1,
        "queue": topology.COORDINATOR,
        "exchange": topology.REQUESTS,
        "key": "request",
        "body": b"no request",
        "message_id": "m",
        "reply_to": "client.1",
        "correlation_id": "c",
        "sent_at": None,
    }
    service = Service("amqp://a:b@127.0.0.1:1/x")
    settled: list[Delivery] = []
    monkeypatch.setattr(service._link, "ack", settled.append)
    monkeypatch.setattr(service._link, "publish", lambda *_: (_ for _ in ()).throw(TypeError("unsendable")))
    service._guarded(Delivery(**{**fields, where: object()}))
    assert [each.tag for each in settled] == [1]


def test_every_start_has_a_marker_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also two on one connection, and one of a process that has the number of a dead one."""
    sent: list[Marker] = []
    for _ in range(2):
        service = Service("amqp://a:b@127.0.0.1:1/x")
        monkeypatch.setattr(service._outbox, "to_itself", sent.append)
        service._begin()
        service._begin()
    assert len({marker.start for marker in sent}) == len(sent) == 4
