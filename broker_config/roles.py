"""Who may do what: one user per role, each with the least rights that its work needs.

RabbitMQ asks for three rights, each a regular expression over names of queues and exchanges. *Configure*:
declare and delete. *Write*: publish to an exchange, bind a queue. *Read*: consume, get, purge, bind from an
exchange. The default exchange is called ``amq.default`` here. Topic rights narrow publishing to a topic
exchange (write) and binding from it (read) by routing key. Passive declares need no right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from tunemesh.broker_config.topology import (
    ANSWERS,
    DEVICE_QUEUE_PATTERN,
    ENGINE_QUEUE_PATTERN,
    EVENTS,
    HISTORY,
    QUESTIONS,
    RESULTS,
    STAGE_QUEUE_PATTERN,
)

Role = Literal["client", "worker", "coordinator", "monitor", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

NOTHING = "^$"
_WORKERS_QUEUES = rf"{DEVICE_QUEUE_PATTERN}|{ENGINE_QUEUE_PATTERN}"
"""Queues that come with their workers."""
ANYTHING = ".*"


@dataclass(frozen=True, slots=True)
class TopicRight:
    """Which routing keys of one topic exchange may be published (write) and bound (read)."""

    exchange: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class Rights:
    """What one role may do. ``tags`` open the management UI."""

    configure: str
    write: str
    read: str
    topics: tuple[TopicRight, ...] = ()
    tags: tuple[str, ...] = field(default=())


_ANSWER = r"^answer\.[0-9a-f]{32}$"
"""Nobody can bind to the answers of others: a key is known to the one who has drawn it."""
_EVENTS_TO_READ = TopicRight(EVENTS, write=NOTHING, read=r"^job\..+")

RIGHTS: Mapping[Role, Rights] = {
    "client": Rights(
        configure=r"^client\..+$",
        write=r"^(tunemesh\.requests|client\..+)$",
        read=r"^(tunemesh\.(events|answers)|client\..+)$",
        topics=(_EVENTS_TO_READ, TopicRight(ANSWERS, write=NOTHING, read=_ANSWER)),
    ),
    # ``dead``: so that an undecodable step is put aside together with the reason.
    "worker": Rights(
        configure=NOTHING,
        write=r"^tunemesh\.(results|status|answers|dead)$",
        read=rf"^({STAGE_QUEUE_PATTERN}|{HISTORY}|{QUESTIONS})$",
        topics=(
            TopicRight(RESULTS, write=r"^result\.[a-z-]+$", read=NOTHING),
            TopicRight(ANSWERS, write=_ANSWER, read=NOTHING),
        ),
    ),
    # Declares the queues that come with workers and its own; replies to clients' queues through the default
    # exchange.
    "coordinator": Rights(
        configure=rf"^({_WORKERS_QUEUES}|coordinator\..+)$",
        write=(rf"^(tunemesh\.(ledger|steps|events|dead)|amq\.default|{_WORKERS_QUEUES}|coordinator\..+)$"),
        read=rf"^(coordinator|coordinator\..+|{STAGE_QUEUE_PATTERN}|tunemesh\.(steps|status))$",
        topics=(TopicRight(EVENTS, write=r"^job\..+", read=NOTHING),),
    ),
    "monitor": Rights(
        configure=r"^monitor\..+$",
        write=r"^monitor\..+$",
        read=r"^(tunemesh\.(events|status)|monitor\..+)$",
        topics=(_EVENTS_TO_READ,),
        tags=("monitoring",),
    ),
    "admin": Rights(configure=ANYTHING, write=ANYTHING, read=ANYTHING, tags=("administrator",)),
}
