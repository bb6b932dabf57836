"""Messages packed by hand with ``msgpack``, as ``docs/wire-format.md`` says: an independent peer."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tunemesh.coordinator.cells.messages import CellStatus, Forget, Handed, Placed
from tunemesh.coordinator.jobs.ledger import Ledger, Marker, Tenants
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import (
    AskHistory,
    Cancel,
    Census,
    JobEvent,
    Learn,
    Message,
    PastJobs,
    Query,
    Request,
    SetStrategy,
    Snapshot,
    Step,
    StepResult,
    WorkerStatus,
)

KINDS: tuple[type[Message], ...] = (
    Request,
    Cancel,
    Query,
    SetStrategy,
    Learn,
    Step,
    StepResult,
    WorkerStatus,
    Ledger,
    Marker,
    Tenants,
    Snapshot,
    JobEvent,
    AskHistory,
    PastJobs,
    Census,
    CellStatus,
    Placed,
    Handed,
    Forget,
)
KIND_BY_TYPE: dict[str, type[Message]] = {str(kind.__struct_config__.tag): kind for kind in KINDS}
DOCUMENT = Path(__file__).parents[2] / "docs" / "wire-format.md"

Plain = dict[str, Any]


def with_bytes(value: Any) -> Any:
    """The documentation's notation: ``{"bin": base64}`` stands for bytes."""
    if isinstance(value, dict):
        if set(value) == {"bin"}:
            return base64.b64decode(value["bin"], validate=True)
        return {key: with_bytes(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_bytes(each) for each in value]
    return value


def examples() -> list[tuple[str, Plain]]:
    """Every tagged example of the documentation, with its tag."""
    blocks = re.findall(r"^```json ([a-z-]+)\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return [(tag, with_bytes(json.loads(text))) for tag, text in blocks]


EXAMPLES = examples()
IDS = [f"{number}-{tag}" for number, (tag, _) in enumerate(EXAMPLES)]

REQUEST: Plain = {
    "type": "request",
    "version": 1,
    "job": "job-1",
    "model": {"sha256": "0" * 64, "size": 100_000},
    "target": "native",
    "level": {"trials": 64},
}


def decoded(message: Plain, *kinds: type[Message]) -> Message:
    return codec.decode(msgpack.packb(message), *kinds or KINDS)


def reason(body: bytes, *kinds: type[Message]) -> str:
    """Why ``body`` is a bad message; checks that it is said in one short line."""
    with pytest.raises(BadMessage) as caught:
        codec.decode(body, *kinds or KINDS)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) <= 500
    return text
