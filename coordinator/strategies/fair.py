"""Weighted fair shares: between tenants, and between the jobs of a tenant.

Each tenant has used a *share*: of the resource of which it has used most, compared with what there is,
divided by its weight (the dominant share of Ghodsi et al., NSDI 2011). The tenant with the least share goes
first, and within it the job with the least share by its priority. Who comes anew, or comes back, starts
level with the least served, so that nobody saves up for later and nobody starves (as in stride scheduling,
Waldspurger and Weihl, 1995).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from coordinator.heaps import ChangingHeap
from coordinator.strategies import Load, Ready


class _Account:
    """What a tenant or a job has used, in seconds per slot and weight, by need."""

    def __init__(self, weight: float, level: float) -> None:
        self.weight = weight
        self.level = level
        self.used: dict[str, float] = {}

    def charge(self, need: str, seconds: float) -> None:
        self.used[need] = self.used.get(need, 0.0) + seconds / self.weight

    @property
    def share(self) -> float:
        return self.level + max(self.used.values(), default=0.0)


class _Accounts:
    """Accounts by name, and for every need those with ready steps, least share first."""

    def __init__(self) -> None:
        self.open: dict[str, _Account] = {}
        self._waiting: dict[str, ChangingHeap[str]] = {}
        self._levels: ChangingHeap[str] = ChangingHeap()

    def enter(self, name: str, weight: float) -> _Account:
        if name not in self.open:
            least = self._levels.least()
            self.open[name] = _Account(weight, self.open[least].share if least is not None else 0.0)
            self._levels.put(name, self.open[name].share)
        return self.open[name]

    def leave(self, name: str) -> None:
        self.open.pop(name, None)
        self._levels.remove(name)
        for heap in self._waiting.values():
            heap.remove(name)

    def charge(self, name: str, need: str, seconds: float) -> None:
        account = self.open.get(name)
        if account is None:
            return
        account.charge(need, seconds)
        self._levels.put(name, account.share)
        for heap in self._waiting.values():
            if name in heap:
                heap.put(name, account.share)

    def wait(self, name: str, need: str, waits: bool) -> None:
        heap = self._waiting.setdefault(need, ChangingHeap())
        if waits:
            heap.put(name, self.open[name].share)
        else:
            heap.remove(name)

    def next(self, need: str) -> str | None:
        heap = self._waiting.get(need)
        return heap.least() if heap is not None else None


class Fair:
    """Two levels of accounts; O(log n) per decision."""

    name = "fair"
    controlled = True
    overlaps = True
    fits_chunks = False

    def __init__(self, shares: Mapping[str, float]) -> None:
        if shares:
            self.name = "fair:" + ",".join(f"{tenant}={weight:g}" for tenant, weight in shares.items())
        self._weights = shares
        self._tenants = _Accounts()
        self._jobs: dict[str, _Accounts] = {}
        self._steps: dict[tuple[str, str], list[tuple[int, Ready]]] = {}
        self._slots: dict[str, int] = {}

    def add(self, step: Ready) -> None:
        self._enter(step)
        heapq.heappush(self._steps.setdefault((step.job, step.need), []), (step.order, step))
        self._jobs[step.tenant].wait(step.job, step.need, True)
        self._tenants.wait(step.tenant, step.need, True)

    def take(self, need: str, load: Load, slowness: float) -> Ready | None:
        self._slots[need] = max(load.slots(need), 1)
        tenant = self._tenants.next(need)
        job = self._jobs[tenant].next(need) if tenant is not None else None
        if tenant is None or job is None:
            return None
        heap = self._steps[job, need]
        _, step = heapq.heappop(heap)
        if not heap:
            del self._steps[job, need]
            self._jobs[tenant].wait(job, need, False)
            if self._jobs[tenant].next(need) is None:
                self._tenants.wait(tenant, need, False)
        return step

    def started(self, step: Ready) -> None:
        # Charged in advance, so that a tenant does not get all of many idle devices at once.
        self._enter(step)
        self._charge(step, step.seconds)

    def ended(self, step: Ready, seconds: float | None) -> None:
        self._charge(step, (seconds or 0.0) - step.seconds)

    def forget(self, job: str) -> None:
        for tenant, accounts in list(self._jobs.items()):
            if job not in accounts.open:
                continue
            accounts.leave(job)
            for need in [need for name, need in self._steps if name == job]:
                del self._steps[job, need]
                if accounts.next(need) is None:
                    self._tenants.wait(tenant, need, False)
            if not accounts.open:
                self._tenants.leave(tenant)
                del self._jobs[tenant]

    def _enter(self, step: Ready) -> None:
        self._tenants.enter(step.tenant, self._weights.get(step.tenant, 1.0))
        self._jobs.setdefault(step.tenant, _Accounts()).enter(step.job, step.priority)

    def _charge(self, step: Ready, seconds: float) -> None:
        per_slot = seconds / self._slots.get(step.need, 1)
        self._tenants.charge(step.tenant, step.need, per_slot)
        if step.tenant in self._jobs:
            self._jobs[step.tenant].charge(step.job, step.need, per_slot)
