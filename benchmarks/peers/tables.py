"""The results as tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks import markdown
from benchmarks.peers.results import Result
from tunemesh.comparing.limits import Limits
from tunemesh.comparing.peers import PEERS
from tunemesh.report import Compared
from tunemesh.shared.text import clip

TASKS = 12
"""Of a network, that are shown."""
NAME = 60
"""Characters of their names."""


def best(result: Result) -> Compared | None:
    """The fastest of the peers that compute as precisely as the model says."""
    precise = {peer.name for peer in PEERS if peer.precise}
    able = [each for each in result.compared if each.peer in precise and each.ratio is not None]
    return max(able, key=lambda each: each.ratio or 0.0, default=None)


def geometric_mean(values: Sequence[float]) -> float:
    """Of at least one positive number."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def summary(results: Sequence[Result]) -> list[str]:
    """A row per network: everybody's latency, and the ratio to the best peer."""
    peers = [
        peer for peer in PEERS if any(each.peer == peer.name for one in results for each in one.compared)
    ]
    headers = ["ms", "untuned", *(peer.title for peer in peers), "tuned", "tuned / best", "difference"]
    body = []
    ratios = []
    for result in results:
        found = {each.peer: each for each in result.compared}
        winner = best(result)
        if winner is not None and winner.ratio is not None:
            ratios.append(winner.ratio)
        body.append(
            [
                result.network,
                _milliseconds(result.tuned.untuned_s),
                *(
                    _milliseconds(found[peer.name].latency_s if peer.name in found else None)
                    for peer in peers
                ),
                _milliseconds(result.tuned.latency_s) + (" (untuned)" if result.tuned.rejected else ""),
                "" if winner is None else f"{winner.ratio:.2f}",
                _difference(winner),
                str(result.tuned.trials),
                _minutes(result.tuned.wall_s),
            ]
        )
    if len(ratios) > 1:
        mean = f"{geometric_mean(ratios):.2f}"
        body.append(["geometric mean", *[""] * (len(peers) + 2), mean, *[""] * 3])
    return markdown.table([*headers, "trials", "tuned in"], body)


def variants(results: Sequence[Result]) -> list[str]:
    """A row per network and variant: what it costs to leave something out. Nothing where there is none."""
    body = [
        [
            f"{result.network}, {each.name}",
            _milliseconds(each.latency_s),
            f"{each.ratio:.2f}",
            f"{each.difference:.1e}",
            str(each.trials),
            _minutes(each.wall_s),
        ]
        for result in results
        for each in result.variants
    ]
    headers = ["", "ms", "/ tuned", "difference", "trials", "tuned in"]
    return markdown.table(headers, body) if body else []


def tasks(result: Result, limits: Limits) -> list[str]:
    """The tasks that take the most time, and how near each comes to what the core can do."""
    whole = math.fsum(each.weight * each.seconds for each in result.shares)
    body = [
        [
            clip(each.name, NAME),
            str(each.weight),
            f"{each.seconds * 1e6:,.1f}",
            f"{each.weight * each.seconds / whole:.0%}",
            f"{each.flops / each.seconds / 1e9:,.0f}",
            f"{each.of_peak(limits):.0%}",
            f"{each.size / each.seconds / 1e9:,.1f}",
            f"{each.of_bandwidth(limits):.0%}",
        ]
        for each in result.shares[:TASKS]
    ]
    headers = ["", "weight", "us", "of all tasks", "GFLOP/s", "of the peak", "GB/s", "of memory's"]
    return markdown.table(headers, body)


def failures(results: Sequence[Result]) -> list[str]:
    """A line for every peer that could not run a network."""
    return [
        f"{result.network}: {each.title} cannot run it: {each.error}"
        for result in results
        for each in result.compared
        if each.error
    ]


def limits_line(limits: Limits, cpu: str) -> str:
    """What the core can do, in a sentence."""
    return (
        f"{cpu}, one core: {limits.flops / 1e9:,.0f} GFLOP/s of multiply-adds in f32; memory"
        f" {limits.triad / 1e9:.1f} GB/s (triad), {limits.copy / 1e9:.1f} GB/s (copy)."
    )


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else markdown.digits(seconds * 1e3)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def _difference(compared: Compared | None) -> str:
    if compared is None or compared.difference is None:
        return ""
    return f"{compared.difference:.1e}"


def document(results: Sequence[Result]) -> list[str]:
    """All of it: the machine, the networks, the variants, and the tasks of each network."""
    newest = results[-1]
    lines = [limits_line(newest.limits, str(newest.machine["cpu_model"])), *_versions(results), ""]
    lines += summary(results)
    for part in (failures(results), variants(results)):
        if part:
            lines += ["", *part]
    for result in results:
        if result.shares:
            lines += ["", f"### {result.network}", "", *tasks(result, result.limits)]
    return lines


def _versions(results: Sequence[Result]) -> list[str]:
    found = {f"{each.title} {each.version}": None for one in results for each in one.compared if each.version}
    return [", ".join(found)] if found else []
