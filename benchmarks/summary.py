"""Figures over several runs. Ratios of times within a block are quoted by their median, ratios of latencies
by their geometric mean: half and double cancel out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.table import Row, number


@dataclass(frozen=True, slots=True)
class Spread:
    """Several values of one figure."""

    median: float
    least: float
    most: float
    count: int


def geometric_mean(values: Sequence[float]) -> float | None:
    """Of positive numbers; ``None`` of none."""
    return statistics.geometric_mean(values) if values else None


def geometric_spread(values: Sequence[float]) -> float | None:
    """The geometric standard deviation: 1.1 says that most values lie within a tenth of the mean; ``None`` of
    fewer than two."""
    if len(values) < 2:
        return None
    return math.exp(statistics.stdev([math.log(value) for value in values]))


def spread(values: Iterable[float]) -> Spread | None:
    """Median, least and most; ``None`` of none."""
    known = sorted(values)
    if not known:
        return None
    return Spread(statistics.median(known), known[0], known[-1], len(known))


def column(rows: Iterable[Mapping[str, str]], name: str) -> list[float]:
    """All values of a column; rows without one are left out."""
    return [value for row in rows if (value := number(row, name)) is not None]


def by_label(rows: Iterable[Row], labels: Sequence[str]) -> dict[str, list[Row]]:
    """Rows by what is compared, in the order of ``labels``; labels without rows are left out."""
    known = list(rows)
    groups = {label: [row for row in known if row["label"] == label] for label in labels}
    return {label: group for label, group in groups.items() if group}


def pairs(rows: Iterable[Row], base: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Each row with that of the base in the same block (repeat and seed), where there is one."""
    by_block = {(row["repeat"], row["seed"]): row for row in base}
    blocks = [(row, by_block.get((row["repeat"], row["seed"]))) for row in rows]
    return [(row, against) for row, against in blocks if against is not None]


def paired_ratio(rows: Iterable[Row], base: Iterable[Row], name: str) -> float | None:
    """Median of each row's value over that of the base in the same block (repeat and seed); ``None`` when no
    block has both."""
    values = [(number(row, name), number(against, name)) for row, against in pairs(rows, base)]
    ratios = [value / against for value, against in values if value and against]
    return statistics.median(ratios) if ratios else None
