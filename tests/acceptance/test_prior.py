"""What MetaSchedule's engine knows of kernels in general, by direct calls: real TVM, one core, no broker."""

from __future__ import annotations

import statistics
import zlib
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.acceptance.direct import ENGINE, measure, update
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Candidate, Options, Trial
from tunemesh.stage_workers.engines.metaschedule import candidates, cost_model, prior, search_state
from tunemesh.stage_workers.engines.protocol import Examples, LearnCall, Proposal, RankCall, UpdateCall
from tunemesh.stage_workers.platforms.protocol import ExtractedTask


@pytest.mark.alone  # others would disturb what is measured
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
    assert update(product.workload, target, None, [], 8, prior=prior.pack(other)) != usual


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


# -- Learning from records ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(product: ExtractedTask, target: str) -> list[tuple[str, bytes]]:
    return update(product.workload, target, None, [], 40).schedules


def hidden(product: ExtractedTask, target: str, drawn: list[tuple[str, bytes]]) -> list[Trial]:
    """Trials of a device that likes what the prior that comes with the engine does not."""
    recalled = candidates.recall(product.workload, target, [schedule for _, schedule in drawn])
    usual = cost_model.Model(None, prior.load(prior.shipped()))
    return [
        Trial(
            candidate=Candidate(index, name, schedule),
            outcome="measured",
            latencies=[float(np.exp(usual.predict([candidate.features])[0]))],
        )
        for index, ((name, schedule), candidate) in enumerate(zip(drawn, recalled, strict=True))
        if candidate is not None
    ]


def examples(product: ExtractedTask, target: str, trials: list[Trial], format_: int = 1) -> Examples:
    return Examples(workload=product.workload, target=target, trials=trials, format=format_)


def test_a_prior_learns_what_was_measured(
    product: ExtractedTask, target: str, drawn: list[tuple[str, bytes]]
) -> None:
    trials = hidden(product, target, drawn)
    call = LearnCall(
        examples=[examples(product, target, trials[:24])],
        held_out=[examples(product, target, trials[24:]), examples(product, target, trials[:24], 2)],
    )
    learned = ENGINE.learn(call)
    assert (learned.trials, learned.tasks, learned.after.tasks) == (24, 1, 1)
    assert learned.before is not None
    assert learned.before.correlation < -0.9
    assert learned.after.correlation > 0.2
    assert learned.after.top8 >= learned.after.top1 > learned.before.top1
    # The next one is compared with it, and updates propose by it.
    again = ENGINE.learn(msgspec.structs.replace(call, prior=learned.prior))
    assert again.before == learned.after
    usual = update(product.workload, target, None, [], 8).schedules
    assert update(product.workload, target, None, [], 8, prior=learned.prior).schedules != usual

    def ranked(known: bytes | None) -> list[float | None]:
        schedules = [schedule for _, schedule in drawn[24:]]
        asked = RankCall(workload=product.workload, target=target, schedules=schedules, prior=known)
        return ENGINE.rank(asked).scores

    measured = [-trial.latency for trial in trials[24:]]
    assert spearman(ranked(learned.prior), measured) == pytest.approx(learned.after.correlation)
    assert spearman(ranked(None), measured) == pytest.approx(learned.before.correlation)


def spearman(one: list[float | None], other: list[float]) -> float:
    assert None not in one
    ranks = [np.argsort(np.argsort(np.array(each, np.float32), kind="stable")) for each in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def test_too_little_to_learn_from_is_said(
    product: ExtractedTask, target: str, drawn: list[tuple[str, bytes]]
) -> None:
    trials = hidden(product, target, drawn)
    alike = [
        msgspec.structs.replace(each, latencies=[1.0 + 0.01 * index]) for index, each in enumerate(trials)
    ]
    for few in ([], trials[:7], alike):
        with pytest.raises(BadInput, match="too few records to learn from: a task needs 8"):
            ENGINE.learn(LearnCall(examples=[examples(product, target, few)], held_out=[]))


def test_a_prior_of_other_features_is_not_used(product: ExtractedTask, target: str) -> None:
    trees = cost_model.train(np.zeros((4, 3), np.float32), np.array([0.0, -1.0, -2.0, -3.0]))
    other = bytes(trees.save_raw("ubj"))
    usual = update(product.workload, target, None, [], 8)
    assert update(product.workload, target, None, [], 8, prior=other) == usual


def test_nothing_is_said_of_what_cannot_be_replayed_or_is_of_another_kind(
    product: ExtractedTask, target: str, drawn: list[tuple[str, bytes]]
) -> None:
    schedules = [b"damaged", drawn[0][1], zlib.compress(b"winograd:{}")]
    scores = ENGINE.rank(RankCall(workload=product.workload, target=target, schedules=schedules)).scores
    assert [score is None for score in scores] == [True, False, True]


# -- What was tried before ----------------------------------------------------------------------------------


def begin(product: ExtractedTask, target: str, want: int = 16, **known: Any) -> Proposal:
    return ENGINE.update(UpdateCall(workload=product.workload, target=target, want=want, seed=1, **known))


def test_what_was_tried_here_is_learned_from_and_not_proposed_again(
    product: ExtractedTask, target: str, drawn: list[tuple[str, bytes]]
) -> None:
    trials = hidden(product, target, drawn)
    names = [name for name, _ in drawn]
    state = search_state.decode(
        begin(product, target, here=[examples(product, target, trials[:16])], seen=names).search
    )
    assert (state.seen, len(state.examples)) == (set(names), 16)
    assert not state.pending & set(names)
    assert state.best[0][0] == min(trial.latency for trial in trials[:16])


def test_what_was_tried_elsewhere_teaches_and_may_be_proposed(
    product: ExtractedTask, target: str, drawn: list[tuple[str, bytes]]
) -> None:
    trials = hidden(product, target, drawn)
    began = begin(product, target, elsewhere=[examples(product, target, trials)])
    state = search_state.decode(began.search)
    assert (state.seen, state.best, len(state.others)) == (set(), [], len(trials))
    assert search_state.encode(state) == began.search
    assert max(each.score for each in state.others) == 0.0
    assert [name for name, _ in began.schedules] != [name for name, _ in begin(product, target).schedules]
    # Twice as slow a machine says the same.
    slower = [msgspec.structs.replace(each, latencies=[2 * each.latency]) for each in trials]
    again = begin(product, target, elsewhere=[examples(product, target, slower)])
    assert again.schedules == began.schedules


def test_records_in_another_format_or_with_odd_hashes_say_nothing(
    product: ExtractedTask, target: str, drawn: list[tuple[str, bytes]]
) -> None:
    other = [examples(product, target, hidden(product, target, drawn), 2)]
    began = begin(product, target, here=other, elsewhere=other, seen=["no hash", "ab"])
    assert began == begin(product, target)
