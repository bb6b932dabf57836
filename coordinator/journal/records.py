"""The file: what the core was given, and what it answered.

A journal is a file of MessagePack records, each behind its length in four bytes. A :class:`Start` begins the
life of a core, an :class:`Entry` is one event with all that followed from it. A record that was cut short by
the end of a process is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from tunemesh.coordinator.events import Event, Instruction, Tick
from tunemesh.coordinator.jobs.limits import Limits
from tunemesh.shared.errors import BadInput

LARGEST = 512 * 1024 * 1024
"""Bytes of a journal. Then it is renamed to ``<name>.1``, and a new one is begun."""

_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()


class Start(Struct, frozen=True, tag=True):
    """A coordinator was started, with this strategy, these prices, this share of devices for gold, so many
    new trials to learn from, and these limits of tenants."""

    strategy: str
    prices: dict[str, float] = {}
    reserved: float = 0.0
    learn_after: int = 0
    limits: dict[str, Limits] = {}


class Entry(Struct, frozen=True, tag=True):
    """An event at ``now`` (monotonic seconds), and the instructions that followed from it."""

    now: float
    event: Event
    instructions: list[Instruction]


_decoder = msgspec.msgpack.Decoder(Start | Entry)


class Journal:
    """Writes a journal, behind what is there already.

    Args:
        largest: bytes of the file, about, before another one is begun.

    Raises:
        BadInput: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        strategy: str,
        largest: int = LARGEST,
        prices: Mapping[str, float] | None = None,
        reserved: float = 0.0,
        learn_after: int = 0,
        limits: Mapping[str, Limits] | None = None,
    ) -> None:
        self.path = path
        self._largest = largest
        self._strategy = strategy
        try:
            self._file = self.path.open("ab")
        except OSError as error:
            raise BadInput(f"cannot write the journal {path}: {error.strerror}") from None
        self._write(Start(strategy, dict(prices or {}), reserved, learn_after, dict(limits or {})))

    def record(self, now: float, event: Event, instructions: list[Instruction]) -> None:
        """Write down one event. What was written reaches the file with the next tick.

        Raises:
            OSError: it cannot be written.
        """
        self._write(Entry(now, event, instructions))
        if isinstance(event, Tick):
            self._file.flush()
            if self._file.tell() > self._largest:
                self._file.close()
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._file = self.path.open("ab")

    def close(self) -> None:
        """Write all that is left."""
        self._file.close()

    def _write(self, record: Start | Entry) -> None:
        data = _encoder.encode(record)
        self._file.write(_LENGTH.pack(len(data)) + data)


def read(path: Path) -> Iterator[Start | Entry]:
    """The records of a journal, in order.

    Raises:
        BadInput: it cannot be read, or is no journal.
    """
    try:
        with path.open("rb") as file:
            while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
                (length,) = _LENGTH.unpack(head)
                data = file.read(length)
                if len(data) < length:
                    return
                yield _decoder.decode(data)
    except OSError as error:
        raise BadInput(f"cannot read the journal {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no journal of this version: {error}") from None
