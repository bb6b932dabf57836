"""pika's connection, with fewer and larger reads and writes.

pika sends every frame by itself, three for a message, and reads 4 KiB at a time. Each of that is a call of
the system here, and a write wakes the broker up. There is no setting for either, so this looks inside of
pika.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pika.adapters.select_connection import SelectConnection

READ = 64 * 1024
"""Bytes that are read at once, at most."""


class Connection(SelectConnection):  # type: ignore[misc]
    """One that can gather what it sends. All of it belongs to the thread of its loop."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._gathered: list[bytes] | None = None
        super().__init__(*arguments, **options)

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Send what comes meanwhile in one piece, at the end."""
        gathered: list[bytes] = []
        self._gathered = gathered
        try:
            yield
        finally:
            self._gathered = None
            if gathered and self._transport is not None:
                super()._adapter_emit_data(b"".join(gathered))

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._gathered is None:
            super()._adapter_emit_data(data)
        else:
            self._gathered.append(data)

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = READ
        super()._proto_connection_made(transport)
