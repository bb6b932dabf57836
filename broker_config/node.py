"""A RabbitMQ node of one's own, as a child process, so that a person needs no server.

The node is Debian's ``rabbitmq-server`` with its own data folder, ports, Erlang cookie, port mapper (epmd)
and passwords. Any number of nodes run side by side and next to the system's own, as root or as an
ordinary user. Everything listens on 127.0.0.1 only, and only the folder's owner can read the passwords.

What is confirmed survives: :meth:`PrivateNode.kill` followed by :meth:`PrivateNode.start`, or a new
``PrivateNode`` on the same folder, gives the same messages, passwords and (where they are still free) ports.

Both children are killed by the kernel when this process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from tunemesh.broker_config.credentials import Credentials, load_credentials, write_private
from tunemesh.broker_config.definitions import Listener, definitions_json, rabbitmq_conf
from tunemesh.broker_config.topology import VHOST
from tunemesh.shared.accounts import Role
from tunemesh.shared.errors import BadInput, BrokerUnavailable

LOOPBACK = "127.0.0.1"
INSTALL_HINT = "install it with: sudo apt-get install --no-install-recommends rabbitmq-server"
READY_TIMEOUT = 60.0
"""Seconds that a node may take to start; 5 to 11 are usual."""
STOP_TIMEOUT = 20.0
"""Seconds between SIGTERM and SIGKILL; 1 to 7 are usual."""
POLL = 0.05
"""Seconds between two looks at a starting node."""
MOST_SCHEDULERS = 2
"""Threads that run Erlang code, by default. Two carry more than a private mesh sends; one per core would only
be in the way of what is tuned. They never wait busily: the start script sets ``+sbwt none``."""

_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="node-spawner")
"""The kernel sends the parent-death signal when the *thread* that forked ends, so all nodes are started from
one thread that lives as long as the process."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a node shares with the others of its cluster. Their definitions are given to the cluster as a
    whole: what one node declared alone would have no copies."""

    name: str
    peers: tuple[str, ...]
    """Names of all nodes, in the order in which they are tried."""
    epmd_port: int
    """Of a port mapper that knows all of them, and that somebody else runs."""
    cookie: str
    passwords: dict[Role, str]
    arguments: str = ""
    """Of Erlang, further ones."""


class PrivateNode:
    """One RabbitMQ node as a child process. Use it as a context manager: ``with PrivateNode() as node:``.

    Args:
        folder: where the node keeps its data, log and passwords; created with mode 0700 if missing. Without
            one, a temporary folder is used and removed on exit.
        cpus: the cores that the node may run on; keep it off the cores of devices. ``None``: all.
        schedulers: threads that run Erlang code, at most; no more than cores.
        member: of which cluster, if any (:mod:`broker_config.cluster`).
    """

    def __init__(
        self,
        folder: Path | None = None,
        cpus: Collection[int] | None = None,
        schedulers: int = MOST_SCHEDULERS,
        member: Membership | None = None,
    ) -> None:
        self._schedulers = schedulers
        self._member = member
        self._temporary = folder is None
        chosen = Path(tempfile.mkdtemp(prefix="tunemesh-node-")) if folder is None else folder
        self.folder = chosen.resolve()
        self._cpus = cpus
        self._identity: Credentials | None = None
        self._lock: IO[str] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._spread = False
        """Whether it still has cores that it has until it is ready."""

    def __enter__(self) -> PrivateNode:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def credentials(self) -> Credentials:
        """Ports and passwords; raises RuntimeError before the first :meth:`start`."""
        if self._identity is None:
            raise RuntimeError("start the node first")
        return self._identity

    @property
    def management_url(self) -> str:
        """Base address of the management UI and HTTP API; log in as ``monitor`` or ``admin``."""
        return f"http://{LOOPBACK}:{self.credentials.management_port}"

    @property
    def metrics_url(self) -> str:
        """Where RabbitMQ tells Prometheus how it is."""
        return f"http://{LOOPBACK}:{self.credentials.metrics_port}/metrics"

    @property
    def pid(self) -> int | None:
        """Process id of the node, ``None`` when it does not run."""
        return self._server.pid if self._server is not None and self._server.poll() is None else None

    @property
    def killed(self) -> bool:
        """Whether the node has ended because somebody ended it. It answers SIGTERM with an orderly stop and
        status 0; what stops it by itself gives another status."""
        code = self._server.poll() if self._server is not None else None
        return code is not None and code in (0, -signal.SIGKILL, -signal.SIGTERM)

    @property
    def log(self) -> Path:
        """The node's log file."""
        return self.folder / "log" / "node.log"

    def url(self, role: Role) -> str:
        """The AMQP address for a role, with its password; the same after a restart."""
        credentials = self.credentials
        return f"amqp://{role}:{credentials.passwords[role]}@{LOOPBACK}:{credentials.amqp_port}/{VHOST}"

    def password(self, role: Role) -> str:
        """The password of a role, for the management API."""
        return self.credentials.passwords[role]

    def start(self, also: Collection[int] = ()) -> None:
        """Start the node and return at once; :meth:`wait_ready` says when it can be used.

        Args:
            also: cores that it may use besides until then.

        Raises:
            BadInput: RabbitMQ is not installed, or another process has a node on this folder.
        """
        if self.pid is not None:
            return
        self.kill()  # what is left of a node that ended by itself: its port mapper, and our lock
        server, epmd = server_binary(), epmd_binary()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        self._identity = self._load_identity()
        self._write_configuration(self._identity)
        environment = self.environment()
        if self._member is None:
            self._epmd = self._spawn(
                [epmd, "-port", str(self._identity.epmd_port), "-address", LOOPBACK],
                environment,
                "epmd.out",
                self._cpus,
            )
        self._spread = self._cpus is not None and not set(also) <= set(self._cpus)
        cpus = None if self._cpus is None else {*self._cpus, *also}
        self._server = self._spawn([server], environment, "server.out", cpus)

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until the node accepts AMQP connections and everything from the definitions exists.

        RabbitMQ opens its AMQP listener last, after the import of the definitions and the plugins.

        Raises:
            BrokerUnavailable: it ended, or is not ready after ``timeout`` seconds; with the end of its log.
        """
        server = self._server
        if server is None:
            raise RuntimeError("start the node first")
        deadline = time.monotonic() + timeout
        while not _speaks_amqp(self.credentials.amqp_port):
            if server.poll() is not None:
                raise BrokerUnavailable(
                    f"the private RabbitMQ node ended with status {server.returncode}: {self.last_words()}"
                )
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"the private RabbitMQ node is not ready after {timeout:g} s: {self.last_words()}"
                )
            time.sleep(POLL)
        self._gather()

    def _gather(self) -> None:
        """Take a node that has started off the cores that it had for that alone."""
        if not self._spread or self._cpus is None or self._server is None:
            return
        done: set[int] = set()
        # A thread that begins meanwhile has the cores of the one that began it.
        while new := set(_threads(self._server.pid)) - done:
            for thread in new:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(thread, self._cpus)
            done |= new
        self._spread = False

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """End the node in an orderly way, within ``timeout`` seconds, else by SIGKILL. The folder stays."""
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End the node by SIGKILL, as a crash would. The folder stays and :meth:`start` works again."""
        for child in (self._server, self._epmd):
            if child is not None and child.poll() is None:
                child.send_signal(signal.SIGKILL)
                child.wait(STOP_TIMEOUT)
        self._server = self._epmd = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self) -> None:
        """Stop the node and remove a temporary folder."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _load_identity(self) -> Credentials:
        own, member = load_credentials(self.folder, keep_ports=self._identity is not None), self._member
        if member is None:
            return own
        return msgspec.structs.replace(
            own, cookie=member.cookie, passwords=member.passwords, epmd_port=member.epmd_port
        )

    def _take_lock(self) -> None:
        lock = open(self.folder / "lock", "a+")  # noqa: SIM115 - held as long as the node runs
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read(32).strip()
            lock.close()
            raise BadInput(
                f"another process ({owner or 'unknown'}) runs a RabbitMQ node in {self.folder}:"
                " use its mesh, or stop it, or choose another folder"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _write_configuration(self, credentials: Credentials) -> None:
        own = self.folder / "definitions.json"
        if self._member is None:
            write_private(own, definitions_json(credentials.passwords))
        write_private(
            self.folder / "rabbitmq.conf",
            rabbitmq_conf(
                definitions_file=str(own) if self._member is None else None,
                peers=self._member.peers if self._member is not None else (),
                amqp=Listener(LOOPBACK, credentials.amqp_port),
                management=Listener(LOOPBACK, credentials.management_port),
                metrics=Listener(LOOPBACK, credentials.metrics_port),
            ),
        )
        write_private(self.folder / "enabled_plugins", "[rabbitmq_management, rabbitmq_prometheus].\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            write_private(cookie, credentials.cookie)
            cookie.chmod(0o400)

    def environment(self) -> dict[str, str]:
        """The whole environment of the children, and of RabbitMQ's own commands for this node: nothing of
        ours leaks in, least of all RABBITMQ_*."""
        folder, credentials = self.folder, self.credentials
        cores = os.cpu_count() or 1 if self._cpus is None else len(self._cpus)
        schedulers = min(self._schedulers, cores)
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(credentials.epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_CRASH_DUMP": "/dev/null",
            "RABBITMQ_NODENAME": self._member.name if self._member is not None else "tunemesh@localhost",
            "RABBITMQ_DIST_PORT": str(credentials.dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": str(self.log),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            # The start script then becomes the node, so that the process id is the node's.
            "RUNNING_UNDER_SYSTEMD": "true",
            # Unbound: schedulers bound to cores would sit on the profiled core whatever the affinity says.
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"
                f" +S {schedulers}:{schedulers} {self._member.arguments if self._member is not None else ''}"
            ),
        }

    def _spawn(
        self,
        command: list[str],
        environment: dict[str, str],
        output: str,
        cpus: Collection[int] | None,
    ) -> subprocess.Popen[bytes]:
        if cpus is not None:
            command = ["taskset", "--cpu-list", ",".join(str(cpu) for cpu in sorted(cpus)), *command]
        return spawn(command, environment, self.folder, output)

    def last_words(self) -> str:
        """The last lines of its log that say something, as one line, and where the rest is."""
        lines: list[str] = []
        for name in (self.folder / "epmd.out", self.folder / "server.out", self.log):
            if name.exists():
                lines += [line.strip() for line in name.read_text(errors="replace").splitlines()]
        telling = [line for line in lines if line.strip("=#[]()/\\ ")]
        return f"{' | '.join(telling[-6:])[-1500:] or 'it wrote no log'} (log: {self.log})"


def spawn(
    command: list[str], environment: dict[str, str], folder: Path, output: str
) -> subprocess.Popen[bytes]:
    """Start a child that dies with this process; what it prints goes to the file ``output`` of its folder."""

    def begin() -> subprocess.Popen[bytes]:
        with open(folder / output, "wb") as sink:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                # Ctrl-C at the terminal is for us, who then stop the node in order.
                start_new_session=True,
            )

    return _spawner.submit(begin).result()


def command_line_tool(name: str) -> str:
    """One of RabbitMQ's own commands, as ``rabbitmqctl``, beside :func:`server_binary`: the wrapper in
    /usr/sbin wants to become user ``rabbitmq``."""
    return str(Path(server_binary()).with_name(name))


def _threads(pid: int) -> Iterator[int]:
    """Those of a process and of all that it has started."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield int(task.name)
            for child in (task / "children").read_text().split():
                yield from _threads(int(child))


def server_binary() -> str:
    """Debian's own start script, not the wrapper in /usr/sbin, which wants to become user ``rabbitmq``."""
    places = [Path("/usr/lib/rabbitmq/bin/rabbitmq-server")]
    places += sorted(
        Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"), reverse=True
    )
    for place in places:
        if os.access(place, os.X_OK):
            return str(place)
    raise BadInput(f"RabbitMQ is not installed on this machine; {INSTALL_HINT}")


def epmd_binary() -> str:
    """Erlang's port mapper."""
    found = shutil.which("epmd")
    if found is not None:
        return found
    for place in sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"), reverse=True):
        return str(place)
    raise BadInput(f"Erlang's epmd is missing; {INSTALL_HINT}")


def installed() -> bool:
    """Whether this machine has what a private node needs."""
    try:
        server_binary(), epmd_binary()
    except BadInput:
        return False
    return True


def _speaks_amqp(port: int) -> bool:
    """Whether an AMQP 0-9-1 server answers on this loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2.0) as link:
            link.sendall(b"AMQP\x00\x00\x09\x01")
            return link.recv(1) == b"\x01"
    except OSError:
        return False
