"""Who speaks: users of the broker, whose names say what they may do and to which tenant they belong.

RabbitMQ verifies the property ``user_id`` of a message: it is the user that is logged in, or the message is
refused. So a name is worth as much as the password behind it, and what a message claims about its sender is
worth nothing.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from msgspec import Struct

Role = Literal["client", "operator", "worker", "coordinator", "monitor", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Of an account. A user of one of these names has this role, too, and belongs to no tenant."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""Of a tenant, and of a user of it."""
_ACCOUNT = re.compile(
    rf"client\.(?P<tenant>{NAME_PATTERN})\.{NAME_PATTERN}"
    rf"|(?P<named>operator|worker|coordinator|monitor)\.{NAME_PATTERN}"
    rf"|(?P<plain>{'|'.join(ROLES)})"
)

NO_TENANT = "-"
"""Stands in names of queues and in routing keys for jobs of no tenant. No tenant can be called like this."""


class Account(Struct, frozen=True):
    """A user of the broker."""

    user: str
    role: Role
    tenant: str = ""
    """To which it belongs, where it is a client; empty: to none."""

    @property
    def bound_to(self) -> str | None:
        """The only tenant for which it may speak, perhaps none (empty); ``None``: it may speak for any."""
        return self.tenant if self.role == "client" else None

    @property
    def may_ask(self) -> bool:
        """Whether it may send what clients send."""
        return self.role not in ("worker", "monitor")

    @property
    def own_queues(self) -> str:
        """What names of its own queues begin with, before a dot."""
        return self.user if self.role in ("client", "operator") else "operator"


def account_of(user: str, own: str = "") -> Account | None:
    """The account of a user: ``client.<tenant>.<name>``, ``operator.<name>`` and so on for other roles, or a
    role by itself. ``None``: no name of ours, of whom nobody knows what it may do.

    Args:
        own: the user that whoever asks is logged in as. Who shares it has all of its rights on the broker
            anyway, and is an operator: so a mesh may do with one user of any name.
    """
    match = _ACCOUNT.fullmatch(user)
    if match is None:
        return Account(user, "operator") if user and user == own else None
    if (tenant := match["tenant"]) is not None:
        return Account(user, "client", tenant)
    role = match["named"] or match["plain"]
    return Account(user, next(known for known in ROLES if known == role))


def tenant_key(tenant: str) -> str:
    """A tenant as a part of a routing key or of a queue's name."""
    return tenant or NO_TENANT
