"""From struct to wire and back. Decoding validates; the first problem is named in one line."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import (
    ERROR_TEXT_LIMIT,
    WIRE_VERSION,
    Cancel,
    JobEvent,
    Ledger,
    Marker,
    Message,
    Query,
    Request,
    SetStrategy,
    Snapshot,
    Step,
    StepResult,
    WorkerStatus,
)

MAX_MESSAGE = 1024 * 1024
"""Bytes. Nothing larger is sent, and nothing larger is accepted."""

REASON_LIMIT = 300
"""Characters of what the decoder found wrong that are kept: it quotes values, which may be of any length."""

CONTENT_TYPE = "application/msgpack"

M = TypeVar("M", bound=Message)

_encoder = msgspec.msgpack.Encoder()


class _Head(msgspec.Struct):
    """What must be right before the rest is looked at."""

    type: str
    version: int


_head_decoder = msgspec.msgpack.Decoder(_Head)
_decoders: dict[type[Message], msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind)
    for kind in (
        Request, Cancel, Query, SetStrategy, Step, StepResult, WorkerStatus, Ledger, Marker, Snapshot,
        JobEvent,
    )
}  # fmt: skip


def encode(message: Message) -> bytes:
    """The body of ``message``.

    Raises:
        BadMessage: when it is larger than :data:`MAX_MESSAGE`.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_MESSAGE:
        raise BadMessage(
            f"{type(message).__name__} of {len(body):,} bytes exceeds the limit of {MAX_MESSAGE:,};"
            " put large blobs into the artifact store"
        )
    return body


def decode(body: bytes, *kinds: type[M]) -> M:
    """The message in ``body``, which must be one of ``kinds``.

    Raises:
        BadMessage: with the first problem found, in one line.
    """
    if len(body) > MAX_MESSAGE:
        raise BadMessage(f"message of {len(body):,} bytes exceeds the limit of {MAX_MESSAGE:,}")
    try:
        head = _head_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadMessage(
            f"message without a valid type and version: {clip(str(error), REASON_LIMIT)}"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"message is not MessagePack: {clip(str(error), REASON_LIMIT)}") from None
    by_tag = {_tag_of(kind): kind for kind in kinds}
    kind = by_tag.get(head.type)
    if kind is None:
        raise BadMessage(
            f"message type {head.type[:60]!r} is not accepted here; known: {', '.join(sorted(by_tag))}"
        )
    if head.version != WIRE_VERSION:
        raise BadMessage(f"{head.type} has version {head.version}; this side speaks version {WIRE_VERSION}")
    try:
        message: M = _decoders[kind].decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec quotes the sender's text as it came.
        reason = "".join(each if each.isprintable() else "?" for each in str(error))
        raise BadMessage(f"{head.type} is invalid: {clip(reason, REASON_LIMIT)}") from None
    return message


def tag(message: Message) -> str:
    """The ``type`` of a message, also in its AMQP properties."""
    return _tag_of(message)


def step_id(message: Message) -> str | None:
    """The id of the step, if ``message`` is one."""
    return message.id if isinstance(message, Step) else None


def message_id(message: Message) -> str:
    """A deterministic id: the same message again has the same one, so that duplicates show."""
    match message:
        case Step():
            return f"{message.id}#{message.attempt}"
        case StepResult():
            return f"{message.timing.step}/result"
        case Ledger():
            return f"{message.request.job}/ledger/{message.revision}"
        case Request():
            return f"{message.job}/request"
        case Cancel():
            return f"{message.job}/cancel"
        case SetStrategy():
            return f"set-strategy/{message.at:.6f}"
        case JobEvent():
            return f"{message.job}/{message.kind}/{message.at:.6f}"
        case WorkerStatus():
            return f"{message.worker}/status"
        case Marker():
            return f"{message.coordinator}/{message.epoch}/marker"
    return tag(message)


def headers(message: Message) -> Mapping[str, str | int]:
    """What a person reads in the management UI without decoding the body."""
    common: dict[str, str | int] = {"version": message.version}
    match message:
        case Step():
            return common | {
                "stage": _tag_of(message.work),
                "job": message.job,
                "task": message.task,
                "round": message.round,
                "chunk": message.chunk,
                "attempt": message.attempt,
                "target": message.target,
            }
        case StepResult():
            return common | {
                "stage": message.timing.stage,
                "job": message.job,
                "task": message.task,
                "round": message.round,
                "chunk": message.chunk,
                "result": _tag_of(message.result),
                "worker": message.timing.worker,
                "queue-ms": round(message.timing.waited * 1000),
                "busy-ms": round((message.timing.finished - message.timing.started) * 1000),
            }
        case Ledger():
            return common | {"job": message.request.job, "phase": message.phase, "revision": message.revision}
        case Request():
            return common | {
                "job": message.job,
                "engine": message.engine,
                "target": message.target,
                "trials": message.trials,
            }
        case Cancel() | Query():
            return common | ({"job": message.job} if message.job else {})
        case SetStrategy():
            return common | {"strategy": message.strategy}
        case JobEvent():
            return common | {"job": message.job, "kind": message.kind}
        case WorkerStatus():
            return common | {"worker": message.worker, "queue": message.queue, "step": message.step or "-"}
    return common


def _tag_of(struct: msgspec.Struct | type[msgspec.Struct]) -> str:
    return str(struct.__struct_config__.tag)


def clip(text: str, limit: int = ERROR_TEXT_LIMIT) -> str:
    """``text`` cut to ``limit`` characters; what is lost is its middle."""
    if len(text) <= limit:
        return text
    half = limit // 2 - 5
    return f"{text[:half]} [...] {text[-half:]}"


def identity(role: str) -> str:
    """The name of this process on the mesh: ``<role>@<host>:<pid>``."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}"
