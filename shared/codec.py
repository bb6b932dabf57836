"""From struct to wire and back. Decoding validates; the first problem is named in one line."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import msgspec

from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages.basics import WIRE_VERSION, Message, tag_of
from tunemesh.shared.text import clip, printable

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


@functools.cache
def _decoder(kind: type[Message]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


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
        raise BadMessage(f"message without a valid type and version: {_reason(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"message is not MessagePack: {_reason(error)}") from None
    by_tag = {tag_of(kind): kind for kind in kinds}
    kind = by_tag.get(head.type)
    if kind is None:
        raise BadMessage(
            f"message type {head.type[:60]!r} is not accepted here; known: {', '.join(sorted(by_tag))}"
        )
    if head.version != WIRE_VERSION:
        raise BadMessage(f"{head.type} has version {head.version}; this side speaks version {WIRE_VERSION}")
    try:
        message: M = _decoder(kind).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"{head.type} is invalid: {_reason(error)}") from None
    return message


def _reason(error: Exception) -> str:
    # msgspec quotes the sender's text as it came.
    return clip(" ".join(printable(str(error)).split()), REASON_LIMIT)
