"""The cost model: boosted trees that predict how fast a candidate is from features of its code.

The features and the pack-sum idea (a candidate's score is the sum of the scores of its stores) are
MetaSchedule's, from Ansor (Zheng et al., arXiv:2006.06762). The fit is our own, because MetaSchedule's draws
from NumPy's global random numbers, gives failed candidates no weight at all, and boosts until its *training*
error stops falling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float16]
"""One row per store of a candidate; TVM takes logarithms, so half precision is enough."""

PARAMETERS = {
    "max_depth": 6,
    "eta": 0.2,
    "gamma": 0.001,
    "min_child_weight": 0,
    "base_score": 0.0,
    "tree_method": "hist",
    "seed": 43,
    "nthread": 1,
    "verbosity": 0,
}
ROUNDS = 60
LEAST_WEIGHT = 0.1
"""Weight of a candidate that failed, or is endlessly slower than the best, which has weight 1."""


def extract(context: Any, candidates: Sequence[Any]) -> list[Features]:
    """The features of MetaSchedule candidates."""
    from tvm.s_tir import meta_schedule

    extractor = meta_schedule.feature_extractor.PerStoreFeature()
    return [rows.numpy().astype(np.float16) for rows in extractor.extract_from(context, list(candidates))]


def fit(features: Sequence[Features], latencies: Sequence[float]) -> Any:
    """Trees fitted to latencies in seconds, infinite for candidates that failed; ``None`` when nothing was
    measured yet. The score of a candidate is the best latency over its own, 0 when it failed."""
    import xgboost

    best = min(latencies, default=np.inf)
    if not np.isfinite(best):
        return None
    scores = best / np.asarray(latencies)
    rows, ids = _pack(features)
    targets = scores[ids]
    weights = np.maximum(targets, LEAST_WEIGHT)

    def squared_error(predicted: npt.NDArray[np.float32], _: Any) -> tuple[Any, Any]:
        sums = np.bincount(ids, weights=predicted, minlength=len(scores))
        return (sums[ids] - targets) * weights, weights

    return xgboost.train(
        PARAMETERS, xgboost.DMatrix(rows, label=targets), num_boost_round=ROUNDS, obj=squared_error
    )


def predictor(trees: Any, random: np.random.Generator) -> Any:
    """MetaSchedule's view of the fitted ``trees``; without any, all scores are random."""
    from tvm.s_tir.meta_schedule.cost_model import cost_model

    predict: Callable[[Any, list[Any]], npt.NDArray[np.float64]]
    if trees is None:

        def predict(context: Any, candidates: list[Any]) -> npt.NDArray[np.float64]:
            return random.uniform(size=len(candidates))

    else:

        def predict(context: Any, candidates: list[Any]) -> npt.NDArray[np.float64]:
            rows, ids = _pack(extract(context, candidates))
            scores = np.bincount(ids, weights=trees.inplace_predict(rows), minlength=len(candidates))
            return scores.astype(np.float64)

    # PyCostModel, the public base class, would only wrap this one.
    return cost_model._PyCostModel(predict_func=predict)


def _pack(features: Sequence[Features]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """All rows one below the other, and for each the index of its candidate."""
    rows = np.concatenate(features).astype(np.float32)
    ids = np.repeat(np.arange(len(features)), [len(f) for f in features])
    return rows, ids
