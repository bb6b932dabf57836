"""Kernels measured and checked by direct calls: real TVM, one core, no broker."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.acceptance.direct import (
    QUICK,
    assemble,
    build,
    confirm,
    import_model,
    matrix_product,
    measure,
    profile,
    profile_call,
    profile_untuned,
    reference,
    update,
    validate,
)
from tunemesh.shared.messages import Settings
from tunemesh.shared.text import ERROR_TEXT_LIMIT
from tunemesh.stage_workers.graph import compilation, linking
from tunemesh.stage_workers.measuring import kernels, loading
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, Imported, Platform, ProfileOutcome
from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox

# Other tests would disturb what is measured.
pytestmark = pytest.mark.alone


def test_a_kernel_that_computes_something_else_is_found_out(product: ExtractedTask, target: str) -> None:
    doubled = import_model(matrix_product(scale=2.0), target).tasks[0]
    profiled = profile(product, target, doubled.untuned)
    assert profiled.outcome == "wrong-result"
    assert "the untuned kernel gives" in profiled.error
    assert profiled.latencies == []


def test_a_kernel_that_writes_nothing_is_found_out(product: ExtractedTask, target: str) -> None:
    import tvm
    from tvm import te

    a, b = (te.placeholder((64, 64), name=name) for name in "ab")
    c = te.compute((64, 64), lambda i, j: a[i, j], name="c")
    # Takes the same tensors, but writes its first.
    lazy = te.create_prim_func([c, b, a]).with_attr("global_symbol", "main")
    artifact = compilation.compile_and_link(tvm.IRModule({"main": lazy}), target)
    profiled = profile(product, target, artifact)
    assert profiled.outcome == "wrong-result"
    assert "is nan, the untuned kernel gives" in profiled.error


def test_inputs_that_a_kernel_has_written_over_are_made_again(product: ExtractedTask, target: str) -> None:
    assert profile(product, target, product.untuned).outcome == "measured"
    for tensors in kernels._inputs.values():
        for tensor in tensors:
            tensor.copyfrom(tensor.numpy() * 0)
    assert profile(product, target, product.untuned).outcome == "measured"


@pytest.mark.parametrize(("best", "cut_short"), [(1e-9, True), (10.0, False), (None, False)])
def test_a_kernel_much_slower_than_the_best_is_cut_short(
    product: ExtractedTask, target: str, best: float | None, cut_short: bool
) -> None:
    settings = msgspec.structs.replace(QUICK, repeats=3)
    profiled = profile(product, target, product.untuned, settings, best)
    assert profiled.outcome == "measured"
    assert profiled.cut_short == cut_short
    # Two are enough where they agree.
    assert len(profiled.latencies) in ((1,) if cut_short else (2, 3))
    # What is known of it is not far from the truth.
    whole = statistics.median(profile(product, target, product.untuned, settings).latencies)
    assert whole / 3 < statistics.median(profiled.latencies) < whole * 3


@pytest.mark.parametrize(("cut_short", "ended"), [(1.0, True), (None, False)])
def test_a_run_that_takes_for_ever_is_ended_with_its_process(
    target: str, cut_short: float | None, ended: bool
) -> None:
    large = import_model(matrix_product(size=512), target).tasks[0]
    settings = msgspec.structs.replace(QUICK, repeats=1, cut_short=cut_short)
    call = profile_call(large, target, large.untuned, settings, best=1e-6)
    with Sandbox(platforms=("tvm",), memory=4 * 2**30) as sandbox:
        answer = sandbox.call("tvm", Platform.profile, call, 60.0)
        if ended:
            assert isinstance(answer, CallFailure)
            assert answer.kind == "timed-out"
        else:
            assert isinstance(answer, ProfileOutcome)
            assert answer.outcome == "measured"


def test_a_kernel_that_raises_is_a_failed_run(
    product: ExtractedTask, convolution: ExtractedTask, target: str
) -> None:
    profiled = profile(product, target, convolution.untuned)
    assert profiled.outcome == "run-failed"
    assert 0 < len(profiled.error) <= ERROR_TEXT_LIMIT


def test_candidates_that_take_turns_are_checked_and_timed(product: ExtractedTask, target: str) -> None:
    schedules = update(product.workload, target, None, [], 2).schedules
    programs = [build(product.workload, target, schedule).artifact for _, schedule in schedules]
    import tvm

    wrong = compilation.build_untuned(
        tvm.IRModule({"main": tvm.ir.load_json(matrix_product(2.0).decode())}), target
    )
    artifacts = [programs[0] or b"", wrong, programs[1] or b""]
    first, bad, last = confirm(product, target, artifacts)
    assert bad.outcome == "wrong-result"
    for outcome in (first, last):
        assert outcome.outcome == "measured"
        assert len(outcome.latencies) == 2 * QUICK.repeats


def test_the_reference_kernel_is_steady(target: str) -> None:
    levels = [statistics.fmean(reference(target, "cpu")) for _ in range(10)]
    assert len(reference(target, "cpu")) == 5
    assert statistics.median(levels) < 2 * min(levels)


def test_a_kernel_with_cold_caches_takes_longer(target: str) -> None:
    """A sum of two tensors of 1 MB each, which the second-level cache would hold."""
    import tvm
    from tvm import te

    a, b = (te.placeholder((2**18,), name=name) for name in "ab")
    c = te.compute(a.shape, lambda i: a[i] + b[i], name="c")
    text = str(tvm.ir.save_json(te.create_prim_func([a, b, c])))
    task = import_model(text.encode(), target).tasks[0]

    def latency(flush: bool) -> float:
        settings = Settings(repeats=5, min_repeat_ms=20, cut_short=None, cache_flush=flush)
        outcome = profile(task, target, task.untuned, settings)
        assert outcome.outcome == "measured", outcome.error
        assert len(outcome.latencies) == 5
        return min(outcome.latencies)

    assert latency(True) > 1.2 * latency(False)


def test_what_has_run_is_unloaded(imported: Imported, product: ExtractedTask, target: str) -> None:
    """A process may map 65,530 areas, and a shared object takes six."""

    def loaded() -> int:
        gc.collect()
        return Path("/proc/self/maps").read_text().count("/tunemesh-run-")

    before = loaded()
    proposal = update(product.workload, target, None, [], 3)
    measure(product, target, proposal.schedules)
    model = assemble(imported.model, target)
    validate(model.tuned, model.untuned, model.signature, target, imported.sample)
    assert loaded() == before


def test_profiling_repeats_as_asked(product: ExtractedTask, target: str) -> None:
    for settings in (
        Settings(repeats=4, min_repeat_ms=2, cut_short=None),
        Settings(repeats=4, cache_flush=True, cut_short=None),
    ):
        profiled = profile(product, target, product.untuned, settings)
        assert profiled.outcome == "measured"
        assert len(profiled.latencies) == 4
        assert all(latency > 0 for latency in profiled.latencies)


def failing(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")], ids=["Python", "C++"])
def test_want_of_memory_is_nobodys_fault_but_the_process(
    product: ExtractedTask, target: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(loading, "load", failing(error))
    with pytest.raises(MemoryError):
        profile(product, target, product.untuned)
    with pytest.raises(MemoryError):
        profile_untuned(product, target)
    monkeypatch.setattr(linking, "link", failing(error))
    with pytest.raises(MemoryError):
        import_model(matrix_product(size=32), target)
