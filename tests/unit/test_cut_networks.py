"""Connections that can be cut do what real ones do, and nodes of Erlang find each other through them."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tunemesh.broker_config.network import Network
from tunemesh.broker_config.relays import Loop

SOON = 5.0
SILENCE = 0.1


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of somebody who answers what is said to him."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(link,), daemon=True).start()

        def answer(link: socket.socket) -> None:
            with link:
                while data := link.recv(1024):
                    link.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.fixture
def loop() -> Iterator[Loop]:
    found = Loop("test")
    found.start()
    with closing(found):
        yield found


def link_to(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=SOON)


def ended(link: socket.socket) -> bool:
    try:
        return link.recv(1024) == b""
    except ConnectionError:
        return True


def test_a_relay_passes_on_what_comes_and_the_end(loop: Loop, echo: int) -> None:
    with link_to(loop.relay(lambda: echo).port) as link:
        link.sendall(b"hello")
        assert link.recv(1024) == b"hello"
        link.shutdown(socket.SHUT_WR)
        assert link.recv(1024) == b""


def test_what_is_cut_silently_hears_nothing_and_later_all_of_it(loop: Loop, echo: int) -> None:
    relay = loop.relay(lambda: echo)
    with link_to(relay.port) as link:
        link.sendall(b"before ")
        assert link.recv(1024) == b"before "
        relay.cut(silent=True)
        link.sendall(b"meanwhile")
        link.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            link.recv(1024)
        relay.heal()
        link.settimeout(SOON)
        assert link.recv(1024) == b"meanwhile"


def test_what_is_cut_aloud_ends_and_cannot_be_had_again_before_it_is_healed(loop: Loop, echo: int) -> None:
    relay = loop.relay(lambda: echo)
    with link_to(relay.port) as link:
        link.sendall(b"before")
        assert link.recv(1024) == b"before"
        relay.cut(silent=False)
        assert ended(link)
    with link_to(relay.port) as link:
        assert ended(link)
    relay.heal()
    with link_to(relay.port) as link:
        link.sendall(b"after")
        assert link.recv(1024) == b"after"


def test_nobody_there_is_an_end(loop: Loop) -> None:
    with link_to(loop.relay(lambda: None).port) as link:
        assert ended(link)


def asked(link: socket.socket, question: bytes) -> bytes:
    """What a port mapper answers."""
    link.sendall(struct.pack(">H", len(question)) + question)
    return link.recv(1024)


def registration(name: bytes, port: int) -> bytes:
    about = struct.pack(">HBBHHH", port, 77, 0, 6, 5, len(name))
    return b"x" + about + name + b"\0\0"


def found(mapper: int, name: bytes) -> int | None:
    """The port that a mapper names for a node."""
    with link_to(mapper) as link:
        answer = asked(link, b"z" + name)
    return int(struct.unpack(">H", answer[2:4])[0]) if answer[:2] == b"w\0" else None


def test_nodes_find_themselves_directly_and_each_other_where_they_can_be_cut_apart(echo: int) -> None:
    network = Network(["one", "two", "three"])
    with closing(network), ExitStack() as registered:
        network.start()
        for number, name in enumerate((b"one", b"two")):
            held = registered.enter_context(link_to(network.mappers[number]))
            assert asked(held, registration(name, echo))[:2] == b"v\0"
        assert found(network.mappers[0], b"one") == echo
        assert found(network.mappers[0], b"three") is None
        there, back = found(network.mappers[0], b"two"), found(network.mappers[1], b"one")
        assert there is not None
        assert back is not None
        assert len({there, back, echo}) == 3
        with link_to(network.mappers[0]) as link:
            assert f"name two at port {there}\n".encode() in asked(link, b"n")
        network.cut([(1, 0)])
        for port in (there, back):
            with link_to(port) as link:
                assert ended(link)
        network.heal()
        with link_to(back) as link:
            link.sendall(b"again")
            assert link.recv(1024) == b"again"


def test_a_node_that_is_gone_is_not_found_any_more() -> None:
    network = Network(["one", "two"])
    with closing(network):
        network.start()
        with link_to(network.mappers[0]) as held:
            asked(held, registration(b"one", 4369))
            assert found(network.mappers[1], b"one") is not None
        deadline = threading.Event()
        for _ in range(50):
            if found(network.mappers[1], b"one") is None:
                return
            deadline.wait(0.02)
        raise AssertionError("it is still there")
