"""The link when there is no broker, or one that goes away while it answers. Loopback sockets only."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from tunemesh.shared.errors import BadInput, BrokerUnavailable
from tunemesh.shared.transport.connection import Connection
from tunemesh.shared.transport.link import Link

START = b"\x01\x00\x00"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(answer: bytes = b"") -> Iterator[int]:
    """A port that takes every connection, answers what it is told, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(8)
                    peer.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def url(port: int) -> str:
    return f"amqp://worker:secret@127.0.0.1:{port}/tunemesh"


def test_what_is_asked_for_together_wakes_the_thread_of_the_link_once(free_port: int) -> None:
    link = Link(url(free_port), "coordinator")
    wakes: list[Callable[[], None]] = []
    loop = SimpleNamespace(add_callback_threadsafe=wakes.append)
    link._connection = SimpleNamespace(ioloop=loop, gathering=nullcontext)  # type: ignore[assignment]
    done: list[str] = []

    def ask(name: str) -> None:
        link._call(lambda: done.append(name))

    with link.together():
        for number in range(50):
            ask(f"own {number}")
        assert wakes == []
        other = threading.Thread(target=ask, args=("other",))
        other.start()
        other.join()
        assert len(wakes) == 1  # nobody else waits for it
        ask("last")
    assert len(wakes) == 1  # it has not looked yet, and will find all of it
    wakes[0]()
    assert done == [*(f"own {number}" for number in range(50)), "other", "last"]
    with link.together():
        ask("more")
    assert len(wakes) == 2
    with link.together():
        pass
    assert len(wakes) == 2
    ask("alone")
    wakes[1]()
    assert done[-2:] == ["more", "alone"]


def test_what_is_gathered_is_written_in_one_piece() -> None:
    written: list[bytes] = []
    connection = Connection.__new__(Connection)
    connection._gathered, connection._transport = None, SimpleNamespace(write=written.append)
    connection._adapter_emit_data(b"a")
    with connection.gathering():
        connection._adapter_emit_data(b"b")
        connection._adapter_emit_data(b"c")
        assert written == [b"a"]
    assert written == [b"a", b"bc"]
    with connection.gathering():
        pass
    connection._adapter_emit_data(b"d")
    assert written == [b"a", b"bc", b"d"]
    with connection.gathering():
        connection._adapter_emit_data(b"e")
        connection._transport = None  # it is lost meanwhile
    assert written == [b"a", b"bc", b"d"]


def test_what_was_asked_for_is_handed_over_when_the_owner_fails(free_port: int) -> None:
    link = Link(url(free_port), "coordinator")
    wakes: list[Callable[[], None]] = []
    loop = SimpleNamespace(add_callback_threadsafe=wakes.append)
    link._connection = SimpleNamespace(ioloop=loop, gathering=nullcontext)  # type: ignore[assignment]

    def ask_and_fail() -> None:
        with link.together():
            link._call(lambda: None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        ask_and_fail()
    assert len(wakes) == 1


def test_a_client_is_told_after_two_seconds_that_nothing_listens(free_port: int) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="connection refused") as caught:
        Link(url(free_port), "client").start(timeout=20.0)
    assert 1.5 < time.monotonic() - began < 5
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 75
    assert not isinstance(caught.value, BadInput)


def test_a_host_that_cannot_be_resolved_is_as_good_as_one_where_nothing_listens() -> None:
    with pytest.raises(BrokerUnavailable):
        Link("amqp://worker:secret@no-such-host.invalid/tunemesh", "client").start(30.0, patience=0.2)


def test_of_several_hosts_all_are_tried_and_the_reason_of_one_is_told(free_port: int) -> None:
    with server() as other:
        several = f"amqp://worker:secret@127.0.0.1:{free_port},127.0.0.1:{other}/tunemesh"
        with pytest.raises(BrokerUnavailable) as caught:
            Link(several, "client").start(timeout=1.0)
    text = str(caught.value)
    assert f"at amqp://worker:***@127.0.0.1:{free_port},127.0.0.1:{other}/tunemesh: 127.0.0.1:" in text
    assert "\n" not in text
    # Somebody was there: that nothing listens at the other one is no reason to give up after two seconds.
    assert "secret" not in text


def test_a_pause_is_made_when_all_hosts_have_been_tried() -> None:
    link = Link("amqp://a:b@a,b,c/x", "client")
    tried, pauses = [], []
    for _ in range(6):
        tried.append(link._host)
        pauses.append(link._next_host())
    assert sorted(tried[:3]) == [0, 1, 2]
    assert tried[:3] == tried[3:]
    assert pauses == [False, False, True] * 2


@pytest.mark.parametrize("hosts", ["", ",", "a,", "a:1,b:c", "a,b:99999999"])
def test_hosts_that_are_none_are_refused(hosts: str) -> None:
    with pytest.raises(BadInput, match="separated by commas") as caught:
        Link(f"amqp://worker:secret@{hosts}/tunemesh", "client")
    assert "secret" not in str(caught.value)


def test_each_host_has_a_port_of_its_own_and_the_same_user() -> None:
    link = Link("amqps://worker:se%40cret@a,b:1,[::1]:2/tunemesh", "client")
    found = [(each.host, each.port, each.credentials.password, each.virtual_host) for each in link._hosts]
    assert found == [
        (host, port, "se@cret", "tunemesh") for host, port in (("a", 5671), ("b", 1), ("::1", 2))
    ]


def test_somebody_who_waits_longer_is_given_the_time(free_port: int) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        Link(url(free_port), "client").start(timeout=1.0, patience=None)
    assert time.monotonic() - began >= 1.0


def test_a_broker_that_hangs_up_in_the_handshake_is_away_and_does_not_refuse() -> None:
    """It was killed at that moment, say. Its start frame makes pika send the login, and guess a wrong one."""
    # connection.start of version 0-9, no properties, mechanism PLAIN, locale en_US
    method = b"\x00\x0a\x00\x0a\x00\x09" + bytes(4) + b"\x00\x00\x00\x05PLAIN" + b"\x00\x00\x00\x05en_US"
    frame = START + len(method).to_bytes(4) + method + b"\xce"
    with server(frame) as port, pytest.raises(BrokerUnavailable):
        Link(url(port), "client").start(timeout=1.0)


def test_who_waits_for_ever_says_what_for_and_goes_on(
    free_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunemesh.shared.retry.SAY_AGAIN", 1.0)
    caplog.set_level(logging.INFO)
    link = Link(url(free_port), "worker build-cpu")
    link.begin()
    try:
        time.sleep(2.5)
        texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    finally:
        link.close()
    assert texts[0].startswith("worker build-cpu: cannot reach the broker at amqp://worker:***@127.0.0.1")
    assert "connection refused; trying again" in texts[0]
    assert 2 <= len(texts) <= 4  # and not every attempt
    assert "still trying" in texts[1]
    assert "secret" not in caplog.text
