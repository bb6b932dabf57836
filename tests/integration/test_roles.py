"""Each role can do its work on a real node, and nothing else."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker

from tunemesh.broker_config import topology
from tunemesh.broker_config.declare import ensure_topology
from tunemesh.broker_config.topology import (
    BUILD_CPU,
    CLIENTS,
    COORDINATOR,
    DEAD,
    EVENTS,
    LEDGER,
    QUERY,
    REQUESTS,
    RESULTS,
    STATUS,
    STEPS,
    client_key,
    device_queue,
    event_key,
    result_key,
    stage_binding,
    stage_queue,
    work_queue,
)
from tunemesh.shared.accounts import ROLES, Role
from tunemesh.shared.errors import BrokerRefused, BrokerUnavailable

if TYPE_CHECKING:
    from tests.conftest import Broker

GPU = device_queue("gpu-0")
TOY = work_queue(BUILD_CPU, ["toy"])
ASKS = client_key(QUERY, "")
PERSISTENT = pika.BasicProperties(delivery_mode=2)


@contextmanager
def channel(node: Broker, role: Role) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(node.url(role))) as link:
        opened = link.channel()
        opened.confirm_delivery()
        yield opened


def declare_stage(opened: BlockingChannel, name: str) -> None:
    queue, binding = stage_queue(name), stage_binding(name)
    opened.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
    opened.queue_bind(binding.queue, binding.exchange, binding.key)


def take(opened: BlockingChannel, queue: str) -> bytes:
    """The next message of a queue, which must be there; takes it off."""
    for _, _, body in opened.consume(queue, auto_ack=True, inactivity_timeout=5):
        opened.cancel()
        assert body is not None, f"nothing arrived on {queue}"
        return bytes(body)
    raise AssertionError("consume ended")


def test_a_query_travels_from_client_to_coordinator_and_back(node: Broker) -> None:
    mine = "client.0a1"
    with channel(node, "client") as client, channel(node, "coordinator") as coordinator:
        client.queue_declare(mine, exclusive=True)
        client.queue_bind(mine, EVENTS, event_key("", "job1", "*"))
        client.basic_publish(
            CLIENTS, ASKS, b"?", pika.BasicProperties(reply_to=mine, user_id="client"), mandatory=True
        )
        assert take(coordinator, REQUESTS) == b"?"
        coordinator.basic_publish("", mine, b"answer", mandatory=True)
        assert take(client, mine) == b"answer"
        coordinator.basic_publish(EVENTS, event_key("", "job1", "done"), b"news", PERSISTENT, mandatory=True)
        assert take(client, mine) == b"news"


def test_a_step_travels_from_coordinator_to_worker_and_back(node: Broker) -> None:
    with channel(node, "coordinator") as coordinator, channel(node, "worker") as worker:
        declare_stage(coordinator, GPU)
        declare_stage(coordinator, TOY)
        for queue in (GPU, TOY, BUILD_CPU):
            assert coordinator.queue_declare(queue, passive=True).method.message_count == 0
            coordinator.basic_publish(STEPS, queue, b"step", PERSISTENT, mandatory=True)
            assert worker.queue_declare(queue, passive=True).method.queue == queue
            assert take(worker, queue) == b"step"
        worker.basic_publish(RESULTS, result_key("build"), b"result", PERSISTENT, mandatory=True)
        assert take(coordinator, COORDINATOR) == b"result"
        worker.basic_publish(DEAD, "", b"?!", pika.BasicProperties(headers={"reason": "no"}), mandatory=True)


def test_status_reaches_coordinators_and_monitors(node: Broker) -> None:
    with (
        channel(node, "coordinator") as coordinator,
        channel(node, "monitor") as monitor,
        channel(node, "worker") as worker,
    ):
        readers: list[tuple[BlockingChannel, str]] = [
            (coordinator, "coordinator.s"),
            (monitor, "monitor.s"),
        ]
        for reader, queue in readers:
            reader.queue_declare(queue, exclusive=True)
            reader.queue_bind(queue, STATUS)
        worker.basic_publish(STATUS, "", b"alive", mandatory=True)
        for reader, queue in readers:
            assert take(reader, queue) == b"alive"


def test_the_coordinator_moves_its_own_messages_on(node: Broker) -> None:
    with channel(node, "coordinator") as coordinator:
        coordinator.basic_publish(LEDGER, topology.LEDGER_KEY, b"ledger", PERSISTENT, mandatory=True)
        assert take(coordinator, COORDINATOR) == b"ledger"
        coordinator.basic_publish("", COORDINATOR, b"renewed", PERSISTENT, mandatory=True)
        assert take(coordinator, COORDINATOR) == b"renewed"
        for queue in (COORDINATOR, BUILD_CPU):
            coordinator.queue_purge(queue)


def test_what_a_worker_rejects_is_kept_aside(node: Broker) -> None:
    with (
        channel(node, "coordinator") as coordinator,
        channel(node, "worker") as worker,
        channel(node, "admin") as admin,
    ):
        admin.queue_purge(topology.DEAD_LETTER)
        coordinator.basic_publish(STEPS, BUILD_CPU, b"garbage", PERSISTENT, mandatory=True)
        for method, _, _ in worker.consume(BUILD_CPU, inactivity_timeout=5):
            worker.basic_reject(method.delivery_tag, requeue=False)
            break
        worker.cancel()
        assert take(admin, topology.DEAD_LETTER) == b"garbage"


def test_an_expired_query_is_dropped_and_no_alarm(node: Broker) -> None:
    with channel(node, "client") as client, channel(node, "admin") as admin:
        admin.queue_purge(topology.DEAD_LETTER)
        brief = pika.BasicProperties(reply_to="client.fff", expiration="100")
        client.basic_publish(CLIENTS, ASKS, b"?", brief, mandatory=True)
        deadline = time.monotonic() + 10
        while admin.queue_declare(REQUESTS, passive=True).method.message_count:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert admin.queue_declare(topology.DEAD_LETTER, passive=True).method.message_count == 0


Deed = Callable[[BlockingChannel], Any]

FORBIDDEN: list[tuple[Role, str, Deed]] = [
    ("client", "send a step", lambda c: c.basic_publish(STEPS, BUILD_CPU, b"")),
    ("client", "forge a result", lambda c: c.basic_publish(RESULTS, "result.build", b"")),
    ("client", "forge an event", lambda c: c.basic_publish(EVENTS, "job.-.a.done", b"")),
    ("client", "forge a decision", lambda c: c.basic_publish(LEDGER, "ledger", b"")),
    ("client", "write past the exchanges", lambda c: c.basic_publish("", COORDINATOR, b"")),
    ("client", "read requests", lambda c: c.basic_get(REQUESTS)),
    ("client", "change the strategy", lambda c: c.basic_publish(CLIENTS, "strategy", b"")),
    ("client", "ask for a tenant", lambda c: c.basic_publish(CLIENTS, "query.acme", b"")),
    ("client", "make a queue that outlasts it by name", lambda c: c.queue_declare("client.mine")),
    ("client", "take work", lambda c: c.basic_get(BUILD_CPU)),
    ("client", "purge", lambda c: c.queue_purge(COORDINATOR)),
    ("client", "make another queue", lambda c: c.queue_declare("mine", exclusive=True)),
    ("client", "delete a queue", lambda c: c.queue_delete(BUILD_CPU)),
    ("worker", "send a step", lambda c: c.basic_publish(STEPS, BUILD_CPU, b"")),
    ("worker", "send a request", lambda c: c.basic_publish(CLIENTS, "request.-", b"")),
    ("worker", "forge an event", lambda c: c.basic_publish(EVENTS, "job.-.a.done", b"")),
    ("worker", "write past the exchanges", lambda c: c.basic_publish("", COORDINATOR, b"")),
    ("worker", "use another key", lambda c: c.basic_publish(RESULTS, "other", b"")),
    ("worker", "read results", lambda c: c.basic_get(COORDINATOR)),
    ("worker", "declare a queue", lambda c: c.queue_declare("profile-mine", durable=True)),
    ("worker", "delete its queue", lambda c: c.queue_delete(BUILD_CPU)),
    ("coordinator", "send a request", lambda c: c.basic_publish(CLIENTS, "request.-", b"")),
    ("coordinator", "forge a result", lambda c: c.basic_publish(RESULTS, "result.build", b"")),
    ("coordinator", "use another key", lambda c: c.basic_publish(EVENTS, "other", b"")),
    ("coordinator", "delete a fixed queue", lambda c: c.queue_delete(BUILD_CPU)),
    ("coordinator", "delete an exchange", lambda c: c.exchange_delete(EVENTS)),
    ("monitor", "send a request", lambda c: c.basic_publish(CLIENTS, "request.-", b"")),
    ("monitor", "forge a status", lambda c: c.basic_publish(STATUS, "", b"")),
    ("monitor", "read requests", lambda c: c.basic_get(REQUESTS)),
    ("monitor", "purge", lambda c: c.queue_purge(BUILD_CPU)),
]


@pytest.mark.parametrize(("role", "deed", "do"), FORBIDDEN, ids=[f"{f[0]} may not {f[1]}" for f in FORBIDDEN])
def test_forbidden(node: Broker, role: Role, deed: str, do: Deed) -> None:
    with channel(node, role) as opened, pytest.raises(ChannelClosedByBroker) as caught:
        do(opened)
    assert caught.value.reply_code == 403, deed


def test_a_client_cannot_listen_to_keys_that_are_no_events(node: Broker) -> None:
    mine = "client.0a2"
    with channel(node, "client") as client:
        client.queue_declare(mine, exclusive=True)
        with pytest.raises(ChannelClosedByBroker) as caught:
            client.queue_bind(mine, EVENTS, "#")
    assert caught.value.reply_code == 403


def test_nobody_speaks_in_anothers_name(node: Broker) -> None:
    with channel(node, "client") as client, pytest.raises(ChannelClosedByBroker) as caught:
        client.basic_publish(CLIENTS, ASKS, b"", pika.BasicProperties(user_id="admin"))
    assert caught.value.reply_code == 406


def test_the_default_account_does_not_exist(node: Broker) -> None:
    url = node.url("admin")
    stranger = "amqp://guest:guest@" + url.partition("@")[2]
    with pytest.raises(AMQPConnectionError):
        pika.BlockingConnection(pika.URLParameters(stranger))


def test_a_mebibyte_passes_and_one_byte_more_does_not(node: Broker) -> None:
    body = bytes(topology.MAX_MESSAGE_BYTES)
    headers = pika.BasicProperties(headers={"envelope": "x" * 10_000})
    with channel(node, "coordinator") as coordinator:
        coordinator.basic_publish(STEPS, BUILD_CPU, body, headers, mandatory=True)
        assert len(take(coordinator, BUILD_CPU)) == len(body)
        with pytest.raises(ChannelClosedByBroker) as caught:
            coordinator.basic_publish(STEPS, BUILD_CPU, body + b"!", mandatory=True)
    assert caught.value.reply_code == 406


@pytest.mark.parametrize("role", ROLES)
def test_only_monitor_and_admin_see_the_management_api(node: Broker, role: Role) -> None:
    request = urllib.request.Request(f"{node.management_url}/api/overview")
    login = base64.b64encode(f"{role}:{node.password(role)}".encode()).decode()
    request.add_header("Authorization", f"Basic {login}")
    if role in ("monitor", "admin"):
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert "rabbitmq_version" in json.load(answer)
    else:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=10)


class PikaDeclarer:
    """The protocol of :mod:`broker_config.declare` on a blocking connection."""

    def __init__(self, link: pika.BlockingConnection) -> None:
        self._link = link

    def _try(self, do: Deed) -> None:
        refusals = {403: PermissionError, 404: LookupError, 406: ValueError}
        opened = self._link.channel()
        try:
            do(opened)
            opened.close()
        except ChannelClosedByBroker as error:
            raise refusals[error.reply_code](error.reply_text) from error

    def declare_exchange(self, name: str, kind: str, arguments: Any, durable: bool) -> None:
        self._try(lambda c: c.exchange_declare(name, kind, durable=durable, arguments=dict(arguments)))

    def declare_queue(self, name: str, arguments: Any, durable: bool) -> None:
        self._try(lambda c: c.queue_declare(name, durable=durable, arguments=dict(arguments)))

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self._try(lambda c: c.queue_bind(queue, exchange, key))

    def exists_exchange(self, name: str) -> None:
        self._try(lambda c: c.exchange_declare(name, passive=True))

    def exists_queue(self, name: str) -> None:
        self._try(lambda c: c.queue_declare(name, passive=True))


@pytest.mark.parametrize("role", ROLES)
def test_every_role_finds_the_topology(node: Broker, role: Role) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.url(role))) as link:
        ensure_topology(PikaDeclarer(link))


def test_a_missing_queue_is_named_and_an_administrator_restores_it(node: Broker) -> None:
    with (
        pika.BlockingConnection(pika.URLParameters(node.url("admin"))) as admin,
        pika.BlockingConnection(pika.URLParameters(node.url("worker"))) as worker,
    ):
        admin.channel().queue_delete(BUILD_CPU)
        with pytest.raises(BrokerUnavailable, match="lacks queue build-cpu"):
            ensure_topology(PikaDeclarer(worker))
        admin.channel().queue_declare(BUILD_CPU, durable=True, arguments={"x-max-length": 1})
        with pytest.raises(BrokerRefused, match="topology is not Tunemesh's"):
            ensure_topology(PikaDeclarer(admin))
        admin.channel().queue_delete(BUILD_CPU)
        ensure_topology(PikaDeclarer(admin))
        ensure_topology(PikaDeclarer(worker))
