"""What a tenant may have and ask for at most. Operators, and what they do in a tenant's name, are not held to
how often, how many wait, or how large.

Limits are kept by tenant; those under :data:`EVERY` hold for every tenant that has none of its own, and for
users of no tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tunemesh.coordinator.jobs.job import Job
from tunemesh.shared.messages import Request, Settings

EVERY = "*"

MB = 1e6

BURST = 10.0
"""Seconds for which messages may come faster, where none came before."""

_Number = Annotated[int, Meta(ge=1)]
_Rate = Annotated[float, Meta(gt=0)]


class Limits(Struct, frozen=True, kw_only=True):
    """Of one tenant. ``None``: as many as there are."""

    jobs: _Number | None = None
    """That are worked on at the same time; the others wait for these."""
    waiting: _Number | None = 1000
    """That wait, for whatever reason, before they have begun."""
    trials: _Number | None = None
    """Of one job."""
    model_mb: _Rate | None = None
    """Megabytes of a model, with its files."""
    step_s: _Rate | None = 1800.0
    """Seconds for which one step may hold a worker, by the timeouts that a request sets: nobody else has that
    worker meanwhile."""
    requests: _Rate | None = 10.0
    """That may be sent in a second, cancels included."""
    queries: _Rate | None = 20.0
    """The same."""


def limits_of(limits: Mapping[str, Limits], tenant: str) -> Limits:
    """Those that hold for a tenant, or for users of none (empty)."""
    return limits.get(tenant) or limits.get(EVERY) or Limits()


def without_rates(limits: Limits) -> Limits:
    """The same, but for how often something may be sent."""
    return msgspec.structs.replace(limits, requests=None, queries=None)


def whose(tenant: str) -> str:
    """A tenant for people."""
    return f"tenant {tenant}" if tenant else "users of no tenant"


def too_large(limits: Limits, request: Request) -> str:
    """Why a request asks for more than its tenant may, in one line; nothing if it does not."""
    trials = request.level.trials
    if limits.trials is not None and trials > limits.trials:
        most = f"{whose(request.tenant)} may have {limits.trials:,} of a job"
        return f"it asks for {trials:,} trials, and {most}"
    size = request.model.size + sum(blob.size for blob in request.files.values())
    if limits.model_mb is not None and size > limits.model_mb * MB:
        most = f"{whose(request.tenant)} may have {limits.model_mb:,g} MB"
        return f"its model has {size / MB:,.1f} MB, and {most}"
    seconds = longest_step(request.settings)
    if limits.step_s is not None and seconds > limits.step_s:
        most = f"{whose(request.tenant)} may have {limits.step_s:,g} s"
        advice = "a smaller --chunk, or shorter timeouts for import, build and profile"
        return f"one of its steps may take {seconds:,g} s, and {most}: give {advice}"
    return ""


def longest_step(settings: Settings) -> float:
    """Seconds that one step may take by the timeouts of a request: what workers do beside that has limits of
    its own."""
    candidate = max(settings.build_timeout, settings.profile_timeout)
    return max(settings.chunk * candidate, settings.import_timeout)


def has_turn(job: Job, jobs: Mapping[str, Job], limits: Mapping[str, Limits]) -> bool:
    """Whether a job may begin, as far as other jobs of its tenant go. One that has begun goes on, whatever
    the limit is now: its first revision after acceptance says so, also to a successor."""
    tenant = job.ledger.request.tenant
    most = limits_of(limits, tenant).jobs
    if job.ledger.revision or most is None:
        return True
    begun = sum(
        not other.ended and other.ledger.revision > 0 and other.ledger.request.tenant == tenant
        for other in jobs.values()
    )
    return begun < most


def capped(request: Request, limits: Mapping[str, Limits]) -> Request:
    """``request``, whose number of trials was left to the model, with no more than its tenant may have."""
    most, level = limits_of(limits, request.tenant).trials, request.level
    if most is None or level.effort != "full" or level.trials <= most:
        return request
    return msgspec.structs.replace(request, level=msgspec.structs.replace(level, trials=most))
