"""The fuzzer: a few of its messages, and that it sees what it looks for."""

from __future__ import annotations

import random

import pytest

from benchmarks import fuzz
from tests.unit.world import request
from tunemesh.coordinator.core import Core
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage


@pytest.mark.parametrize("seed", range(2))
def test_spoilt_messages_harm_nobody(seed: int) -> None:
    found = fuzz.Fuzz(seed)
    found.world(1_500)
    seen = found.found
    assert seen.faults == []
    assert min(seen.sent["client"], seen.sent["worker"], seen.unreadable) > 500
    # Some make sense by form: the core has to tell.
    assert min(seen.taken, seen.aside) > 30


def test_it_sees_an_exception_of_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Core.handle

    def handle(core: Core, event: object, now: float) -> object:
        if getattr(event, "user", "") == "client.evil.eve":
            raise KeyError("evil")
        return real(core, event, now)  # type: ignore[arg-type]

    monkeypatch.setattr(Core, "handle", handle)
    found = fuzz.Fuzz(0)
    found.world(100)
    assert any(fault.startswith("KeyError: 'evil'") for fault in found.found.faults)


def test_it_sees_a_reason_of_several_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise BadMessage("one\ntwo")

    monkeypatch.setattr(fuzz.codec, "decode", decode)
    found = fuzz.Fuzz(0)
    found.world(20)
    assert any("no reason in one line" in fault for fault in found.found.faults)


def test_most_messages_are_spoilt_and_the_same_for_a_seed() -> None:
    body = codec.encode(request("job"))
    some = [fuzz.spoilt(body, random.Random(seed)) for seed in range(200)]
    assert sum(each != body for each in some) > 190
    assert some == [fuzz.spoilt(body, random.Random(seed)) for seed in range(200)]
