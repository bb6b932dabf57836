"""Who may do what: each user with the least rights that its role needs, and a client with none but its own.

RabbitMQ asks for three rights, each a regular expression over names of queues and exchanges. *Configure*:
declare and delete. *Write*: publish to an exchange, bind a queue. *Read*: consume, get, purge, bind from an
exchange. The default exchange is called ``amq.default`` here. Topic rights narrow publishing to a topic
exchange (write) and binding from it (read) by routing key. Passive declares need no right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunemesh.broker_config.topology import (
    ANSWERS,
    CANCEL,
    CELL_PATTERN,
    CLIENTS,
    COORDINATOR,
    DEVICE_QUEUE_PATTERN,
    ENGINE_QUEUE_PATTERN,
    EVENTS,
    HISTORY,
    LEARN_KEY,
    QUERY,
    QUESTION,
    QUESTIONS,
    REQUEST,
    REQUESTS,
    RESULTS,
    STAGE_QUEUE_PATTERN,
    STRATEGY_KEY,
    own_queue_pattern,
)
from tunemesh.shared.accounts import NAME_PATTERN, Account, tenant_key

NOTHING = "^$"
_WORKERS_QUEUES = rf"{DEVICE_QUEUE_PATTERN}|{ENGINE_QUEUE_PATTERN}"
"""Queues that come with their workers."""
_CELL = rf"cell\.{CELL_PATTERN}\."
_CELLS_QUEUES = rf"{_CELL}({STAGE_QUEUE_PATTERN}|{COORDINATOR})"
"""Queues that come with cells."""
_TENANTS_QUEUES = rf"{REQUESTS}\.{NAME_PATTERN}"
"""Queues that come with tenants."""
ANYTHING = ".*"


@dataclass(frozen=True, slots=True)
class TopicRight:
    """Which routing keys of one topic exchange may be published (write) and bound (read)."""

    exchange: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class Rights:
    """What one user may do.

    Attributes:
        tags: open the management UI.
        limits: connections and channels at once.
    """

    configure: str
    write: str
    read: str
    topics: tuple[TopicRight, ...] = ()
    tags: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)


_ANSWER = r"^answer\.[0-9a-f]{32}$"
"""Nobody can bind to the answers of others: a key is known to the one who has drawn it."""
_ASKED = "|".join((REQUEST, CANCEL, QUERY, QUESTION))
_CLIENTS_LIMITS = {"max-connections": 64, "max-channels": 256}
"""Of each user that belongs to people. Two channels are enough for a connection of ours."""
_ALL_EVENTS = TopicRight(EVENTS, write=NOTHING, read=r"^job\..+")


def rights_of(account: Account) -> Rights:
    """The rights of a user."""
    match account.role:
        case "client":
            tenant = re.escape(tenant_key(account.tenant))
            return _of_people(
                account,
                asks=rf"^({_ASKED})\.{tenant}$",
                follows=rf"^job\.{tenant}\.[^.]+\.[^.]+$",
            )
        case "operator":
            asks = rf"^(({_ASKED})\.{tenant_key('')}|{STRATEGY_KEY}|{LEARN_KEY})$"
            return _of_people(account, asks=asks, follows=_ALL_EVENTS.read)
        case role:
            return _OF_ROLES[role]


def _of_people(account: Account, *, asks: str, follows: str) -> Rights:
    own = own_queue_pattern(account)
    return Rights(
        configure=rf"^{own}$",
        write=rf"^({re.escape(CLIENTS)}|{own})$",
        read=rf"^(tunemesh\.(events|answers)|{own})$",
        topics=(
            TopicRight(CLIENTS, write=asks, read=NOTHING),
            TopicRight(EVENTS, write=NOTHING, read=follows),
            TopicRight(ANSWERS, write=NOTHING, read=_ANSWER),
        ),
        limits=_CLIENTS_LIMITS,
    )


_OF_ROLES: Mapping[str, Rights] = {
    # ``dead``: so that an undecodable step is put aside together with the reason.
    "worker": Rights(
        configure=NOTHING,
        write=r"^tunemesh\.(results|status|answers|dead)$",
        read=rf"^(({_CELL})?{STAGE_QUEUE_PATTERN}|{HISTORY}|{QUESTIONS})$",
        topics=(
            TopicRight(RESULTS, write=rf"^(({_CELL})?result\.[a-z-]+|{_CELL}status)$", read=NOTHING),
            TopicRight(ANSWERS, write=_ANSWER, read=NOTHING),
        ),
    ),
    # Declares the queues that come with workers and with tenants, and its own; replies to clients' queues
    # through the default exchange. Declares ``coordinator``, too, which is there, and so learns its type.
    "coordinator": Rights(
        configure=rf"^({_WORKERS_QUEUES}|{_TENANTS_QUEUES}|{_CELLS_QUEUES}|coordinator(\..+)?)$",
        write=(
            rf"^(tunemesh\.(ledger|steps|events|dead)|amq\.default"
            rf"|{_WORKERS_QUEUES}|{_TENANTS_QUEUES}|{_CELLS_QUEUES}|coordinator\..+)$"
        ),
        read=(
            rf"^(coordinator|coordinator\..+|{REQUESTS}|{STAGE_QUEUE_PATTERN}|{_TENANTS_QUEUES}|{_CELLS_QUEUES}"
            r"|tunemesh\.(steps|status|clients|results|ledger))$"
        ),
        topics=(
            TopicRight(RESULTS, write=NOTHING, read=rf"^{_CELL}(result\.#|status)$"),
            TopicRight(EVENTS, write=r"^job\..+", read=NOTHING),
            TopicRight(CLIENTS, write=NOTHING, read=rf"^({_ASKED})\.{NAME_PATTERN}$"),
        ),
    ),
    "monitor": Rights(
        configure=r"^monitor\..+$",
        write=r"^monitor\..+$",
        read=r"^(tunemesh\.(events|status)|monitor\..+)$",
        topics=(_ALL_EVENTS,),
        tags=("monitoring",),
    ),
    "admin": Rights(configure=ANYTHING, write=ANYTHING, read=ANYTHING, tags=("administrator",)),
}
