"""Results as tables and sentences, and numbers as people read them."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from tunemesh.report import Compared, JobReport, Report, TaskReport, won
from tunemesh.shared.messages import Judgement, OutputCheck, Quote
from tunemesh.stage_workers.devices.drift import THRESHOLD
from tunemesh.stage_workers.graph.signatures import shapes_text
from tunemesh.terminal import Column, Fitted, say


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
    if 0 < value < 9.95e-8:
        return f"{value * 1e9:.1f} ns"
    if value < 1e-3:
        return f"{value * 1e6:.1f} us"
    return f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"


def ratio(value: float) -> str:
    """How many times, for people: three digits, and none behind the point from a thousand on."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def target_text(target: str) -> str:
    """A target in a few words: ``llvm znver5, 1 core``."""
    try:
        known = msgspec.json.decode(target, type=dict[str, Any])
    except msgspec.DecodeError:
        return target
    words = [known.get("kind"), known.get("tag") or known.get("mcpu") or known.get("arch")]
    text = " ".join(str(word) for word in words if word) or target
    cores = known.get("num-cores")
    return f"{text}, {cores} core{'s' if cores != 1 else ''}" if cores is not None else text


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


def winners(report: JobReport) -> str:
    """Which engine made the kernels of how many tasks, and how far it is ahead of the next one in the middle,
    in a sentence; empty where one engine searched alone, or nobody had to search."""
    if not any(len(task.searches) > 1 and (task.trials or task.taken) for task in report.tasks):
        return ""
    parts = []
    for engine, tasks in sorted(won(report).items(), key=lambda each: -len(each[1])):
        ahead = [task.ahead for task in tasks if task.ahead is not None]
        by = f" (by {statistics.median(ahead):.2f} times)" if ahead and engine != "untuned" else ""
        parts.append(f"{len(tasks)} {engine}{by}")
    return f"tasks by the engine of the fastest kernel: {', '.join(parts)}"


HEAVIEST = 20
"""Tasks whose winners are listed: the report has all."""


def winners_table(report: JobReport) -> Fitted:
    """One row per task: what each engine has found, which has won, and by how much: in turns with the next
    engine's, or about. Those come first that take longest."""
    engines = list(dict.fromkeys(each.engine for task in report.tasks for each in task.searches))
    columns = [Column("task", 0), Column("name", 3), Column("weight", 6), Column("untuned", 4)]
    columns += [Column(engine, 2) for engine in engines] + [Column("winner", 1), Column("by", 1)]
    by_time = sorted(report.tasks, key=lambda task: -task.weight * (task.best_s or task.untuned_s or 0.0))
    rows = []
    for task in by_time[:HEAVIEST]:
        best = {each.engine: each.best_s for each in task.searches}
        rows.append(
            [
                task.id,
                task.name,
                str(task.weight),
                latency(task.untuned_s),
                *(latency(best.get(engine)) for engine in engines),
                task.engine or "untuned",
                _lead(task),
            ]
        )
    return Fitted(f"tasks of {report.job}", columns, rows)


def _lead(task: TaskReport) -> str:
    """How far the winner is ahead; with ``~`` where the others did not take turns with it."""
    if task.ahead is None or not task.engine:
        return "-"
    return f"{'' if task.took_turns else '~'}{task.ahead:.2f}x"


NOTES = 5
"""Of a job, that are printed: a quantised network may have dozens of the same kind."""


LOOSE = 0.1
"""Share of an output that rounding may move, from which it is said."""


def judgement(judged: Judgement) -> str:
    """Who says that a model is right, and how far off it is, in a sentence."""
    if not judged.judge:
        why = f": {judged.reason}" if judged.reason else ""
        return f"compared with the untuned model only, with no other framework{why}"
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


RESULT_COLUMNS = (
    Column("job", 0),
    Column("before", 1),
    Column("after", 1),
    Column("speed-up", 1),
    Column("difference", 4),
    Column("trials", 3),
    Column("time", 2),
)


def print_reports(console: Console, reports: list[Report], out: Path) -> None:
    """What became of models that were tuned, and where it lies."""
    rows = []
    for report in reports:
        rows.append(
            [
                report.job,
                latency(report.latency_before_s),
                latency(report.latency_after_s),
                f"{report.speedup:.1f}x",
                f"{report.largest_difference:.1e}",
                f"{report.trials}/{report.budget}",
                seconds(report.wall_s),
            ]
        )
        for each in report.variants:
            before, after = latency(each.latency_before_s), latency(each.latency_after_s)
            rows.append([f"  {shapes_text(each.shapes)}", before, after, f"{each.speedup:.1f}x", *[""] * 3])
    console.print(Fitted("tuned models", RESULT_COLUMNS, rows))
    for report in reports:
        shares = ", ".join(f"{q} {r.utilisation:.0%}" for q, r in report.resources.items())
        say(console, f"{report.job}: {out / report.job}/model.so and report.json; kept busy: {shares}")
        if report.standing is not None:
            found = report.standing
            colour = "" if found.verdict == "met" else "yellow"
            say(console, f"{report.job}: {found.verdict}: {found.reason}", colour)
        if report.cost is not None:
            say(console, f"{report.job}: cost {report.cost:.4g}")
        if text := winners(report):
            console.print(winners_table(report))
            say(console, f"{report.job}: {text}")
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
