"""``tunemesh broker user``: who may use a broker, and for which tenant."""

from __future__ import annotations

import getpass
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tunemesh.broker_config.credentials import write_private
from tunemesh.broker_config.topology import VHOST
from tunemesh.broker_config.users import DefinitionsFile, Management, Rabbitmqctl, Users
from tunemesh.options import AsJson
from tunemesh.shared.accounts import Account, account_of
from tunemesh.shared.errors import BadInput, unusable
from tunemesh.shared.given import given
from tunemesh.terminal import Column, Fitted, print_json

user_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

ADMIN_PASSWORD = "TUNEMESH_ADMIN_PASSWORD"
SHORTEST = 8
"""Characters of a password."""

User = Annotated[
    str,
    typer.Argument(help="client.TENANT.NAME, operator.NAME, worker.NAME, coordinator.NAME or monitor.NAME."),
]
Definitions = Annotated[
    Path | None,
    typer.Option(help="A file of definitions, which a broker reads at its start.", show_default="none"),
]
ManagementUrl = Annotated[
    str | None,
    typer.Option(
        "--management",
        help="RabbitMQ's management API, such as https://broker:15671; the password of its user admin, or of"
        f" the one that stands before the host, is in {ADMIN_PASSWORD}, in the file that"
        f" {ADMIN_PASSWORD}_FILE names, or is asked for.",
        show_default="none",
    ),
]
Ctl = Annotated[bool, typer.Option("--rabbitmqctl", help="Call rabbitmqctl, on a machine of the broker.")]
Vhost = Annotated[str, typer.Option(help="Virtual host.")]


@user_app.command()
def add(
    user: User,
    definitions: Definitions = None,
    management: ManagementUrl = None,
    rabbitmqctl: Ctl = False,
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="The user's password. A file that is not there is made, with a password that is drawn."
            " [default: asked for]",
            show_default=False,
        ),
    ] = None,
    vhost: Vhost = VHOST,
    as_json: AsJson = False,
) -> None:
    """Add a user with the least rights that its role needs.

    What a user client.TENANT.NAME asks for belongs to that tenant, whose other users may follow, stop and
    fetch it, and nobody else but operators.
    """
    account = _account(user)
    users = _users(definitions, management, rabbitmqctl, vhost)
    if user in users.names():
        raise BadInput(f"there is a user {user} already: remove it first, which ends its connections")
    users.add(account, _password(user, password_file))
    if as_json:
        print_json({"user": user, "role": account.role, "tenant": account.tenant})
        return
    whose = f" of tenant {account.tenant}" if account.tenant else ""
    print(f"{user} is added: {account.role}{whose}")


@user_app.command()
def remove(
    user: User,
    definitions: Definitions = None,
    management: ManagementUrl = None,
    rabbitmqctl: Ctl = False,
    vhost: Vhost = VHOST,
    as_json: AsJson = False,
) -> None:
    """Remove a user, and end its connections. Its jobs go on: they are the tenant's."""
    _users(definitions, management, rabbitmqctl, vhost).remove(user)
    if as_json:
        print_json({"user": user, "removed": True})
    else:
        print(f"{user} is removed")


@user_app.command("list")
def list_(
    definitions: Definitions = None,
    management: ManagementUrl = None,
    rabbitmqctl: Ctl = False,
    vhost: Vhost = VHOST,
    as_json: AsJson = False,
) -> None:
    """List users with their roles and tenants; a dash where a name says no role."""
    names = sorted(_users(definitions, management, rabbitmqctl, vhost).names())
    accounts = [(name, account_of(name)) for name in names]
    rows = [(name, found.role if found else "-", found.tenant if found else "") for name, found in accounts]
    if as_json:
        print_json([dict(zip(("user", "role", "tenant"), row, strict=True)) for row in rows])
        return
    columns = [Column("user", 0), Column("role", 1), Column("tenant", 1)]
    Console().print(Fitted("", columns, rows))


def _account(user: str) -> Account:
    account = account_of(user)
    if account is None:
        raise BadInput(
            f"{user!r} is no name of a user: client.TENANT.NAME, operator.NAME, worker.NAME, coordinator.NAME"
            " or monitor.NAME, each part of letters, digits, - and _, at most 64, a letter or digit first"
        )
    if account.role == "admin":
        raise BadInput("admin may do everything with the broker, and is the broker's own to add")
    return account


def _users(definitions: Path | None, management: str | None, rabbitmqctl: bool, vhost: str) -> Users:
    ways = [definitions is not None, management is not None, rabbitmqctl]
    if sum(ways) != 1:
        raise BadInput("say where, one of: --definitions FILE, --management URL, --rabbitmqctl")
    if definitions is not None:
        return DefinitionsFile(definitions, vhost)
    if management is not None:
        password = given(ADMIN_PASSWORD)
        # An address that is none is refused before anybody is asked.
        Management(management, password, vhost)
        return Management(management, password or _asked("password of the administrator"), vhost)
    return Rabbitmqctl("rabbitmqctl", vhost)


def _password(user: str, file: Path | None) -> str:
    if file is None:
        password = _asked(f"password of {user}")
        if _asked("again") != password:
            raise BadInput("these are two different passwords: nothing is changed")
    elif file.exists():
        try:
            password = file.read_text().strip()
        except OSError as error:
            raise unusable(f"cannot read {file}", error) from None
        except UnicodeDecodeError:
            raise BadInput(f"{file} has no password: it is no text") from None
    else:
        password = secrets.token_urlsafe(24)
        try:
            write_private(file, password + "\n")
        except OSError as error:
            raise unusable(f"cannot write {file}", error) from None
    if len(password) < SHORTEST or not password.isprintable():
        raise BadInput(f"a password is one line of at least {SHORTEST} characters: nothing is changed")
    return password


def _asked(what: str) -> str:
    if not _terminal():
        raise BadInput(f"nobody can be asked for the {what} here: give it in a file (see --help)")
    return getpass.getpass(f"{what}: ")


def _terminal() -> bool:
    return sys.stdin.isatty()
