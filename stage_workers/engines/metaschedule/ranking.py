"""Compare candidates without measuring them."""

from __future__ import annotations

from tunemesh.stage_workers.engines.metaschedule import candidates, cost_model, prior
from tunemesh.stage_workers.engines.protocol import RankCall, Ranking


def rank(call: RankCall) -> Ranking:
    """See :meth:`stage_workers.engines.protocol.Engine.rank`. Of Winograd's kernels, and without a prior,
    nothing can be said."""
    known = prior.of(call.target, call.prior)
    if known is None:
        return Ranking(scores=[None] * len(call.schedules))
    recalled = candidates.recall(call.workload, call.target, call.schedules)
    features = [each.features for each in recalled if each is not None and len(each.features)]
    expected = iter(known.predict(cost_model.summaries(features)).tolist() if features else ())
    return Ranking(
        scores=[next(expected) if each is not None and len(each.features) else None for each in recalled]
    )
