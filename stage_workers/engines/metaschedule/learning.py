"""Fit a prior to what was measured of many tasks, and say how well one ranks candidates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.engines.metaschedule import candidates, cost_model, options, prior
from tunemesh.stage_workers.engines.metaschedule.cost_model import Features
from tunemesh.stage_workers.engines.metaschedule.prior import Prior
from tunemesh.stage_workers.engines.protocol import Examples, LearnCall, Learned, Quality

LEAST = 8
"""Measured candidates that a task must have: with fewer there is little to rank."""
SPREAD = 1.5
"""Times as long as the fastest that the slowest takes, at least: where somebody has handed on only the best,
what is left to rank is noise."""
FIRST = 8
"""How many of those that should be the fastest are looked at."""


class Kernel(NamedTuple):
    """What is known of a task: of each candidate the same place in all of them."""

    features: list[Features]
    summaries: npt.NDArray[np.float32]
    """Of the features."""
    latencies: npt.NDArray[np.float64]
    """In seconds."""

    def only(self, places: Sequence[int] | npt.NDArray[np.intp]) -> Kernel:
        """The same with some of the candidates."""
        return Kernel(
            [self.features[each] for each in places], self.summaries[places], self.latencies[places]
        )


Expecting = Callable[[Kernel], npt.NDArray[np.float32]]
"""Logarithms of the speeds that the candidates of a task should have."""


def learn(call: LearnCall) -> Learned:
    """See :meth:`stage_workers.engines.protocol.Engine.learn`."""
    known, held_out = list(kernels(call.examples)), list(kernels(call.held_out))
    if not known or not held_out:
        what = "learn from" if not known else "compare priors on"
        raise BadInput(f"there are too few records to {what}: a task needs {LEAST} measured schedules")
    before = prior.of(call.examples[0].target, call.prior)
    content = fit(known, prior.of(call.examples[0].target, None))
    return Learned(
        prior=content,
        trials=sum(len(each.latencies) for each in known),
        tasks=len(known),
        before=quality(by_prior(before), held_out) if before is not None else None,
        after=quality(by_prior(Prior(content)), held_out),
    )


def kernels(examples: Iterable[Examples]) -> Iterator[Kernel]:
    """The tasks of which enough was measured."""
    for each in examples:
        if each.format != options.FORMAT:
            continue
        measured = {one.candidate.schedule: one for one in each.trials if math.isfinite(one.estimate)}
        recalled = candidates.recall(each.workload, each.target, list(measured))
        known = [
            (candidate.features, trial)
            for candidate, trial in zip(recalled, measured.values(), strict=True)
            if candidate is not None and len(candidate.features)
        ]
        latencies = np.array([trial.estimate for _, trial in known])
        if len(known) >= LEAST and latencies.max() >= SPREAD * latencies.min():
            features = [each for each, _ in known]
            yield Kernel(features, cost_model.summaries(features), latencies)


def fit(known: Sequence[Kernel], begin: Prior | None) -> bytes:
    """A prior. Every task counts the same: its candidates are compared with its best, and with nothing else.

    It corrects the one that comes with the engine, which was fitted to what is drawn at random. In records
    there are only candidates that some search has chosen: of all the others they say nothing.

    Args:
        begin: the one that comes with the engine, where it has one.

    Losses that only count pairs in the wrong order (LambdaMART's, over all pairs or those with one of the
    best) rank no better, see ``docs/evaluation.md``.
    """
    scores = np.concatenate([cost_model.log_scores(kernel.latencies) for kernel in known])
    weights = np.concatenate([np.full(len(kernel.latencies), 1 / len(kernel.latencies)) for kernel in known])
    rows = np.concatenate([kernel.summaries for kernel in known])
    return prior.pack(cost_model.train(rows, scores, begin, weight=weights / weights.mean()))


def by_prior(known: Prior) -> Expecting:
    """What a prior expects."""
    return lambda kernel: known.predict(kernel.summaries)


def quality(expecting: Expecting, held_out: Sequence[Kernel]) -> Quality:
    """How well the candidates of tasks are ranked by what is expected of them."""
    correlations, first, firsts = [], [], []
    for kernel in held_out:
        expected, best = expecting(kernel), kernel.latencies.min()
        order = np.argsort(-expected, kind="stable")
        correlations.append(float(np.corrcoef(_ranks(expected), _ranks(-kernel.latencies))[0, 1]))
        first.append(math.log(best / kernel.latencies[order[0]]))
        firsts.append(math.log(best / kernel.latencies[order[:FIRST]].min()))
    return Quality(
        tasks=len(held_out),
        correlation=statistics.fmean(correlations),
        top1=math.exp(statistics.fmean(first)),
        top8=math.exp(statistics.fmean(firsts)),
    )


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    return np.argsort(np.argsort(values, kind="stable"))
