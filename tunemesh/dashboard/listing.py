"""Which jobs a page lists, in which order, and in which words; and the resources beside them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlencode

from tunemesh.dashboard.board import View
from tunemesh.shared.messages import OTHERS, JobProgress, ResourceProgress
from tunemesh.shared.text import one_line
from tunemesh.status_tables import estimate, failures, left, step_text, waiting_for
from tunemesh.tables import latency, seconds, target_text

PAGE = 25
"""Jobs on one page."""
MOST_RESOURCES = 100
MOST_RUNNING = 8
"""Steps in flight that are named for one resource."""
MOST_REASONS = 8
MOST_ERRORS = 8
TEXT = 200
"""Characters that are searched, at most."""

Shown = Literal["all", "running", "waiting", "done", "failed", "cancelled"]
Order = Literal["newest", "oldest", "name", "speed-up", "trials", "failed trials"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person has chosen to see."""

    text: str = ""
    """What the id, model, tenant, target, reason or error of a job contains: all of its words."""
    shown: Shown = "all"
    order: Order = "newest"
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wanted:
        """From the query of an address. What makes no sense there counts as not said."""
        shown, order, page = query.get("shown", "all"), query.get("order", "newest"), query.get("page", "1")
        return cls(
            text=query.get("text", "")[:TEXT],
            shown=shown if shown in get_args(Shown) else "all",  # type: ignore[arg-type]
            order=order if order in get_args(Order) else "newest",  # type: ignore[arg-type]
            page=int(page) if page.isascii() and page.isdigit() and len(page) < 6 and int(page) else 1,
        )

    def query(self, **changes: str | int) -> str:
        """The query of the address of this choice, or of a changed one."""
        usual = Wanted()
        said = {"text": self.text, "shown": self.shown, "order": self.order, "page": self.page} | changes
        return urlencode({name: value for name, value in said.items() if value != getattr(usual, name)})


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job of the list."""

    job: str
    name: str
    state: str
    """In a word or two."""
    kind: str
    """``running``, ``waiting``, ``done``, ``failed`` or ``cancelled``."""
    share: float | None
    """Of its trials that were made, 0 to 1, while it is tuned."""
    trials: str
    best: str
    speedup: str
    failed: str
    since: float
    """When it was accepted: Unix time."""
    took: str
    """Once it has ended."""
    left: str
    tenant: str
    target: str
    note: str
    """Why it waits, what failed, or what is not done."""


@dataclass(frozen=True, slots=True)
class ResourceRow:
    """One resource."""

    queue: str
    workers: int
    busy: float
    """Share of the last five minutes."""
    course: str
    """Points of a line of how busy it was, 0 to 100 wide and 0 to 20 high."""
    running: list[tuple[str, str]]
    """Steps in flight: the job, and the step in words."""
    more: int
    """Steps that are not named."""
    waiting: int
    """Steps that wait for it or for one like it."""
    waits: str
    """Whose."""
    drift: str
    serves: str
    hosts: str
    faults: str
    """Why its devices do not work."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What the page of a mesh shows."""

    rows: Sequence[JobRow]
    found: int
    """Jobs on all pages."""
    page: int
    pages: int
    counts: Mapping[Shown, int]
    """Jobs by kind, whatever is searched for."""
    reasons: Sequence[tuple[str, int]]
    """Why jobs wait, and how many."""
    errors: Sequence[tuple[str, int, str]]
    """The latest that failed, how many failed before for the same reason, and why."""
    resources: Sequence[ResourceRow]
    more_resources: int


def kind_of(job: JobProgress) -> Shown:
    """What becomes of a job, in one word."""
    if job.phase in ("done", "failed", "cancelled"):
        return job.phase
    return "waiting" if job.waiting else "running"


def listing(view: View, wanted: Wanted, now: float) -> Listing:
    """What is shown to somebody who has chosen so."""
    kinds = Counter(kind_of(job) for job in view.jobs)
    counts: dict[Shown, int] = {"all": len(view.jobs)}
    counts |= {kind: kinds[kind] for kind in get_args(Shown)[1:]}
    found = [job for job in view.jobs if _matches(job, wanted)]
    pages = max(-(-len(found) // PAGE), 1)
    page = min(wanted.page, pages)
    ordered = _ordered(found, wanted.order)
    failed = sorted(
        (job for job in view.jobs if job.phase == "failed"), key=lambda job: -(job.finished or 0.0)
    )
    errors: dict[str, list[str]] = {}
    for job in failed:
        errors.setdefault(one_line(job.error), []).append(job.job)
    reasons = Counter(one_line(job.waiting) for job in view.jobs if kind_of(job) == "waiting")
    return Listing(
        rows=[row(job, now) for job in ordered[(page - 1) * PAGE : page * PAGE]],
        found=len(found),
        page=page,
        pages=pages,
        counts=counts,
        reasons=reasons.most_common(MOST_REASONS),
        errors=[
            (jobs[0], len(jobs) - 1, text) for text, jobs in itertools.islice(errors.items(), MOST_ERRORS)
        ],
        resources=[_resource(each, view) for each in view.resources[:MOST_RESOURCES]],
        more_resources=max(len(view.resources) - MOST_RESOURCES, 0),
    )


def _matches(job: JobProgress, wanted: Wanted) -> bool:
    if wanted.shown != "all" and kind_of(job) != wanted.shown:
        return False
    words = wanted.text.casefold().split()
    if not words:
        return True
    texts = (job.job, job.name, job.tenant, job.target, job.phase, job.waiting, job.error, job.asked_by)
    text = "\n".join(texts).casefold()
    return all(word in text for word in words)


def _ordered(jobs: Iterable[JobProgress], order: Order) -> list[JobProgress]:
    """Those that run come before those that have ended where nothing else was asked for."""
    match order:
        case "oldest":
            return sorted(jobs, key=lambda job: job.accepted)
        case "name":
            return sorted(jobs, key=lambda job: (job.name or job.job, job.accepted))
        case "trials":
            return sorted(jobs, key=lambda job: (-job.trials, -job.accepted))
        case "speed-up":
            return sorted(jobs, key=lambda job: (-_speedup(job), -job.accepted))
        case "failed trials":
            return sorted(jobs, key=lambda job: (-_failed(job), -job.accepted))
    return sorted(jobs, key=lambda job: (job.finished is not None, -job.accepted))


def _speedup(job: JobProgress) -> float:
    before, after = estimate(job)
    return before / after if before and after else 0.0


def _failed(job: JobProgress) -> int:
    return sum(task.trials - task.outcomes.get("measured", 0) for task in job.tasks)


def row(job: JobProgress, now: float) -> JobRow:
    """One job in words."""
    before, after = estimate(job)
    tuning = job.phase == "tuning"
    state = f"{job.phase}, stopping" if tuning and job.stopped else job.phase
    ended = job.finished is not None
    return JobRow(
        job=job.job,
        name=job.name,
        state=f"{state}, waiting" if kind_of(job) == "waiting" else state,
        kind=kind_of(job),
        share=min(job.trials / job.budget, 1.0) if tuning and job.budget else None,
        trials=f"{job.trials:,}/{f'{job.budget:,}' if job.budget else 'auto'}",
        best=f"{latency(after)} / {latency(before)}" if before else "-",
        speedup=f"{before / after:.1f}x" if before and after else "-",
        failed=failures(job),
        since=job.accepted,
        took=seconds(max((job.finished or 0.0) - job.accepted, 0.0)) if ended else "",
        left=seconds(left(job, now)),
        tenant=job.tenant,
        target=target_text(job.target),
        note=one_line(job.error or job.waiting or job.note),
    )


def _resource(resource: ResourceProgress, view: View) -> ResourceRow:
    waits = waiting_for(resource, view.waiting)
    device = bool(resource.targets)
    named = [("" if step == OTHERS else step.partition("/")[0], step_text(step)) for step in resource.running]
    return ResourceRow(
        queue=resource.queue,
        workers=len(resource.workers),
        busy=min(resource.utilisation, 1.0),
        course=course(view.samples.get(resource.queue, ())),
        running=named[:MOST_RUNNING],
        more=max(len(named) - MOST_RUNNING, 0),
        waiting=sum(waits.values()),
        waits=", ".join(job for job, _ in waits.most_common(3)) + (" and others" if len(waits) > 3 else ""),
        drift=f"{resource.drift:+.0%}" if device else "",
        serves=target_text(resource.targets[0]) if device else ", ".join(resource.engines),
        hosts=", ".join(resource.hosts[:3])
        + (f" and {len(resource.hosts) - 3} more" * (len(resource.hosts) > 3)),
        faults="; ".join(resource.faults),
    )


def course(samples: Sequence[float]) -> str:
    """Points of a line, the latest at the right: 90 of them are 100 wide."""
    step = 100 / 89
    first = 100 - step * (len(samples) - 1)
    points = (
        f"{first + step * number:.1f},{20 - 19 * min(max(value, 0.0), 1.0):.1f}"
        for number, value in enumerate(samples)
    )
    return " ".join(points)
