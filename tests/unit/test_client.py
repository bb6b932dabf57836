"""What a client makes of what a coordinator says, without a broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import pairwise
from typing import Any, cast

import pytest

from tests.unit.world import request
from tunemesh import client as client_module
from tunemesh import early_requests
from tunemesh.client import Client
from tunemesh.shared import codec
from tunemesh.shared.errors import BadInput, BrokerUnavailable
from tunemesh.shared.messages import JobEvent, JobProgress, Message, Query, Snapshot
from tunemesh.shared.transport.link import Delivery, Outgoing

Sent = tuple[Message, str | None]


class FakeLink:
    """Delivers what it was given, and has every message of the client answered by a function."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.waiting: list[Sent] = []
        self.answer: Callable[[Outgoing], list[Sent]] = lambda _: []
        self.asked: list[float] = []
        self.pause = 0.0
        """Seconds for which it waits in vain."""
        self.refusing = ""
        self.has_others = False
        self.left: list[str] = []

    def next(self, timeout: float) -> Delivery | None:
        self.asked.append(timeout)
        if not self.waiting:
            time.sleep(self.pause)
            return None
        message, correlation_id = self.waiting.pop(0)
        body = codec.encode(message)
        return Delivery(1, 1, "client.own", "", "", body, "id", None, correlation_id, None)

    def publish(self, outgoing: Outgoing) -> Future[None]:
        self.waiting += self.answer(outgoing)
        sent: Future[None] = Future()
        if not self.refusing:
            sent.set_result(None)
        return sent

    def start_over(self, reason: str) -> None:
        self.left.append(reason)

    def ack(self, delivery: Delivery) -> None: ...

    def own_queue(self, name: str) -> str:
        return f"{name}.1"


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> FakeLink:
    link = FakeLink()
    monkeypatch.setattr(client_module, "Link", lambda *_, **__: link)
    monkeypatch.setattr(client_module, "SILENCE", 0.0)
    monkeypatch.setattr(client_module, "FIRST_SILENCE", 0.0)
    return link


def event(job: str, kind: Any, text: str = "") -> JobEvent:
    return JobEvent(job=job, kind=kind, at=1.0, text=text)


def test_first_answers_are_told_apart(link: FakeLink) -> None:
    link.waiting = [
        (event("a", "accepted"), "a"),
        (event("a", "failed", "later"), "a"),
        (event("unknown", "rejected", "request is invalid"), "b"),
    ]
    heard = Client("amqp://x", ["a", "b", "c"]).answers(["a", "b", "c"], timeout=0.05)
    assert {job: (each.kind, each.text) for job, each in heard.items()} == {
        "a": ("accepted", ""),
        "b": ("rejected", "request is invalid"),
    }


def early(job: str, seconds: float) -> JobEvent:
    text = "try again in 1 s: tenant acme may send 1 requests a second"
    return JobEvent(job=job, kind="rejected", at=1.0, text=text, again_in=seconds)


@pytest.mark.parametrize("how", ["answers", "follow"])
def test_a_request_that_came_too_early_is_sent_again_in_time(
    link: FakeLink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    monkeypatch.setattr(early_requests, "MARGIN", 0.0)
    sent: list[float] = []
    link.pause = 0.01

    def answer(outgoing: Outgoing) -> list[Sent]:
        if outgoing.type != "request":
            return []
        sent.append(time.monotonic())
        ends = [(event("a", "accepted"), "a"), (event("a", "cancelled"), "a")]
        return [(early("a", 0.1), "a")] if len(sent) < 3 else ends

    link.answer = answer
    client = Client("amqp://x", ["a"])
    client.submit(request("a"))
    if how == "answers":
        assert client.answers(["a"], timeout=0.05)["a"].kind == "accepted"
    else:
        told = [each.kind for each in client.follow(["a"], idle=0.01) if each is not None]
        assert told == ["accepted", "cancelled"]
    assert [later - earlier >= 0.1 for earlier, later in pairwise(sent)] == [True, True]
    assert caplog.text.count("try again in 1 s: tenant acme may send 1 requests a second; waiting") == 1


def test_a_request_that_comes_too_early_for_long_is_rejected(
    link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_requests, "LIMIT", 0.2)
    link.pause = 0.01
    link.answer = lambda outgoing: [(early("a", 0.05), "a")] if outgoing.type == "request" else []
    client = Client("amqp://x", ["a"])
    client.submit(request("a"))
    (last,) = [each for each in client.follow(["a"], idle=0.01) if each is not None]
    assert (last.kind, last.again_in) == ("rejected", 0.05)


def test_a_query_that_came_too_early_is_asked_again(link: FakeLink) -> None:
    answers = [early("unknown", 0.01), Snapshot(strategy="s", jobs=[], resources=[])]
    link.answer = lambda outgoing: [(answers.pop(0), outgoing.correlation_id)]
    assert Client("amqp://x").snapshot().strategy == "s"
    answers = [early("unknown", 60.0)]
    with pytest.raises(BadInput, match="try again in 1 s"):
        Client("amqp://x").snapshot(timeout=1.0)


def test_nobody_waits_longer_than_it_takes(link: FakeLink) -> None:
    link.waiting = [(event("a", "accepted"), "a")]
    assert set(Client("amqp://x", ["a"]).answers(["a"], timeout=1000.0)) == {"a"}
    assert len(link.asked) == 1


def test_a_rejection_that_was_missed_is_asked_for_and_believed_at_once(link: FakeLink) -> None:
    def answer(outgoing: Outgoing) -> list[Sent]:
        assert codec.decode(outgoing.body, Query).job == "a"
        snapshot = Snapshot(strategy="s", jobs=[], resources=[], rejected="job id 'a' is taken")
        return [(snapshot, outgoing.correlation_id)]

    link.answer = answer
    heard = [each for each in Client("amqp://x", ["a"]).follow(["a"]) if each is not None]
    assert [(each.job, each.kind, each.text) for each in heard] == [("a", "rejected", "job id 'a' is taken")]


def test_a_job_that_nobody_knows_is_given_up_after_several_answers(link: FakeLink) -> None:
    asked: list[str] = []

    def answer(outgoing: Outgoing) -> list[Sent]:
        asked.append(cast(str, outgoing.correlation_id))
        return [(Snapshot(strategy="s", jobs=[], resources=[]), outgoing.correlation_id)]

    link.answer = answer
    heard = [each for each in Client("amqp://x", ["a"]).follow(["a"]) if each is not None]
    assert [each.kind for each in heard] == ["rejected"]
    assert len(asked) == client_module.UNKNOWN


def test_a_job_that_has_ended_meanwhile_is_asked_for(link: FakeLink) -> None:
    progress = JobProgress(
        job="a", name="n", phase="done", target="t", trials=1, budget=1, accepted=0.0, finished=1.0, tasks=[],
        usage={},
    )  # fmt: skip
    link.answer = lambda outgoing: [
        (Snapshot(strategy="s", jobs=[progress], resources=[]), outgoing.correlation_id)
    ]
    heard = [each for each in Client("amqp://x", ["a"]).follow(["a"]) if each is not None]
    assert [each.kind for each in heard] == ["done"]


def test_a_broker_that_takes_no_messages_is_what_is_told_not_a_missing_coordinator(
    link: FakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PUBLISH_LIMIT", 0.01)
    client = Client("amqp://x", [])
    with pytest.raises(BrokerUnavailable, match="no coordinator answers"):
        client.census(timeout=0.01)
    link.refusing = "the broker takes no messages: it is low on disk"
    for ask in (
        lambda: client.census(timeout=0.01),
        lambda: client.cancel("job"),
        lambda: client.learn("mock", 0),
    ):
        with pytest.raises(BrokerUnavailable, match="low on disk"):
            ask()


@pytest.mark.parametrize(
    ("others", "refusing", "leaves"), [(True, "", True), (False, "", False), (True, "low on disk", False)]
)
def test_whoever_is_not_answered_tries_another_node_of_the_broker(
    link: FakeLink, monkeypatch: pytest.MonkeyPatch, others: bool, refusing: str, leaves: bool
) -> None:
    monkeypatch.setattr(client_module, "UNANSWERED", 0.0)
    link.has_others, link.refusing = others, refusing
    events = Client("amqp://x", ["a"]).follow(["a"], idle=0.0)
    assert [next(events) for _ in range(3)] == [None] * 3
    assert len(link.left) == (3 if leaves else 0)
    link.waiting = [(event("a", "failed", "ended"), "a")]
    assert [each.text for each in events if each is not None] == ["ended"]


def test_a_mistyped_id_is_refused_before_anything_is_sent(link: FakeLink) -> None:
    with pytest.raises(BadInput, match="'a b' is no id of a job"):
        Client("amqp://x", ["a b"])
    assert link.asked == []
