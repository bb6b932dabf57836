"""How jobs ended, from the coordinator through a real broker to a worker's database, and back to a client."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from tests.unit.past import ended
from tunemesh import past_jobs
from tunemesh.broker_config import topology
from tunemesh.broker_config.users import Management
from tunemesh.client import Client
from tunemesh.shared import codec
from tunemesh.shared.accounts import account_of
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import Unavailable
from tunemesh.shared.messages import AskHistory, Cancel, Census, Message
from tunemesh.shared.transport.link import Delivery, Link, Outgoing, Subscription
from tunemesh.stage_workers import historian
from tunemesh.stage_workers.historian import Historian
from tunemesh.stage_workers.records import history
from tunemesh.stage_workers.records.database import Database

if TYPE_CHECKING:
    from tests.conftest import Broker

ALL = AskHistory(answer=past_jobs.NO_KEY)


@pytest.fixture
def coordinator(node: Broker) -> Iterator[Link]:
    link = Link(node.url("coordinator"), "coordinator of a test")
    link.start()
    yield link
    link.close()


def worker(node: Broker, folder: Path, retention: float | None = None) -> Historian:
    store = ArtifactStore(str(folder / "store"))
    return Historian(node.url("worker"), str(folder / "records"), store, retention)


def tell(link: Link, message: Message, exchange: str, key: str) -> None:
    link.publish(
        Outgoing(exchange, key, codec.encode(message), message.message_id(), message.type_name)
    ).result(10.0)


def end(link: Link, job: str) -> None:
    event = ended(job)
    tell(link, event, topology.EVENTS, topology.event_key("", job, event.kind))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)  # no more questions than one may ask


def test_the_end_of_a_job_is_written_down_and_can_be_asked_for(
    node: Broker, coordinator: Link, tmp_path: Path
) -> None:
    with Client(node.url("client")) as client:
        assert "no worker with a database" in client.nobody_answers()
    with pytest.raises(Unavailable, match="this mesh keeps no history: no worker with a database"):
        past_jobs.ask_mesh(node.url("client"), ALL)
    end(coordinator, "before")  # it waits for a worker
    here = worker(node, tmp_path)
    here.start()
    try:
        with Client(node.url("client")) as client:
            until(lambda: not client.nobody_answers())
        end(coordinator, "after")
        end(coordinator, "after")
        until(lambda: len(past_jobs.ask_mesh(node.url("client"), ALL).jobs) == 2)
        found = past_jobs.ask_mesh(node.url("client"), past_jobs.about("before"))
        assert [each.job for each in found.jobs] == ["before"]
        assert found.ended == ended("before")
    finally:
        here.stop()


def test_a_worker_that_leaves_writes_down_what_was_told_before(
    node: Broker, coordinator: Link, tmp_path: Path
) -> None:
    here = worker(node, tmp_path)
    here.start()
    with Client(node.url("client")) as client:
        until(lambda: not client.nobody_answers())
    for number in range(5):
        end(coordinator, f"last-{number}")
    here.stop()
    with Database(str(tmp_path / "records")) as database, database.reading() as connection:
        assert len(history.answered(connection, ALL).jobs) == 5


def test_while_the_database_is_away_ends_of_jobs_wait_and_questions_are_answered(
    node: Broker, coordinator: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(historian, "WAIT", 0.1)
    monkeypatch.setattr(historian, "PAUSE", 0.2)
    with Database(str(tmp_path / "records")) as database:
        history.keep(database, ended("known"))
    here = worker(node, tmp_path)
    here.start()
    try:
        with Client(node.url("client")) as client:
            until(lambda: not client.nobody_answers())
        with contextlib.closing(sqlite3.connect(tmp_path / "records", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            end(coordinator, "waits")
            time.sleep(0.5)
            assert [each.job for each in past_jobs.ask_mesh(node.url("client"), ALL).jobs] == ["known"]
        until(lambda: len(past_jobs.ask_mesh(node.url("client"), ALL).jobs) == 2)
        (tmp_path / "records").write_bytes(b"no database" * 1000)
        with pytest.raises(Unavailable, match="the history of the mesh cannot be read: the records in"):
            past_jobs.ask_mesh(node.url("client"), ALL)
    finally:
        here.stop()


def _old(store: ArtifactStore, data: bytes) -> Path:
    blob = store.put(data, inline=False)
    path = Path(store.url) / blob.sha256[:2] / blob.sha256
    os.utime(path, (1e9, 1e9))
    return path


def test_old_artifacts_are_swept_once_a_day(node: Broker, coordinator: Link, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    here = worker(node, tmp_path, retention=90.0)
    here.start()
    try:
        first, second = _old(store, b"first"), _old(store, b"second")
        tell(coordinator, Census(at=time.time()), topology.STEPS, topology.HISTORY_KEY)
        until(lambda: not first.exists() and not second.exists())
        third = _old(store, b"third")
        tell(coordinator, Census(at=time.time()), topology.STEPS, topology.HISTORY_KEY)
        end(coordinator, "later")  # so the second was taken
        until(lambda: len(past_jobs.ask_mesh(node.url("client"), ALL).jobs) == 1)
        assert third.exists()
    finally:
        here.stop()


def test_nobody_listens_to_the_answers_of_others(node: Broker) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.url("client"))) as connection:
        channel = connection.channel()
        channel.queue_declare("client.0c0", exclusive=True)
        channel.queue_bind("client.0c0", topology.ANSWERS, topology.answer_key("0" * 32))
        with pytest.raises(ChannelClosedByBroker, match=r"access to topic 'answer\.#'"):
            channel.queue_bind("client.0c0", topology.ANSWERS, "answer.#")


def test_a_message_of_a_client_says_who_sent_it(node: Broker) -> None:
    link = Link(node.url("coordinator"), "coordinator", subscriptions=[Subscription(topology.REQUESTS)])
    link.start()
    try:
        with Client(node.url("client")) as client:
            client.cancel("somebodys")
        found: list[Delivery] = []
        until(lambda: isinstance(each := link.next(0.1), Delivery) and not found.append(each))
        link.ack(found[0])
        assert codec.decode(found[0].body, Cancel).job == "somebodys"
        assert found[0].user == "client"
        link.ack(found[0])
    finally:
        link.close()


def test_a_tenant_asks_about_its_own_past_alone(
    node: Broker, coordinator: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, eve = "client.acme.ann", "client.zeta.eve"
    users = Management(node.management_url, node.password("admin"), topology.VHOST)
    host = node.url("client").partition("@")[2]
    urls = {user: f"amqp://{user}:secret@{host}" for user in (ann, eve)}
    for account in filter(None, map(account_of, urls)):
        users.add(account, "secret")
    here = worker(node, tmp_path)
    here.start()
    try:
        event = ended("hers")
        assert event.progress is not None
        event = msgspec.structs.replace(
            event, progress=msgspec.structs.replace(event.progress, tenant="acme")
        )
        tell(coordinator, event, topology.EVENTS, topology.event_key("acme", "hers", event.kind))
        until(lambda: len(past_jobs.ask_mesh(urls[ann], ALL).jobs) == 1)
        assert past_jobs.ask_mesh(urls[eve], ALL).jobs == []
        assert past_jobs.ask_mesh(urls[eve], past_jobs.about("hers")).ended is None
        named = msgspec.structs.replace(ALL, tenant="acme")
        with pytest.raises(Unavailable, match=f"jobs of tenant acme are none of user {eve}'s"):
            past_jobs.ask_mesh(urls[eve], named)
        assert len(past_jobs.ask_mesh(node.url("operator"), named).jobs) == 1
        assert past_jobs.ask_mesh(node.url("client"), ALL).jobs == []  # of no tenant
        monkeypatch.setattr(here._buckets["zeta"], "_tokens", -40.0)
        with pytest.raises(Unavailable, match=r"too many questions: try again in \d+ s"):
            past_jobs.ask_mesh(urls[eve], ALL)
        assert len(past_jobs.ask_mesh(urls[ann], ALL).jobs) == 1
    finally:
        here.stop()
        for user in urls:
            users.remove(user)
