"""How well priors rank the schedules of a network that they were not fitted to: leave one network out.

    python -m benchmarks.priors RECORDS

For each network of the records, of the tasks that it has: the prior that comes with the engine; one that
is fitted to the tasks of all other networks, as ``tunemesh records learn`` does it; one that does not
begin with the engine's; and ones fitted to the same by LambdaMART's loss over pairs, drawn from all of a
task or with one of its best eight (XGBoost's ``rank:pairwise``).

Then a search as if it had tried some candidates of a task, drawn from the records, and had to rank the
others: with either prior, and with the trials of the two most similar tasks as examples of less weight.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.markdown import table
from tunemesh.stage_workers.engines.metaschedule import cost_model, learning, prior, similarity
from tunemesh.stage_workers.engines.metaschedule.cost_model import Model, Scored
from tunemesh.stage_workers.engines.metaschedule.learning import Kernel
from tunemesh.stage_workers.engines.metaschedule.prior import Prior
from tunemesh.stage_workers.engines.protocol import Examples, Quality
from tunemesh.stage_workers.records import memory
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.stages.known import examples_of

ENGINE = "metaschedule"
PAIRS = 8
"""Drawn for each schedule, or schedules at the top that pairs are drawn with."""


MANY = 28
"""Measured candidates of a task that is searched."""
TRIED = (0, 8, 16)
DRAWS = 3
NEAREST = 2
WEIGHT = 0.1
"""Of a trial of a similar task."""


class Known(NamedTuple):
    """A task, and the networks that have it."""

    models: set[str]
    kernel: Kernel
    examples: Examples


def main() -> None:
    """Fit, rank, and print tables."""
    parser = argparse.ArgumentParser(description="How well priors rank, leaving one network out.")
    parser.add_argument("records")
    known = _known(parser.parse_args().records)
    fits: dict[str, Callable[[Sequence[Kernel]], Prior]] = {
        "with the engine": lambda _: Prior(prior.shipped()),
        "learned": lambda kernels: Prior(learning.fit(kernels, Prior(prior.shipped()))),
        "from nothing": lambda kernels: Prior(learning.fit(kernels, None)),
        "pairs of all": lambda kernels: _by_pairs(kernels, "mean"),
        "pairs with the best": lambda kernels: _by_pairs(kernels, "topk"),
    }
    rows = []
    found: dict[str, list[tuple[int, float, float, float]]] = {name: [] for name in fits}
    for model in sorted({each for one in known for each in one.models}):
        held_out = [one.kernel for one in known if model in one.models]
        others = [one.kernel for one in known if model not in one.models]
        cells = [model, str(len(held_out))]
        for name, fit in fits.items():
            quality = learning.quality(learning.by_prior(fit(others)), held_out)
            found[name].append((quality.tasks, quality.correlation, quality.top1, quality.top8))
            cells += [f"{each:.2f}" for each in found[name][-1][1:]] if name in list(fits)[:2] else []
        rows.append(cells)
    measures = ["rank correlation", "top 1", "top 8"]
    headers = ["network", "tasks", *(f"{name}: {each}" for name in list(fits)[:2] for each in measures)]
    print("\n".join(table(headers, rows)))
    print()
    print("\n".join(table(["prior", *measures], [[name, *_means(each)] for name, each in found.items()])))
    print()
    print("\n".join(_searches(known)))


def _known(records: str) -> list[Known]:
    with Database(records) as database, database.reading() as connection:
        ((_, targets),) = memory.families(connection, ENGINE).items()
        found = list(memory.to_learn_from(connection, ENGINE, targets))
    return [
        Known({one.job.model for one in each.found}, kernel, examples)
        for each, examples in ((each, examples_of(each)) for each in found)
        for kernel in learning.kernels([examples])
    ]


def _searches(known: Sequence[Known]) -> list[str]:
    """How well the candidates of a task are ranked that were not tried yet."""
    shapes = [similarity.shape_of(each.examples.workload) for each in known]
    learned: dict[frozenset[str], Prior] = {}
    found: dict[tuple[int, str, bool], list[Quality]] = {}
    tasks = 0
    for one, shape in zip(known, shapes, strict=True):
        others = [
            (similarity.distance(shape, other), number)
            for number, other in enumerate(shapes)
            if shape is not None and other is not None and known[number] is not one
        ]
        near = [known[number] for far, number in sorted(others)[:NEAREST] if far < math.inf]
        if len(one.kernel.latencies) < MANY or not near:
            continue
        tasks += 1
        models = frozenset(one.models)
        if models not in learned:
            rest = [each.kernel for each in known if not each.models & models]
            learned[models] = Prior(learning.fit(rest, Prior(prior.shipped())))
        similar = [scored for each in near for scored in _scored(each)]
        for tried in TRIED:
            for draw in range(DRAWS):
                order = np.random.default_rng(draw).permutation(len(one.kernel.latencies))
                first, others_ = one.kernel.only(order[:tried]), one.kernel.only(order[tried:])
                for name, begin in (("engine", Prior(prior.shipped())), ("learned", learned[models])):
                    for more in (False, True):
                        model = cost_model.fit(
                            first.features, first.latencies.tolist(), begin, similar if more else ()
                        )
                        assert model is not None
                        found.setdefault((tried, name, more), []).append(_quality(model, others_))
    rows = [
        [
            f"{name} prior, {'with' if more else 'without'} similar tasks",
            str(tried),
            f"{statistics.fmean(each.correlation for each in qualities):.2f}",
            f"{statistics.geometric_mean(each.top1 for each in qualities):.2f}",
            f"{statistics.geometric_mean(each.top8 for each in qualities):.2f}",
        ]
        for (tried, name, more), qualities in sorted(found.items())
    ]
    return table([f"{tasks} tasks", "tried", "rank correlation", "top 1", "top 8"], rows)


def _scored(known: Known) -> list[Scored]:
    scores = cost_model.log_scores(known.kernel.latencies)
    return [
        Scored(float(score), WEIGHT, features)
        for score, features in zip(scores, known.kernel.features, strict=True)
    ]


def _quality(model: Model, held_out: Kernel) -> Quality:
    return learning.quality(lambda kernel: model.predict(kernel.features), [held_out])


def _by_pairs(kernels: Sequence[Kernel], method: str) -> Prior:
    import xgboost

    scores = np.concatenate([np.exp(cost_model.log_scores(each.latencies)) for each in kernels])
    groups = np.concatenate([np.full(len(each.latencies), number) for number, each in enumerate(kernels)])
    data = xgboost.DMatrix(np.concatenate([each.summaries for each in kernels]), label=scores, qid=groups)
    parameters: dict[str, Any] = {
        **cost_model.PARAMETERS,
        "objective": "rank:pairwise",
        "lambdarank_pair_method": method,
        "lambdarank_num_pair_per_sample": PAIRS,
    }
    return Prior(prior.pack(xgboost.train(parameters, data, num_boost_round=cost_model.ROUNDS)))


def _means(found: Sequence[tuple[int, float, float, float]]) -> list[str]:
    """Over all tasks."""
    weights = [each[0] for each in found]
    correlation = np.average([each[1] for each in found], weights=weights)
    tops = [np.exp(np.average(np.log([each[place] for each in found]), weights=weights)) for place in (2, 3)]
    return [f"{each:.2f}" for each in (correlation, *tops)]


if __name__ == "__main__":
    main()
