"""Frames between worker and sandbox."""

from __future__ import annotations

import resource
import socket
import struct
import threading
import time

import pytest

from tunemesh.stage_workers.sandbox import frames


def test_a_frame_arrives_as_it_was_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames.send(theirs, b"a frame")
        frames.send(theirs, b"")
        assert frames.receive(ours, 100) == b"a frame"
        assert frames.receive(ours, 100) == b""


def test_a_frame_that_is_too_long_is_refused_before_anything_of_it_is_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack("<Q", 2**63) + b"the beginning")
        with pytest.raises(frames.TooLong, match="9,223,372,036,854,775,808 bytes"):
            frames.receive(ours, 2**32, time.monotonic() + 5)


def test_a_frame_of_exactly_the_limit_passes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames.send(theirs, b"12345")
        assert frames.receive(ours, 5) == b"12345"


@pytest.mark.parametrize("part", [b"", b"\x05\x00", struct.pack("<Q", 5) + b"123"])
def test_a_peer_that_ends_is_gone_wherever_it_was(part: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(part)
        theirs.close()
        assert frames.receive(ours, 100, time.monotonic() + 5) is None


def test_a_frame_without_room_is_read_to_its_end_and_the_next_one_follows() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def send() -> None:
            frames.send(theirs, bytes(64 * 2**20))
            frames.send(theirs, b"the next")

        sender = threading.Thread(target=send)
        before = resource.getrlimit(resource.RLIMIT_DATA)
        sender.start()
        assert ours.recv(1, socket.MSG_PEEK)  # the sender has what it needs
        with open("/proc/self/status") as file:
            used = next(int(line.split()[1]) for line in file if line.startswith("VmData")) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + 8 * 2**20, before[1]))
        try:
            with pytest.raises(MemoryError):
                frames.receive(ours, 2**30)
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)
        assert frames.receive(ours, 100) == b"the next"
        sender.join()
