"""What a device announces as its target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import pytest

from tunemesh.shared.errors import BadInput, BadTarget
from tunemesh.stage_workers.devices.devices import Device
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.targets import announced_targets, check_fits

T = TypeVar("T")
ENGINES = ["metaschedule", "mock"]


class Resolver:
    """Knows targets by engine and name; an unknown one is refused as engines do."""

    def __init__(self, known: Mapping[tuple[str, str], object]) -> None:
        self._known = known

    def call(
        self, engine: str, method: str, args: Sequence[object], returns: type[T], timeout: float
    ) -> T | CallFailure:
        (target,) = args
        if (engine, target) not in self._known:
            raise BadTarget(f"{engine} knows no target {target!r}")
        return cast(T, self._known[engine, str(target)])


def test_the_canonical_form_comes_first_and_the_given_one_stays() -> None:
    resolver = Resolver({("metaschedule", "native"): "{}"})
    assert announced_targets(["native"], ENGINES, resolver) == ["{}", "native"]


def test_forms_of_the_same_target_are_announced_once_each() -> None:
    resolver = Resolver({("metaschedule", "native"): "{}", ("metaschedule", "{}"): "{}"})
    assert announced_targets(["native", "{}"], ENGINES, resolver) == ["{}", "native"]


def test_another_engine_may_know_the_target() -> None:
    assert announced_targets(["mock"], ENGINES, Resolver({("mock", "mock"): "mock"})) == ["mock"]


def test_a_target_that_nobody_knows_is_refused_in_the_words_of_the_first_engine() -> None:
    with pytest.raises(BadTarget, match="metaschedule knows no target 'abacus'"):
        announced_targets(["abacus"], ENGINES, Resolver({}))


def test_different_targets_are_refused() -> None:
    resolver = Resolver({("mock", "mock"): "mock", ("mock", "mock2"): "mock2"})
    with pytest.raises(BadInput, match="one target"):
        announced_targets(["mock", "mock2"], ENGINES, resolver)


def test_an_engine_that_cannot_run_at_all_is_named() -> None:
    resolver = Resolver({("metaschedule", "native"): CallFailure("raised", "ImportError: no module tvm")})
    with pytest.raises(BadInput, match=r"engine metaschedule cannot look at .*: ImportError: no module tvm"):
        announced_targets(["native"], ENGINES, resolver)


def test_an_engine_whose_process_is_killed_over_it_is_asked_again_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Dying(Resolver):
        deaths = 2

        def call(
            self, engine: str, method: str, args: Sequence[object], returns: type[T], timeout: float
        ) -> T | CallFailure:
            if self.deaths:
                self.deaths -= 1
                return CallFailure("crashed", "the sandbox's processes were killed")
            return super().call(engine, method, args, returns, timeout)

    resolver = Dying({("metaschedule", "native"): "{}"})
    assert announced_targets(["native"], ENGINES, resolver) == ["{}", "native"]
    assert "processes were killed; trying again" in caplog.text


def test_a_worker_without_a_device_announces_nothing() -> None:
    assert announced_targets([], ENGINES, Resolver({})) == []


@pytest.mark.parametrize(
    ("name", "target", "fits"),
    [
        ("cpu:1", '{"kind":"llvm","mcpu":"znver4"}', True),
        ("cpu:1", '{"arch":"sm_90","kind":"cuda"}', False),
        ("cuda:0", '{"arch":"sm_90","kind":"cuda"}', True),
        ("cuda:0", '{"kind":"llvm"}', False),
        ("cpu:1", "mock", True),
    ],
)
def test_a_target_of_another_kind_of_device_is_refused(name: str, target: str, fits: bool) -> None:
    device = Device(name, "cpu", ())
    if fits:
        check_fits(device, target)
    else:
        with pytest.raises(BadInput, match=f"device {name} cannot run"):
            check_fits(device, target)
