"""Tenants on a real broker: their users may do what is theirs, and a flood of one is no other's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker

from tunemesh.broker_config.topology import CLIENTS, EVENTS, REQUESTS, VHOST, client_key, event_key
from tunemesh.broker_config.users import Management
from tunemesh.client import Client
from tunemesh.shared.accounts import Account, account_of
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Blob, JobEvent, Request

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


@pytest.fixture(scope="module")
def coordinator(node: Broker) -> Iterator[None]:
    command = [sys.executable, "-m", "tunemesh", "coordinator", "--broker", node.url("coordinator")]
    process = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL)
    yield
    process.terminate()
    process.wait(20)


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
    node: Broker, people: Callable[[str], str], coordinator: None
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


def test_who_does_not_say_who_it_is_has_no_answer(
    node: Broker, people: Callable[[str], str], coordinator: None
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
