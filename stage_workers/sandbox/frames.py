"""What worker and sandbox say to each other: length-prefixed MessagePack on a socket of their own.

The types come from :class:`~stage_workers.engines.protocol.Engine`, so a child that went mad can at worst
send a value of the right type: nothing is unpickled in the process that owns the AMQP connection.
"""

from __future__ import annotations

import functools
import socket
import struct
import time
import typing
from typing import Any, Literal

import msgspec

from tunemesh.stage_workers.engines.protocol import Engine

_LENGTH = struct.Struct("<Q")
_BLOCK = 1 << 20


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A method of an engine and its arguments."""

    engine: str
    method: str
    args: msgspec.Raw


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """A value, or the error that the call raised."""

    kind: Literal["value", "refused", "raised", "out-of-memory"]
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: str = ""
    """Class name of a refusal (a :class:`~shared.errors.TunemeshError`)."""
    text: str = ""


@functools.cache
def arguments_decoder(method: str) -> msgspec.msgpack.Decoder[Any]:
    """Decodes the arguments of a method of :class:`~stage_workers.engines.protocol.Engine` to a tuple."""
    hints = typing.get_type_hints(getattr(Engine, method))
    hints.pop("return")
    return msgspec.msgpack.Decoder(tuple[tuple(hints.values())])  # type: ignore[misc]


class TooLong(Exception):
    """The peer announces a frame that is longer than it may be."""


def send(peer: socket.socket, frame: bytes) -> None:
    """Send one frame; raises OSError (``TimeoutError`` included) as the socket does."""
    if len(frame) < _BLOCK:
        peer.sendall(_LENGTH.pack(len(frame)) + frame)
    else:
        peer.sendall(_LENGTH.pack(len(frame)))
        peer.sendall(frame)


def receive(peer: socket.socket, limit: int, deadline: float | None = None) -> bytes | None:
    """The next frame; ``None`` when the peer is gone, in the middle of a frame or not.

    Args:
        limit: bytes that a frame may have. Models of some gigabytes pass through, so this is what a child may
            allocate: an honest one cannot send more, and a mad one cannot make its worker collect more.

    Raises:
        TooLong: it is longer than ``limit``; nothing of it was read.
        TimeoutError: it is not complete at ``deadline`` (monotonic seconds).
        ConnectionError: as the socket says.
    """
    head = receive_exactly(peer, _LENGTH.size, deadline)
    if head is None:
        return None
    size = int(_LENGTH.unpack(head)[0])
    if size > limit:
        raise TooLong(f"announced {size:,} bytes")
    return receive_exactly(peer, size, deadline)


def receive_exactly(peer: socket.socket, size: int, deadline: float | None = None) -> bytes | None:
    """``size`` bytes, or ``None`` when the peer is gone before that. Raises as :func:`receive` does."""
    data = bytearray()
    while len(data) < size:
        if deadline is not None:
            peer.settimeout(max(deadline - time.monotonic(), 0.001))
        block = peer.recv(min(size - len(data), _BLOCK))
        if not block:
            return None
        data += block
    return bytes(data)
