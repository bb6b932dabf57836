"""The schema of the messages: it is what the code makes, and says of messages what the decoder says."""

from __future__ import annotations

import base64
import json
import random
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from jsonschema.protocols import Validator

from tests.unit import random_values
from tests.unit.wire import EXAMPLES, IDS, KIND_BY_TYPE, KINDS, REQUEST, Plain
from tunemesh import cli
from tunemesh.broker_config.topology import BINDINGS, CELLS_KEY, EXCHANGES, LEDGER
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import Message
from tunemesh.wire_schema import MESSAGES

KEPT = Path(__file__).parents[2] / "docs" / "asyncapi.json"
DOCUMENT: Plain = json.loads(KEPT.read_text())


def validator(tag: str) -> Validator:
    """Of one message, from the document as it is kept."""
    payload = DOCUMENT["components"]["messages"][tag]["payload"]
    return jsonschema.Draft7Validator({**payload, "components": DOCUMENT["components"]})


VALIDATORS = {tag: validator(tag) for tag in KIND_BY_TYPE}


def as_json(value: Any) -> Any:
    """A message in the form that its schema is of."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: as_json(each) for key, each in value.items()}
    return [as_json(each) for each in value] if isinstance(value, list) else value


def test_what_is_kept_is_what_the_code_makes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tunemesh", "broker", "schema"])
    assert cli.run() == 0
    assert capsys.readouterr().out == KEPT.read_text(), "renew it: tunemesh broker schema >docs/asyncapi.json"


def test_every_message_is_in_it() -> None:
    assert set(MESSAGES) == set(KINDS)
    assert set(DOCUMENT["components"]["messages"]) == set(KIND_BY_TYPE)


def test_channels_are_the_exchanges_and_keys_of_the_broker() -> None:
    amqp = [(each["bindings"]["amqp"]["exchange"], each["address"]) for each in DOCUMENT["channels"].values()]
    said = {(exchange["name"], exchange["type"]) for exchange, _ in amqp if exchange["type"] != "default"}
    # What is dead may be anything; to newcomers the broker itself sends what has no other queue.
    inner = ("tunemesh.dead", "tunemesh.newcomers")
    assert said == {(each.name, each.kind) for each in EXCHANGES if each.name not in inner}
    fixed = {(exchange["name"], key) for exchange, key in amqp if key and "{" not in key}
    bound = {(each.exchange, each.key) for each in BINDINGS}
    assert fixed <= bound | {(LEDGER, CELLS_KEY)}  # a desk binds its own queue
    asked = {each for each in bound if each[0] in ("tunemesh.clients", "tunemesh.ledger")}
    assert asked - {("tunemesh.clients", "history.*")} <= fixed
    assert ("tunemesh.clients", "history.{tenant}") in {(exchange["name"], key) for exchange, key in amqp}


def test_its_references_lead_somewhere() -> None:
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', KEPT.read_text()):
        place = DOCUMENT
        for name in reference.split("/"):
            place = place[name]
        assert isinstance(place, dict)
    for check in VALIDATORS.values():
        check.check_schema(check.schema)


@pytest.mark.parametrize(("tag", "example"), EXAMPLES, ids=IDS)
def test_the_examples_of_the_documentation_are_valid(tag: str, example: Plain) -> None:
    VALIDATORS[tag].validate(as_json(example))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_the_mesh_sends_is_valid(kind: type[Message]) -> None:
    rng = random.Random(kind.__name__)
    for _ in range(8):
        message = random_values.struct(kind, rng)
        VALIDATORS[message.type_name].validate(json.loads(msgspec.json.encode(message)))


@pytest.mark.parametrize("tag", KIND_BY_TYPE)
def test_type_and_version_are_required(tag: str) -> None:
    example = as_json(dict(next(example for each, example in EXAMPLES if each == tag)))
    for wrong in ({"version": 2}, {"type": "other"}):
        assert not VALIDATORS[tag].is_valid(example | wrong)
    for name in ("type", "version"):
        assert not VALIDATORS[tag].is_valid({key: each for key, each in example.items() if key != name})


@pytest.mark.parametrize(
    "wrong",
    [
        {"job": "-j"},
        {"job": "j" * 65},
        {"job": 3},
        {"target": ""},
        {"target": None},
        {"engines": ["Mock"]},
        {"priority": 0},
        {"priority": 1.5},
        {"visibility": "some"},
        {"model": {"sha256": "0" * 63, "size": 1}},
        {"model": {"sha256": "0" * 64}},
        {"files": {"": {"sha256": "0" * 64, "size": 1}}},
        {"level": {"trials": -1}},
        {"settings": {"batch": 513}},
        {"settings": {"shapes": {"x": []}}},
        {"settings": {"ranges": {"x": [1.0]}}},
        {"settings": {"ranges": {"x": [1.0, 2.0, 3.0]}}},
        {"settings": {"ranges": {"x": [1.0, "2"]}}},
    ],
    ids=str,
)
def test_it_refuses_what_the_decoder_refuses(wrong: Plain) -> None:
    VALIDATORS["request"].validate(REQUEST)
    assert not VALIDATORS["request"].is_valid(REQUEST | wrong)
    with pytest.raises(BadMessage):
        codec.decode(msgspec.msgpack.encode(REQUEST | wrong), KIND_BY_TYPE["request"])


def test_patterns_mean_the_same_in_other_languages() -> None:
    patterns = re.findall(r'"pattern": "([^"]+)"', KEPT.read_text())
    assert patterns
    assert [each for each in patterns if re.search(r"\\\\[^.+dwsDWS]|\(\?", each)] == []
