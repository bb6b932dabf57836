"""Want of memory is no fault of a candidate: it must reach the sandbox, which replaces the process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError, EncodeError

from tunemesh.stage_workers.engines.metaschedule import building, schedules
from tunemesh.stage_workers.engines.protocol import BuildCall
from tunemesh.stage_workers.graph.errors import reraise_memory_error

LLVM = '{"kind": "llvm"}'
CPP = RuntimeError("InternalError: std::bad_alloc")
"""As TVM passes on what C++ throws."""


def failing(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


READING = DecodeError("Error parsing message with type 'onnx.ModelProto': Arena alloc failed")
WRITING = EncodeError("Failed to serialize proto")


@pytest.fixture(params=[MemoryError(), CPP, READING, WRITING], ids=["Python", "C++", "reading", "writing"])
def want(request: pytest.FixtureRequest) -> Exception:
    error: Exception = request.param
    return error


def test_other_errors_pass() -> None:
    reraise_memory_error(RuntimeError("the tile does not fit"))


def test_while_a_candidate_is_built(monkeypatch: pytest.MonkeyPatch, want: Exception) -> None:
    monkeypatch.setattr(schedules, "replay", failing(want))
    with pytest.raises(MemoryError):
        building.build(BuildCall(workload=b"", target=LLVM, schedule=b""))
    monkeypatch.setattr(schedules, "replay", failing(RuntimeError("the tile does not fit")))
    outcome = building.build(BuildCall(workload=b"", target=LLVM, schedule=b""))
    assert (outcome.outcome, outcome.error) == ("build-failed", "the tile does not fit")
