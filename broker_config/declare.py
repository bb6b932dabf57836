"""Make sure that a broker which we did not configure has the topology, or say in one line what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tunemesh.broker_config.topology import (
    BINDINGS,
    BUILD_CPU,
    COORDINATOR,
    EXCHANGES,
    MODEL_UPDATE,
    QUEUE_TYPES,
    QUEUES,
    Argument,
    QueueType,
    coordinator_bindings,
    coordinator_queue,
    stage_binding,
    stage_queue,
)
from tunemesh.shared.errors import BrokerRefused, BrokerUnavailable

FIX = "run `tunemesh broker definitions` and load its output with `rabbitmqctl import_definitions`"


class Declarer(Protocol):
    """One user's view of one virtual host, for as long as :func:`ensure_topology` runs.

    Every call is synchronous. RabbitMQ closes the channel with each refusal, so an implementation goes on
    with a new channel after it has raised. A lost connection raises what the implementation raises for that.
    """

    def declare_exchange(
        self, name: str, kind: str, arguments: Mapping[str, Argument], durable: bool
    ) -> None:
        """``exchange.declare``, neither auto-delete nor internal; nothing happens if it exists like this.

        Raises:
            PermissionError: the user has no configure right on it (403).
            ValueError: it exists with other properties (406).
        """

    def declare_queue(self, name: str, arguments: Mapping[str, Argument], durable: bool) -> None:
        """``queue.declare``, neither exclusive nor auto-delete; nothing happens if it exists like this.

        Raises:
            PermissionError: the user has no configure right on it, or where it has a dead-letter exchange, no
                read right on it or no write right on that exchange (403).
            ValueError: it exists with other properties (406).
        """

    def bind(self, queue: str, exchange: str, key: str) -> None:
        """``queue.bind``; nothing happens if the binding exists.

        Raises:
            PermissionError: the user may not write the queue or not read the exchange (403).
            LookupError: the queue or the exchange does not exist (404).
        """

    def exists_exchange(self, name: str) -> None:
        """Passive ``exchange.declare``; returns if it exists, whatever its properties.

        Raises:
            LookupError: it does not exist (404).
            PermissionError: the broker does not tell this user (403; RabbitMQ itself asks for no right).
        """

    def exists_queue(self, name: str) -> None:
        """Passive ``queue.declare``; returns if it exists, whatever its properties.

        Raises:
            LookupError: it does not exist (404).
            PermissionError: the broker does not tell this user (403; RabbitMQ itself asks for no right).
        """


def ensure_topology(broker: Declarer) -> QueueType:
    """Declare the topology where the user may, else check that it is there. Returns the type of its queues:
    whoever set the broker up has chosen it, and what is declared later is of the same.

    Only an administrator may declare all of it; workers, clients and the coordinator of a configured broker
    check. Bindings cannot be checked: a missing one shows as :class:`~shared.errors.Unroutable` on
    publishing. Declaring sets up neither roles nor policies; only the definitions do.

    Raises:
        BrokerUnavailable: something is missing that this user may not declare; somebody else may.
        BrokerRefused: something exists with other properties.
    """
    kind: QueueType = "classic"
    try:
        kind = _queue_type(broker)
        _declare(broker, kind)
    except PermissionError:
        _check(broker)
    except ValueError as error:
        raise BrokerRefused(
            f"the broker's topology is not Tunemesh's ({error}); delete what differs, then {FIX}"
        ) from error
    return kind


def ensure_cell(broker: Declarer, cell: str, kind: QueueType) -> None:
    """Declare what is always there of a cell: that of its coordinator, and of its workers without a device.

    Raises:
        BrokerUnavailable: this user may not.
        BrokerRefused: something exists with other properties.
    """
    queues = [coordinator_queue(cell), *(stage_queue(name, cell) for name in (MODEL_UPDATE, BUILD_CPU))]
    bindings = [
        *coordinator_bindings(cell),
        *(stage_binding(name, cell) for name in (MODEL_UPDATE, BUILD_CPU)),
    ]
    try:
        for queue in queues:
            broker.declare_queue(queue.name, queue.declared(kind), durable=True)
        for binding in bindings:
            broker.bind(binding.queue, binding.exchange, binding.key)
    except PermissionError as error:
        raise BrokerUnavailable(
            f"this user may not make the queues of cell {cell} ({error}); {FIX}"
        ) from error
    except ValueError as error:
        raise BrokerRefused(f"cell {cell} has other queues than Tunemesh's ({error}); delete them") from error


def _queue_type(broker: Declarer) -> QueueType:
    """A broker tells nobody of what type a queue is, but refuses to declare one that exists as another."""
    *others, last = QUEUE_TYPES
    try:
        broker.exists_queue(COORDINATOR)
    except LookupError:
        return QUEUE_TYPES[0]
    queue = next(queue for queue in QUEUES if queue.name == COORDINATOR)
    for kind in others:
        try:
            broker.declare_queue(queue.name, queue.declared(kind), durable=True)
        except ValueError:
            continue
        return kind
    broker.declare_queue(queue.name, queue.declared(last), durable=True)
    return last


def _declare(broker: Declarer, kind: QueueType) -> None:
    for exchange in EXCHANGES:
        broker.declare_exchange(exchange.name, exchange.kind, exchange.arguments, durable=True)
    for queue in QUEUES:
        broker.declare_queue(queue.name, queue.declared(kind), durable=True)
    for binding in BINDINGS:
        broker.bind(binding.queue, binding.exchange, binding.key)


def _check(broker: Declarer) -> None:
    checks = [(f"exchange {one.name}", broker.exists_exchange, one.name) for one in EXCHANGES]
    checks += [(f"queue {one.name}", broker.exists_queue, one.name) for one in QUEUES]
    missing = []
    for what, exists, name in checks:
        try:
            exists(name)
        except (LookupError, PermissionError):
            missing.append(what)
    if missing:
        raise BrokerUnavailable(f"the broker lacks {', '.join(missing)}, or hides it from this user; {FIX}")
