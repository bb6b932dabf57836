"""Jobs, tasks, resources and results as tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tunemesh.report import Compared, JobReport, Report
from tunemesh.shared.messages import JobProgress, Judgement, OutputCheck, Quote, ResourceProgress
from tunemesh.stage_workers.devices.drift import THRESHOLD
from tunemesh.stage_workers.graph.signatures import shapes_text
from tunemesh.terminal import add_row, plain, say, table


def seconds(value: float | None) -> str:
    """A duration for people: ``12 s``, ``3 min 05 s``, ``1 h 02 min``."""
    if value is None:
        return "-"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def latency(value: float | None) -> str:
    """A latency for people, from seconds."""
    if value is None:
        return "-"
    if value < 1e-3:
        return f"{value * 1e6:.1f} us"
    return f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"


def estimate(progress: JobProgress) -> tuple[float | None, float | None]:
    """Summed latency of all tasks before and now, in seconds, each task by its weight; ``None`` before all
    have been measured. What the whole model takes is measured at the end."""
    if not progress.tasks or any(task.untuned is None for task in progress.tasks):
        return None, None
    before = sum(task.weight * (task.untuned or 0.0) for task in progress.tasks)
    now = sum(
        task.weight * min(task.untuned or 0.0, task.best if task.best is not None else float("inf"))
        for task in progress.tasks
    )
    return before, now


def failures(progress: JobProgress) -> str:
    """Failed trials by kind, most frequent first."""
    counts: dict[str, int] = {}
    for task in progress.tasks:
        for outcome, count in task.outcomes.items():
            if outcome != "measured":
                counts[outcome] = counts.get(outcome, 0) + count
    return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items(), key=lambda item: -item[1])) or "-"


def left(progress: JobProgress, now: float) -> float | None:
    """Seconds that the remaining trials take at the rate so far."""
    if progress.trials < 1 or progress.finished is not None or progress.stopped:
        return None
    return (now - progress.accepted) / progress.trials * (progress.budget - progress.trials)


def quote_text(quote: Quote) -> str:
    """What a job is expected to take, in a sentence."""
    others = [f"{quote.known} known"] if quote.known else []
    others += [f"{quote.shared} tuned by other jobs now"] if quote.shared else []
    tasks = f"{quote.tasks} tasks" + (f" ({', '.join(others)})" if others else "")
    parts = [tasks, f"up to {quote.trials} trials", f"about {seconds(quote.seconds)}"]
    parts.append(f"{seconds(quote.device_seconds)} of a device")
    parts += [f"cost {quote.cost:.3g}"] if quote.cost is not None else []
    parts += [f"{quote.chance:.0%} to meet the deadline"] if quote.chance is not None else []
    return ", ".join(parts)


def saved(report: JobReport) -> str:
    """What other jobs saved this one, in a sentence; empty where they did not."""
    taken = [task.taken for task in report.tasks if task.taken is not None]
    if not taken:
        return ""
    jobs = ", ".join(dict.fromkeys(each.job or "another tenant's" for each in taken))
    trials, device = sum(each.trials for each in taken), sum(each.seconds for each in taken)
    return (
        f"{len(taken)} of {len(report.tasks)} tasks were tuned by other jobs at the same time ({jobs}), which"
        f" saved {trials} trials and about {seconds(device)} of a device"
    )


def ways(report: JobReport) -> str:
    """How the tasks are computed that can be computed in several ways, in a sentence; empty where there are
    none."""
    counts = Counter(task.way for task in report.tasks if task.way)
    if not counts:
        return ""
    return f"tasks by way: {'; '.join(f'{count} {way}' for way, count in sorted(counts.items()))}"


def jobs_table(jobs: list[JobProgress], now: float) -> Table:
    """One row per job, and one more where there is something to say."""
    columns = ("job", "phase", "tasks", "trials", "best / untuned", "speed-up", "failed", "time", "left")
    made = table("jobs", columns, expand=True)
    for job in jobs:
        before, after = estimate(job)
        measured = sum(task.best is not None for task in job.tasks)
        add_row(
            made,
            job.job,
            f"{job.phase}, stopping" if job.stopped and job.phase == "tuning" else job.phase,
            f"{measured}/{len(job.tasks)}" if job.tasks else "-",
            f"{job.trials}/{job.budget or 'auto'}",
            f"{latency(after)} / {latency(before)}",
            f"{before / after:.1f}x" if before and after else "-",
            failures(job),
            seconds((job.finished or now) - job.accepted),
            seconds(left(job, now)),
        )
        if job.waiting or job.error:
            add_row(made, "", plain(job.error or job.waiting, "red" if job.error else "yellow"))
    return made


def tasks_table(job: JobProgress) -> Table:
    """One row per task of a job, and one more where a trial has failed."""
    columns = ("task", "name", "weight", "trials", "best", "untuned", "outcomes")
    made = table(f"tasks of {job.job}", columns, expand=True)
    for task in job.tasks:
        outcomes = ", ".join(f"{n} {kind}" for kind, n in sorted(task.outcomes.items()))
        best, untuned = latency(task.best), latency(task.untuned)
        add_row(made, task.id, task.name, str(task.weight), str(task.trials), best, untuned, outcomes)
        if task.last_error.strip():
            add_row(made, "", plain(task.last_error.strip().splitlines()[-1][:200], "yellow"))
    return made


def resources_table(resources: list[ResourceProgress]) -> Table:
    """One row per stage queue."""
    made = table("resources", ("queue", "workers", "doing", "utilisation"), expand=True)
    for resource in resources:
        add_row(
            made,
            resource.queue,
            str(len(resource.workers)),
            ", ".join(resource.running) or "idle",
            f"{min(resource.utilisation, 1.0):.0%}",
        )
    return made


NOTES = 5
"""Of a job, that are printed: a quantised network may have dozens of the same kind."""


LOOSE = 0.1
"""Share of an output that rounding may move, from which it is said."""


def judgement(judged: Judgement) -> str:
    """Who says that a model is right, and how far off it is, in a sentence."""
    if not judged.judge:
        return f"compared with the untuned model only, with no other framework: {judged.reason}"
    compared = sum(each.compared for each in judged.outputs)
    loose = [each for each in judged.outputs if each.leeway > LOOSE]
    doubt = f"; rounding alone may move {loose[0].name} by {loose[0].leeway:.0%}" if loose else ""
    furthest = max((each.units for each in judged.outputs), default=0.0)
    return (
        f"agrees with {judged.judge} in {compared:,} elements of {len(judged.outputs)} output(s);"
        f" the furthest off by {furthest:.2g} of what rounding may do; inputs: {judged.inputs}{doubt}"
    )


COARSE = 1e-4
"""Share of an output by which the tuned model may be off without it being said: more than rounding in single
precision does."""


def accuracy(outputs: Sequence[OutputCheck]) -> list[str]:
    """How far the tuned model is off, a sentence for each output where that is more than single precision."""
    found = []
    for each in outputs:
        if each.relative > COARSE:
            same = (
                f"; the largest element of a row is the same in {each.choices:.2%} of them"
                if each.choices is not None
                else ""
            )
            found.append(
                f"{each.name} is off from the untuned model by {each.relative:.1e} of its size (root mean"
                f" square), at most by {each.largest:.1e}{same}"
            )
    return found


EVEN = 0.01
"""Share by which two latencies may differ and be called the same."""


STRANGE = 0.1
"""Share of its largest value by which a peer may be off and have computed the same: bf16 stays below."""


def verdict(compared: Compared) -> str:
    """How a result does beside one peer, in a sentence."""
    who = f"{compared.title} {compared.version}".strip()
    if compared.ratio is None:
        return f"{who} cannot run the model: {compared.error}"
    faster = compared.ratio if compared.ratio > 1 else 1 / compared.ratio
    if not _same(compared):
        end = "but they do not compute the same"
    elif faster < 1 + EVEN:
        end = "they are equally fast"
    else:
        end = f"{compared.title if compared.ratio > 1 else 'tuned'} is {faster:.2f} times faster"
    off = compared.difference
    shown = f"{off:.1e}" if off is not None and math.isfinite(off) else "in other shapes or not a number"
    return (
        f"tuned {latency(compared.tuned_s)}; {who} {latency(compared.latency_s)}: {end};"
        f" largest difference {shown}, largest value {compared.largest or 0.0:.3g}"
    )


def _same(compared: Compared) -> bool:
    off = compared.difference  # JSON has no infinity: it comes back as None
    return off is not None and (off == 0 or off <= STRANGE * (compared.largest or 0.0))


def print_compared(console: Console, job: str, found: list[Compared]) -> None:
    """Who is faster, a line for each set of shapes and peer."""
    for each in found:
        of = f" ({shapes_text(each.shapes)})" if len({str(one.shapes) for one in found}) > 1 else ""
        lost = each.ratio is None or each.ratio >= 1 + EVEN or not _same(each)
        say(console, f"{job}{of}: {verdict(each)}", "yellow" if lost else "")


def print_reports(console: Console, reports: list[Report], out: Path) -> None:
    """What became of models that were tuned, and where it lies."""
    columns = ("job", "before", "after", "speed-up", "difference", "trials", "time")
    made = table("tuned models", columns)
    for report in reports:
        add_row(
            made,
            report.job,
            latency(report.latency_before_s),
            latency(report.latency_after_s),
            f"{report.speedup:.1f}x",
            f"{report.largest_difference:.1e}",
            f"{report.trials}/{report.budget}",
            seconds(report.wall_s),
        )
        for each in report.variants:
            add_row(
                made,
                f"  {shapes_text(each.shapes)}",
                latency(each.latency_before_s),
                latency(each.latency_after_s),
                f"{each.speedup:.1f}x",
                *[""] * 3,
            )
    console.print(made)
    for report in reports:
        shares = ", ".join(f"{q} {r.utilisation:.0%}" for q, r in report.resources.items())
        say(console, f"{report.job}: {out / report.job}/model.so and report.json; kept busy: {shares}")
        if report.standing is not None:
            found = report.standing
            colour = "" if found.verdict == "met" else "yellow"
            say(console, f"{report.job}: {found.verdict}: {found.reason}", colour)
        if report.cost is not None:
            say(console, f"{report.job}: cost {report.cost:.4g}")
        for text in filter(None, (saved(report), ways(report))):
            say(console, f"{report.job}: {text}")
        for judged in report.judged:
            say(console, f"{report.job}: {judgement(judged)}", "" if judged.judge else "yellow")
        for sentence in accuracy(report.outputs):
            say(console, f"{report.job}: {sentence}", "yellow")
        print_compared(console, report.job, report.compared)
        for note in report.notes[:NOTES]:
            say(console, f"{report.job}: {note}", "yellow")
        if (more := len(report.notes) - NOTES) > 0:
            say(console, f"{report.job}: {more} more such notes are in report.json", "yellow")
        if report.rejected_s is not None:
            rejected = f"tuned it would take {latency(report.rejected_s)}: model.so is the untuned model"
            say(console, f"{report.job}: {rejected}; try more than {report.trials} trials", "yellow")
        if report.drift > THRESHOLD:
            slower = f"the device was {report.drift:.0%} slower than usual when the models were measured"
            say(console, f"{report.job}: {slower}", "yellow")
