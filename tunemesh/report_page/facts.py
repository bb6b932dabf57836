"""What a report says, in words and numbers."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from tunemesh import tables
from tunemesh.option_names import arguments
from tunemesh.report import Compared, JobReport, Report, ResourceReport, TaskReport
from tunemesh.stage_workers.devices.drift import THRESHOLD
from tunemesh.stage_workers.graph.signatures import shapes_text
from tunemesh.tables import latency, ratio, seconds

Fact = tuple[str, str]
"""What it is called, and what it is."""

MOST_TASKS = 100
"""Tasks that a page lists, those first that take the most of the model's time."""
MOST_ERRORS = 25
"""Errors of trials that a page tells, one of each task."""
MOST_ENDINGS = 12
MOST_OUTPUTS = 40
MOST_NOTES = 30
MOST_COMPARED = 40
MOST_POINTS = 16
MOST_JUDGED = 8
MOST_RESOURCES = 60
MOST_CONDITIONS = 8


def headline(report: JobReport) -> str:
    """What came of the job, in one sentence."""
    if not isinstance(report, Report):
        return f"No result: {report.error or 'the job has not ended'}"
    if report.rejected_s is not None:
        return (
            f"{latency(report.latency_before_s)}, as before: tuned it would take"
            f" {latency(report.rejected_s)}, so that the result is the untuned model"
        )
    return (
        f"{latency(report.latency_before_s)} untuned, {latency(report.latency_after_s)} tuned:"
        f" {ratio(report.speedup)} times as fast"
    )


def asked(report: JobReport) -> list[Fact]:
    """What was wanted."""
    found = [("model", report.name), ("target", report.target)]
    terms = report.terms
    if terms is not None:
        found += [("engines", ", ".join(terms.engines)), ("effort", terms.level.effort)]
    found.append(("trials", f"up to {report.budget:,}"))
    if terms is not None:
        limits = msgspec.structs.replace(terms.level, trials=0, effort="full", patience=None)
        goals = arguments(limits)
        if goals:
            found.append(("service level", shlex.join(goals)))
        if changed := arguments(terms.settings):
            found.append(("settings", shlex.join(changed)))
    if report.quote is not None:
        found.append(("expected", tables.quote_text(report.quote)))
    return found


def came_out(report: JobReport) -> list[Fact]:
    """What came of it."""
    found = [
        ("trials", f"{report.trials:,} of {report.budget:,}" + (", stopped early" if report.stopped else ""))
    ]
    found.append(("took", seconds(report.wall_s)))
    if report.accepted:
        found.append(("accepted", _moment(report.accepted)))
    if report.standing is not None:
        found.append(("service level", f"{report.standing.verdict}: {report.standing.reason}"))
    if report.cost is not None:
        found.append(("cost", f"{report.cost:.4g}"))
    sentences = (
        ("engines", tables.winners(report)),
        ("from other jobs", tables.saved(report)),
        ("computed", tables.ways(report)),
    )
    found += [(name, text) for name, text in sentences if text]
    if isinstance(report, Report):
        for each in report.variants:
            times = f"{latency(each.latency_before_s)} to {latency(each.latency_after_s)}"
            found.append((shapes_text(each.shapes), f"{times}: {ratio(each.speedup)} times as fast"))
    return found


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def latencies(report: Report) -> list[tuple[str, float]]:
    """The untuned model, the result, and what else runs the model, of the first set of shapes that was
    compared; in seconds."""
    found = [("untuned", report.latency_before_s), ("tuned", report.latency_after_s)]
    if report.compared:
        first = report.compared[0].shapes
        of_first = [each for each in report.compared if each.shapes == first]
        if report.variants:
            # The sums over all sets of shapes stand beside nothing.
            variants = [each for each in report.variants if each.shapes == first]
            found = [("untuned", each.latency_before_s) for each in variants[:1]]
            found.append(("tuned", of_first[0].tuned_s))
        found += [(each.title, each.latency_s) for each in of_first if each.latency_s is not None]
    return found[:MOST_POINTS]


def latency_list(report: Report) -> list[Fact]:
    """The same as texts."""
    return [(name, latency(value)) for name, value in latencies(report)]


def comparisons(report: Report) -> list[tuple[str, bool]]:
    """How the result does beside each peer, in a sentence, and whether it is behind."""

    def said(each: Compared) -> str:
        of = f"{shapes_text(each.shapes)}: " if len({str(one.shapes) for one in report.compared}) > 1 else ""
        return of + tables.verdict(each)

    shown = report.compared[:MOST_COMPARED]
    return [(said(each), each.ratio is None or each.ratio > 1 + tables.EVEN) for each in shown]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task in a table."""

    task: TaskReport
    share: float | None
    """Of the time of the tuned model, as far as its tasks tell."""
    best: str
    untuned: str
    speedup: str
    rate: str
    """Operations per second of the kernel in the result, and their share of what the core can do."""
    kernel: str
    """Who made it, and how it computes the task."""
    outcomes: str
    """Of its trials, by kind."""
    note: str
    """What each engine has found, and who else tuned it."""


def tasks(report: JobReport) -> list[TaskRow]:
    """The tasks, those first that take the most time."""
    times = {task.id: time_of(task) for task in report.tasks}
    total = sum(task.weight * (times[task.id] or 0.0) for task in report.tasks)
    ordered = sorted(report.tasks, key=lambda task: -task.weight * (times[task.id] or 0.0))
    most = report.device_flops if isinstance(report, Report) else None
    return [_row(task, times[task.id], total, most) for task in ordered[:MOST_TASKS]]


def time_of(task: TaskReport) -> float | None:
    """Seconds that the task takes in the result, once; ``None`` where that is not known."""
    known = [each for each in (task.best_s, task.untuned_s) if each is not None]
    return min(known, default=None)


def _row(task: TaskReport, time: float | None, total: float, most: float | None) -> TaskRow:
    better = task.best_s is not None and task.untuned_s is not None and task.best_s < task.untuned_s
    failed = [f"{n} {kind}" for kind, n in sorted(task.outcomes.items()) if kind != "measured"]
    measured = task.outcomes.get("measured", 0)
    taken = ""
    if task.taken is not None:
        taken = f"tuned at the same time by {task.taken.job}"
    return TaskRow(
        task=task,
        share=task.weight * time / total if time is not None and total > 0 else None,
        best=latency(task.best_s),
        untuned=latency(task.untuned_s),
        speedup=f"{ratio(task.untuned_s / task.best_s)}x"
        if better and task.best_s and task.untuned_s
        else "-",
        rate=_rate(task, time, most),
        kernel=_kernel(task, better),
        outcomes=", ".join([*([f"{measured} measured"] if measured else []), *failed]) or "-",
        note="; ".join(filter(None, (_searches(task), taken))),
    )


def _rate(task: TaskReport, time: float | None, most: float | None) -> str:
    if not task.operations or not time:
        return "-"
    rate = task.operations / time
    return f"{rate / 1e9:.3g}" + (f" ({rate / most:.0%})" if most else "")


def _kernel(task: TaskReport, better: bool) -> str:
    """Who made the kernel that is in the result, how far it is ahead, and how it computes the task."""
    made = task.engine or ("tuned" if better else "untuned")
    if task.engine and task.ahead is not None:
        made += (
            f", {task.ahead:.2f} times ahead" if task.took_turns else f", about {task.ahead:.2f} times ahead"
        )
    return f"{made}: {task.way}" if task.way else made


def _searches(task: TaskReport) -> str:
    """What each engine has found, where several searched."""
    if len(task.searches) < 2:
        return ""
    found = [f"{each.engine} {latency(each.best_s)} in {each.trials} trials" for each in task.searches]
    return ", ".join(found)


def endings(report: JobReport) -> list[tuple[str, int]]:
    """Why tasks got no more trials, and how many, most frequent first."""
    return Counter(task.ended for task in report.tasks if task.ended).most_common(MOST_ENDINGS)


def errors(report: JobReport) -> list[tuple[str, str]]:
    """What went wrong last with a trial of each task: its id and the error."""
    found = [(task.id, task.last_error.strip()) for task in report.tasks if task.last_error.strip()]
    return found[:MOST_ERRORS]


def resources(report: JobReport) -> list[tuple[str, ResourceReport]]:
    """Those that were busiest, by name."""
    busiest = sorted(report.resources.items(), key=lambda item: -item[1].busy_s)[:MOST_RESOURCES]
    return sorted(busiest, key=lambda item: item[0])


def outcomes(report: JobReport) -> list[tuple[str, int]]:
    """Trials by what came of them, most frequent first."""
    counts: Counter[str] = Counter()
    for task in report.tasks:
        counts.update(task.outcomes)
    return counts.most_common()


def disturbances(report: JobReport) -> list[str]:
    """What says how far the measurements can be trusted, a sentence each."""
    found = []
    if isinstance(report, Report):
        slower = "slower" if report.drift >= 0 else "faster"
        off = f"{abs(report.drift):.1%} {slower} than usual"
        found.append(f"While the whole models were measured the device was {off}.")
    if again := sum(task.remeasured for task in report.tasks):
        found.append(
            f"{again:,} trials were measured more than once, because something disturbed the device."
        )
    drifting = [task for task in report.tasks if task.drift > THRESHOLD]
    if drifting:
        worst = max(drifting, key=lambda task: task.drift)
        found.append(
            f"In measurements of {len(drifting)} of {len(report.tasks)} tasks the device stayed more than"
            f" {THRESHOLD:.0%} slower than usual; most in those of {worst.id}: {worst.drift:.0%}."
        )
    spreads = [(task.spread, task.id) for task in report.tasks if task.spread is not None]
    if spreads:
        widest, of = max(spreads)
        found.append(
            f"The best of {len(spreads)} tasks were confirmed, taking turns; their repeats lie at most"
            f" {widest:.1%} apart ({of})."
        )
    if not drifting and not sum(task.remeasured for task in report.tasks):
        found.append("Nothing else is known to have disturbed it.")
    return found


def checks(report: Report) -> list[str]:
    """What was compared and how right it is, a sentence each."""
    found = [tables.judgement(each) for each in report.judged[:MOST_JUDGED]]
    compared = sum(each.compared for each in report.outputs)
    found.append(
        f"tuned beside untuned: {compared:,} elements of {len(report.outputs)} output(s) compared, largest"
        f" difference {report.largest_difference:.1e}"
    )
    return [each[0].upper() + each[1:] + "." for each in (*found, *tables.accuracy(report.outputs))]


def command(report: JobReport) -> str:
    """What asks for the same again; nothing where it is not known how it was asked for."""
    terms = report.terms
    if terms is None:
        return ""
    words = ["tunemesh", "tune", report.name or "MODEL", "--target", report.target]
    words += ["--engine", ",".join(terms.engines)] if terms.engines else []
    for component, options in terms.options.items():
        for name, value in options.items():
            words += ["--option", f"{component}.{name}={msgspec.json.encode(value).decode()}"]
    if terms.level.effort == "full" and terms.level.trials:
        words += ["--trials", str(terms.level.trials)]
    words += ["--seed", str(terms.seed)]
    words += [*arguments(terms.level, leave_out=("trials", "quote_only")), *arguments(terms.settings)]
    return shlex.join(words)


def machine(report: JobReport) -> list[Fact]:
    """What was measured on, and with what."""
    found = []
    for each in report.conditions[:MOST_CONDITIONS]:
        found += [("device", each.device), ("versions", each.versions)]
        if each.cache_flush:
            found.append(("caches", "flushed before every run"))
    return found


def side_by_side(jobs: Sequence[tuple[str, JobReport]]) -> list[tuple[str, list[str]]]:
    """Rows of a table with a column for each job; those that would be the same in all are left out."""
    every: list[list[Fact]] = []
    for _, report in jobs:
        result = report if isinstance(report, Report) else None
        found = [("result", headline(report)), *asked(report), *came_out(report)]
        found += [
            ("beside others", text) for text, _ in (comparisons(result) if result is not None else [])[:3]
        ]
        found += [("command", command(report)), *machine(report)]
        every.append(found)
    titles = dict.fromkeys(title for found in every for title, _ in found)
    rows = [
        (title, ["; ".join(text for name, text in found if name == title) or "-" for found in every])
        for title in titles
    ]
    return [(title, row) for title, row in rows if title == "result" or len(set(row)) > 1]
