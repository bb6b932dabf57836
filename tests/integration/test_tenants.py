"""Tenants on a real broker: their users may do what is theirs, and a flood of one is no other's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker

from tunemesh.broker_config.topology import (
    CLIENTS,
    COORDINATOR,
    EVENTS,
    REQUESTS,
    VHOST,
    client_key,
    event_key,
    requests_queue,
)
from tunemesh.broker_config.users import Management
from tunemesh.client import Client
from tunemesh.shared import codec
from tunemesh.shared.accounts import Account, account_of
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Blob, JobEvent, Query, Request, Snapshot
from tunemesh.shared.transport import link as link_module

if TYPE_CHECKING:
    from tests.conftest import Broker

ANN, BOB, EVE, MAX = "client.acme.ann", "client.acme.bob", "client.zeta.eve", "operator.max"
PASSWORD = "s3cret of all"


def account(user: str) -> Account:
    found = account_of(user)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def people(node: Broker) -> Iterator[Callable[[str], str]]:
    """Gives the broker's address for a user."""
    users = Management(node.management_url, node.password("admin"), VHOST)
    for name in (ANN, BOB, EVE, MAX):
        users.add(account(name), PASSWORD)
    host = node.url("client").partition("@")[2]
    yield lambda user: f"amqp://{user}:{PASSWORD.replace(' ', '%20')}@{host}"
    for name in (ANN, BOB, EVE, MAX):
        users.remove(name)


class Coordinator:
    """A real one, without workers."""

    def __init__(self, url: str) -> None:
        self._command = [sys.executable, "-m", "tunemesh", "coordinator", "--broker", url]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=dict(os.environ), stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(20)


@pytest.fixture(scope="module")
def coordinator(node: Broker) -> Iterator[Coordinator]:
    running = Coordinator(node.url("coordinator"))
    yield running
    running.kill()
    # What it held waits for a successor, which other tests are not.
    with channel(node.url("admin")) as admin:
        admin.queue_purge(COORDINATOR)
        for tenant in ("acme", "zeta"):
            admin.queue_delete(requests_queue(tenant).name)


@contextlib.contextmanager
def channel(url: str) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(url)) as link:
        opened = link.channel()
        opened.confirm_delivery()
        yield opened


def ask(node: Broker, path: str) -> Any:
    request = urllib.request.Request(f"{node.management_url}/api/{path}")
    login = b64encode(f"admin:{node.password('admin')}".encode()).decode()
    request.add_header("Authorization", f"Basic {login}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def wanted(job: str, tenant: str = "") -> Request:
    """For a device that nobody has: it waits."""
    return Request(job=job, model=Blob("0" * 64, 0, b""), target="none", engines=["mock"], tenant=tenant)


def until_told(client: Client, limit: float = 10.0) -> JobEvent:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if (event := client.poll()) is not None:
            return event
        time.sleep(0.02)
    raise AssertionError("nothing is told")


Deed = Callable[[BlockingChannel], Any]
MINE = f"{EVE}.001"


def bind(opened: BlockingChannel, key: str) -> None:
    opened.queue_declare(MINE, exclusive=True)
    opened.queue_bind(MINE, EVENTS, key)


@pytest.mark.parametrize(
    ("what", "do"),
    [
        ("follow a job of another tenant", lambda c: bind(c, event_key("acme", "job", "*"))),
        ("follow a job of nobody", lambda c: bind(c, event_key("", "job", "*"))),
        ("follow all jobs", lambda c: bind(c, event_key("*", "*", "*"))),
        ("follow everything", lambda c: bind(c, "#")),
        ("ask for another tenant", lambda c: c.basic_publish(CLIENTS, client_key("query", "acme"), b"")),
        ("ask for nobody", lambda c: c.basic_publish(CLIENTS, client_key("request", ""), b"")),
        ("change the strategy", lambda c: c.basic_publish(CLIENTS, "strategy", b"")),
        ("have the queue of another user", lambda c: c.queue_declare(f"{ANN}.001")),
        ("have many queues", lambda c: c.queue_declare(f"{EVE}.0000")),
        ("read what others ask", lambda c: c.basic_get(REQUESTS)),
        ("read what its own tenant asks", lambda c: c.basic_get(f"{REQUESTS}.zeta")),
    ],
)
def test_a_client_may_not(people: Callable[[str], str], what: str, do: Deed) -> None:
    with channel(people(EVE)) as opened, pytest.raises(ChannelClosedByBroker) as caught:
        do(opened)
    assert caught.value.reply_code in (403, 404), what
    if caught.value.reply_code == 404:  # its queue is not there yet; once it is, this is refused
        assert what == "read what its own tenant asks"


def test_a_job_is_the_business_of_its_tenant_and_of_operators(
    node: Broker, people: Callable[[str], str], coordinator: Coordinator
) -> None:
    with (
        Client(people(ANN), ["hers"]) as ann,
        Client(people(BOB), ["hers"]) as bob,
        Client(people(EVE), ["hers"]) as eve,
        Client(people(MAX), ["hers"]) as operator,
    ):
        ann.submit(wanted("hers"))
        for client in (ann, bob, operator):
            event = until_told(client)
            assert (event.job, event.kind) == ("hers", "accepted")
            assert event.progress is not None
            assert (event.progress.tenant, event.progress.asked_by) == ("acme", ANN)

        assert eve.snapshot("hers").rejected == "job hers belongs to another tenant"
        assert eve.snapshot().jobs == []
        eve.cancel("hers")
        assert until_told(eve).text == "job hers belongs to another tenant"
        eve.submit(wanted("forged", tenant="acme"))
        assert until_told(eve).text == f"it names tenant acme, and user {EVE} belongs to tenant zeta"
        with pytest.raises(BadInput, match="for operators"):
            eve.census()
        assert [each.job for each in bob.snapshot().jobs] == ["hers"]
        assert [each.job for each in operator.snapshot().jobs] == ["hers"]

        # By now both tenants have a queue of their own, and are heard there.
        queues = {each["name"] for each in ask(node, f"queues/{VHOST}")}
        assert {"requests.acme", "requests.zeta"} <= queues
        bob.cancel("hers")
        deadline = time.monotonic() + 10
        while (event := until_told(ann)).kind != "cancelled":
            assert time.monotonic() < deadline
        assert event.progress is not None
        assert event.progress.cancelled is not None
        assert event.progress.cancelled.by == BOB
        assert eve.poll() is None

        # A successor reads the same queues, and knows whose the job was.
        coordinator.kill()
        coordinator.start()
        assert [each.phase for each in bob.snapshot("hers", timeout=20.0).jobs] == ["cancelled"]
        assert eve.snapshot("hers").rejected == "job hers belongs to another tenant"


def test_a_tenant_that_floods_is_told_to_wait_and_others_are_answered(
    node: Broker, people: Callable[[str], str], coordinator: Coordinator
) -> None:
    with Client(people(ANN)) as ann, Client(people(EVE)) as eve, channel(people(EVE)) as flooding:
        for client in (ann, eve):
            client.snapshot(timeout=20.0)  # by now both have a queue
        time.sleep(0.5)
        flooding.queue_declare(MINE, exclusive=True)
        query = pika.BasicProperties(reply_to=MINE, user_id=EVE, correlation_id="q")
        body = codec.encode(Query())
        with pika.BlockingConnection(pika.URLParameters(people(EVE))) as link:
            unconfirmed = link.channel()
            for _ in range(5_000):
                unconfirmed.basic_publish(CLIENTS, client_key("query", "zeta"), body, query)
            began = time.monotonic()
            for _ in range(5):
                ann.snapshot()
            assert time.monotonic() - began < 5.0
        answers = [codec.decode(body, JobEvent, Snapshot) for body in taken(flooding, MINE, 250)]
        assert sum(isinstance(each, Snapshot) for each in answers) >= 200
        refusals = [each.text for each in answers if isinstance(each, JobEvent)]
        assert refusals
        assert all(text.startswith("try again in ") for text in refusals)
        # All others stay where they are, in the queue of this tenant.
        with channel(node.url("admin")) as admin:
            name = requests_queue("zeta").name
            assert admin.queue_declare(name, passive=True).method.message_count > 3_000
            admin.queue_purge(name)


def taken(opened: BlockingChannel, queue: str, most: int) -> list[bytes]:
    """The next messages of a queue, until there are so many, or none comes for two seconds."""
    found: list[bytes] = []
    for method, _, body in opened.consume(queue, auto_ack=True, inactivity_timeout=2):
        if method is None or body is None:
            break
        found.append(bytes(body))
        if len(found) == most:
            break
    opened.cancel()
    return found


def test_who_does_not_say_who_it_is_has_no_answer(
    node: Broker, people: Callable[[str], str], coordinator: Coordinator
) -> None:
    with channel(people(EVE)) as opened, channel(node.url("admin")) as admin:
        admin.queue_purge("dead-letter")
        opened.queue_declare(MINE, exclusive=True)
        opened.basic_publish(CLIENTS, "query.zeta", b"?", pika.BasicProperties(reply_to=MINE))
        deadline = time.monotonic() + 10
        while (letter := admin.basic_get("dead-letter", auto_ack=True))[0] is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert letter[1].headers["reason"].startswith("it does not say who sends it")
        assert opened.basic_get(MINE)[0] is None


def test_a_user_has_so_many_connections(node: Broker, people: Callable[[str], str]) -> None:
    assert ask(node, f"user-limits/{EVE}") == [
        {"user": EVE, "value": {"max-channels": 256, "max-connections": 64}}
    ]
    opened = []
    try:
        with pytest.raises((ConnectionClosedByBroker, AMQPError)):  # noqa: PT012 - whichever is too many
            for _ in range(70):
                opened.append(pika.BlockingConnection(pika.URLParameters(people(EVE))))
        assert 50 <= len(opened) <= 64
        with channel(people(ANN)):
            pass  # others can
    finally:
        for link in opened:
            link.close()


def test_the_users_of_the_definitions_have_limits(node: Broker) -> None:
    limited = {each["user"] for each in ask(node, "user-limits")}
    assert {"client", "operator"} <= limited
    assert not {"worker", "coordinator"} & limited


def test_a_name_of_a_queue_that_is_taken_is_left_for_another(
    people: Callable[[str], str], coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are few names, so that nobody can have many queues."""
    names = iter([*(uuid.UUID(int=1 << 120) for _ in range(2)), *(uuid.uuid4() for _ in range(99))])
    monkeypatch.setattr(link_module.uuid, "uuid4", lambda: next(names))
    with channel(people(BOB)) as other:
        other.queue_declare(f"{BOB}.010", exclusive=True)
        with Client(people(BOB)) as bob:
            assert bob.snapshot().strategy == "interleaved"
            assert bob._link.own_queue(BOB) != f"{BOB}.010"
    assert next(names).version == 4  # the one that was taken was tried
