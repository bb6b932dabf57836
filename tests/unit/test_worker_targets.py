"""What a device announces as its target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import pytest

from tunemesh.shared.errors import BadInput, BadTarget
from tunemesh.stage_workers.devices.devices import Device
from tunemesh.stage_workers.platforms.protocol import Target, TargetCall
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.targets import announced_targets, check_fits

C = TypeVar("C")
T = TypeVar("T")


class Resolver:
    """Knows targets by platform and name; an unknown one is refused as platforms do."""

    def __init__(self, known: Mapping[tuple[str, str], object]) -> None:
        self._known = known
        self.cores: list[int] = []
        """Those that were asked for."""

    def call(
        self,
        callee: str,
        method: Callable[[Any, C], T],
        record: C,
        timeout: float,
        cpu_limit: float | None = None,
    ) -> T | CallFailure:
        assert isinstance(record, TargetCall)
        self.cores.append(record.cores)
        if (callee, record.target) not in self._known:
            raise BadTarget(f"{callee} knows no target {record.target!r}")
        found = self._known[callee, record.target]
        return cast(T, Target(canonical=found) if isinstance(found, str) else found)


def test_the_canonical_form_comes_first_and_the_given_one_stays() -> None:
    resolver = Resolver({("tvm", "native"): "{}"})
    assert announced_targets(["native"], resolver, 4) == ["{}", "native"]
    assert resolver.cores == [4]


def test_forms_of_the_same_target_are_announced_once_each() -> None:
    resolver = Resolver({("tvm", "native"): "{}", ("tvm", "{}"): "{}"})
    assert announced_targets(["native", "{}"], resolver) == ["{}", "native"]


def test_who_knows_a_target_follows_from_its_name() -> None:
    assert announced_targets(["mock-gpu"], Resolver({("mock", "mock-gpu"): "mock-gpu"})) == ["mock-gpu"]


def test_a_target_that_nobody_knows_is_refused() -> None:
    with pytest.raises(BadTarget, match="tvm knows no target 'abacus'"):
        announced_targets(["abacus"], Resolver({}))


def test_different_targets_are_refused() -> None:
    resolver = Resolver({("mock", "mock"): "mock", ("mock", "mock2"): "mock2"})
    with pytest.raises(BadInput, match="one target"):
        announced_targets(["mock", "mock2"], resolver)


@pytest.mark.parametrize(
    "failure",
    [
        CallFailure("crashed", "the sandbox's processes were killed"),
        CallFailure("raised", "RuntimeError: CUDA driver initialization failed"),
        CallFailure("raised", "OSError: [Errno 24] Too many open files"),
    ],
    ids=lambda failure: failure.text,
)
def test_a_platform_that_fails_without_a_refusal_is_asked_again_and_the_log_says_so(
    failure: CallFailure, caplog: pytest.LogCaptureFixture
) -> None:
    class Dying(Resolver):
        deaths = 2

        def call(
            self,
            callee: str,
            method: Callable[[Any, C], T],
            record: C,
            timeout: float,
            cpu_limit: float | None = None,
        ) -> T | CallFailure:
            if self.deaths:
                self.deaths -= 1
                return failure
            return super().call(callee, method, record, timeout, cpu_limit)

    resolver = Dying({("tvm", "native"): "{}"})
    assert announced_targets(["native"], resolver) == ["{}", "native"]
    assert f"{failure.text}; trying again" in caplog.text


def test_a_worker_without_a_device_announces_nothing() -> None:
    assert announced_targets([], Resolver({})) == []


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
