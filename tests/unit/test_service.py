"""The coordinator's loop: whatever a delivery is made of, it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.world import request
from tunemesh.broker_config import topology
from tunemesh.coordinator.events import Acknowledge, Save, SaveFailed, Tick
from tunemesh.coordinator.jobs.ledger import Ledger, Marker
from tunemesh.coordinator.service.service import REFRESH, Service, _Held
from tunemesh.shared import codec
from tunemesh.shared.messages import Message, Query
from tunemesh.shared.transport.link import Delivery, Link, Outgoing

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
    service = Service("amqp://a:b@127.0.0.1:1/x")
    settled: list[Delivery] = []
    monkeypatch.setattr(service._link, "ack", settled.append)
    monkeypatch.setattr(service._link, "publish", lambda *_: (_ for _ in ()).throw(TypeError("unsendable")))
    service._guarded(delivery(**{where: object()}))
    assert [each.tag for each in settled] == [1]


class Recorder:
    """A service whose link only takes note."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: str = "nothing") -> None:
        self.service = Service("amqp://a:b@127.0.0.1:1/x")
        self.acknowledged: list[int] = []
        self.published: list[Outgoing] = []
        self.refuses = refuses
        link = self.service._link
        monkeypatch.setattr(link, "ack", lambda delivery: self.acknowledged.append(delivery.tag))
        monkeypatch.setattr(link, "publish", self.publish)

    def publish(self, message: Outgoing, _epoch: int = 0) -> Future[None]:
        done: Future[None] = Future()
        if message.type == self.refuses or message.exchange == self.refuses:
            done.set_exception(PermissionError("nacked"))
        else:
            self.published.append(message)
            done.set_result(None)
        return done

    def deliver(self, tag: int, message: Message, exchange: str, **fields: Any) -> None:
        known = {"message_id": message.message_id(), "body": codec.encode(message)} | fields
        self.service._guarded(delivery(tag=tag, exchange=exchange, **known))

    def up(self) -> None:
        self.service._active = True
        self.service._begin()
        self.deliver(1, self.service._marker, topology.LEDGER)
        for _ in range(2):
            self.service._core._settling_since = -10.0
            self.service._give(Tick())

    def events(self) -> list[Any]:
        events = self.service._link.events
        return [events.get_nowait() for _ in range(events.qsize())]


def delivery(**fields: Any) -> Delivery:
    usual: dict[str, Any] = {
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
    return Delivery(**(usual | fields))


def test_a_delivery_that_met_a_defect_is_settled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Recorder(monkeypatch)
    world.up()
    with monkeypatch.context() as patch:
        patch.setattr(world.service._core, "handle", lambda *_: 1 / 0)
        world.deliver(2, Query(), topology.REQUESTS)
    assert world.acknowledged == [1, 2]
    assert world.service._held == {}


def test_what_dead_letter_does_not_take_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Recorder(monkeypatch, refuses=topology.DEAD)
    world.up()
    world.service._guarded(delivery(tag=2))
    assert world.acknowledged == [1, 2]


def test_a_ledger_that_cannot_be_read_ends_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Recorder(monkeypatch)
    world.up()
    world.deliver(2, request(), topology.REQUESTS)
    fields = {"body": b"garbage", "correlation_id": "job"}
    world.deliver(
        3, Ledger(request=request(), revision=0, phase="importing", accepted=0.0), topology.LEDGER, **fields
    )
    job = world.service._core.jobs["job"]
    assert job.ledger.phase == "failed"
    assert job.ledger.error.startswith("its ledger cannot be read:")


def test_an_instruction_that_cannot_be_done_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Recorder(monkeypatch)
    world.up()
    ledger = Ledger(request=request(), revision=0, phase="importing", accepted=0.0)
    monkeypatch.setattr(world.service._outbox, "to_itself", lambda *_: 1 / 0)
    world.events()
    world.service._held[9] = _Held(delivery(tag=9), "query", 0.0)
    world.service._apply([Save(ledger), Acknowledge(9)])
    assert world.acknowledged == [1, 9]
    assert world.events() == [
        SaveFailed("job", "a defect of the coordinator: ZeroDivisionError: division by zero")
    ]


def test_a_tick_that_meets_a_defect_does_not_end_the_coordinator(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = Recorder(monkeypatch)
    monkeypatch.setattr(world.service._core, "handle", lambda *_: 1 / 0)
    world.service._give_guarded(Tick())
    assert "ZeroDivisionError" in caplog.text


def test_what_is_held_for_long_is_published_anew_until_that_has_worked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Recorder(monkeypatch, refuses="request")
    world.up()
    world.deliver(2, request(), topology.REQUESTS)
    (handle,) = world.service._held
    later = time.monotonic() + REFRESH + 1
    world.service._refresh(later)
    assert world.service._refreshing == {}
    world.refuses = "nothing"
    world.service._refresh(later)
    copy = world.published[-1]
    assert copy.headers["copy"] == "held for long"
    assert copy.correlation_id == "c"
    world.service._guarded(
        delivery(tag=3, exchange=topology.LEDGER, body=copy.body, message_id=copy.message_id)
    )
    assert world.acknowledged == [1, 2]
    assert world.service._held[handle].delivery.tag == 3


def test_the_copy_of_something_that_is_settled_meanwhile_is_settled_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Recorder(monkeypatch)
    world.up()
    world.deliver(2, request(), topology.REQUESTS)
    (handle,) = world.service._held
    world.service._refresh(time.monotonic() + REFRESH + 1)
    copy = world.published[-1]
    world.service._release(handle)
    world.service._guarded(
        delivery(tag=3, exchange=topology.LEDGER, body=copy.body, message_id=copy.message_id)
    )
    assert world.acknowledged == [1, 2, 3]
    assert world.service._held == {}


def test_every_start_has_a_marker_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also two on one connection, and one of a process that has the number of a dead one."""
    sent: list[Marker] = []
    for _ in range(2):
        service = Service("amqp://a:b@127.0.0.1:1/x")
        monkeypatch.setattr(service._outbox, "to_itself", sent.append)
        service._begin()
        service._begin()
    assert len({marker.start for marker in sent}) == len(sent) == 4
