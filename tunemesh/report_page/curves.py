"""What the plots of a report show, as numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tunemesh.report import JobReport
from tunemesh.shared.messages import Stage, Timing


@dataclass(frozen=True, slots=True)
class Curve:
    """How the best estimate of a model's latency went down: steps at which it changed, and the end."""

    trials: list[int]
    """Tried until then."""
    seconds: list[float]
    """Since the job was accepted."""
    latency: list[float]
    """Summed over all tasks, each by its weight, in seconds."""


@dataclass(frozen=True, slots=True)
class Span:
    """Time in which a resource was at work on one stage, in seconds since the job was accepted."""

    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Row:
    """One resource of a timeline."""

    resource: str
    spans: dict[Stage, list[Span]]

    @property
    def busy(self) -> float:
        """Seconds of work."""
        return sum(span.end - span.begin for spans in self.spans.values() for span in spans)


def improvement(report: JobReport) -> Curve | None:
    """How the latency of the model went down, as far as its tasks tell; ``None`` where nothing is known of
    that. Before its first trial a task takes what it takes untuned, or what another job has found."""
    tuned = {each.task for each in report.tried}
    now: dict[str, float] = {}
    weight = {task.id: task.weight for task in report.tasks}
    for task in report.tasks:
        known = [task.untuned_s] if task.id in tuned else [task.untuned_s, task.best_s]
        measured = [each for each in known if each is not None]
        if measured:
            now[task.id] = min(measured)
    if not report.tried or set(now) != set(weight):
        return None
    total = sum(weight[each] * seconds for each, seconds in now.items())
    curve = Curve([0], [0.0], [total])
    for number, trial in enumerate(report.tried, 1):
        before = now.get(trial.task)
        if trial.latency_s is not None and before is not None and trial.latency_s < before:
            now[trial.task] = trial.latency_s
            total -= weight[trial.task] * (before - trial.latency_s)
            _add(curve, number, trial.at - report.accepted, total)
    _add(curve, len(report.tried), report.wall_s, total)
    return curve


def thinned(curve: Curve, most: int) -> Curve:
    """The same with so many steps at most, evenly chosen, the first and the last among them."""
    count = len(curve.trials)
    if count <= most:
        return curve
    kept = [number * (count - 1) // (most - 1) for number in range(most)]
    parts = (curve.trials, curve.seconds, curve.latency)
    return Curve(*([part[number] for number in kept] for part in parts))  # type: ignore[arg-type]


def _add(to: Curve, trials: int, seconds: float, latency: float) -> None:
    to.trials.append(trials)
    to.seconds.append(max(seconds, 0.0))
    to.latency.append(latency)


def timeline(report: JobReport, most_rows: int, most_spans: int) -> list[Row]:
    """Who worked when: the busiest resources, by name. Spans that a page could not show apart are one."""
    rows: dict[str, dict[Stage, list[Span]]] = defaultdict(dict)
    for timing in report.timeline:
        span = _span(timing, report.accepted)
        rows[timing.resource].setdefault(timing.stage, []).append(span)
    gap = 0.0
    while True:
        merged = [
            Row(name, {stage: _merged(spans, gap) for stage, spans in stages.items()})
            for name, stages in rows.items()
        ]
        chosen = sorted(merged, key=lambda row: (-row.busy, row.resource))[:most_rows]
        if sum(len(spans) for row in chosen for spans in row.spans.values()) <= most_spans:
            return sorted(chosen, key=lambda row: row.resource)
        gap = 2 * gap or report.wall_s / 1000


def _span(timing: Timing, since: float) -> Span:
    return Span(timing.started - since, timing.finished - since)


def _merged(spans: Sequence[Span], gap: float) -> list[Span]:
    """Spans with no more than ``gap`` seconds between them are one."""
    found: list[Span] = []
    for span in sorted(spans, key=lambda each: each.begin):
        if found and span.begin - found[-1].end <= gap:
            found[-1] = Span(found[-1].begin, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def drift(report: JobReport, most: int) -> list[tuple[float, float]]:
    """Seconds since the job was accepted, and how much slower than usual the device was then: of so many
    equal stretches of time the worst."""
    worst: dict[int, tuple[float, float]] = {}
    for trial in report.tried:
        if trial.latency_s is not None:
            at = max(trial.at - report.accepted, 0.0)
            stretch = int(at / max(report.wall_s, 1e-9) * most)
            if stretch not in worst or trial.drift > worst[stretch][1]:
                worst[stretch] = (at, trial.drift)
    return [worst[each] for each in sorted(worst)]
