"""What is no message is refused, with the reason in one short line."""

from __future__ import annotations

import json

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire import EXAMPLES, IDS, KINDS, REQUEST, Plain, decoded, reason
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import WIRE_VERSION, Blob, Cancel, Message, Query, Request


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"job": "no spaces"}, "$.job"),
        ({"job": ""}, "$.job"),
        ({"job": "x" * 65}, "$.job"),
        ({"job": 7}, "$.job"),
        ({"level": {"trials": -1}}, "$.level.trials"),
        ({"level": {"trials": 1_000_001}}, "$.level.trials"),
        ({"level": {"trials": True}}, "$.level.trials"),
        ({"level": {"trials": None}}, "$.level.trials"),
        ({"level": {"patience": 1.5}}, "$.level.patience"),
        ({"level": {"latency_s": 0}}, "$.level.latency_s"),
        ({"level": {"speedup": -1}}, "$.level.speedup"),
        ({"level": {"deadline": float("nan")}}, "$.level.deadline"),
        ({"level": {"deadline": 1e9}}, "$.level.deadline"),
        ({"level": {"device_seconds": 0}}, "$.level.device_seconds"),
        ({"level": {"cost": -0.1}}, "$.level.cost"),
        ({"level": {"shared": 1}}, "$.level.shared"),
        ({"level": {"class": "iron"}}, "$.level.class"),
        ({"level": []}, "$.level"),
        ({"target": ""}, "$.target"),
        ({"target": "x" * 2001}, "$.target"),
        ({"target": b"native"}, "$.target"),
        ({"seed": -1}, "$.seed"),
        ({"seed": 2**31}, "$.seed"),
        ({"name": "x" * 201}, "$.name"),
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
        ({"settings": {"shapes": {"x": [[1, 0]]}}}, "$.settings.shapes"),
        ({"settings": []}, "$.settings"),
    ],
)
def test_what_breaks_a_limit_is_named(change: Plain, said: str) -> None:
    assert said in reason(msgpack.packb(REQUEST | change), Request)


@pytest.mark.parametrize("field", ["job", "model", "target"])
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
    large = Request(job="j", model=Blob("0" * 64, codec.MAX_MESSAGE, b"x" * codec.MAX_MESSAGE), target="t")
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
