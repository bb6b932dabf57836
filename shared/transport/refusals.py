"""What the errors of pika and of the broker mean: one line for people, and whether trying again can help."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from tunemesh.shared.errors import LinkDown

_REFUSED_BY_THE_SYSTEM = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL}
)


def text_of(error: Any) -> str:
    """The innermost cause in one line."""
    cause = next(_causes(error))
    reply = getattr(cause, "reply_text", None)
    if reply:
        return f"{getattr(cause, 'reply_code', '')} {reply}".strip()
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:]
    return " ".join(str(cause).split()) or type(cause).__name__


def nobody_there(error: Any) -> bool:
    """Whether the operating system itself says that nothing listens there, or knows no such host."""
    return any(
        isinstance(cause, OSError)
        # A host name that cannot be resolved has numbers of its own.
        and (cause.errno in _REFUSED_BY_THE_SYSTEM or type(cause).__name__ == "gaierror")
        for cause in _causes(error)
    )


def final_refusal(error: Any) -> str | None:
    """Why the broker does not let this user in, in its own words; ``None`` where trying again may help.

    A connection that breaks during the handshake is no refusal, though pika calls that a probable one: the
    broker says so when it refuses.
    """
    for cause in _causes(error):
        text = f"{cause!r} {text_of(cause)}"
        if "ACCESS_REFUSED" in text:
            return "it refuses this user name and password"
        # A node that is starting says of a virtual host that it is down.
        if "NOT_ALLOWED" in text and "limit" not in text and " is down" not in text:
            return f"the virtual host does not exist or this user may not enter it ({text_of(cause)})"
    return None


def refused_operation(reason: Any) -> Exception:
    """The error that a channel closed by the broker stands for."""
    code, text = getattr(reason, "reply_code", 0), text_of(reason)
    if code == 403:
        return PermissionError(text)
    if code == 404:
        return LookupError(text)
    if code in (405, 406):
        return ValueError(text)
    return LinkDown(text)


def _causes(error: Any) -> Iterator[Any]:
    """The errors at the bottom: pika wraps one or several of them, in its own or in none."""
    inner = getattr(error, "exceptions", None) or getattr(error, "exception", None)
    if isinstance(inner, list | tuple) and inner:
        for each in inner:
            yield from _causes(each)
        return
    if inner is not None and not isinstance(inner, list | tuple):
        yield from _causes(inner)
        return
    args = error.args if isinstance(error, BaseException) else ()
    if args and isinstance(args[0], BaseException):
        yield from _causes(args[0])
        return
    yield error
