"""Serves the pages of one mesh until it is told to stop."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence

import uvicorn

from tunemesh.client import Client
from tunemesh.dashboard.board import Board
from tunemesh.dashboard.feed import Feed
from tunemesh.dashboard.guard import TOKEN, Guard
from tunemesh.dashboard.web import Pages
from tunemesh.mesh_address import MeshAddress
from tunemesh.shared.errors import BadInput

LEAVE = 2
"""Seconds that open requests are given at the end."""
BACKLOG = 64
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Dashboard:
    """The pages of one mesh. A context manager that has the port, from its beginning.

    Args:
        port: 0 for any that is free.
        names: further names under which browsers reach it.
        read_only: no job can be stopped.
        token: what whoever may see the pages has; by default a new one.
        connect: makes a client; of tests.

    Raises:
        BadInput: nobody can listen there.
    """

    def __init__(
        self,
        address: MeshAddress,
        host: str,
        port: int,
        names: Sequence[str] = (),
        read_only: bool = False,
        token: str = "",
        connect: Callable[..., Client] = Client,
    ) -> None:
        self._socket = _listening(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._token = token or secrets.token_urlsafe(24)
        self._shown = f"[{host}]" if ":" in host else host
        self._board = Board()
        self._feed = Feed(address.broker, self._board, connect)
        self._pages = Pages(address, self._board, self._feed, read_only, connect)
        hosts = {f"{name.lower()}:{self.port}" for name in (*LOOPBACK, self._shown, *names)}
        # Behind a proxy with the usual port of the web browsers leave the port out.
        hosts |= {name.lower() for name in names}
        app = Guard(self._pages.app(), self._token, hosts, f"tunemesh-dashboard-{self.port}")
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            loop="asyncio",
            http="h11",
            timeout_graceful_shutdown=LEAVE,
            limit_concurrency=200,
        )
        self._server = _Server(config, self._pages.close)

    @property
    def url(self) -> str:
        """What a browser opens."""
        return f"http://{self._shown}:{self.port}/?{TOKEN}={self._token}"

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self) -> None:
        """Serve until :meth:`stop`, Ctrl-C or SIGTERM."""
        with self._feed, self._socket:
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End :meth:`run`, from any thread."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Ends what pages listen to before it waits for open requests."""

    def __init__(self, config: uvicorn.Config, leave: Callable[[], None]) -> None:
        super().__init__(config)
        self._leave = leave

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._leave()
        await super().shutdown(sockets)


def _listening(host: str, port: int) -> socket.socket:
    """Raises:
    BadInput: nobody can listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BadInput(f"cannot listen at {host}: {error.strerror or error}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise BadInput(
            f"cannot listen at {host}:{port}: {error.strerror or error}; give another --listen, 0 for any"
        ) from None
    return made
