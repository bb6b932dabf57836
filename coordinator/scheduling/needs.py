"""What steps ask of workers, and how much of it there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Need(NamedTuple):
    """What a step asks of the worker that does it. Steps with the same need can take each other's place."""

    kind: str
    """Of resource: ``model-update``, ``build-cpu`` or ``profile:<target>``."""
    engines: tuple[str, ...] = ()
    """Those that the worker must serve, in alphabetical order. None where any will do."""

    @classmethod
    def of(cls, kind: str, engines: Iterable[str] = ()) -> Need:
        """The need for a kind of resource and engines in any order."""
        names = tuple(engines)
        return cls(kind, tuple(sorted(set(names))) if len(names) > 1 else names)

    def __str__(self) -> str:
        return f"{self.kind} ({', '.join(self.engines)})" if self.engines else self.kind


@dataclass(slots=True)
class _Sum:
    count: int = 0
    seconds: float = 0.0


class Tally:
    """Seconds of work by need. A need that nothing is counted for is not kept."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[Need, _Sum]] = {}

    def __iter__(self) -> Iterator[Need]:
        """All needs that there is something of."""
        for needs in self._kinds.values():
            yield from needs

    def of_kind(self, kind: str) -> list[Need]:
        """Those for one kind of resource."""
        return list(self._kinds.get(kind, ()))

    def add(self, need: Need, seconds: float) -> None:
        """Count one more."""
        total = self._kinds.setdefault(need.kind, {}).setdefault(need, _Sum())
        total.count += 1
        total.seconds += seconds

    def remove(self, need: Need, seconds: float) -> None:
        """Take back what was added before."""
        needs = self._kinds[need.kind]
        total = needs[need]
        total.count -= 1
        total.seconds = max(total.seconds - seconds, 0.0)
        if not total.count:
            del needs[need]
            if not needs:
                del self._kinds[need.kind]

    def count(self, need: Need, compete: Callable[[Need, Need], bool]) -> int:
        """How much there is for the workers for ``need``; ``compete`` as in :meth:`seconds`."""
        needs = self._kinds.get(need.kind, {})
        return sum(each.count for other, each in needs.items() if other == need or compete(need, other))

    def seconds(self, need: Need, slots: int, compete: Callable[[Need, Need], bool]) -> float:
        """How long all the work that is there for the workers for ``need`` keeps them busy.

        Args:
            slots: steps that these workers do at once. Without any, only the work for the need itself counts,
                as if there were one.
            compete: whether some worker serves both of two needs.
        """
        needs = self._kinds.get(need.kind)
        if needs is None:
            return 0.0
        if not slots or (len(needs) == 1 and need in needs):
            return needs[need].seconds / max(slots, 1) if need in needs else 0.0
        return (
            sum(each.seconds for other, each in needs.items() if other == need or compete(need, other))
            / slots
        )
