"""The plots of a report, drawn by matplotlib as SVG that is part of the page.

Texts stay texts, so that they can be read, searched and enlarged. Colours are variables of the page's style:
they follow its light and its dark look. Labels that come from strangers are taken as they are: as no markup
and no formula.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, get_args

from markupsafe import Markup

from tunemesh.report_page.curves import Curve, Row
from tunemesh.shared.messages import Stage
from tunemesh.shared.text import clip
from tunemesh.tables import latency

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404", "#0a0505", "#0a0606")
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    **{colour: f"var(--c{number})" for number, colour in enumerate(SERIES, 1)},
}
"""Colours that nobody would choose, and what the page has in their place."""

P = ParamSpec("P")

STAGES: tuple[Stage, ...] = tuple(stage for stage in get_args(Stage) if stage != "learn")
"""Those of jobs."""
OF_STAGE = dict(zip(STAGES, SERIES, strict=True))

SHORTER = {
    r"<!--.*?-->\n?": "",
    # Names that would be there twice; those of what is used again have a colon or a hash beside them.
    r'<g id="[^"]*">': "<g>",
    # As the page has it.
    r"font-family: [^;\"]*; ": "",
    r"xlink:href": "href",
    r"\n *": "\n",
    # A hundredth of a point is finer than any screen.
    r"(\d\.\d\d)\d+": r"\1",
}
"""What is replaced in the text that matplotlib writes."""

LABEL = 28
"""Characters of a label at an axis."""
WIDE = 5.0
"""Ratio between the largest and the smallest value from which an axis is logarithmic."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "path.simplify": True,
}


def missing() -> bool:
    """Whether nothing can be drawn here: whoever only sends models needs no matplotlib."""
    return importlib.util.find_spec("matplotlib") is None


def _plot(draw: Callable[P, Figure]) -> Callable[P, Markup]:
    """A function that draws, as one that gives a part of an HTML page."""

    @functools.wraps(draw)
    def drawn(*given: P.args, **named: P.kwargs) -> Markup:
        # Slow to import.
        from matplotlib import rc_context

        with rc_context({**STYLE, "svg.hashsalt": f"{draw.__name__} {given[1:]}"}):
            return _svg(draw(*given, **named))

    return drawn


@_plot
def latencies(named: Sequence[tuple[str, float]]) -> Figure:
    """A point for each latency, in seconds, with its value beside it; the second one, which is the result, in
    another colour."""
    figure, axes = _figure(4.8, 0.75 + 0.33 * len(named))
    rows = range(len(named))
    values = [value for _, value in named]
    axes.scatter(values, rows, s=60, color=[SERIES[1] if row == 1 else SERIES[0] for row in rows])
    for row, value in enumerate(values):
        axes.annotate(
            latency(value),
            (value, row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            clip_on=False,
        )
    axes.set_yticks(rows, [_label(name) for name, _ in named])
    axes.invert_yaxis()
    axes.set_ylim(len(named) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.25)
    _durations(axes, "x", values)
    return figure


@_plot
def improvements(curves: Mapping[str, Curve], over: str) -> Figure:
    """How latencies went down ``over`` ``trials`` or ``seconds``, by the name of the job."""
    figure, axes = _figure(4.8, 2.7)
    for number, (name, curve) in enumerate(curves.items()):
        along = curve.trials if over == "trials" else curve.seconds
        colour = SERIES[number % len(SERIES)]
        dashes = ("-", "--", ":")[number // len(SERIES) % 3]
        axes.step(along, curve.latency, where="post", color=colour, linestyle=dashes, label=_label(name))
    axes.set_xlabel("trials" if over == "trials" else "seconds since the job was accepted")
    axes.set_xlim(left=0)
    _durations(axes, "y", [value for curve in curves.values() for value in curve.latency])
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8.5)
    return figure


@_plot
def timeline(rows: Sequence[Row], seconds: float) -> Figure:
    """Who worked when, from the acceptance of the job to its end."""
    from matplotlib.patches import Patch

    figure, axes = _figure(7.6, 1.15 + 0.3 * len(rows))
    used: set[Stage] = set()
    for number, row in enumerate(rows):
        for stage, spans in row.spans.items():
            used.add(stage)
            bars = [(span.begin, max(span.end - span.begin, seconds / 2000)) for span in spans]
            axes.broken_barh(bars, (number - 0.36, 0.72), facecolors=OF_STAGE[stage], linewidth=0)
    axes.set_yticks(range(len(rows)), [_label(row.resource) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, max(seconds, 1e-9))
    axes.set_xlabel("seconds since the job was accepted")
    axes.grid(visible=False, axis="y")
    patches = [Patch(color=OF_STAGE[stage], label=stage) for stage in STAGES if stage in used]
    axes.legend(
        handles=patches, ncols=len(patches), frameon=False, fontsize=8.5, loc="lower left",
        bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=1, columnspacing=1.2,
    )  # fmt: skip
    return figure


@_plot
def drift(points: Sequence[tuple[float, float]], threshold: float, seconds: float) -> Figure:
    """How much slower than usual the device was around its measurements."""
    figure, axes = _figure(7.6, 1.9)
    axes.axhline(100 * threshold, color=SERIES[1], linewidth=1, linestyle="--")
    axes.scatter([at for at, _ in points], [100 * slower for _, slower in points], s=9, color=SERIES[0])
    axes.set_xlim(0, max(seconds, 1e-9))
    axes.set_ylabel("slower by, %")
    axes.set_xlabel("seconds since the job was accepted")
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _durations(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Label an axis with latencies; a logarithmic one where they are far apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > WIDE:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        narrow = max(positive) / min(positive) < 50
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=8))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _tick(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 0.9995:
            return f"{seconds * factor:.4g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _label(text: str) -> str:
    """A text as a label: what the fonts of all machines have, and no longer than there is place for."""
    known = "".join(each if " " <= each <= "~" else "?" for each in text)
    return clip(known, LABEL).replace(" [...] ", "...")


def _svg(figure: Figure) -> Markup:
    """The figure as a part of an HTML page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    box = re.search(r'viewBox="([^"]*)"', file.getvalue())
    assert box is not None
    _, _, body = file.getvalue().partition("</defs>")  # behind a style for all of the page
    for pattern, short in SHORTER.items():
        body = re.sub(pattern, short, body, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, variable)
    return Markup(f'<svg aria-hidden="true" focusable="false" viewBox="{box[1]}">{body}')
