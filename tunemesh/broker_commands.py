"""``tunemesh broker``: a private node, the definitions for any other broker, and what travels over it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from tunemesh import mesh_address, options
from tunemesh.broker_config.definitions import definitions_json
from tunemesh.broker_config.node import PrivateNode
from tunemesh.broker_config.topology import VHOST, QueueType
from tunemesh.shared.accounts import ROLES
from tunemesh.shared.errors import BadInput, BrokerUnavailable
from tunemesh.shared.given import given
from tunemesh.stopping import until_terminated
from tunemesh.terminal import print_json
from tunemesh.user_commands import user_app

broker_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
broker_app.add_typer(user_app, name="user", help="Who may use a broker, and for which tenant.")


@broker_app.command()
@until_terminated()
def start(
    folder: Annotated[
        Path | None, typer.Option(help="Where its data is kept.", show_default="$XDG_DATA_HOME/tunemesh/node")
    ] = None,
    as_json: options.OneLine = False,
) -> None:
    """Run a private node until Ctrl-C. On the same folder it goes on where it stopped."""
    home = folder if folder is not None else mesh_address.data_folder() / "node"
    with PrivateNode(home) as node:
        places: dict[str, str] = {role: node.url(role) for role in ROLES}
        places["UI"] = node.management_url
        if as_json:
            print_json(places, indent=0)
        else:
            print("\n".join(f"{name:12} {url}" for name, url in places.items()), flush=True)
        while node.pid is not None:
            time.sleep(0.5)
        raise BrokerUnavailable(f"the private RabbitMQ node has ended: {node.last_words()}")


@broker_app.command()
def definitions(
    vhost: Annotated[str, typer.Option(help="Virtual host.")] = VHOST,
    queues: Annotated[
        QueueType, typer.Option(help="Type of the queues: quorum on a cluster, with copies on three nodes.")
    ] = "classic",
) -> None:
    """Print definitions.json for another broker: load it with `rabbitmqctl import_definitions`.

    Passwords are read from TUNEMESH_CLIENT_PASSWORD, TUNEMESH_WORKER_PASSWORD and so on, or from the
    files that TUNEMESH_CLIENT_PASSWORD_FILE and so on name.
    """
    names = {role: f"TUNEMESH_{role.upper()}_PASSWORD" for role in ROLES}
    passwords = {role: given(name) for role, name in names.items()}
    missing = [names[role] for role, password in passwords.items() if not password]
    if missing:
        raise BadInput(f"set the passwords of the roles in the environment first: {', '.join(missing)}")
    sys.stdout.write(definitions_json(passwords, vhost, queues))


@broker_app.command()
def schema() -> None:
    """Print the AsyncAPI document of all messages, for clients in other languages."""
    from tunemesh.wire_schema import asyncapi

    print_json(asyncapi())
