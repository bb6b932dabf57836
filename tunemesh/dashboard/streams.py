"""Server-sent events: the parts of a page that have changed, whenever something has, and not too often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec

from tunemesh.dashboard.board import Board

PAUSE = 1.0
"""Seconds between two events of one page."""
ALIVE = 15.0
"""Seconds without news after which a comment is sent: whoever has gone is noticed then."""
MOST_STREAMS = 40
"""Pages that are watched at the same time."""

Parts = Mapping[str, Any]
"""What a page shows, by the name of each part."""


class Streams:
    """The pages that are watched."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._open = 0
        self._closing = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether no more pages can be watched."""
        return self._open >= MOST_STREAMS

    def close(self) -> None:
        """End all: the server stops."""
        self._closing.set()

    async def events(self, parts: Callable[[], Awaitable[Parts]]) -> AsyncIterator[bytes]:
        """What to send to one page: all parts at first, then those that differ from what was sent.

        Args:
            parts: makes all parts as they are now.
        """
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        news.set()

        def notify() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        stop = self._board.listen(notify)
        self._open += 1
        sent: dict[str, Any] = {}
        try:
            yield b"retry: 2000\n\n"
            while not self._closing.is_set():
                if not await self._within(news, ALIVE):
                    yield b": alive\n\n"
                    continue
                news.clear()
                now = await parts()
                changed = {name: part for name, part in now.items() if sent.get(name) != part}
                if changed:
                    sent.update(changed)
                    for gone in set(sent) - set(now):
                        del sent[gone]
                    yield b"data: " + msgspec.json.encode(changed) + b"\n\n"
                await self._within(self._closing, PAUSE)
        finally:
            self._open -= 1
            stop()

    async def _within(self, event: asyncio.Event, timeout: float) -> bool:
        """Whether it happens in ``timeout`` seconds."""
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self._closing)]
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        return event.is_set() and not self._closing.is_set()
