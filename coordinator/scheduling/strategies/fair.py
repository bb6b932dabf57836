"""Weighted fair shares of the workers for every need: between tenants, and between the jobs of a tenant.

For each need, the tenant that has used least for its weight goes first, and within it the job that has used
least for its priority (stride scheduling, Waldspurger and Weihl, 1995, in two levels). Who comes anew starts
level with the least served, so that nobody saves up for later and nobody starves.

A step that has begun is finished, however long it takes. So a tenant whose steps have been long
(:data:`LONG`), and who has used more than another one, does not get the worker in the moment between two
steps of that other one (:data:`MOMENT`): candidates that hang would otherwise hold up a job of short steps
after each of them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tunemesh.coordinator.scheduling.heap import ChangingHeap
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.strategies import CLASSES, Load, Ready
from tunemesh.shared.messages import Class

LONG = 2.0
"""Seconds of a tenant's steps, lately, from which others are not kept waiting for one of them: four times
what a worker may be left idle for that."""

MOMENT = 0.5
"""Seconds after a step of a tenant in which the next one may be expected."""

FADING = 0.7
"""What is left of a long step by the next one of its tenant."""


@dataclass(slots=True)
class _Habit:
    """How a tenant uses the workers for one need."""

    seconds: float = 0.0
    """Of its longest step lately."""
    seen: float = -math.inf
    """When it had ended a step, the last time that somebody looked."""


class _Shares:
    """What some have used of the workers for one need, in seconds for their weight; and who of them waits."""

    def __init__(self) -> None:
        self._weights: dict[str, float] = {}
        self._used: ChangingHeap[str] = ChangingHeap()
        self._waiting: dict[Class, ChangingHeap[str]] = {each: ChangingHeap() for each in CLASSES}

    def enter(self, name: str, weight: float) -> None:
        if name not in self._weights:
            least = self._used.least()
            self._weights[name] = weight
            self._used.put(name, self._used.key(least) if least is not None else 0.0)

    def used(self, name: str) -> float:
        return float(self._used.key(name))

    def leave(self, name: str) -> None:
        self._weights.pop(name, None)
        self._used.remove(name)
        for each in CLASSES:
            self.rest(name, each)

    def charge(self, name: str, seconds: float) -> None:
        if name in self._weights:
            used = self._used.key(name) + seconds / self._weights[name]
            self._used.put(name, used)
            for waiting in self._waiting.values():
                if name in waiting:
                    waiting.put(name, used)

    def wait(self, name: str, class_: Class) -> None:
        self._waiting[class_].put(name, self._used.key(name))

    def rest(self, name: str, class_: Class) -> None:
        self._waiting[class_].remove(name)

    def next(self, classes: Collection[Class]) -> str | None:
        found = [(self._waiting[each].least(), self._waiting[each]) for each in classes]
        known = [(waiting.key(name), name) for name, waiting in found if name is not None]
        return min(known)[1] if known else None

    def __len__(self) -> int:
        return len(self._weights)


class _Account:
    """One need: its tenants, their jobs, and the ready steps of these."""

    def __init__(self) -> None:
        self.tenants = _Shares()
        self.jobs: dict[str, _Shares] = {}
        self.steps: dict[str, list[tuple[int, Ready]]] = {}
        self._habits: dict[str, _Habit] = {}
        self._back: set[str] = set()
        """Tenants of which a step has ended since somebody looked."""

    def note(self, tenant: str, seconds: float) -> None:
        """A step of a tenant has ended after so many seconds."""
        habit = self._habits.setdefault(tenant, _Habit())
        habit.seconds = max(seconds, FADING * habit.seconds)
        self._back.add(tenant)

    def leave(self, tenant: str) -> None:
        self.tenants.leave(tenant)
        self._habits.pop(tenant, None)
        self._back.discard(tenant)

    def _is_to_wait(self, tenant: str, now: float) -> bool:
        """Whether a tenant's next step would keep somebody waiting who has used less and was here a moment
        ago."""
        for each in self._back:
            self._habits[each].seen = now
        self._back.clear()
        own = self._habits.get(tenant)
        if own is None or own.seconds < LONG:
            return False
        ahead = self.tenants.used(tenant)
        return any(
            self.tenants.used(other) < ahead and now - habit.seen < MOMENT
            for other, habit in self._habits.items()
            if other != tenant
        )

    def enter(self, step: Ready, weight: float) -> _Shares:
        self.tenants.enter(step.tenant, weight)
        jobs = self.jobs.setdefault(step.tenant, _Shares())
        jobs.enter(step.account, step.priority)
        return jobs

    def pop(self, classes: Collection[Class], now: float) -> Ready | None:
        tenant = self.tenants.next(classes)
        if tenant is not None and self._is_to_wait(tenant, now):
            return None
        job = self.jobs[tenant].next(classes) if tenant is not None else None
        if tenant is None or job is None:
            return None
        _, step = heapq.heappop(self.steps[job])
        if not self.steps[job]:
            self.clear(tenant, job)
        return step

    def clear(self, tenant: str, job: str) -> None:
        """The job has no ready steps here any more."""
        self.steps.pop(job, None)
        for each in CLASSES:
            self.jobs[tenant].rest(job, each)
            if self.jobs[tenant].next([each]) is None:
                self.tenants.rest(tenant, each)


class Fair:
    """O(log n) per decision; where steps are long all tenants are looked at."""

    name = "fair"
    controlled = True
    overlaps = True
    fits_chunks = False

    def __init__(self, shares: Mapping[str, float]) -> None:
        if shares:
            self.name = "fair:" + ",".join(f"{tenant}={weight:g}" for tenant, weight in shares.items())
        self._weights = shares
        self._needs: dict[Need, _Account] = {}

    def add(self, step: Ready) -> None:
        need = self._enter(step)
        heapq.heappush(need.steps.setdefault(step.account, []), (step.order, step))
        need.jobs[step.tenant].wait(step.account, step.class_)
        need.tenants.wait(step.tenant, step.class_)

    def take(
        self, need: Need, load: Load, slowness: float, classes: Collection[Class] = CLASSES
    ) -> Ready | None:
        known = self._needs.get(need)
        return known.pop(classes, load.now) if known is not None else None

    def started(self, step: Ready) -> None:
        # Charged in advance, so that a tenant does not get all of many idle devices at once.
        self._enter(step)
        self._charge(step, step.seconds)

    def ended(self, step: Ready, seconds: float | None) -> None:
        self._charge(step, (seconds or 0.0) - step.seconds)
        account = self._needs.get(step.need)
        if account is not None and step.tenant in account.jobs and seconds is not None:
            account.note(step.tenant, seconds)

    def forget(self, job: str) -> None:
        for need, account in list(self._needs.items()):
            for tenant, jobs in list(account.jobs.items()):
                account.clear(tenant, job)
                jobs.leave(job)
                if not len(jobs):
                    account.leave(tenant)
                    del account.jobs[tenant]
            if not account.jobs:
                del self._needs[need]

    def _enter(self, step: Ready) -> _Account:
        need = self._needs.setdefault(step.need, _Account())
        need.enter(step, self._weights.get(step.tenant, 1.0))
        return need

    def _charge(self, step: Ready, seconds: float) -> None:
        account = self._needs.get(step.need)
        if account is not None and step.tenant in account.jobs:
            account.tenants.charge(step.tenant, seconds)
            account.jobs[step.tenant].charge(step.account, seconds)
