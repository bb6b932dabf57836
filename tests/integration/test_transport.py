"""The link to the broker, where things go wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pika
import pytest

from tests.conftest import Broker
from tunemesh.broker_config import topology
from tunemesh.broker_config.node import PrivateNode
from tunemesh.broker_config.tools import run_tool
from tunemesh.coordinator.service.held import PREFETCH
from tunemesh.shared.errors import BadInput, BrokerRefused, LinkDown
from tunemesh.shared.transport import link as link_module
from tunemesh.shared.transport.link import Delivery, Down, Link, Outgoing, Subscription, Up

QUEUE = "test.full"

T = TypeVar("T")


pytestmark = pytest.mark.waiting


@pytest.fixture
def link(node: Broker) -> Iterator[Link]:
    link = Link(node.url("admin"), "test_transport")
    link.start()
    yield link
    link.close()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_event(link: Link, kind: type[T]) -> T:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        event = link.next(0.2)
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__}")


def test_what_belongs_to_another_connection_is_not_sent(link: Link) -> None:
    up = await_event(link, Up)
    assert isinstance(up, Up)
    link.declare_queue(QUEUE).result(10)
    message = Outgoing("", QUEUE, b"decided", "id", "ledger")
    with pytest.raises(LinkDown, match="another one"):
        link.publish(message, up.epoch + 1).result(10)
    assert link.depth(QUEUE).result(10).ready == 0
    link.publish(message, up.epoch).result(10)
    assert link.depth(QUEUE).result(10).ready == 1
    link.purge(QUEUE).result(10)


def test_a_broker_that_is_low_on_memory_says_so_and_takes_what_waits_when_it_is_not_any_more(
    node: Broker, link: Link
) -> None:
    if not isinstance(node, PrivateNode):
        pytest.skip("needs rabbitmqctl")
    await_event(link, Up)
    link.declare_queue(QUEUE).result(10)
    limit = partial(run_tool, node.environment(), "rabbitmqctl", "set_vm_memory_high_watermark")
    limit("0.00001")
    try:
        sent = link.publish(Outgoing("", QUEUE, b"?", "id", "ledger"))
        with pytest.raises(TimeoutError):
            sent.result(1.0)
        assert "low on memory" in link.refusing
    finally:
        limit("0.4")
    sent.result(10)
    assert within(5.0, lambda: not link.refusing)
    link.purge(QUEUE).result(10)


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_message_that_the_broker_refuses_is_a_lost_connection(link: Link) -> None:
    await_event(link, Up)
    refusing = f"{QUEUE}.refusing"
    link.declare_queue(refusing, {"x-max-length": 1, "x-overflow": "reject-publish"}).result(10)
    message = Outgoing("", refusing, b"?", "id", "ledger")
    sent = [link.publish(message) for _ in range(5)]  # the limit is a little soft
    with pytest.raises(LinkDown, match="refused"):
        [each.result(10) for each in sent]
    await_event(link, Down)
    await_event(link, Up)
    assert link.depth(refusing).result(10).ready >= 1


def test_a_user_that_lacks_a_right_does_not_try_for_ever(node: Broker) -> None:
    link = Link(node.url("client"), "test_transport")
    link.start()
    try:
        with pytest.raises(LinkDown):
            link.publish(Outgoing(topology.STATUS, "", b"?", "id", "worker-status")).result(10)
        await_event(link, Up)  # that of the start
        with pytest.raises(BrokerRefused, match="lacks a right"):
            await_event(link, Up)
    finally:
        link.close()


class Late(datetime):
    """A date as only other clients can send it: milliseconds taken for seconds."""

    def utctimetuple(self) -> time.struct_time:
        return time.struct_time((2026, 1, 10**8, 0, 0, 0, 0, 1, 0))


def test_headers_that_cannot_be_read_cost_the_headers_only(link: Link) -> None:
    up = await_event(link, Up)
    link.declare_queue(QUEUE).result(10)
    link.consume(up, Subscription(QUEUE))
    headers: list[dict[str, Any]] = [{"key": Late(2026, 1, 1)}, {"key": 1}]
    for each in headers:
        link.publish(Outgoing("", QUEUE, b"body", "id", "ledger", each)).result(10)
    for _ in range(2):
        delivery = await_event(link, Delivery)
        assert delivery.body == b"body"
        link.ack(delivery)


@pytest.mark.parametrize(
    "url", ["http://host", "amqp://", "amqp://u:p[w@host/v", "amqp://u:p@host:port/v", "no url at all"]
)
def test_an_address_that_is_none_is_one_clear_line(url: str) -> None:
    with pytest.raises(BadInput, match="is no broker URL") as caught:
        Link(url, "test")
    assert "\n" not in str(caught.value)
    assert "p[w" not in str(caught.value)


def test_a_queue_that_somebody_else_has_for_itself_costs_the_connection_and_not_the_link(
    link: Link, node: Broker
) -> None:
    up = await_event(link, Up)
    queue = f"{QUEUE}.exclusive"
    link.declare_queue(queue).result(10)
    link.consume(up, Subscription(queue, exclusive=True))
    other = Link(node.url("admin"), "test_transport other")
    other.start()
    other.consume(await_event(other, Up), Subscription(queue, exclusive=True))
    assert "exclusive use" in await_event(other, Down).reason
    await_event(other, Up)
    assert other.depth(queue).result(10).consumers == 1
    other.close()


def test_a_refused_declaration_is_in_the_log_by_name_and_disturbs_nothing(
    node: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    link = Link(node.url("worker"), "test_transport")
    link.start()
    try:
        refused, probe = link.declare_queue("build-cpu.other"), link.depth(topology.BUILD_CPU)
        missing = link.depth("test.nowhere")
        with pytest.raises(PermissionError):
            refused.result(10)
        assert probe.result(10).ready >= 0
        with pytest.raises(LookupError):
            missing.result(10)
    finally:
        link.close()
    lines = [each.getMessage() for each in caplog.records if each.name.startswith("tunemesh")]
    assert any("refuses to declare queue build-cpu.other" in line for line in lines)
    assert not any("test.nowhere" in line for line in lines)  # a question, and its answer


def test_a_queue_to_consume_from_that_is_not_there_is_waited_for(
    link: Link, node: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    queue = f"{QUEUE}.late"
    other = Link(node.url("admin"), "late", subscriptions=[Subscription(queue)])
    other.begin()
    try:
        time.sleep(2.0)
        assert other.next(0.0) is None
        lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("late")]
        assert len(lines) == 1  # after several attempts
        assert "a queue to consume from is not there" in lines[0]
        assert queue in lines[0]
        link.declare_queue(queue).result(10)
        await_event(other, Up)
        link.publish(Outgoing("", queue, b"body", "id", "ledger")).result(10)
        other.ack(await_event(other, Delivery))
    finally:
        other.close()


def test_a_queue_that_is_deleted_under_its_consumer_is_named_at_once(
    link: Link, node: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    queue = f"{QUEUE}.deleted"
    link.declare_queue(queue).result(10)
    other = Link(node.url("admin"), "other", subscriptions=[Subscription(queue)])
    other.start()
    try:
        with pika.BlockingConnection(pika.URLParameters(node.url("admin"))) as admin:
            admin.channel().queue_delete(queue)
        await_event(other, Down)
        assert f"other: somebody has deleted queue {queue}, which it consumed from" in caplog.text
        link.declare_queue(queue).result(10)
        await_event(other, Up)
    finally:
        other.close()


@pytest.mark.parametrize(("old", "new"), [("worker:", "worker:no"), ("/tunemesh", "/nowhere")])
def test_a_login_or_a_virtual_host_that_the_broker_refuses_is_final(node: Broker, old: str, new: str) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerRefused, match=r"refuses this user name|virtual host does not exist") as caught:
        Link(node.url("worker").replace(old, new), "test_transport").start(timeout=None)
    assert caught.value.exit_code == 2
    assert time.monotonic() - began < 10


def test_nothing_that_several_threads_ask_for_at_once_is_left_undone(link: Link) -> None:
    """The link's thread is woken once for many commands: the last one must not be among those it misses."""
    await_event(link, Up)
    many = f"{QUEUE}.many"
    link.declare_queue(many).result(10)
    sent: list[Future[None]] = []

    def publish(writer: int) -> None:
        for number in range(300):
            future = link.publish(Outgoing("", many, b"?", f"{writer}/{number}", "ledger"))
            sent.append(future)
            if number % 7 == writer:
                future.result(10)  # the thread has nothing to do for a moment

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(publish, writer) for writer in range(4)]:
            each.result(60)
    assert [future.result(10) for future in sent] == [None] * 1200
    assert link.depth(many).result(10).ready == 1200
    link.purge(many).result(10)


def test_a_link_moves_to_another_host_when_its_own_is_gone(
    node: Broker, free_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What stands between the link and its node goes away, as a node of a cluster would."""
    monkeypatch.setattr(link_module.random, "randrange", lambda _: 0)
    real = urlsplit(node.url("admin"))
    assert real.port is not None
    relay = Relay(real.port)
    user, _, host = real.netloc.rpartition("@")
    hosts = f"127.0.0.1:{relay.port},127.0.0.1:{free_port},{host}"
    moving = Link(
        f"amqp://{user}@{hosts}{real.path}", "moving", subscriptions=[Subscription("own", bindings=())]
    )
    moving.start()
    try:
        await_event(moving, Up)
        assert relay.used
        relay.close()
        began = time.monotonic()
        await_event(moving, Down)
        await_event(moving, Up)
        assert time.monotonic() - began < 3
        moving.publish(Outgoing("", moving.own_queue("own"), b"body", "id", "ledger")).result(10)
        assert await_event(moving, Delivery).body == b"body"
        lost = [record.getMessage() for record in caplog.records if "has lost" in record.getMessage()]
        assert len(lost) == 1
        assert f"127.0.0.1:{relay.port}: " in lost[0]
        assert f":{user.partition(':')[2]}@" not in caplog.text
    finally:
        moving.close()
        relay.close()


def test_a_quorum_queue_delivers_all_that_the_coordinator_can_hold(link: Link) -> None:
    """One whose prefetch has no limit stops at 2,000."""
    up = await_event(link, Up)
    queue = f"{QUEUE}.quorum"
    link.declare_queue(queue, topology.Queue(queue).declared("quorum")).result(10)
    link.consume(up, Subscription(queue, PREFETCH))
    sent = [link.publish(Outgoing("", queue, b"?", str(number), "ledger")) for number in range(2100)]
    held = {await_event(link, Delivery).message_id for _ in sent}
    assert len(held) == 2100


class Relay:
    """Passes on what comes, until it is closed."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def used(self) -> bool:
        """Whether anybody has come."""
        return len(self._open) > 1

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=ends, daemon=True).start()

    def close(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
