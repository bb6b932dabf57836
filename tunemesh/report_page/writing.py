"""Puts the page of a report together."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import tunemesh
from tunemesh.report import JobReport, Report, read_any, write_file
from tunemesh.report_page import curves, facts, plots
from tunemesh.shared.errors import BadInput, TunemeshError
from tunemesh.shared.text import clip, printable
from tunemesh.stage_workers.devices.drift import THRESHOLD
from tunemesh.stage_workers.graph.signatures import unpack_signatures
from tunemesh.tables import latency, seconds

if TYPE_CHECKING:
    import jinja2

PAGE = "report.html"
MARK = '<meta name="generator" content="tunemesh'
"""What tells a page of ours from other files."""
MOST_JOBS = 12
"""That stand side by side."""
MOST_ROWS, MOST_SPANS = 24, 800
"""Of a timeline."""
MOST_STEPS = 400
"""Of a curve."""
MOST_POINTS = 200
"""Moments at which the drift is shown."""
TEXT = 400
"""Characters of one text of a page."""

log = logging.getLogger(__name__)


def write_page(folder: Path) -> Path:
    """Write the page of a result beside its report.

    Raises:
        BadInput: the folder holds no report.
        TunemeshError: it cannot be written.
    """
    path = folder / PAGE
    write_file(path, page([(folder, read_any(folder))]).encode(errors="replace"))
    return path


def write_beside(folder: Path) -> None:
    """The same where the page is only to come with a result: what goes wrong with it is said, and is no fault
    of the result."""
    try:
        write_page(folder)
    except TunemeshError as error:
        log.warning("the page of a report is not written: %s", error)
    except Exception:  # whatever a library raises that draws
        log.exception("the page of the report in %s cannot be drawn", folder)


def page(found: Sequence[tuple[Path, JobReport]]) -> str:
    """The page of one report, or of several side by side.

    Args:
        found: reports and the folders that they lie in.

    Raises:
        BadInput: these are too many for one page.
    """
    if len(found) > MOST_JOBS:
        raise BadInput(f"a page has at most {MOST_JOBS} jobs side by side, not {len(found)}")
    templates = environment(Path(__file__).parent)
    common = {
        "missing": plots.missing(),
        "version": tunemesh.__version__,
        "facts": facts,
        "style": Markup(style()),
    }
    if len(found) == 1:
        folder, report = found[0]
        return templates.get_template("page.html.j2").render(**common, **_of_one(folder, report))
    return templates.get_template("several.html.j2").render(**common, **_of_several(found))


def part(folder: Path, report: JobReport, growing: bool) -> str:
    """The report of one job as a part of another page with the same style.

    Args:
        folder: where its result lies, or would lie.
        growing: the job has not ended.
    """
    template = environment(Path(__file__).parent).get_template("report.html.j2")
    return template.render(facts=facts, **_of_one(folder, report) | {"growing": growing})


def style() -> str:
    """The style of a page."""
    return Path(__file__).with_name("page.css").read_text()


def environment(folder: Path) -> jinja2.Environment:
    """Templates of a folder, which show texts of strangers and do not obey them."""
    import jinja2  # not where a command only asks whether there is a page

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"latency": latency, "seconds": seconds}
    return made


def _of_one(folder: Path, report: JobReport) -> dict[str, Any]:
    """What the template of one report shows."""
    result = report if isinstance(report, Report) else None
    return {
        "report": report,
        "result": result,
        "inputs": _inputs(folder),
        "growing": False,
        "folder": folder.name or folder,
        **_plots_of_one(report, result),
    }


def _plots_of_one(report: JobReport, result: Report | None) -> dict[str, Any]:
    """The plots of one report, and what they show; ``None`` for what there is nothing to draw of."""
    curve = _curve(report)
    rows = curves.timeline(report, MOST_ROWS, MOST_SPANS)
    points = curves.drift(report, MOST_POINTS)
    if plots.missing():
        nothing = dict.fromkeys(("latencies", "over_trials", "over_time", "timeline", "drift"))
        return {"curve": curve, "rows": rows, **nothing}
    return {
        "latencies": plots.latencies(facts.latencies(result)) if result is not None else None,
        "curve": curve,
        "over_trials": plots.improvements({report.job: curve}, "trials") if curve is not None else None,
        "over_time": plots.improvements({report.job: curve}, "seconds") if curve is not None else None,
        "rows": rows,
        "timeline": plots.timeline(rows, report.wall_s) if rows else None,
        "drift": plots.drift(points, THRESHOLD, report.wall_s) if points else None,
    }


def _of_several(found: Sequence[tuple[Path, JobReport]]) -> dict[str, Any]:
    """What the template of several reports shows."""
    reports = [report for _, report in found]
    names = _apart([report.job for report in reports])
    known = {name: _curve(report) for name, report in zip(names, reports, strict=True)}
    drawn = {name: curve for name, curve in known.items() if curve is not None and not plots.missing()}
    tasks = [[(task.id, task.name) for task in report.tasks] for report in reports]
    same = all(each == tasks[0] for each in tasks)
    return {
        "jobs": list(zip(names, reports, strict=True)),
        "over_trials": plots.improvements(drawn, "trials") if drawn else None,
        "over_time": plots.improvements(drawn, "seconds") if drawn else None,
        "tasks": list(zip(*(report.tasks for report in reports), strict=True))[: facts.MOST_TASKS]
        if same
        else [],
    }


def _curve(report: JobReport) -> curves.Curve | None:
    curve = curves.improvement(report)
    return curves.thinned(curve, MOST_STEPS) if curve is not None else None


def _apart(names: Sequence[str]) -> list[str]:
    """Names that differ: jobs of different folders may be called the same."""
    found: list[str] = []
    for name in names:
        number, apart = 2, name
        while apart in found:
            apart, number = f"{name} ({number})", number + 1
        found.append(apart)
    return found


def _inputs(folder: Path) -> str:
    """The inputs of the model as Python has them; nothing where the folder has no model that can run."""
    try:
        signature = unpack_signatures((folder / "signature.json").read_bytes()).variants[0]
    except (OSError, TunemeshError, ValueError, IndexError):
        return ""
    return "{" + ", ".join(f"{json.dumps(name)}: array_{n}" for n, name in enumerate(signature.shapes)) + "}"


def _safe(value: Any) -> Any:
    """A text of others as it may stand on a page: not endless, and without what turns its reading round."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return clip(printable(value), TEXT)
    return value
