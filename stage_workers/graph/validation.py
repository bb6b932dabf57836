"""Run the tuned and the untuned model side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import msgspec

from tunemesh.shared.messages import Judgement, Settings
from tunemesh.stage_workers.graph import checking, targets
from tunemesh.stage_workers.graph.signatures import unpack_signatures
from tunemesh.stage_workers.measuring import comparison, loading
from tunemesh.stage_workers.measuring.comparison import Array
from tunemesh.stage_workers.platforms.protocol import ValidateCall, Validated

UNTUNED_SECONDS = 10.0
"""The untuned model is run for about so long, though never fewer than three times."""
LEAST_RUNS = 3
CLEAR = 4.0
"""Times as fast as untuned from which it is no question which model is the faster one..."""
CLEAR_SECONDS = 1.0
"""...and the untuned one is run for about so long, though once at least."""


def validate(call: ValidateCall) -> Validated:
    """See :meth:`stage_workers.platforms.protocol.Platform.validate`.

    The tuned model has to agree with the untuned one, and with what the model's own framework said when it
    was imported. Where the untuned one does not agree with that, only the framework counts. Both run as they
    would anywhere: nothing in the environment tells TVM about threads.
    """
    with loading.as_anywhere():
        return _validate(call)


def _validate(call: ValidateCall) -> Validated:
    signature = unpack_signatures(call.signature).variants[call.variant]
    sample = checking.unpack(call.sample)[call.variant] if call.sample else None
    arrays = sample.arrays() if sample is not None else checking.made_up(signature)
    names = [each.name for each in signature.outputs]
    before = _Model(call.untuned, signature.function, call.device, arrays)
    after = _Model(call.tuned, signature.function, call.device, arrays)
    untuned, tuned = before.outputs(), after.outputs()
    expected = (
        sample.expected() if sample is not None else [comparison.expected(each, []) for each in untuned]
    )
    beside = [each._replace(values=values) for each, values in zip(expected, untuned, strict=True)]
    found = checking.agreements(names, tuned, beside, "the untuned model")
    wrong, judgement = checking.first_wrong(found), sample.judgement if sample is not None else Judgement()
    if judgement.judge:
        judged = checking.agreements(names, tuned, expected, judgement.judge)
        if checking.first_wrong(checking.agreements(names, untuned, expected, judgement.judge)):
            # TVM gets the model wrong, and with the changes of its graph right: see :mod:`.proving`.
            found, wrong = judged, ""
        wrong = wrong or checking.first_wrong(judged)
        judgement = msgspec.structs.replace(judgement, outputs=checking.told(judged))
    latencies_before, latencies_after, waited = _race(before.run, after.run, call.settings, before.first)
    return Validated(
        before=latencies_before,
        after=latencies_after,
        outputs=checking.told(found),
        wrong=wrong,
        judged=judgement,
        waited=waited,
    )


class _Model:
    """A loaded model with its inputs on the device, warmed up."""

    def __init__(self, artifact: bytes, function: str, device: str, arrays: list[Array]) -> None:
        import tvm

        self._device = targets.device(device)
        self._main = tvm.relax.VirtualMachine(loading.load(artifact), self._device)[function]
        self._inputs = [tvm.runtime.tensor(array, device=self._device) for array in arrays]
        self.first = self.run()
        """Seconds of the first run, which has to warm up."""

    def run(self) -> float:
        """Run once; the wall time in seconds."""
        self._device.sync()
        start = time.perf_counter()
        self._result = self._main(*self._inputs)
        self._device.sync()
        return time.perf_counter() - start

    def outputs(self) -> list[Array]:
        return loading.flatten(self._result)


def _race(
    before: Callable[[], float], after: Callable[[], float], settings: Settings, first: float
) -> tuple[list[float], list[float], float]:
    """Latencies in seconds, and the share of its time that the tuned model had to wait for its core. The two
    take turns, so that whatever else slows the machine down hits both; in each they run for as long as one
    repeat of a candidate, at least once. Where it is clear which one is faster the slow one does not take
    all turns.

    Args:
        first: seconds of a run of the untuned model that was not warm: it counts where that does not matter.
    """
    fast = after()
    slow = first if first > max(CLEAR_SECONDS, CLEAR * fast) else before()
    turns = max(LEAST_RUNS, min(settings.repeats * 3, int(UNTUNED_SECONDS / slow)))
    runs_before, runs_after = (max(1, int(settings.min_repeat_ms / 1e3 / max(s, 1e-6))) for s in (slow, fast))
    # Some models take seconds untuned, a hundred times as long as tuned: none of their noise matters then.
    turns_before = turns if slow < CLEAR * fast else min(turns, int(CLEAR_SECONDS / slow))
    latencies_before, latencies_after, waited = [slow] if turns_before == 0 else [], [], []
    for turn in range(turns):
        if turn < turns_before:
            latencies_before.append(statistics.median(before() for _ in range(runs_before)))
        core = loading.CoreWatch()
        latencies_after.append(statistics.median(after() for _ in range(runs_after)))
        waited.append(core.share())
    return latencies_before, latencies_after, statistics.median(waited)
