"""``tunemesh dashboard``: a page to watch a mesh."""

from __future__ import annotations

import ipaddress
import sys
import webbrowser
from typing import Annotated

import typer

from tunemesh import mesh_address, options
from tunemesh.client import Client, Role
from tunemesh.shared import logs
from tunemesh.shared.errors import BadInput, BrokerRefused, BrokerUnavailable
from tunemesh.shared.given import given
from tunemesh.stopping import until_terminated
from tunemesh.terminal import for_eyes, print_json

PORT = 8765
TOKEN = "TUNEMESH_DASHBOARD_TOKEN"
"""What the address has to have; drawn anew at each start where nobody has chosen one."""
ROLES: tuple[Role, ...] = ("client", "monitor")
"""Of users that can watch, those who may more first."""
LEAST_TOKEN = 16
"""Characters."""


@until_terminated()
def dashboard(
    listen: Annotated[
        str,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Where browsers find it; without HOST on this machine alone. 0: any port that is free.",
        ),
    ] = str(PORT),
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name of this machine for browsers, as behind a proxy; may be given again.",
            show_default="none",
        ),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer no button that stops a job.")] = False,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open it in a browser of this machine.")
    ] = False,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print its address as JSON, on one line, before it serves.")
    ] = False,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
) -> None:
    """Serve a page to watch a mesh and its jobs, until Ctrl-C. Whoever has the address that it prints, which
    holds a token, sees it, and nobody else."""
    logs.setup(log_level, log_format, "dashboard", default="warning")
    host, port = _place(listen)
    address = mesh_address.find(broker, artifacts, store=False)
    try:
        from tunemesh.dashboard.server import Dashboard
    except ModuleNotFoundError as error:
        raise BadInput(
            f"the dashboard needs {error.name}, which is not installed: pip install 'tunemesh[dashboard]'"
        ) from None
    check_login(address.broker)
    with Dashboard(address, host, port, name or (), read_only, _token()) as served:
        if not is_loopback(host):
            print(
                f"others reach {host} too, and what they send is not encrypted: rather leave HOST out and use"
                f" ssh -L {served.port}:127.0.0.1:{served.port}",
                file=sys.stderr,
            )
        if as_json:
            print_json({"url": served.url, "port": served.port}, indent=0)
        else:
            shown, _, token = served.url.partition("=")
            print(f"dashboard  {shown}={for_eyes(token)}")
            print("Ctrl-C ends it and nothing else" if sys.stdout.isatty() else "with its token: --json")
        sys.stdout.flush()
        if open_browser:
            webbrowser.open(served.url)
        served.run()


def check_login(url: str) -> None:
    """Raises:
    BrokerRefused: the broker lets this user not even listen. One that is away is waited for.
    """
    try:
        for role in ROLES:
            try:
                with Client(url, everything=True, role=role):
                    return
            except BrokerRefused:
                if role == "monitor":
                    raise
    except BrokerUnavailable as error:
        print(f"{error}; the page waits for it", file=sys.stderr)


def _token() -> str:
    """The one that the environment has; else nothing.

    Raises:
        BadInput: it can be guessed.
    """
    found = given(TOKEN)
    if found and len(found) < LEAST_TOKEN:
        raise BadInput(f"{TOKEN} has {len(found)} characters: it needs {LEAST_TOKEN} that nobody can guess")
    return found


def _place(text: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        BadInput: it is neither ``PORT`` nor ``HOST:PORT``.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise BadInput(f"--listen is a port, 0 to 65535, or HOST:PORT, not {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
