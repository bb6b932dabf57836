"""The coverage of many models as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from benchmarks import markdown
from benchmarks.zoo.importing import Found
from tunemesh.shared.text import one_line

COLUMNS = (
    "model",
    "verdict",
    "tasks",
    "judge",
    "largest difference",
    "in units of what is allowed",
    "s",
    "MiB",
)
MIB = 2**20


class Row(Struct, frozen=True, kw_only=True):
    """One model and what came of it."""

    name: str
    found: Found


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: a row per model, how many of each verdict, and why each is refused."""
    return [*markdown.table(COLUMNS, [_cells(row) for row in rows]), "", summary(rows), *_causes(rows)]


def summary(rows: Sequence[Row]) -> str:
    """How many are right, and what the others are."""
    counts = Counter(row.found.verdict for row in rows)
    others = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if name != "right")
    return f"{counts['right']} of {len(rows)} are right" + (f", {others}" if others else "") + "."


def _cells(row: Row) -> list[str]:
    found = row.found
    worst = max(found.outputs, key=lambda check: check.units, default=None)
    return [
        row.name,
        found.verdict,
        str(found.tasks or ""),
        found.judge,
        f"{worst.difference:.1e}" if worst else "",
        f"{worst.units:.2g}" if worst else "",
        f"{found.seconds:.1f}",
        f"{found.memory / MIB:,.0f}" if found.memory else "",
    ]


def _causes(rows: Sequence[Row]) -> list[str]:
    told = [f"- {row.name}: {one_line(row.found.error)}" for row in rows if row.found.error]
    return ["", *told] if told else []
