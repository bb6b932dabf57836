"""Who is let in: no tenant asks so often, or for so much, that others have to wait for it.

What comes too early is answered at once, and acknowledged when its time has come: until then its place in the
tenant's queue is taken, and the broker delivers nothing in its stead. So a flood costs the coordinator what
the limit allows, and not what is sent. A request that came too early has its place, and passes when it comes
again in its time: otherwise those who wait would keep each other out for ever.
"""

from __future__ import annotations

import heapq
import itertools
import math

from cachetools import LRUCache

from tunemesh.coordinator.events import Acknowledge, Arrived, Garbled, Instruction, PutAside
from tunemesh.coordinator.jobs.limits import BURST, limits_of, too_large, whose
from tunemesh.coordinator.state import ERROR_LIMIT, State
from tunemesh.shared.buckets import Bucket
from tunemesh.shared.messages import Query, Request
from tunemesh.shared.text import clip

PLACES = 10_000
"""Requests that came too early and whose places are kept, of all tenants."""
SAY_EVERY = 60.0
"""Seconds between two lines of the log about one tenant."""


class Gate:
    """Holds tenants to their limits."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._limits = state.limits
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._places: LRUCache[tuple[str, str], float] = LRUCache(PLACES)
        """When a request that came too early may come again, by tenant and job."""
        self._late: list[tuple[float, int, Instruction]] = []
        self._numbers = itertools.count()
        self._said: dict[str, float] = {}
        """When it was last logged that a tenant sends too much."""

    def refuses(self, event: Arrived) -> bool:
        """Whether a message of a client comes too early. It is answered, and settled later, then."""
        if event.tenant is None:
            return False
        kind = "queries" if isinstance(event.message, Query) else "requests"
        job = event.message.job if isinstance(event.message, Request) else "unknown"
        place = event.tenant, job
        due = self._places.get(place)
        if due is not None and due <= self._state.now:
            del self._places[place]
            return False
        wait, rate = self._take(event.tenant, kind)
        if not wait:
            return False
        again = f"try again in {math.ceil(wait)} s"
        text = f"{again}: {whose(event.tenant)} may send {rate:g} {kind} a second"
        if job != "unknown" and due is None and self._buckets[event.tenant, kind].counted:
            self._places[place] = self._state.now + wait
        self._state.refuse(event, job, text, wait)
        self._later(wait, Acknowledge(event.handle))
        self._say(event.tenant, kind)
        return True

    def garbled(self, event: Garbled) -> None:
        """What cannot be read is put aside, and no faster than what can be would be taken."""
        wait, _ = self._take(event.tenant, "requests") if event.tenant is not None else (0.0, 0.0)
        letter = PutAside(event.handle, clip(event.reason, ERROR_LIMIT))
        if wait:
            self._later(wait, letter)
        else:
            self._state.out.append(letter)

    def why_not(self, request: Request) -> str:
        """Why a tenant may not have this job now, in one line; nothing if it may."""
        limits = limits_of(self._limits, request.tenant)
        if why := too_large(limits, request):
            return why
        if limits.waiting is None:
            return ""
        waiting = sum(
            not job.ended and not job.ledger.revision and job.ledger.request.tenant == request.tenant
            for job in self._state.jobs.values()
        )
        if waiting < limits.waiting:
            return ""
        return f"{waiting:,} jobs of {whose(request.tenant)} wait already: try again when some have begun"

    def tick(self) -> None:
        """Settle what has waited for its time."""
        while self._late and self._late[0][0] <= self._state.now:
            self._state.out.append(heapq.heappop(self._late)[2])

    def _take(self, tenant: str, kind: str) -> tuple[float, float]:
        """Seconds until it may, and how many there may be in a second."""
        rate = getattr(limits_of(self._limits, tenant), kind)
        if rate is None:
            return 0.0, 0.0
        bucket = self._buckets.get((tenant, kind))
        if bucket is None:
            bucket = self._buckets[tenant, kind] = Bucket(rate, max(rate * BURST, 1.0))
        return bucket.take(self._state.now), rate

    def _later(self, wait: float, instruction: Instruction) -> None:
        heapq.heappush(self._late, (self._state.now + wait, next(self._numbers), instruction))

    def _say(self, tenant: str, kind: str) -> None:
        now = self._state.now
        if now - self._said.get(tenant, -math.inf) >= SAY_EVERY:
            self._said[tenant] = now
            self._state.log("warning", f"too many {kind} of {whose(tenant)}")
