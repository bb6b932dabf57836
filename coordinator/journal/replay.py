"""Give a core the events of a journal once more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from tunemesh.coordinator.core import Core
from tunemesh.coordinator.events import Instruction
from tunemesh.coordinator.journal.records import Entry, Start
from tunemesh.shared.errors import BadInput


class Difference(Struct, frozen=True):
    """Where a replay went another way than the journal: the number of the record, and what the core says
    now."""

    number: int
    entry: Entry
    replayed: list[Instruction]


def replay(records: Iterable[Start | Entry]) -> Iterator[Difference]:
    """Give a fresh core the same events, and compare what it says with what was written down.

    Raises:
        BadInput: the journal does not begin with the start of a coordinator.
    """
    core: Core | None = None
    for number, record in enumerate(records):
        if isinstance(record, Start):
            core = Core(
                record.strategy,
                prices=record.prices,
                reserved=record.reserved,
                learn_after=record.learn_after,
                limits=record.limits,
            )
            continue
        if core is None:
            raise BadInput("this journal begins in the middle; replay the one before it first")
        replayed = core.handle(record.event, record.now)
        if replayed != record.instructions:
            yield Difference(number, record, replayed)
