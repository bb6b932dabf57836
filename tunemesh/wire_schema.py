"""All messages as an AsyncAPI document, made from the structs that the mesh itself decodes with.

For generators, validators and readers in other languages. ``docs/asyncapi.json`` is what it makes;
``docs/wire-format.md`` says what the fields mean.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from tunemesh.broker_config import topology
from tunemesh.coordinator.cells.messages import CellStatus, Forget, Handed, Placed
from tunemesh.coordinator.jobs.ledger import Ledger, Marker, Tenants
from tunemesh.shared.codec import CONTENT_TYPE
from tunemesh.shared.messages import (
    WIRE_VERSION,
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
from tunemesh.shared.messages.basics import tag_of

Json = dict[str, Any]

ABOUT = (
    "What travels over the broker of a mesh; the prose is in docs/wire-format.md.\n\n"
    f"A body is one MessagePack map of at most {topology.MAX_MESSAGE_BYTES:,} bytes. The schemas are those of"
    " its JSON form: where one says `contentEncoding: base64`, a body has bytes (`bin`), and the keys of"
    " `limits` in a ledger, strings in JSON, are integers. Unknown fields are skipped. The operations are"
    " those of a client. What a schema cannot say, that fields fit together, the reader of a message checks."
)


@dataclass(frozen=True, slots=True)
class _Channel:
    """Where messages go: an exchange with a routing key. ``{…}`` in the key is a parameter."""

    exchange: str
    key: str
    kinds: tuple[type[Message], ...]
    about: str
    client: Literal["send", "receive", ""] = ""
    """What a client does with it."""


_DEFAULT_EXCHANGE = ""

_CHANNELS = {
    "requests": _Channel(
        topology.CLIENTS,
        topology.client_key(topology.REQUEST, "{tenant}"),
        (Request,),
        "Tune a model.",
        "send",
    ),
    "cancels": _Channel(
        topology.CLIENTS, topology.client_key(topology.CANCEL, "{tenant}"), (Cancel,), "Stop a job.", "send"
    ),
    "queries": _Channel(
        topology.CLIENTS,
        topology.client_key(topology.QUERY, "{tenant}"),
        (Query,),
        "Ask how things are.",
        "send",
    ),
    "strategies": _Channel(
        topology.CLIENTS, topology.STRATEGY_KEY, (SetStrategy,), "Choose who goes next.", "send"
    ),
    "lessons": _Channel(
        topology.CLIENTS, topology.LEARN_KEY, (Learn,), "Learn from what was measured.", "send"
    ),
    "questions": _Channel(
        topology.CLIENTS,
        topology.client_key(topology.QUESTION, "{tenant}"),
        (AskHistory,),
        "Ask about jobs that have ended.",
        "send",
    ),
    "answers": _Channel(
        topology.ANSWERS,
        topology.answer_key("{key}"),
        (PastJobs,),
        "Answers to questions, by the key that came with the question.",
        "receive",
    ),
    "events": _Channel(
        topology.EVENTS,
        topology.event_key("{tenant}", "{job}", "{kind}"),
        (JobEvent,),
        "What happens to jobs.",
        "receive",
    ),
    "replies": _Channel(
        _DEFAULT_EXCHANGE,
        "{queue}",
        (Snapshot, JobEvent),
        "Answers of the coordinator, to the queue that `reply_to` named.",
        "receive",
    ),
    "steps": _Channel(topology.STEPS, "{queue}", (Step,), "Work, by the queue of the workers that do it."),
    "results": _Channel(
        topology.RESULTS, "result.{stage}", (StepResult,), "What workers have made of steps."
    ),
    "statuses": _Channel(topology.STATUS, "", (WorkerStatus,), "What workers say of themselves."),
    "censuses": _Channel(
        topology.STEPS, topology.HISTORY_KEY, (Census,), "What may not be removed from the artifact store."
    ),
    "ledgers": _Channel(
        topology.LEDGER,
        topology.LEDGER_KEY,
        (Ledger, Marker, StepResult, SetStrategy, Learn, Tenants, Placed),
        "What a coordinator tells its successor, or a desk, and deliveries that it has held for long.",
    ),
    "cells": _Channel(
        topology.LEDGER, topology.CELLS_KEY, (CellStatus,), "What coordinators of cells say of these."
    ),
    "handed": _Channel(
        topology.LEDGER,
        topology.in_cell(topology.LEDGER_KEY, "{cell}"),
        (Handed, Forget),
        "What a desk hands on to a cell, beside what the coordinator of a cell tells its successor.",
    ),
}

MESSAGES = tuple(dict.fromkeys(kind for channel in _CHANNELS.values() for kind in channel.kinds))
"""All that travels."""


def asyncapi() -> Json:
    """The document, in version 3.0 of AsyncAPI; its schemas are JSON Schema of draft 7."""
    _, schemas = msgspec.json.schema_components(MESSAGES, ref_template="#/components/schemas/{name}")
    for kind in MESSAGES:
        _require_head(schemas[kind.__name__])
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Tunemesh", "version": str(WIRE_VERSION), "description": ABOUT},
        "defaultContentType": CONTENT_TYPE,
        "channels": {name: _channel(channel) for name, channel in _CHANNELS.items()},
        "operations": dict(_operations()),
        "components": {
            "messages": {tag_of(kind): _message(kind) for kind in MESSAGES},
            "schemas": {name: _draft_7(schema) for name, schema in sorted(schemas.items())},
        },
    }


def _channel(channel: _Channel) -> Json:
    kinds = {exchange.name: exchange.kind for exchange in topology.EXCHANGES}
    exchange: Json = {"name": channel.exchange, "type": kinds.get(channel.exchange, "default")}
    if channel.exchange != _DEFAULT_EXCHANGE:
        exchange |= {"durable": True, "vhost": topology.VHOST}
    made: Json = {
        # Of a fanout exchange the key says nothing.
        "address": channel.key or None,
        "description": channel.about,
        "messages": {
            tag_of(kind): {"$ref": f"#/components/messages/{tag_of(kind)}"} for kind in channel.kinds
        },
        "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": "0.3.0"}},
    }
    parameters: dict[str, Json] = {name: {} for name in re.findall(r"{(\w+)}", channel.key)}
    return made | ({"parameters": parameters} if parameters else {})


def _operations() -> Iterator[tuple[str, Json]]:
    for name, channel in _CHANNELS.items():
        if channel.client:
            made: Json = {"action": channel.client, "channel": {"$ref": f"#/channels/{name}"}}
            if Query in channel.kinds or SetStrategy in channel.kinds:
                answer = {"location": "$message.header#/reply_to"}
                made["reply"] = {"address": answer, "channel": {"$ref": "#/channels/replies"}}
            yield f"{channel.client}-{name}", made


def _message(kind: type[Message]) -> Json:
    return {
        "name": tag_of(kind),
        "title": kind.__name__,
        "summary": _plain(kind.__doc__ or "").split("\n")[0],
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
    }


def _require_head(schema: Json) -> None:
    """``type`` and ``version`` are in every message, whatever defaults the struct has."""
    schema["properties"]["version"] = {"const": WIRE_VERSION}
    schema["required"] = ["type", "version", *(name for name in schema["required"] if name != "type")]


def _draft_7(schema: Any) -> Any:
    """What msgspec makes, in the older draft that AsyncAPI is based on, without what only Python knows."""
    if isinstance(schema, list):
        return [_draft_7(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _draft_7(each) for name, each in schema.items() if name != "discriminator"}
    if "prefixItems" in made:
        made["items"], made["additionalItems"] = made.pop("prefixItems"), False
    if isinstance(made.get("pattern"), str):
        # In other languages \Z is the letter, or lets a line break follow.
        made["pattern"] = made["pattern"].replace(r"\Z", "$")
    if isinstance(made.get("description"), str):
        made["description"] = _plain(made["description"])
    return made


def _plain(docstring: str) -> str:
    """Its text, with names as Markdown has them."""
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", inspect.cleandoc(docstring))
    return text.replace("``", "`")
