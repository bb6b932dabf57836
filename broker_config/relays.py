"""Connections that can be cut, without any rights: whoever is to be cut off connects to a relay.

A relay that is cut silently loses what it is given, as where a cable is cut or a switch fails: both ends
notice it when they have not heard of each other for a while. Where it is cut aloud both are told at once, as
where a process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

LOOPBACK = "127.0.0.1"
CHUNK = 64 * 1024
"""Bytes that are passed on at once."""
ANSWER = 10.0
"""Seconds within which the thread does what it is asked for."""

T = TypeVar("T")
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Loop:
    """A thread that listens on ports of this machine."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._servers: list[asyncio.Server] = []

    def start(self) -> None:
        """Begin; nothing else may be called before."""
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Have something done in the thread, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER)

    async def serve(self, answer: Answer, port: int = 0) -> int:
        """Listen on a port, or on any that is free. Returns which it is. In the thread."""

        async def safely(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                # Cancelled only when all of it ends; Python's own streams would make a noise about that.
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await answer(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(safely, LOOPBACK, port)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def relay(self, to: Callable[[], int | None]) -> Relay:
        """A new relay.

        Args:
            to: the port to which it passes on; ``None`` while nobody listens there.
        """
        return self.do(self.new_relay(to))

    async def new_relay(self, to: Callable[[], int | None]) -> Relay:
        """The same, in the thread."""
        relay = Relay(self, to)
        relay.port = await self.serve(relay.pass_on)
        return relay

    def close(self) -> None:
        """End all connections, and the thread."""
        if not self._thread.is_alive():
            return

        async def close() -> None:
            for server in self._servers:
                server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.do(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER)
        self._loop.close()


class Relay:
    """Passes on what comes to its port, and back, as long as it is not cut. Made by :meth:`Loop.relay`."""

    def __init__(self, loop: Loop, to: Callable[[], int | None]) -> None:
        self.port = 0
        self._loop = loop
        self._to = to
        self._refusing = False
        self._passing = asyncio.Event()
        self._passing.set()
        self._connections: set[asyncio.StreamWriter] = set()

    def cut(self, silent: bool) -> None:
        """Let nothing through until :meth:`heal`.

        Args:
            silent: nobody is told, and what is sent waits. Otherwise all connections end, and new ones do.
        """

        async def cut() -> None:
            self._passing.clear()
            self._refusing = not silent
            if self._refusing:
                for each in self._connections:
                    each.transport.abort()

        self._loop.do(cut())

    def heal(self) -> None:
        """Let everything through again; what has waited arrives."""

        async def heal() -> None:
            self._refusing = False
            self._passing.set()

        self._loop.do(heal())

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection. In the thread."""
        port = None if self._refusing else self._to()
        if port is None:
            return
        there, back = await asyncio.open_connection(LOOPBACK, port)
        both = {writer, back}
        self._connections |= both
        ways = [asyncio.ensure_future(self._way(*way)) for way in ((reader, back), (there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connections -= both
            await _ended(ways)
            back.close()

    async def _way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
        await self._passing.wait()  # nor does the end get through


async def _ended(tasks: Iterable[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
