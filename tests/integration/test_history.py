"""How jobs ended, from the coordinator through a real broker to a worker's database, and back to a client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from tests.unit.past import ended
from tunemesh import past_jobs
from tunemesh.broker_config import topology
from tunemesh.client import Client
from tunemesh.shared import codec
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import Unavailable
from tunemesh.shared.messages import AskHistory, Cancel, Message
from tunemesh.shared.transport.link import Delivery, Link, Outgoing, Subscription
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


def worker(node: Broker, folder: Path) -> Historian:
    return Historian(node.url("worker"), str(folder / "records"), ArtifactStore(str(folder / "store")), None)


def tell(link: Link, message: Message, exchange: str, key: str) -> None:
    link.publish(
        Outgoing(exchange, key, codec.encode(message), message.message_id(), message.type_name)
    ).result(10.0)


def end(link: Link, job: str) -> None:
    event = ended(job)
    tell(link, event, topology.EVENTS, topology.event_key(job, event.kind))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


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


def test_nobody_listens_to_the_answers_of_others(node: Broker) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.url("client"))) as connection:
        channel = connection.channel()
        channel.queue_declare("client.curious", exclusive=True)
        channel.queue_bind("client.curious", topology.ANSWERS, topology.answer_key("0" * 32))
        with pytest.raises(ChannelClosedByBroker, match=r"access to topic 'answer\.#'"):
            channel.queue_bind("client.curious", topology.ANSWERS, "answer.#")


def test_a_message_of_a_client_says_who_sent_it(node: Broker) -> None:
    link = Link(node.url("coordinator"), "coordinator", subscriptions=[Subscription(topology.COORDINATOR)])
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
