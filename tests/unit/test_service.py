"""The coordinator's loop: whatever arrives, it goes on, and settles what it was given once."""

from __future__ import annotations

import dataclasses
import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.world import request
from tunemesh.broker_config import topology
from tunemesh.coordinator.cells.messages import CellStatus, Forget, Handed, Placed
from tunemesh.coordinator.core import Core
from tunemesh.coordinator.events import Acknowledge, Instruction, Save, SaveFailed, Tick
from tunemesh.coordinator.jobs.ledger import Ledger, Marker, Tenants
from tunemesh.coordinator.service import service as service_module
from tunemesh.coordinator.service.held import REFRESH, HeldDeliveries
from tunemesh.coordinator.service.outbox import Outbox
from tunemesh.coordinator.service.service import Service
from tunemesh.shared import codec
from tunemesh.shared.messages import Message, Query
from tunemesh.shared.transport.link import Delivery, Link, Outgoing, Subscription, Up

BYTES = b"\xff\xfe"
LEDGER = Ledger(request=request(), revision=0, phase="importing", accepted=0.0)


class FakeLink:
    """Takes note; refuses messages of one type or to one exchange. What is published to the coordinator's own
    queue can be delivered."""

    def __init__(self, *_: object, **__: object) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.acknowledged: list[int] = []
        self.published: list[Outgoing] = []
        self.user = "coordinator"
        self.refuses = "nothing"
        self.consumed: list[str] = []
        self.started_over = 0
        self.declared: list[str] = []
        self.bound: list[tuple[str, str, str]] = []
        self.sent_together: list[int] = []
        """How many messages were published, each time that they are handed over at once."""

    def next(self, _timeout: float) -> Any:
        try:
            return self.events.get_nowait()
        except queue.Empty:
            return None

    @contextmanager
    def together(self) -> Iterator[None]:
        before = len(self.published)
        yield
        self.sent_together.append(len(self.published) - before)

    def ack(self, delivery: Delivery) -> None:
        self.acknowledged.append(delivery.tag)

    def publish(self, message: Outgoing, _epoch: int = 0) -> Future[None]:
        done: Future[None] = Future()
        if self.refuses in (message.type, message.exchange):
            done.set_exception(PermissionError("nacked"))
        else:
            self.published.append(message)
            done.set_result(None)
        return done

    def start_over(self, _reason: str) -> None:
        self.started_over += 1

    def depth(self, _queue: str) -> Future[None]:
        return Future()

    def consume(self, _up: Up, subscription: Subscription) -> None:
        self.consumed.append(subscription.queue)

    def declare_queue(self, name: str, _arguments: object) -> Future[None]:
        return self._noted(self.declared, name)

    def bind(self, queue: str, exchange: str, key: str) -> Future[None]:
        return self._noted(self.bound, (queue, exchange, key))

    def _noted(self, where: list[Any], what: object) -> Future[None]:
        done: Future[None] = Future()
        where.append(what)
        done.set_result(None)
        return done

    def of_type(self, kind: type[Message]) -> list[Any]:
        """The published messages of a type."""
        found = []
        for each in self.published:
            if each.type == kind.__struct_config__.tag:
                found.append(codec.decode(each.body, kind))
        return found

    def queued(self) -> list[Any]:
        return [self.events.get_nowait() for _ in range(self.events.qsize())]


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> FakeLink:
    """That of the next :class:`Service`."""
    fake = FakeLink()
    monkeypatch.setattr(service_module, "Link", lambda *_, **__: fake)
    return fake


@pytest.fixture
def service(link: FakeLink, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Connected and settled. Its marker had tag 1."""
    service = Service("amqp://a:b@127.0.0.1:1/x")
    service.take(Up(1))
    service.take(delivery(tag=0, body=b"", exchange="nobody's"))  # the first one makes it the active one
    marker = link.of_type(Marker)[-1]
    service.take(delivery(tag=1, exchange=topology.LEDGER, body=codec.encode(marker), message_id="marker"))
    now = time.monotonic()
    monkeypatch.setattr(service_module.time, "monotonic", lambda: now + 60.0)
    service.take(Tick())
    link.acknowledged.clear()
    link.published.clear()
    return service


def delivery(**fields: Any) -> Delivery:
    usual: dict[str, Any] = {
        "epoch": 0,
        "tag": 1,
        "queue": topology.COORDINATOR,
        "exchange": topology.CLIENTS,
        "key": "request.-",
        "user": "client",
        "body": b"no request",
        "message_id": "m",
        "reply_to": "client.001",
        "correlation_id": "c",
        "sent_at": None,
    }
    return Delivery(**(usual | fields))


def requested(tag: int) -> Delivery:
    return delivery(tag=tag, body=codec.encode(request()), message_id=request().message_id())


def test_what_follows_from_all_that_is_there_is_sent_at_once(service: Service, link: FakeLink) -> None:
    for tag in range(2, service_module.AT_ONCE + 5):
        query = codec.encode(Query())
        link.events.put(delivery(tag=tag, body=query, message_id=f"query {tag}"))
    assert service.take_those_there()
    assert service.take_those_there()
    assert link.sent_together == [service_module.AT_ONCE, 3]
    assert link.acknowledged == list(range(2, service_module.AT_ONCE + 5))
    assert service.take_those_there()
    assert link.sent_together[2:] == [0]
    link.events.put(delivery(tag=99, body=codec.encode(Query())))
    service._signalled(15, None)
    link.events.put(delivery(tag=100, body=codec.encode(Query())))
    assert not service.take_those_there()
    assert link.acknowledged[-1] == 99


def breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the core raises whatever it is given."""
    monkeypatch.setattr(Core, "handle", lambda *_: 1 / 0)


@pytest.fixture
def real_link() -> Iterator[Link]:
    link = Link("amqp://a:b@127.0.0.1:1/x", "test")
    yield link
    link.close(timeout=0.1)


def test_short_strings_that_are_no_text_arrive_as_text(real_link: Link) -> None:
    method = SimpleNamespace(delivery_tag=1, exchange=BYTES, routing_key=BYTES, redelivered=False)
    properties = SimpleNamespace(
        headers=None, message_id=BYTES, reply_to=BYTES, correlation_id=BYTES, user_id=None
    )
    real_link._delivered(1, "coordinator", method, properties, b"")
    delivery = real_link.next(0.1)
    assert isinstance(delivery, Delivery)
    texts = (delivery.exchange, delivery.key, delivery.message_id, delivery.reply_to, delivery.correlation_id)
    assert texts == ("��",) * 5


@pytest.mark.parametrize("where", ["reply_to", "message_id", "correlation_id", "body", "exchange"])
def test_a_delivery_that_nothing_can_be_done_with_does_not_end_the_coordinator(
    where: str, service: Service, link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "publish", lambda *_: (_ for _ in ()).throw(TypeError("unsendable")))
    service.take(delivery(tag=2, **{where: object()}))
    assert link.acknowledged == [2]


def test_a_delivery_that_met_a_defect_is_settled_once(
    service: Service, link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        breaks(patch)
        service.take(delivery(tag=2, body=codec.encode(Query())))
    assert link.acknowledged == [2]
    (letter,) = [each for each in link.published if each.exchange == topology.DEAD]
    assert "ZeroDivisionError" in letter.headers["reason"]
    later = time.monotonic() + REFRESH + 1
    monkeypatch.setattr(service_module.time, "monotonic", lambda: later)
    service.take(Tick())
    assert not any("copy" in each.headers for each in link.published)


def test_a_tick_that_meets_a_defect_does_not_end_the_coordinator(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    breaks(monkeypatch)
    service.take(Tick())
    assert "ZeroDivisionError" in caplog.text


def test_what_dead_letter_does_not_take_is_not_held_for_ever(service: Service, link: FakeLink) -> None:
    link.refuses = topology.DEAD
    service.take(delivery(tag=2))
    assert link.acknowledged == [2]


def test_a_ledger_that_cannot_be_read_ends_its_job(service: Service, link: FakeLink) -> None:
    service.take(requested(tag=2))
    service.take(delivery(tag=3, exchange=topology.LEDGER, body=b"garbage", correlation_id="job"))
    saved = link.of_type(Ledger)
    assert [each.phase for each in saved] == ["importing", "failed"]
    assert saved[-1].error.startswith("its ledger cannot be read:")


def test_an_instruction_that_cannot_be_done_leaves_the_others(
    service: Service, link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.take(requested(tag=2))
    out: list[Instruction] = [Save(LEDGER), Acknowledge(1)]
    monkeypatch.setattr(Core, "handle", lambda *_: out)
    monkeypatch.setattr(Outbox, "to_itself", lambda *_: 1 / 0)
    link.queued()
    service.take(Tick())
    assert link.acknowledged == [2]
    cause = "a defect of the coordinator: ZeroDivisionError: division by zero"
    assert link.queued() == [SaveFailed("job", cause)]


def test_what_is_held_for_long_is_published_anew_until_that_has_worked() -> None:
    link = FakeLink()
    held = HeldDeliveries(Outbox(link), "coordinator")  # type: ignore[arg-type]
    handle = held.hold(delivery(tag=2, body=b"body"), "request", now=0.0)
    held.refresh(REFRESH - 1)
    assert link.published == []
    link.refuses = "request"
    held.refresh(REFRESH + 1)
    link.refuses = "nothing"
    held.refresh(REFRESH + 1)
    held.refresh(REFRESH + 2)  # on its way already
    (copy,) = link.published
    assert (copy.body, copy.correlation_id, copy.headers["copy"]) == (b"body", "c", "held for long")
    arrived = delivery(tag=3, exchange=topology.LEDGER, body=copy.body, message_id=copy.message_id)
    assert held.takes(arrived, REFRESH + 3)
    assert link.acknowledged == [2]
    held.release(handle)
    assert link.acknowledged == [2, 3]
    assert not held.takes(arrived, REFRESH + 3)


def test_the_copy_of_something_that_is_settled_meanwhile_is_settled_too() -> None:
    link = FakeLink()
    held = HeldDeliveries(Outbox(link), "coordinator")  # type: ignore[arg-type]
    handle = held.hold(delivery(tag=2), "request", now=0.0)
    held.refresh(REFRESH + 1)
    held.release(handle)
    (copy,) = link.published
    assert held.takes(delivery(tag=3, exchange=topology.LEDGER, message_id=copy.message_id), REFRESH + 2)
    assert link.acknowledged == [2, 3]
    assert len(held) == 0


def test_a_broker_with_a_log_does_not_have_to_keep_all_that_came_after_something_that_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tunemesh.coordinator.service.held.LOG", 1000)
    link = FakeLink()
    outbox = Outbox(link)  # type: ignore[arg-type]
    outbox.kind = "quorum"
    held = HeldDeliveries(outbox, "coordinator")
    held.hold(delivery(tag=0, body=b"old"), "ledger", now=0.0)
    for tag in range(1, 101):  # 10,000 bytes pass
        held.release(held.hold(delivery(tag=tag, body=b"x" * 100), "step-result", now=0.0))
        before = len(link.published)
        held.refresh(0.0)
        for copy in link.published[before:]:
            assert copy.body == b"old"
            again = delivery(
                tag=1000 + tag, exchange=topology.LEDGER, body=b"old", message_id=copy.message_id
            )
            assert held.takes(again, 0.0)
    assert len(link.published) == 10


def test_copies_are_a_part_of_what_passes_however_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunemesh.coordinator.service.held.LOG", 1000)
    link = FakeLink()
    outbox = Outbox(link)  # type: ignore[arg-type]
    outbox.kind = "quorum"
    held = HeldDeliveries(outbox, "coordinator")
    for tag in range(100):
        held.hold(delivery(tag=tag, body=b"x" * 100), "ledger", now=0.0)
    passed = 0
    for tag in range(100, 2100):
        held.release(held.hold(delivery(tag=tag, body=b"y" * 100), "step-result", now=0.0))
        passed += 100
        before = len(link.published)
        held.refresh(0.0)
        for number, copy in enumerate(link.published[before:], start=1):
            taken = delivery(
                tag=-number - before, exchange=topology.LEDGER, body=copy.body, message_id=copy.message_id
            )
            assert held.takes(taken, 0.0)
    copied = sum(len(copy.body) for copy in link.published)
    assert 0 < copied <= passed / 3  # a fourth of all


def test_every_start_has_a_marker_of_its_own(link: FakeLink) -> None:
    """Also two on one connection, and one of a process that has the number of a dead one."""
    for _ in range(2):
        service = Service("amqp://a:b@127.0.0.1:1/x")
        service.take(Up(1))
        service.take(Up(2))
    sent = [marker.start for marker in link.of_type(Marker)]
    assert len(set(sent)) == len(sent) == 4


def sent_by(user: str, tag: int, message: Message | None = None, **fields: Any) -> Delivery:
    tenant = user.split(".")[1] if user.count(".") == 2 else "-"
    usual: dict[str, Any] = {"user": user, "key": f"query.{tenant}", "reply_to": f"{user}.001"}
    body = codec.encode(message if message is not None else Query())
    return delivery(**(usual | {"tag": tag, "body": body} | fields))


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ("", "it does not say who sends it: set its property user_id to the user that is logged in"),
        ("guest", "user guest has no role here: users are called client.TENANT.NAME"),
        ("worker", "user worker has no role here"),
        ("client.acme", "user client.acme has no role here"),
    ],
)
def test_what_nobody_known_sends_is_put_aside(
    service: Service, link: FakeLink, user: str, reason: str
) -> None:
    service.take(sent_by(user, 2, reply_to="client.001"))
    (letter,) = link.published
    assert letter.exchange == topology.DEAD
    assert str(letter.headers["reason"]).startswith(reason)
    assert link.acknowledged == [2]


@pytest.mark.parametrize(
    ("user", "reply_to", "answered"),
    [
        ("client", "client.001", True),
        ("client.acme.ann", "client.acme.ann.f0e", True),
        ("operator.eve", "operator.eve.123", True),
        ("coordinator", "operator.123", True),
        ("client.acme.ann", "client.acme.bob.f0e", False),
        ("client.acme.ann", "client.001", False),
        ("client", "client.acme.ann.f0e", False),
        ("client", "build-cpu", False),
        ("client", "coordinator", False),
    ],
)
def test_answers_go_to_queues_of_the_one_who_asks(
    service: Service, link: FakeLink, user: str, reply_to: str, answered: bool
) -> None:
    service.take(sent_by(user, 2, reply_to=reply_to))
    service.take(sent_by(user, 3, reply_to=reply_to, body=b"garbage"))
    assert [each.key for each in link.published if each.exchange == ""] == [reply_to] * (2 * answered)
    assert link.acknowledged == [2, 3]


def test_the_tenant_of_a_job_is_that_of_the_user(service: Service, link: FakeLink) -> None:
    service.take(sent_by("client.acme.ann", 2, request()))
    (ledger,) = link.of_type(Ledger)
    assert (ledger.request.tenant, ledger.asked_by) == ("acme", "client.acme.ann")
    keys = [each.key for each in link.published if each.exchange == topology.EVENTS]
    assert keys == ["job.acme.job.accepted"]


def noted(link: FakeLink) -> list[list[str]]:
    return [each.names for each in link.of_type(Tenants)]


def back(link: FakeLink, tag: int, names: list[str]) -> Delivery:
    body = codec.encode(Tenants(names=names))
    return delivery(tag=tag, exchange=topology.LEDGER, key="ledger", user="", reply_to=None, body=body)


def test_each_tenant_gets_a_queue_once_it_is_noted_that_there_is_one(
    service: Service, link: FakeLink
) -> None:
    assert link.consumed == ["requests"]
    for tag, user in enumerate(["client.acme.ann", "client.acme.bob", "client", "operator.eve"], 2):
        service.take(sent_by(user, tag))
    assert noted(link) == [["acme"]]
    assert link.consumed == ["requests"]
    service.take(back(link, 10, ["acme"]))
    assert link.declared == ["requests.acme"]
    assert link.bound == [
        ("requests.acme", topology.CLIENTS, f"{kind}.acme") for kind in ("request", "cancel", "query")
    ]
    assert link.consumed == ["requests", "requests.acme"]
    service.take(sent_by("client.zeta.eve", 11))
    assert noted(link)[1:] == [["acme", "zeta"]]
    assert 10 not in link.acknowledged
    service.take(back(link, 12, ["acme", "zeta"]))
    assert link.consumed == ["requests", "requests.acme", "requests.zeta"]
    assert link.acknowledged[-1] == 10  # the newer one says the same


def test_a_successor_reads_the_same_queues(service: Service, link: FakeLink) -> None:
    service.take(back(link, 10, ["acme"]))
    link.consumed.clear()
    service.take(Up(2))
    service.take(delivery(tag=11, body=b"", exchange="nobody's"))
    service.take(back(link, 12, ["acme"]))
    assert link.consumed == ["requests", "requests.acme"]
    assert 12 not in link.acknowledged


def test_what_two_coordinators_have_noted_is_put_together(service: Service, link: FakeLink) -> None:
    service.take(back(link, 10, ["acme"]))
    service.take(back(link, 11, ["zeta"]))
    assert link.consumed == ["requests", "requests.acme", "requests.zeta"]
    assert noted(link) == [["acme", "zeta"]]
    assert link.acknowledged == []
    service.take(back(link, 12, ["acme", "zeta"]))
    assert link.acknowledged == [10, 11]


def test_one_that_stands_by_reads_no_requests(link: FakeLink) -> None:
    service = Service("amqp://a:b@127.0.0.1:1/x")
    service.take(Up(1))
    service.take(Tick())
    assert link.consumed == []


def test_what_waits_at_a_desk_is_not_published_anew() -> None:
    """A copy of it would come back as the coordinator's own, with nobody's name."""
    link = FakeLink()
    held = HeldDeliveries(Outbox(link), "coordinator")  # type: ignore[arg-type]
    held.hold(delivery(tag=2, body=codec.encode(request()), queue="requests.acme"), "request", now=0.0)
    held.refresh(REFRESH + 1)
    assert link.published == []


# -- The coordinator of a cell -------------------------------------------------------------------------------


@pytest.fixture
def of_a_cell(link: FakeLink) -> Service:
    """Connected, and at work."""
    service = Service("amqp://a:b@127.0.0.1:1/x", cell="b")
    service.take(Up(1))
    service.take(handed(0, Query()))
    assert {each.key for each in link.published} == {"cell.b.ledger"}
    service.take(handed(1, link.of_type(Marker)[-1]))
    return service


def handed(tag: int, message: Message, name: str = "") -> Delivery:
    """From the desk, or from itself."""
    return delivery(
        tag=tag,
        queue="cell.b.coordinator",
        exchange=topology.LEDGER,
        key="cell.b.ledger",
        user="",
        reply_to=None,
        body=codec.encode(Handed(message=message) if isinstance(message, Query) else message),
        message_id=name or message.message_id(),
        correlation_id=getattr(message, "job", None),
    )


def test_the_coordinator_of_a_cell_hears_clients_at_the_desk_alone(
    of_a_cell: Service, link: FakeLink
) -> None:
    assert link.consumed == []
    asked = Handed(message=request(), user="client.acme.ann", tenant="acme", correlation_id="job")
    of_a_cell.take(dataclasses.replace(handed(2, LEDGER), body=codec.encode(asked)))
    settle(of_a_cell)
    (saved,) = link.of_type(Ledger)
    assert (saved.request.tenant, saved.asked_by) == ("acme", "client.acme.ann")


def settle(service: Service) -> None:
    for _ in range(8):
        service._core._settling_since = -1e9  # time has passed
        service.take(Tick())


def test_a_cell_starts_afresh_when_it_has_all_of_a_job_of_another_one(
    of_a_cell: Service, link: FakeLink
) -> None:
    settle(of_a_cell)
    of_a_cell.take(handed(5, LEDGER, name="moved/job/ledger/0"))
    assert link.started_over == 1
    # What comes until then comes again.
    of_a_cell.take(handed(6, LEDGER))
    assert 5 not in link.acknowledged
    assert 6 not in link.acknowledged


def test_a_cell_forgets_a_job_that_another_one_has(of_a_cell: Service, link: FakeLink) -> None:
    of_a_cell.take(dataclasses.replace(handed(5, LEDGER), correlation_id="job"))
    other = Ledger(request=request("other"), revision=0, phase="importing", accepted=0.0)
    of_a_cell.take(dataclasses.replace(handed(6, other), correlation_id="other"))
    of_a_cell.take(handed(7, Forget(job="job")))
    assert {5, 7} <= set(link.acknowledged)
    assert 6 not in link.acknowledged
    assert link.started_over == 1


def test_a_cell_that_has_nothing_of_a_job_does_not_start_afresh_to_forget_it(
    of_a_cell: Service, link: FakeLink
) -> None:
    of_a_cell.take(handed(7, Forget(job="job")))
    assert 7 in link.acknowledged
    assert link.started_over == 0


def test_a_cell_says_how_it_is_once_it_is_at_work(of_a_cell: Service, link: FakeLink) -> None:
    of_a_cell.look_around()
    assert link.of_type(CellStatus) == []
    settle(of_a_cell)
    of_a_cell._next.clear()
    of_a_cell.look_around()
    assert link.of_type(CellStatus)[0].cell == "b"


def test_where_jobs_are_is_kept_for_the_desk(service: Service, link: FakeLink) -> None:
    placed = Placed(job="job", cell="b")
    service.take(dataclasses.replace(handed(3, placed), queue=topology.COORDINATOR))
    assert link.acknowledged == []
    assert link.of_type(Ledger) == []
