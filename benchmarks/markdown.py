"""Tables and numbers in Markdown; what is not known is an empty cell."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.summary import spread


def table(headers: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column is text, the others are numbers."""
    rule = ["---", *("---:" for _ in headers[1:])]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in (headers, rule, *body)]


def ranged(values: Sequence[float]) -> str:
    """Median, least and most."""
    found = spread(values)
    if found is None:
        return ""
    several = f" ({digits(found.least)} to {digits(found.most)})" if found.count > 1 else ""
    return f"{digits(found.median)}{several}"


def middle(values: Sequence[float], unit: str = "") -> str:
    """The median."""
    found = spread(values)
    return "" if found is None else f"{digits(found.median)}{unit}"


def digits(value: float) -> str:
    """Three significant digits, and whole numbers from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def times(ratio: float | None) -> str:
    """A ratio."""
    return "" if ratio is None else f"{ratio:.3f}"
