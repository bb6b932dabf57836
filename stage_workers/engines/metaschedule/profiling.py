"""Measure kernels on a device and check what they compute."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict

from shared.engine import ProfileOutcome
from shared.messages import Settings

from . import comparing, kernels, targets, workloads
from .comparing import Array
from .errors import shorten
from .workloads import Argument

INPUT_SEED = 0
REFERENCES_KEPT = 8
CONFIRM_ROUNDS = 3
"""Times ``repeats`` that candidates which are close to each other take turns."""
UNTUNED_SECONDS = 2.0
"""An untuned kernel may be a thousand times slower than a tuned one; it is measured for about so long."""

_references: OrderedDict[str, list[Array]] = OrderedDict()
"""Outputs of untuned kernels by SHA-256 of their shared object: each is compared with every candidate."""


def profile(
    workload: bytes, target: str, artifact: bytes, untuned: bytes, device: str, settings: Settings
) -> ProfileOutcome:
    """See :meth:`shared.engine.Engine.profile`."""
    arguments = workloads.arguments(workloads.load(workload)["main"])
    try:
        with kernels.threads(target):
            kernel = _checked(artifact, arguments, device, _reference(untuned, arguments, device))
            if isinstance(kernel, ProfileOutcome):
                return kernel
            core = kernels.CoreWatch()
            latencies = kernel.measure(settings, settings.repeats)
            return ProfileOutcome(outcome="measured", latencies=latencies, waited=core.share())
    except Exception as error:  # whatever the kernel or the driver raises is the candidate's outcome
        return ProfileOutcome(outcome="run-failed", error=shorten(str(error)))


def confirm(
    workload: bytes,
    target: str,
    artifacts: list[bytes],
    untuned: bytes,
    device: str,
    settings: Settings,
) -> list[ProfileOutcome]:
    """See :meth:`shared.engine.Engine.confirm`."""
    arguments = workloads.arguments(workloads.load(workload)["main"])
    with kernels.threads(target):
        reference = _reference(untuned, arguments, device)
        checked = [_checked(artifact, arguments, device, reference) for artifact in artifacts]
        good = {index: each for index, each in enumerate(checked) if isinstance(each, _Kernel)}
        latencies: dict[int, list[float]] = {index: [] for index in good}
        order = list(good)
        core = kernels.CoreWatch()
        for _ in range(CONFIRM_ROUNDS * settings.repeats):
            for index in order:
                latencies[index] += good[index].measure(settings, 1)
            order = order[1:] + order[:1]
        waited = core.share()
    return [
        ProfileOutcome(outcome="measured", latencies=latencies[index], waited=waited)
        if isinstance(each, _Kernel)
        else each
        for index, each in enumerate(checked)
    ]


def _checked(
    artifact: bytes, arguments: list[Argument], device: str, reference: list[Array]
) -> _Kernel | ProfileOutcome:
    """A kernel that was run once and computes the right thing, or what is wrong with it."""
    try:
        kernel = _Kernel(artifact, arguments, device, reference)
        kernel.run()
        wrong = _first_difference(arguments, kernel.outputs(), reference)
    except Exception as error:  # whatever the kernel or the driver raises is the candidate's outcome
        return ProfileOutcome(outcome="run-failed", error=shorten(str(error)))
    return ProfileOutcome(outcome="wrong-result", error=wrong) if wrong else kernel


def profile_untuned(
    workload: bytes, target: str, untuned: bytes, device: str, settings: Settings
) -> ProfileOutcome:
    """See :meth:`shared.engine.Engine.profile_untuned`."""
    arguments = workloads.arguments(workloads.load(workload)["main"])
    try:
        with kernels.threads(target):
            kernel = _Kernel(untuned, arguments, device, None)
            kernel.run()
            seconds = kernel.run()
            repeats = max(1, min(settings.repeats, int(UNTUNED_SECONDS / seconds)))
            return ProfileOutcome(outcome="measured", latencies=kernel.measure(settings, repeats))
    except Exception as error:  # as above
        return ProfileOutcome(outcome="run-failed", error=shorten(str(error)))


class _Kernel:
    """A loaded kernel with its arguments on the device: the same random inputs for every kernel of a
    workload, and poisoned outputs."""

    def __init__(
        self, artifact: bytes, arguments: list[Argument], device: str, reference: list[Array] | None
    ) -> None:
        import tvm

        self._module = kernels.load(artifact)
        self._device = targets.device(device)
        arrays = _arrays(arguments, reference)
        self._tensors = [tvm.runtime.tensor(array, device=self._device) for array in arrays]
        self._written = [i for i, argument in enumerate(arguments) if argument.output]

    def run(self) -> float:
        """Run once; the wall time in seconds."""
        self._device.sync()
        start = time.perf_counter()
        self._module["main"](*self._tensors)
        self._device.sync()
        return time.perf_counter() - start

    def outputs(self) -> list[Array]:
        return [self._tensors[i].numpy() for i in self._written]

    def measure(self, settings: Settings, repeats: int) -> list[float]:
        """Seconds per run, one figure per repeat. TVM runs the kernel once more before it starts."""
        flush = settings.cache_flush and self._device.type == "cpu"
        evaluator = self._module.time_evaluator(
            "main",
            self._device,
            number=1,
            repeat=repeats,
            min_repeat_ms=0 if flush else settings.min_repeat_ms,
            f_preproc="cache_flush_cpu_non_first_arg" if flush else "",
        )
        return [float(seconds) for seconds in evaluator(*self._tensors).results]


def _arrays(arguments: list[Argument], reference: list[Array] | None) -> list[Array]:
    taken = [(a.shape, a.dtype) for a in arguments if not a.output]
    inputs = iter(comparing.random_inputs(taken, INPUT_SEED))
    references = iter(reference if reference is not None else [None] * len(arguments))
    return [
        comparing.poison(a.dtype, a.shape, next(references)) if a.output else next(inputs) for a in arguments
    ]


def _reference(untuned: bytes, arguments: list[Argument], device: str) -> list[Array]:
    key = hashlib.sha256(untuned).hexdigest()
    if key not in _references:
        kernel = _Kernel(untuned, arguments, device, None)
        kernel.run()
        _references[key] = kernel.outputs()
        while len(_references) > REFERENCES_KEPT:
            _references.popitem(last=False)
    _references.move_to_end(key)
    return _references[key]


def _first_difference(arguments: list[Argument], got: list[Array], reference: list[Array]) -> str:
    """What is wrong with the outputs; empty when nothing is."""
    written = [argument for argument in arguments if argument.output]
    for argument, values, expected in zip(written, got, reference, strict=True):
        difference, equal = comparing.largest_difference(values, expected)
        if not equal:
            return (
                f"the output {argument.name} differs from the untuned workload's by up to {difference:g}"
                f" ({argument.dtype}{list(argument.shape)})"
            )
    return ""
