"""An independent peer: messages packed by hand with ``msgpack``, as ``docs/wire-format.md`` says."""

from __future__ import annotations

import base64
import copy
import json
import re
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.coordinator.jobs.ledger import Ledger, Marker
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import (
    WIRE_VERSION,
    Blob,
    Cancel,
    JobEvent,
    Message,
    Query,
    Request,
    SetStrategy,
    Settings,
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
    Step,
    StepResult,
    WorkerStatus,
    Ledger,
    Marker,
    Snapshot,
    JobEvent,
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
    "trials": 64,
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


# -- The documentation -------------------------------------------------------------------------------------


def test_every_message_type_has_an_example() -> None:
    assert {tag for tag, _ in EXAMPLES} == set(KIND_BY_TYPE)


@pytest.mark.parametrize(("tag", "example"), EXAMPLES, ids=IDS)
def test_examples_decode_as_what_they_are_called(tag: str, example: Plain) -> None:
    assert isinstance(decoded(example, KIND_BY_TYPE[tag]), KIND_BY_TYPE[tag])


@pytest.mark.parametrize(("tag", "example"), EXAMPLES, ids=IDS)
def test_what_an_example_says_survives_the_way_there_and_back(tag: str, example: Plain) -> None:
    back = msgpack.unpackb(codec.encode(decoded(example, KIND_BY_TYPE[tag])))
    assert_contains(back, example)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_message_is_documented(kind: type[Message]) -> None:
    section = DOCUMENT.read_text().split(f"### `{kind.__struct_config__.tag}`\n")[1].split("\n## ")[0]
    rows = {
        word
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for word in re.findall(r"`(.*?)`", row)
    }
    assert set(kind.__struct_encode_fields__) - {"version"} <= rows


def _parts(of: Any, found: set[type]) -> None:
    """All structs that a message is made of."""
    if isinstance(of, msgspec.inspect.StructType):
        if of.cls in found:
            return
        found.add(of.cls)
        for field in of.fields:
            _parts(field.type, found)
    for inner in ("type", "key_type", "value_type", "item_type"):
        _parts(getattr(of, inner, None), found) if hasattr(of, inner) else None
    for each in getattr(of, "types", ()):
        _parts(each, found)


def _all_parts() -> list[type]:
    found: set[type] = set()
    for kind in KINDS:
        _parts(msgspec.inspect.type_info(kind), found)
    return sorted(found - set(KINDS), key=lambda struct: struct.__name__)


@pytest.mark.parametrize("struct", _all_parts(), ids=lambda struct: struct.__name__)
def test_every_field_of_their_parts_is_documented(struct: Any) -> None:
    tables = "\n".join(line for line in DOCUMENT.read_text().splitlines() if line.startswith("|"))
    words = {word for quoted in re.findall(r"`(.*?)`", tables) for word in re.findall(r"\w+", quoted)}
    assert set(struct.__struct_encode_fields__) <= words


def test_settings_are_documented_as_they_are() -> None:
    section = DOCUMENT.read_text().split("*Settings:*")[1].split("*Options*")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(Settings.__struct_fields__)


def assert_contains(whole: Any, part: Any) -> None:
    """``whole`` says everything that ``part`` says; defaults that are left out count as said."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in whole:
                assert_contains(whole[key], value)
            else:
                assert value in ("", {}, []), f"{key} was lost"
    elif isinstance(part, list):
        assert len(whole) == len(part)
        for one, other in zip(whole, part, strict=True):
            assert_contains(one, other)
    else:
        assert whole == part


# -- Packed by hand, read by the mesh ----------------------------------------------------------------------


def test_a_minimal_request_gets_the_documented_defaults() -> None:
    request = decoded(REQUEST, Request)
    assert request == Request(
        job="job-1", model=Blob("0" * 64, 100_000), target="native", trials=64, engines=["metaschedule"],
        options={}, name="", tenant="", priority=10, seed=0,
        settings=Settings(
            batch=32, chunk=8, repeats=3, min_repeat_ms=50, cache_flush=None, build_timeout=20.0,
            profile_timeout=10.0, shapes={},
        ),
    )  # fmt: skip


def test_numbers_may_be_integers_but_integers_may_not_be_floats() -> None:
    request = decoded(REQUEST | {"settings": {"build_timeout": 5}}, Request)
    assert isinstance(request, Request)
    assert request.settings.build_timeout == 5.0
    assert "Expected `int`, got `float`" in reason(msgpack.packb(REQUEST | {"trials": 64.0}))


@pytest.mark.parametrize(("tag", "example"), EXAMPLES, ids=IDS)
@given(extra=st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
))  # fmt: skip
def test_unknown_fields_are_skipped_at_every_level(tag: str, example: Plain, extra: Any) -> None:
    changed = copy.deepcopy(example)
    for struct in _structs(changed):
        struct["x-from-the-future"] = extra
    assert decoded(changed, KIND_BY_TYPE[tag]) == decoded(example, KIND_BY_TYPE[tag])


def _structs(value: Any, name: str = "") -> list[Plain]:
    """All maps in ``value`` with fixed fields; the keys of the others are data."""
    if isinstance(value, list):
        return [found for each in value for found in _structs(each)]
    if not isinstance(value, dict):
        return []
    if name == "options":
        return []
    inner = [found for key, each in value.items() for found in _structs(each, key)]
    return inner if name in ("shapes", "outcomes", "usage", "files", "pace") else [value, *inner]


# -- Written by the mesh, unpacked by hand -----------------------------------------------------------------


def test_a_request_is_a_map_with_type_and_version() -> None:
    data = b"\x08\x07"
    request = Request(
        job="job-1", model=Blob("1" * 64, 2, data), target="t", trials=1, settings=Settings(batch=4)
    )
    assert msgpack.unpackb(codec.encode(request)) == {
        "type": "request",
        "version": 1,
        "job": "job-1",
        "model": {"sha256": "1" * 64, "size": 2, "data": data},
        "target": "t",
        "trials": 1,
        "engines": ["metaschedule"],
        "options": {},
        "name": "",
        "tenant": "",
        "priority": 10,
        "seed": 0,
        "settings": {"batch": 4},
    }


def test_the_other_messages_of_a_client() -> None:
    cancel = {"type": "cancel", "version": 1, "job": "j", "keep": False}
    assert msgpack.unpackb(codec.encode(Cancel(job="j"))) == cancel
    assert codec.decode(msgpack.packb({**cancel, "keep": True}), Cancel).keep
    assert msgpack.unpackb(codec.encode(Query())) == {"type": "query", "version": 1, "job": None}


# -- Bad messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"job": "no spaces"}, "$.job"),
        ({"job": ""}, "$.job"),
        ({"job": "x" * 65}, "$.job"),
        ({"job": 7}, "$.job"),
        ({"trials": 0}, "$.trials"),
        ({"trials": 1_000_001}, "$.trials"),
        ({"trials": True}, "$.trials"),
        ({"trials": None}, "$.trials"),
        ({"target": ""}, "$.target"),
        ({"target": "x" * 2001}, "$.target"),
        ({"target": b"native"}, "$.target"),
        ({"seed": -1}, "$.seed"),
        ({"seed": 2**31}, "$.seed"),
        ({"name": "x" * 201}, "$.name"),
        ({"engines": []}, "$.engines"),
        ({"engines": ["e"] * 9}, "$.engines"),
        ({"engines": ["Not a name"]}, "$.engines[0]"),
        ({"engines": "mock"}, "$.engines"),
        ({"options": {"mock": 1}}, "$.options"),
        ({"options": {"mock": {"x": None}}}, "$.options"),
        ({"options": {"mock": {"x": [1]}}}, "$.options"),
        ({"options": {f"e{n}": {} for n in range(10)}}, "$.options"),
        ({"tenant": "no spaces"}, "$.tenant"),
        ({"priority": 0}, "$.priority"),
        ({"priority": 101}, "$.priority"),
        ({"settings": {"lookahead": 2}}, "$.settings.lookahead"),
        ({"model": {"sha256": "0" * 63, "size": 1}}, "$.model.sha256"),
        ({"model": {"sha256": "A" * 64, "size": 1}}, "$.model.sha256"),
        ({"model": {"sha256": "0" * 64, "size": -1}}, "$.model.size"),
        ({"model": {"sha256": "0" * 64, "size": 1, "data": "text"}}, "$.model.data"),
        ({"model": b"the bytes"}, "$.model"),
        ({"settings": {"batch": 513}}, "$.settings.batch"),
        ({"settings": {"chunk": 9}}, "$.settings.chunk"),
        ({"settings": {"repeats": 0}}, "$.settings.repeats"),
        ({"settings": {"min_repeat_ms": 10_001}}, "$.settings.min_repeat_ms"),
        ({"settings": {"build_timeout": 0}}, "$.settings.build_timeout"),
        ({"settings": {"profile_timeout": float("nan")}}, "$.settings.profile_timeout"),
        ({"settings": {"shapes": {"x": [1, 0]}}}, "$.settings.shapes"),
        ({"settings": []}, "$.settings"),
    ],
)
def test_what_breaks_a_limit_is_named(change: Plain, said: str) -> None:
    assert said in reason(msgpack.packb(REQUEST | change), Request)


@pytest.mark.parametrize("field", sorted(set(REQUEST) - {"type", "version"}))
def test_what_is_missing_is_named(field: str) -> None:
    body = msgpack.packb({key: value for key, value in REQUEST.items() if key != field})
    assert f"missing required field `{field}`" in reason(body)


@pytest.mark.parametrize("field", ["type", "version"])
def test_type_and_version_are_required(field: str) -> None:
    body = msgpack.packb({key: value for key, value in REQUEST.items() if key != field})
    assert reason(body).startswith("message without a valid type and version")


@pytest.mark.parametrize("version", [0, WIRE_VERSION + 1])
def test_another_version_is_refused_whatever_else_it_says(version: int) -> None:
    body = msgpack.packb({"type": "request", "version": version, "unheard": "of"})
    assert reason(body) == f"request has version {version}; this side speaks version 1"


def test_a_type_that_does_not_belong_here_is_refused() -> None:
    text = reason(msgpack.packb(REQUEST), Cancel, Query)
    assert text == "message type 'request' is not accepted here; known: cancel, query"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x83",
        b"not a message",
        json.dumps(REQUEST).encode(),
        msgpack.packb([REQUEST]),
        msgpack.packb(REQUEST) + b"\xc0",
        msgpack.packb(REQUEST)[:-1],
        msgpack.packb({1: 2}),
        b"\x81\xa4type\xa2\xff\xfe",
        b"\x81\xa1x" + b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa1x\xdd\xff\xff\xff\xff",
    ],
    ids=[
        "empty", "reserved byte", "cut map", "text", "json", "list", "trailing", "cut", "integer keys",
        "no utf-8", "deep", "promises four billion",
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(body: bytes) -> None:
    reason(body)


def test_a_message_over_the_limit_is_neither_read_nor_written() -> None:
    body = msgpack.packb(REQUEST | {"x": b"x" * codec.MAX_MESSAGE})
    assert "exceeds the limit of 1,048,576" in reason(body)
    large = Request(
        job="j", model=Blob("0" * 64, codec.MAX_MESSAGE, b"x" * codec.MAX_MESSAGE), target="t", trials=1
    )
    with pytest.raises(BadMessage, match="put large blobs into the artifact store"):
        codec.encode(large)


def test_a_message_of_exactly_the_limit_is_read() -> None:
    spare = codec.MAX_MESSAGE - len(msgpack.packb(REQUEST | {"x": b"x" * 70_000})) + 70_000
    body = msgpack.packb(REQUEST | {"x": b"x" * spare})
    assert len(body) == codec.MAX_MESSAGE
    assert codec.decode(body, Request) == decoded(REQUEST)


def test_a_stranger_cannot_write_into_our_logs() -> None:
    options = {"x\nERROR everything is lost\x1b[2J" + "y" * 100_000: 1}
    reason(msgpack.packb(REQUEST | {"options": options}))
    step = next(example for tag, example in EXAMPLES if tag == "step")
    work = step["work"] | {"type": "x\nERROR everything is lost\x1b[2J" + "y" * 100_000}
    text = reason(msgpack.packb(step | {"work": work}))
    assert r"Invalid value 'x ERROR everything is lost?[2J" in text
    assert text.endswith("at `$.work.type`")
    reason(msgpack.packb(REQUEST | {"type": "x\r\n" * 1000}))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_bad_message(body: bytes) -> None:
    _decode_or_bad(body)


def test_a_reason_quotes_no_control_characters() -> None:
    step = next(example for tag, example in EXAMPLES if tag == "step")
    assert "??[2Juild" in reason(msgpack.packb({**step, "work": {"type": "\0\x1b[2Juild"}}))


@pytest.mark.parametrize(("tag", "example"), EXAMPLES, ids=IDS)
@given(data=st.data())
def test_a_message_with_any_bytes_replaced_is_a_message_or_a_bad_message(
    tag: str, example: Plain, data: st.DataObject
) -> None:
    body = bytearray(msgpack.packb(example))
    at = data.draw(st.integers(0, len(body) - 1))
    new = data.draw(st.binary(max_size=4))
    body[at : at + data.draw(st.integers(0, 4))] = new
    _decode_or_bad(bytes(body))


def _decode_or_bad(body: bytes) -> None:
    try:
        message = codec.decode(body, *KINDS)
    except BadMessage:
        reason(body)
        return
    assert codec.decode(codec.encode(message), type(message)) == message or _holds_nan(message)


def _holds_nan(message: Message) -> bool:
    """NaN is equal to nothing, not even to itself."""
    return "nan" in repr(msgspec.to_builtins(message)).lower()
