"""What lies between the nodes of a private cluster, so that it can be cut.

Erlang's nodes ask the port mapper (epmd) of a host where another node listens. Here every node has a port
mapper of its own, which names it a relay instead, one for each pair. Where that is cut, nodes do not see each
other any more, as if a switch between them had failed, while clients still reach all of them.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from functools import partial

from tunemesh.broker_config.credentials import free_ports
from tunemesh.broker_config.relays import Loop, Relay

# Of Erlang's distribution protocol: what a port mapper is asked, and what it answers.
REGISTER, FIND, NAMES = b"x", b"z", b"n"
REGISTERED, FOUND = b"v", b"w"

Pair = tuple[int, int]
"""Numbers of two nodes."""


class Network:
    """Port mappers and relays, in a thread of their own.

    Args:
        names: of all nodes, without their host; a node's number is its place.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._loop = Loop("network")
        self._registered: dict[str, bytes] = {}
        """By name: port, kind, protocol and versions, as the node said them."""
        self._creations = 0
        self._relays: dict[Pair, Relay] = {}
        """By who asks and who is meant."""
        self.mappers = free_ports(len(self._names))
        """Port of each node's own port mapper."""

    def start(self) -> None:
        """Listen, for all nodes."""
        self._loop.start()
        for number, port in enumerate(self.mappers):
            self._loop.do(self._loop.serve(partial(self._map, number), port))
            for other, name in enumerate(self._names):
                if other != number:
                    self._relays[number, other] = self._loop.relay(partial(self._listens, name))

    def cut(self, pairs: Iterable[Pair], silent: bool = False) -> None:
        """Keep nodes from seeing each other, by pairs, until :meth:`heal`.

        Args:
            silent: nobody is told: nodes notice it when they have not heard of each other for a while.
        """
        for one, other in pairs:
            self._relays[one, other].cut(silent)
            self._relays[other, one].cut(silent)

    def heal(self) -> None:
        """All see each other again. What has waited meanwhile arrives."""
        for relay in self._relays.values():
            relay.heal()

    def close(self) -> None:
        """End all connections, and the thread."""
        self._loop.close()

    # -- In its thread ---------------------------------------------------------------------------------------

    async def _map(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer as the port mapper of a node."""
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        asked = await reader.readexactly(length)
        kind, rest = asked[:1], asked[1:]
        if kind == FIND:
            writer.write(self._found(number, rest.decode()))
        elif kind == NAMES:
            lines = [f"name {name} at port {self._port(number, name)}\n" for name in self._registered]
            writer.write(struct.pack(">I", self.mappers[number]) + "".join(lines).encode())
        elif kind == REGISTER:
            about, name = rest[:8], _text(rest[8:])
            self._registered[name] = about
            self._creations += 1
            try:
                writer.write(REGISTERED + struct.pack(">BI", 0, self._creations))
                await reader.read()  # it is registered for as long as it holds the connection
            finally:
                if self._registered.get(name) is about:
                    del self._registered[name]
        await writer.drain()

    def _found(self, number: int, name: str) -> bytes:
        about = self._registered.get(name)
        if about is None:
            return FOUND + b"\1"
        port, said = struct.pack(">H", self._port(number, name)), name.encode()
        return FOUND + b"\0" + port + about[2:] + struct.pack(">H", len(said)) + said + b"\0\0"

    def _port(self, number: int, name: str) -> int:
        """Where a node is to look for another one. Itself it finds directly, and so do tools, which are in
        no cluster."""
        if name in self._names and (other := self._names.index(name)) != number:
            return self._relays[number, other].port
        return self._listens(name) or 0

    def _listens(self, name: str) -> int | None:
        about = self._registered.get(name)
        return int(struct.unpack(">H", about[:2])[0]) if about is not None else None


def _text(counted: bytes) -> str:
    (length,) = struct.unpack(">H", counted[:2])
    return counted[2 : 2 + length].decode()
