"""What MetaSchedule's engine knows of kernels in general, by direct calls: real TVM, one core, no broker."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from tests.acceptance.direct import measure, update
from tunemesh.shared.messages import Options
from tunemesh.stage_workers.engines.metaschedule import candidates, cost_model, prior
from tunemesh.stage_workers.platforms.protocol import ExtractedTask

# Other tests would disturb what is measured.
pytestmark = pytest.mark.alone


def test_the_first_candidates_are_chosen_by_what_is_known_of_other_kernels(
    product: ExtractedTask, target: str
) -> None:
    def typical(options: Options) -> float:
        proposed = update(product.workload, target, None, [], 32, options=options).schedules
        trials = measure(product, target, proposed)
        return statistics.median(trial.latency for trial in trials)

    of_that: Options = {"space": "metaschedule"}  # which the prior was fitted to
    all_that_are_drawn: Options = {"population": 1, "generations": 0, **of_that}
    assert typical({"population": 4, **of_that}) < 0.7 * typical(all_that_are_drawn)


def test_the_prior_is_an_argument(product: ExtractedTask, target: str) -> None:
    shipped = prior.shipped()
    usual = update(product.workload, target, None, [], 8)
    assert update(product.workload, target, None, [], 8, prior=shipped) == usual
    features = [
        candidate.features
        for candidate in candidates.recall(product.workload, target, [each for _, each in usual.schedules])
        if candidate is not None
    ]
    rows = cost_model.summaries(features)
    # Ranks the other way round.
    other = cost_model.train(rows, -prior.load(shipped).predict(rows).astype(np.float64))
    assert update(product.workload, target, None, [], 8, prior=bytes(other.save_raw("ubj"))) != usual


def test_what_is_measured_overrules_what_is_known_of_other_kernels(
    product: ExtractedTask, target: str
) -> None:
    proposed = update(product.workload, target, None, [], 64).schedules
    recalled = candidates.recall(product.workload, target, [schedule for _, schedule in proposed])
    features = [candidate.features for candidate in recalled if candidate is not None]
    usual = cost_model.Model(None, prior.load(prior.shipped())).predict(features)
    model = cost_model.fit(
        features, list(np.exp(usual)), prior.load(prior.shipped())
    )  # what looks fast is slow here
    assert model is not None
    assert np.corrcoef(model.predict(features), usual)[0, 1] < -0.5
    without = cost_model.fit(features, list(np.exp(usual)), None)
    assert without is not None
    assert not np.allclose(model.predict(features), without.predict(features))
