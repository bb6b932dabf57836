"""What ``docs/wire-format.md`` says is what the mesh reads and writes."""

from __future__ import annotations

import copy
import re
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire import DOCUMENT, EXAMPLES, IDS, KIND_BY_TYPE, KINDS, REQUEST, Plain, decoded, reason
from tunemesh.shared import codec
from tunemesh.shared.messages import Blob, Cancel, Level, Message, Query, Request, Settings

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


@pytest.mark.parametrize(
    ("struct", "begin", "end"), [(Settings, "*Settings:*", "*Options*"), (Level, "*Level*", "*Settings:*")]
)
def test_settings_are_documented_as_they_are(struct: type[msgspec.Struct], begin: str, end: str) -> None:
    section = DOCUMENT.read_text().split(begin)[1].split(end)[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(struct.__struct_encode_fields__)


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
        job="job-1", model=Blob("0" * 64, 100_000), target="native", level=Level(trials=64),
        engines=[],
        options={}, name="", tenant="", priority=10, seed=0,
        settings=Settings(
            batch=32, chunk=8, repeats=3, min_repeat_ms=50, cache_flush=None, build_timeout=20.0,
            profile_timeout=10.0, shapes={}, dims={},
        ),
    )  # fmt: skip


def test_numbers_may_be_integers_but_integers_may_not_be_floats() -> None:
    request = decoded(REQUEST | {"settings": {"build_timeout": 5}}, Request)
    assert isinstance(request, Request)
    assert request.settings.build_timeout == 5.0
    assert "Expected `int`, got `float`" in reason(msgpack.packb(REQUEST | {"level": {"trials": 64.0}}))


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
    return inner if name in ("shapes", "dims", "outcomes", "usage", "files", "pace") else [value, *inner]


# -- Written by the mesh, unpacked by hand -----------------------------------------------------------------


def test_a_request_is_a_map_with_type_and_version() -> None:
    data = b"\x08\x07"
    request = Request(
        job="job-1",
        model=Blob("1" * 64, 2, data),
        target="t",
        level=Level(trials=1),
        settings=Settings(batch=4),
    )
    assert msgpack.unpackb(codec.encode(request)) == {
        "type": "request",
        "version": 1,
        "job": "job-1",
        "model": {"sha256": "1" * 64, "size": 2, "data": data},
        "target": "t",
        "engines": [],
        "files": {},
        "options": {},
        "name": "",
        "tenant": "",
        "visibility": "tenant",
        "priority": 10,
        "seed": 0,
        "settings": {"batch": 4},
        "level": {"trials": 1},
        "samples": None,
        "known": [],
    }


def test_the_other_messages_of_a_client() -> None:
    cancel = {"type": "cancel", "version": 1, "job": "j", "keep": False}
    assert msgpack.unpackb(codec.encode(Cancel(job="j"))) == cancel
    assert codec.decode(msgpack.packb({**cancel, "keep": True}), Cancel).keep
    assert msgpack.unpackb(codec.encode(Query())) == {
        "type": "query",
        "version": 1,
        "job": None,
        "skip": 0,
        "census": False,
    }
