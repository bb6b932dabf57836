"""RabbitMQ's own commands, against a private node."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping

from tunemesh.broker_config.node import command_line_tool
from tunemesh.shared.errors import BrokerUnavailable

LIMIT = 60.0
"""Seconds that one call may take; 2 are usual."""

_one_at_a_time = threading.Lock()
"""Each starts an Erlang of its own, and two with one name refuse each other."""


def run_tool(environment: Mapping[str, str], program: str, *arguments: str) -> str:
    """Run one, as ``rabbitmqctl``, and return what it says.

    Args:
        environment: :meth:`broker_config.node.PrivateNode.environment` of the node that is meant.

    Raises:
        BrokerUnavailable: it failed; with its words.
    """
    command = [command_line_tool(program), "-n", environment["RABBITMQ_NODENAME"], "-q", *arguments]
    with _one_at_a_time:
        try:
            done = subprocess.run(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise BrokerUnavailable(f"{program} {arguments[0]} took over {LIMIT:.0f} s") from None
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())[-500:]
        raise BrokerUnavailable(f"{program} {' '.join(arguments)}: {words}")
    return done.stdout
