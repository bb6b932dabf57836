"""Measure kernels on a device and check what they compute."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from cachetools import LRUCache

from tunemesh.shared.messages import Settings
from tunemesh.shared.text import clip
from tunemesh.stage_workers.engines.protocol import elements_name, prepack_name
from tunemesh.stage_workers.graph import compilation, fast_math, targets, workloads
from tunemesh.stage_workers.graph.errors import reraise_memory_error
from tunemesh.stage_workers.graph.workloads import Argument
from tunemesh.stage_workers.measuring import comparison, inputs, loading, ranges
from tunemesh.stage_workers.measuring.comparison import Array, Expected
from tunemesh.stage_workers.platforms.protocol import (
    WAITED,
    ConfirmCall,
    ProfileCall,
    ProfileOutcome,
    UntunedCall,
)

INPUT_SEED = 0
REFERENCES_KEPT = 8
CONFIRM_ROUNDS = 2
"""Times ``repeats`` that candidates which are close to each other take turns."""
FIRST_RUNS = 2
"""Single runs after the one that is checked; the fastest of them tells whether a candidate is far slower than
the best."""
CALL = 50e-6
"""Seconds that a single run may take longer than the kernel: the way from Python and back, a cold cache."""
FIRST_TOUCH = 10e-3
"""Seconds that the very first run may take longer at most: pages are touched for the first time."""
FAR_SLOWER = 2.0
"""Times slower than what is cut short, after which one run is enough."""
ENDLESS = 50.0
"""Times the best latency that the run which is checked may take on a CPU, in CPU time: then it is ended, with
its process."""
LEAST_ENDLESS = 0.1
"""Seconds that it may take in any case: a new process costs twice as much."""
GLANCE = 0.2
"""Part of a repeat that tells whether a candidate is clearly slower."""
CLEARLY = 1.1
"""Times slower than what is cut short that a candidate must be by less than a whole repeat, which may err by
a few percent."""
AGREE = 0.02
"""(Larger - smaller) / mean up to which two repeats are as good as more of them."""
CONFIRM_PART = 0.4
"""Part of a repeat that a candidate is measured for in each turn of a confirmation: turns make up for it."""
UNTUNED_SECONDS = 0.5
"""An untuned kernel may be a thousand times slower than a tuned one; it is measured for about so long."""

FLUSH = "cache_flush_cpu_non_first_arg"
"""TVM's function that runs before every repeat."""
FLUSHED_RUNS = 100
"""Runs of a repeat with cold caches, at most."""

INPUTS_KEPT = 2

_inputs: LRUCache[tuple[str, bytes], list[Any]] = LRUCache(INPUTS_KEPT)
"""Tensors on a device by its name and the workload: all candidates of a workload get the same ones."""

_floats: dict[tuple[str, bytes], ranges.Range] = {}
"""Ranges of these tensors, where they are not the usual one."""

_references: LRUCache[bytes, list[Expected]] = LRUCache(REFERENCES_KEPT)
"""Outputs of untuned kernels by their shared object: each is compared with every candidate."""

CHANGING = 0.5
"""Seconds that the runs of the untuned kernel may take which find out how far rounding moves its outputs;
where they would take longer there are only two of them."""
SPREAD = 1 / 16
"""Times the noise, of what an input's elements are changed by whatever their own size: see
:func:`.comparison.changed`."""


def profile(call: ProfileCall) -> ProfileOutcome:
    """See :meth:`stage_workers.platforms.protocol.Platform.profile`."""
    limit = _endless(call.target, call.settings, call.best)
    try:
        with loading.threads(call.target):
            reference = _reference(call)
            kernel = _checked(call.artifact, call.workload, call.device, reference, limit)
            if isinstance(kernel, ProfileOutcome):
                return kernel
            return _timed(kernel, call.settings, call.best)
    except Exception as error:  # whatever the kernel or the driver raises is the candidate's outcome
        return _failed(error)


def confirm(call: ConfirmCall) -> list[ProfileOutcome]:
    """See :meth:`stage_workers.platforms.protocol.Platform.confirm`."""
    with loading.threads(call.target):
        reference = _reference(call)
        checked = [_checked(artifact, call.workload, call.device, reference) for artifact in call.artifacts]
        good = {index: each for index, each in enumerate(checked) if isinstance(each, _Kernel)}
        repeats: dict[int, list[_Repeat]] = {index: [] for index in good}
        order = list(good)
        for _ in range(CONFIRM_ROUNDS * call.settings.repeats):
            for index in order:
                repeats[index].append(good[index].measure(call.settings, CONFIRM_PART))
            order = order[1:] + order[:1]
    return [
        _outcome(repeats[index]) if isinstance(each, _Kernel) else each for index, each in enumerate(checked)
    ]


def _failed(error: Exception) -> ProfileOutcome:
    reraise_memory_error(error)
    return ProfileOutcome(outcome="run-failed", error=clip(str(error)))


class _Repeat(NamedTuple):
    """Seconds per run, and the share of that time in which something else had the core."""

    seconds: float
    waited: float


def _outcome(repeats: list[_Repeat], cut_short: bool = False) -> ProfileOutcome:
    return ProfileOutcome(
        outcome="measured",
        latencies=[repeat.seconds for repeat in repeats],
        # As of the latencies the median counts: a repeat that was disturbed alone does no harm.
        waited=statistics.median(repeat.waited for repeat in repeats),
        cut_short=cut_short,
    )


def _timed(kernel: _Kernel, settings: Settings, best: float | None) -> ProfileOutcome:
    """All repeats, or no more than the first runs if these are too slow."""
    slow = math.inf if best is None or settings.cut_short is None else settings.cut_short * best
    clearly = CLEARLY * slow
    if clearly < math.inf:
        runs = [kernel.checked]
        while (
            runs[-1] >= clearly + CALL
            and len(runs) <= FIRST_RUNS
            and runs[0] < FAR_SLOWER * clearly + FIRST_TOUCH
        ):
            runs.append(kernel.run())
        if runs[-1] >= clearly + CALL:
            return _outcome([_Repeat(min(runs), 0.0)], cut_short=True)
        glance = kernel.measure(settings, GLANCE)
        if glance.seconds >= clearly and glance.waited <= WAITED:
            return _outcome([glance], cut_short=True)
    first = kernel.measure(settings)
    # Those that are close to the best in the end are compared anew: they are confirmed.
    if first.seconds >= slow and first.waited <= WAITED:
        return _outcome([first], cut_short=True)
    repeats = [first]
    while len(repeats) < settings.repeats and not (settings.cut_short is not None and _agree(repeats)):
        repeats.append(kernel.measure(settings))
    return _outcome(repeats)


def _agree(repeats: list[_Repeat]) -> bool:
    """Whether these are two, and all but equal."""
    if len(repeats) != 2:
        return False
    one, other = (repeat.seconds for repeat in repeats)
    return abs(one - other) <= AGREE * (one + other) / 2


def _endless(target: str, settings: Settings, best: float | None) -> float:
    """Seconds of CPU time after which a single run is ended; 0 for never."""
    if best is None or settings.cut_short is None or targets.is_gpu(target):
        return 0.0
    return targets.cores(target) * max(ENDLESS * best, LEAST_ENDLESS)


def _checked(
    artifact: bytes, workload: bytes, device: str, reference: list[Expected], limit: float = 0.0
) -> _Kernel | ProfileOutcome:
    """A kernel that was run once and computes the right thing, or what is wrong with it. A run that takes
    more than ``limit`` seconds of CPU time (0: no limit) ends the process."""
    wrong = ""
    for _ in range(2):
        try:
            kernel = _Kernel(artifact, workload, device, reference)
            with loading.ended_after(limit):
                kernel.checked = kernel.run()
            wrong = _first_difference(kernel, reference)
        except Exception as error:  # whatever the kernel or the driver raises is the candidate's outcome
            return _failed(error)
        if not wrong:
            return kernel
        # A kernel before this one may have written over the inputs that they share: again, with fresh ones.
        _inputs.clear()
    return ProfileOutcome(outcome="wrong-result", error=wrong)


def profile_untuned(call: UntunedCall) -> ProfileOutcome:
    """See :meth:`stage_workers.platforms.protocol.Platform.profile_untuned`."""
    try:
        with loading.threads(call.target):
            core = loading.CoreWatch()
            kernel, seconds = _run_untuned(call)
            run = _Repeat(seconds, core.share())
            _references[call.untuned] = _expected(kernel, run.seconds, call)
            if fast_math.is_marked(workloads.load(call.workload)["main"]):
                kernel = _as_kept(call) or kernel
                run = _Repeat(kernel.run(), core.share())
            if run.seconds >= UNTUNED_SECONDS / 2:
                return _outcome([run])
            repeats = min(call.settings.repeats, int(UNTUNED_SECONDS / run.seconds))
            return _outcome([kernel.measure(call.settings) for _ in range(repeats)])
    except Exception as error:  # as above
        return _failed(error)


def _as_kept(call: UntunedCall) -> _Kernel | None:
    """A workload without a schedule as the model has it where no candidate is faster, exp and the like by
    arithmetic: that is what candidates have to beat. ``None`` where it is wrong."""
    code = compilation.build_candidate(workloads.load(call.workload), call.target)
    kernel = _checked(code, call.workload, call.device, _references[call.untuned])
    return kernel if isinstance(kernel, _Kernel) else None


class _Kernel:
    """A loaded kernel with its arguments on the device: the same random inputs for every kernel of a
    workload, which share them, and poisoned outputs of its own."""

    def __init__(
        self, artifact: bytes, workload: bytes, device: str, reference: list[Expected] | None
    ) -> None:
        import tvm

        self._module = loading.load(artifact)
        self._device = targets.device(device)
        arguments = _arguments(workload)
        inputs = iter(_inputs_on(device, workload))
        references = iter([each.values for each in reference] if reference else [None] * len(arguments))
        self._tensors = [
            tvm.runtime.tensor(comparison.poison(a.dtype, a.shape, next(references)), device=self._device)
            if a.output
            else next(inputs)
            for a in arguments
        ]
        self._packed = self._prepacked(self._tensors)
        self._read = [i for i, argument in enumerate(arguments) if not argument.output]
        self._written = [i for i, argument in enumerate(arguments) if argument.output]
        self.names = [argument.name for argument in arguments if argument.output]
        """Of its outputs."""
        self.checked = 0.0
        """Seconds of the run that was checked, the first one."""
        self._seconds = math.inf
        """Of a run, by the fastest repeat so far."""

    def _prepacked(self, tensors: list[Any]) -> list[Any]:
        """``tensors`` with weights in the order in which the kernel wants them. It says so by a function for
        each, which has to write all of it: what it leaves out is NaN.

        Raises:
            ValueError: it wants far too large ones.
        """
        import tvm

        found = list(tensors)
        for number, tensor in enumerate(tensors):
            if self._module.implements_function(prepack_name(number)):
                shape = loading.packed_shape(self._module, elements_name(number), tensor.shape)
                poison = comparison.poison(str(tensor.dtype), shape, None)
                found[number] = tvm.runtime.tensor(poison, device=self._device)
                self._module[prepack_name(number)](tensor, found[number])
        return found

    def run(self) -> float:
        """Run once; the wall time in seconds."""
        self._device.sync()
        start = time.perf_counter()
        self._module["main"](*self._packed)
        self._device.sync()
        return time.perf_counter() - start

    def inputs(self) -> list[Array]:
        return [self._tensors[i].numpy() for i in self._read]

    def outputs(self) -> list[Array]:
        return [self._tensors[i].numpy() for i in self._written]

    def outputs_of(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs for other inputs than its own."""
        import tvm

        tensors = list(self._tensors)
        for i, array in zip(self._read, inputs, strict=True):
            tensors[i] = tvm.runtime.tensor(array, device=self._device)
        self._module["main"](*self._prepacked(tensors))
        return self.outputs()

    def measure(self, settings: Settings, part: float = 1.0) -> _Repeat:
        """One repeat, or that part of one."""
        milliseconds = int(part * settings.min_repeat_ms)
        core = loading.CoreWatch()
        if settings.cache_flush and self._device.type == "cpu":
            seconds = self._flushed(milliseconds)
        else:
            # How many runs fill the time is known but for the first repeat: then TVM has to try.
            number = max(round(milliseconds / 1e3 / self._seconds), 1)
            least = milliseconds if self._seconds == math.inf else milliseconds // 2
            seconds = self._evaluate(number=number, milliseconds=least)[0]
            self._seconds = min(self._seconds, seconds)
        return _Repeat(seconds, core.share())

    def _flushed(self, milliseconds: int) -> float:
        """Median of the runs, of which each finds all tensors but the first in memory, not in a cache: as
        many as fit into the time together with flushing, at least one."""
        began = time.perf_counter()
        runs = self._evaluate(prepare=FLUSH)
        fitting = int(milliseconds / 1e3 / (time.perf_counter() - began))
        if fitting > 1:
            runs += self._evaluate(repeats=min(fitting, FLUSHED_RUNS) - 1, prepare=FLUSH)
        return statistics.median(runs)

    def _evaluate(
        self, number: int = 1, repeats: int = 1, milliseconds: int = 0, prepare: str = ""
    ) -> list[float]:
        """Seconds per run of each repeat, of ``number`` runs, or of more where these take less than
        ``milliseconds``: then they are thrown away and all begins anew. TVM runs the kernel once more before
        it starts."""
        evaluator = self._module.time_evaluator(
            "main", self._device, number=number, repeat=repeats, min_repeat_ms=milliseconds, f_preproc=prepare
        )
        return [float(each) for each in evaluator(*self._packed).results]


def _arguments(workload: bytes) -> list[Argument]:
    return workloads.arguments(workloads.load(workload)["main"])


def _inputs_on(device: str, workload: bytes) -> list[Any]:
    """Valid random inputs of a workload."""
    import tvm

    key = (device, workload)
    if key not in _inputs:
        taken = [(a.name, a.shape, a.dtype) for a in _arguments(workload) if not a.output]
        function = workloads.load(workload)["main"]
        within = ranges.of_kernel(function, [(name, dtype) for name, _, dtype in taken])
        arrays = inputs.random(taken, INPUT_SEED, within, _floats.get(key, inputs.SIGNED))
        _inputs[key] = [tvm.runtime.tensor(array, device=targets.device(device)) for array in arrays]
    return _inputs[key]


def _reference(call: ProfileCall | ConfirmCall) -> list[Expected]:
    if call.untuned not in _references:
        _references[call.untuned] = _expected(*_run_untuned(call), call)
    return _references[call.untuned]


def _run_untuned(call: ProfileCall | ConfirmCall | UntunedCall) -> tuple[_Kernel, float]:
    """The untuned kernel after a run, and how long that took. Where some output is NaN or infinite throughout
    (``acosh`` of numbers below 1), all kernels of the workload get inputs of another range from now on."""
    key = (call.device, call.workload)
    for floats in (_floats.get(key, inputs.SIGNED), inputs.POSITIVE, inputs.ABOVE_ONE):
        if floats != _floats.get(key, inputs.SIGNED):
            _floats[key] = floats
            _inputs.pop(key, None)
        kernel = _Kernel(call.untuned, call.workload, call.device, None)
        seconds = kernel.run()
        if all(map(comparison.tells, kernel.outputs())):
            break
    return kernel, seconds


def _expected(
    kernel: _Kernel, seconds: float, call: ProfileCall | ConfirmCall | UntunedCall
) -> list[Expected]:
    """What the untuned kernel, whose run took so long, has computed, and how far rounding may move that."""
    workload = workloads.load(call.workload)
    terms = workloads.longest_sum([workload["main"]])
    values = kernel.outputs()
    pairs = comparison.PAIRS if 2 * comparison.PAIRS * seconds <= CHANGING else 1
    moved = comparison.tried(kernel.outputs_of, kernel.inputs(), pairs, SPREAD)
    if fast_math.is_marked(workload["main"]):
        # Where erf has come to 1, no change of what is read moves it.
        code = compilation.build_untuned(fast_math.unsure(workload), call.target)
        unsure = _Kernel(code, call.workload, call.device, None)
        unsure.run()
        moved.append(unsure.outputs())
    return [
        comparison.expected(each, [outputs[number] for outputs in moved], pairs == 1, terms=terms)
        for number, each in enumerate(values)
    ]


def _first_difference(kernel: _Kernel, reference: list[Expected]) -> str:
    """What is wrong with the outputs; empty when nothing is."""
    for name, values, expected in zip(kernel.names, kernel.outputs(), reference, strict=True):
        if comparison.agrees(values, expected):
            continue
        if wrong := comparison.agree(name, values, expected, "the untuned kernel").wrong:
            return wrong
    return ""
