"""A priority queue whose keys change: what strategies and resources are ordered by."""

from __future__ import annotations

import heapq
from typing import Any, Generic, TypeVar

K = TypeVar("K")


class ChangingHeap(Generic[K]):
    """Items with keys; the least is found in O(log n), and a key changes in O(log n).

    A changed or removed item leaves its old entry behind, which is skipped when it comes up; when more
    entries are old than live, the heap is made anew. So memory is linear in the number of items.
    """

    def __init__(self) -> None:
        self._keys: dict[K, Any] = {}
        self._entries: list[tuple[Any, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, item: K) -> bool:
        return item in self._keys

    def key(self, item: K) -> Any:
        """The key of ``item``, or ``None``."""
        return self._keys.get(item)

    def put(self, item: K, key: Any) -> None:
        """Add ``item``, or change its key. Equal keys come in the order in which they were put."""
        if item in self._keys and self._keys[item] == key:
            return
        self._keys[item] = key
        self._count += 1
        heapq.heappush(self._entries, (key, self._count, item))
        if len(self._entries) > 2 * len(self._keys) + 64:
            live = [entry for entry in self._entries if self._keys.get(entry[2]) == entry[0]]
            newest = {entry[2]: entry for entry in sorted(live, key=lambda entry: entry[1])}
            self._entries = list(newest.values())
            heapq.heapify(self._entries)

    def remove(self, item: K) -> None:
        """Take ``item`` out, if it is there."""
        self._keys.pop(item, None)

    def least(self) -> K | None:
        """The item with the least key, which stays; ``None`` when there is none."""
        while self._entries:
            key, _, item = self._entries[0]
            if item in self._keys and self._keys[item] == key:
                return item
            heapq.heappop(self._entries)
        return None

    def first(self) -> K:
        """The same, where there is one.

        Raises:
            IndexError: there is none.
        """
        item = self.least()
        if item is None:
            raise IndexError("the heap is empty")
        return item
