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
    return f"{found.median:.3g}" + (f" ({found.least:.3g} to {found.most:.3g})" if found.count > 1 else "")


def middle(values: Sequence[float], unit: str = "") -> str:
    """The median."""
    found = spread(values)
    return "" if found is None else f"{found.median:.3g}{unit}"


def times(ratio: float | None) -> str:
    """A ratio."""
    return "" if ratio is None else f"{ratio:.3f}"
