"""What a RabbitMQ node reads at boot: ``definitions.json`` and ``rabbitmq.conf``, for 3.10 and 4.x."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tunemesh.broker_config.roles import Rights, TopicRight, rights_of
from tunemesh.broker_config.topology import (
    BINDINGS,
    CONSUMER_TIMEOUT,
    EXCHANGES,
    MAX_MESSAGE_BYTES,
    POLICIES,
    QUEUES,
    VHOST,
    QueueType,
)
from tunemesh.shared.accounts import ROLES, Account, Role

CLUSTERED = """\
cluster_partition_handling = pause_minority
cluster_formation.peer_discovery_backend = classic_config
# Bytes of the log of quorum queues before it is written to a file of each; as much stays in memory.
raft.wal_max_size_bytes = 67108864
"""


class Listener(NamedTuple):
    """An address to listen on."""

    ip: str
    port: int


def definitions(
    passwords: Mapping[Role, str], vhost: str = VHOST, kind: QueueType = "classic"
) -> dict[str, Any]:
    """The content of ``definitions.json``: users, rights and topology.

    The same arguments give the same value, except for the salt of each password hash.

    Raises:
        ValueError: a role has no password, or an empty one.
    """
    missing = [role for role in ROLES if not passwords.get(role)]
    if missing:
        raise ValueError(f"no password for {', '.join(missing)}")
    made: dict[str, Any] = {"users": [], "vhosts": [{"name": vhost}]}
    for role in ROLES:
        add_user(made, Account(role, role), password_hash(passwords[role]), vhost)
    return made | {
        "exchanges": [
            {
                "name": exchange.name,
                "vhost": vhost,
                "type": exchange.kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": dict(exchange.arguments),
            }
            for exchange in EXCHANGES
        ],
        "queues": [
            {
                "name": queue.name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": queue.declared(kind),
            }
            for queue in QUEUES
        ],
        "bindings": [
            {
                "source": binding.exchange,
                "vhost": vhost,
                "destination": binding.queue,
                "destination_type": "queue",
                "routing_key": binding.key,
                "arguments": {},
            }
            for binding in BINDINGS
        ],
        "policies": [
            {
                "vhost": vhost,
                "name": policy.name,
                "pattern": policy.pattern,
                "apply-to": "queues",
                "definition": dict(policy.definition),
                "priority": 0,
            }
            for policy in POLICIES
        ],
    }


def add_user(definitions: dict[str, Any], account: Account, hashed: str, vhost: str) -> None:
    """Put a user with its rights into what will be ``definitions.json``, in place of one of that name.

    Args:
        hashed: see :func:`password_hash`.
    """
    remove_user(definitions, account.user)
    rights = rights_of(account)
    user = {
        "name": account.user,
        "password_hash": hashed,
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": list(rights.tags),
        "limits": dict(rights.limits),
    }
    definitions.setdefault("users", []).append(user)
    place = {"user": account.user, "vhost": vhost}
    definitions.setdefault("permissions", []).append(place | permission(rights))
    definitions.setdefault("topic_permissions", []).extend(
        place | topic_permission(topic) for topic in rights.topics
    )


def remove_user(definitions: dict[str, Any], user: str) -> bool:
    """Take a user with its rights out of definitions. Returns whether it was there."""
    users = definitions.get("users", [])
    known = [each for each in users if each.get("name") != user]
    if known == users:
        return False
    definitions["users"] = known
    for kind in ("permissions", "topic_permissions"):
        rights = definitions.get(kind, [])
        definitions[kind] = [each for each in rights if each.get("user") != user]
    return True


def permission(rights: Rights) -> dict[str, str]:
    """As the management API, and definitions, have it."""
    return {"configure": rights.configure, "write": rights.write, "read": rights.read}


def topic_permission(topic: TopicRight) -> dict[str, str]:
    """The same for the keys of an exchange."""
    return {"exchange": topic.exchange, "write": topic.write, "read": topic.read}


def definitions_json(passwords: Mapping[Role, str], vhost: str = VHOST, kind: QueueType = "classic") -> str:
    """:func:`definitions` as the text of the file."""
    return json.dumps(definitions(passwords, vhost, kind), indent=2) + "\n"


def password_hash(password: str) -> str:
    """RabbitMQ's salted SHA-256: base64 of salt and SHA-256(salt + password), with a salt of 4 bytes."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def rabbitmq_conf(
    definitions_file: str | None,
    amqp: Listener,
    management: Listener,
    metrics: Listener | None = None,
    peers: Sequence[str] = (),
) -> str:
    """The text of ``rabbitmq.conf``.

    Args:
        definitions_file: where the node finds its definitions, read at every boot; what exists is kept.
            ``None``: they are imported by hand.
        amqp: where clients, workers and the coordinator connect, without TLS.
        management: where the management UI listens, without TLS.
        metrics: where Prometheus may ask, on a node that has the plugin for it.
        peers: names of all nodes of its cluster.
    """
    shown = (
        f"prometheus.tcp.ip = {metrics.ip}\nprometheus.tcp.port = {metrics.port}\n"
        if metrics is not None
        else ""
    )
    imported = (
        f"definitions.import_backend = local_filesystem\ndefinitions.local.path = {definitions_file}\n"
        if definitions_file is not None
        else ""
    )
    formation = "".join(
        f"cluster_formation.classic_config.nodes.{number} = {peer}\n"
        for number, peer in enumerate(peers, start=1)
    )
    if peers:
        # Of a cluster that is cut in two, the smaller part waits until it sees the other one again.
        formation = f"{CLUSTERED}{formation}"
    return f"""\
# Written by Tunemesh (broker_config/definitions.py).
listeners.tcp.default = {amqp.ip}:{amqp.port}
management.tcp.ip = {management.ip}
management.tcp.port = {management.port}
{shown}
{imported}{formation}
# Bytes of a body; more belongs into the artifact store.
max_message_size = {MAX_MESSAGE_BYTES}
# Milliseconds. The coordinator holds deliveries on purpose and renews them; a worker holds one per step.
consumer_timeout = {int(CONSUMER_TIMEOUT * 1000)}
# Publishers are blocked below this, so that the node can still write what it has accepted.
disk_free_limit.absolute = 256MB

log.file.level = info
log.file.rotation.size = 10485760
log.file.rotation.count = 3
"""
