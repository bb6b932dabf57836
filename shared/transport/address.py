"""Broker URLs, and what every connection is opened with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pika
import pika.data

from tunemesh.shared.errors import BadInput
from tunemesh.shared.transport import encryption

HEARTBEAT = 10
"""Seconds. The broker drops a silent peer after two to three of them and requeues what it held."""

DecodeTable = Callable[[bytes, int], tuple[dict[str | bytes, Any], int]]


def _without_what_is_unreadable(decode: DecodeTable) -> DecodeTable:
    """``decode`` with an empty table in place of an exception. pika decodes headers while it reads
    from the socket, and gives the connection up over a date beyond the year 9999 or deep nesting, which
    brokers pass on; the message would come again, for ever. Nothing that is needed is in headers."""

    def table(encoded: bytes, offset: int) -> tuple[dict[str | bytes, Any], int]:
        try:
            return decode(encoded, offset)
        except Exception:
            return {}, offset + 4 + int.from_bytes(encoded[offset : offset + 4])

    return table


pika.data.decode_table = _without_what_is_unreadable(pika.data.decode_table)


def parameters_for(url: str, name: str, properties: Mapping[str, str | int]) -> list[pika.URLParameters]:
    """How to connect to ``url``: to each of its hosts, where it has several.

    Raises:
        BadInput: it is no broker URL, or a file of its TLS cannot be used.
    """
    try:
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        each = [urlunsplit(parts._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]
        usable = parts.scheme in ("amqp", "amqps") and all(urlsplit(one).hostname for one in each)
        found = [pika.URLParameters(one) for one in each] if usable else []
    except (ValueError, TypeError):  # their texts may quote the password
        found = []
    if not found:
        raise BadInput(
            f"{redacted(url)!r} is no broker URL; expected amqp://user:password@host:port/vhost,"
            " with special characters of the password percent-encoded; several hosts of a cluster are"
            " separated by commas"
        )
    for parameters in found:
        if parameters.ssl_options is not None:
            parameters.ssl_options = encryption.options(parameters.host)
        parameters.heartbeat = HEARTBEAT
        parameters.blocked_connection_timeout = 120
        parameters.connection_attempts = 1
        parameters.socket_timeout = 5
        parameters.stack_timeout = 8
        parameters.client_properties = {"connection_name": name, **properties}
    return found


def user_of(url: str) -> str:
    """Who logs in with ``url``.

    Raises:
        BadInput: it is no broker URL.
    """
    return str(getattr(parameters_for(url, "", {})[0].credentials, "username", ""))


def redacted(url: str) -> str:
    """``url`` without its password, whatever that is made of."""
    return re.sub(r"(//[^:/@]*):.*@", r"\1:***@", url)
