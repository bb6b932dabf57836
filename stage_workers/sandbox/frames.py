"""What worker and sandbox say to each other: length-prefixed MessagePack on a socket of their own.

A call names a method of one of the two protocols, :class:`~stage_workers.engines.protocol.Engine` and
:class:`~stage_workers.platforms.protocol.Platform`, and its types come from there. So a child that went mad
can at worst send a value of the right type: nothing is unpickled in the process that owns the AMQP
connection.
"""

from __future__ import annotations

import functools
import socket
import struct
import time
import typing
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from tunemesh.stage_workers.engines.protocol import Engine
from tunemesh.stage_workers.platforms.protocol import Platform

_LENGTH = struct.Struct("<Q")
_BLOCK = 1 << 20


ProtocolName = Literal["Engine", "Platform"]
PROTOCOLS: dict[ProtocolName, type] = {"Engine": Engine, "Platform": Platform}


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A method of an engine or a platform, and its argument."""

    protocol: ProtocolName
    callee: str
    """Name of the engine or the platform."""
    method: str
    record: msgspec.Raw


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """A value, or the error that the call raised."""

    kind: Literal["value", "refused", "raised", "out-of-memory"]
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: str = ""
    """Class name of a refusal (a :class:`~shared.errors.TunemeshError`)."""
    text: str = ""


def protocol_of(method: Callable[..., object]) -> ProtocolName:
    """Whose method ``method`` is: that of one of the :data:`PROTOCOLS`, as in ``Engine.build``."""
    for name, protocol in PROTOCOLS.items():
        if getattr(protocol, method.__name__, None) is method:
            return name
    raise TypeError(f"{method} is no method of an engine or a platform")


@functools.cache
def record_type(protocol: ProtocolName, method: str) -> Any:
    """Of the argument of a method."""
    hints = typing.get_type_hints(getattr(PROTOCOLS[protocol], method))
    hints.pop("return")
    (kind,) = hints.values()
    return kind


@functools.cache
def answer_type(method: Callable[..., object]) -> Any:
    """Of what a method returns."""
    return typing.get_type_hints(method)["return"]


class TooLong(Exception):
    """The peer announces a frame that is longer than it may be."""


def send(peer: socket.socket, frame: bytes) -> None:
    """Send one frame; raises OSError (``TimeoutError`` included) as the socket does."""
    if len(frame) < _BLOCK:
        peer.sendall(_LENGTH.pack(len(frame)) + frame)
    else:
        peer.sendall(_LENGTH.pack(len(frame)))
        peer.sendall(frame)


def receive(peer: socket.socket, limit: int, deadline: float | None = None) -> bytearray | None:
    """The next frame; ``None`` when the peer is gone, in the middle of a frame or not.

    Args:
        limit: bytes that a frame may have. Models of some gigabytes pass through, so this is what a child may
            allocate: an honest one cannot send more, and a mad one cannot make its worker collect more.

    Raises:
        TooLong: it is longer than ``limit``; nothing of it was read.
        TimeoutError: it is not complete at ``deadline`` (monotonic seconds).
        ConnectionError: as the socket says.
        MemoryError: there is no room for it here.
    """
    head = receive_exactly(peer, _LENGTH.size, deadline)
    if head is None:
        return None
    size = int(_LENGTH.unpack(head)[0])
    if size > limit:
        raise TooLong(f"announced {size:,} bytes")
    return receive_exactly(peer, size, deadline)


def receive_exactly(peer: socket.socket, size: int, deadline: float | None = None) -> bytearray | None:
    """``size`` bytes, or ``None`` when the peer is gone before that.

    Raises:
        MemoryError: there is no room for them. They are read all the same: the next frame follows.
        TimeoutError, ConnectionError: as :func:`receive`.
    """
    # All of it at once: to let it grow would copy a model's bytes again and again. Pages that nothing was
    # written to take no memory.
    fits = True
    try:
        data = bytearray(size)
    except MemoryError:
        fits, data = False, bytearray(_BLOCK)
    room, done = memoryview(data), 0
    while done < size:
        if deadline is not None:
            peer.settimeout(max(deadline - time.monotonic(), 0.001))
        at = done if fits else 0
        got = peer.recv_into(room[at : at + min(size - done, _BLOCK)])
        if not got:
            return None
        done += got
    if not fits:
        raise MemoryError
    return data
