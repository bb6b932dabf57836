"""The clients of `examples`, against a real broker. The test plays the coordinator."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.integration import clients
from tunemesh.broker_config.topology import EVENTS, NEWCOMERS, REQUESTS, event_key
from tunemesh.shared import codec
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import (
    AssembleDone,
    Blob,
    Cancel,
    JobEvent,
    JobProgress,
    Message,
    Phase,
    Query,
    Request,
    Snapshot,
)

if TYPE_CHECKING:
    from tests.conftest import Broker

MODEL = b"tasks: [{name: conv1}] # " + b"x" * 70_000
"""Too large to travel inside a message."""
TUNED = b"a shared object"


class Road:
    """What leads a client to the broker, over TLS, and can be cut."""

    def __init__(self, to: tuple[str, int], certificate: Path) -> None:
        self._to = to
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.broken = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nobody comes through, until :meth:`mend`."""
        self.broken.set()
        while self._open:
            _end(self._open.pop())

    def mend(self) -> None:
        self.broken.clear()

    def close(self) -> None:
        self.cut()
        _end(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            if self.broken.is_set():
                plain.close()
                continue
            try:
                near = self._tls.wrap_socket(plain, server_side=True)
            except OSError:  # one that does not trust us
                plain.close()
                continue
            far = socket.create_connection(self._to)
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_carry, args=(one, other), daemon=True).start()


def _carry(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65_536):
            other.sendall(data)
    _end(other)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class Mesh:
    """A coordinator that says what the test wants it to say."""

    def __init__(self, channel: BlockingChannel) -> None:
        self._channel = channel
        channel.queue_purge(REQUESTS)

    def take(self, *kinds: type[Message]) -> tuple[Any, pika.BasicProperties]:
        """The next message, which has to be one of ``kinds``, or a query: clients may ask at any time."""
        for _, properties, body in self._channel.consume(REQUESTS, auto_ack=True, inactivity_timeout=10):
            assert body is not None, f"no {kinds} came"
            assert properties is not None
            message = codec.decode(body, *kinds, Query)
            if isinstance(message, kinds):
                return message, properties
        raise AssertionError("consume ended")

    def take_query(self, request: Request) -> pika.BasicProperties:
        """The next query about the job. The request may come again before it: the confirm was lost."""
        while isinstance(message := (found := self.take(Query, Request))[0], Request):
            assert message == request
        assert message.job == request.job
        return found[1]

    def tell(self, event: JobEvent) -> None:
        self._channel.basic_publish(EVENTS, event_key("", event.job, event.kind), codec.encode(event))

    def answer(self, snapshot: Snapshot, query: pika.BasicProperties) -> None:
        properties = pika.BasicProperties(correlation_id=query.correlation_id)
        self._channel.basic_publish("", query.reply_to, codec.encode(snapshot), properties)


def progress(job: str, phase: Phase) -> JobProgress:
    return JobProgress(
        job=job,
        name="model",
        phase=phase,
        target="mock",
        trials=3,
        budget=64,
        accepted=1.0,
        finished=None,
        tasks=[],
        usage={},
        waiting="\x1b[2J nothing moves",
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for localhost that nobody has heard of, with its key."""
    folder = tmp_path_factory.mktemp("keys")
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    subprocess.run(
        [*made, "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True
    )
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return folder


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> list[str]:
    command = clients.java(tmp_path_factory.mktemp("java"))
    if command is None:
        pytest.skip("needs a JDK and Debian's librabbitmq-client-java, libmsgpack-java")
    trust = ["keytool", "-importcert", "-noprompt", "-storepass", "secret", "-file", "cert.pem"]
    subprocess.run([*trust, "-keystore", "trust.p12"], cwd=keys, check=True, capture_output=True)
    return command


@pytest.fixture(scope="module")
def javascript() -> list[str]:
    command = clients.javascript()
    if command is None:
        pytest.skip("needs Node.js, and npm ci in examples/clients/node")
    return command


@pytest.fixture(scope="module")
def python() -> list[str]:
    return clients.python()


@pytest.fixture(params=["python", "javascript", "java"])
def command(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def road(node: Broker, keys: Path) -> Iterator[Road]:
    parameters = pika.URLParameters(node.url("client"))
    made = Road((parameters.host, parameters.port), keys / "both.pem")
    yield made
    made.close()


@pytest.fixture
def mesh(node: Broker) -> Iterator[Mesh]:
    with pika.BlockingConnection(pika.URLParameters(node.url("coordinator"))) as link:
        yield Mesh(link.channel())


class Client:
    """One run of a client."""

    def __init__(
        self, command: list[str], road: Road, node: Broker, keys: Path, home: Path, trusts: bool = True
    ):
        (home / "model.yaml").write_bytes(MODEL)
        self.out, self.store = home / "model.so", ArtifactStore(str(home / "store"))
        user = pika.URLParameters(node.url("client")).credentials
        url = f"amqps://{user.username}:{user.password}@localhost:{road.port}/tunemesh"
        environment = {**os.environ, "TUNEMESH_BROKER_URL": url, "TUNEMESH_ARTIFACTS": str(home / "store")}
        if trusts:
            environment["NODE_EXTRA_CA_CERTS"] = environment["SSL_CERT_FILE"] = str(keys / "cert.pem")
        if trusts and command[0] == "java":
            trusted = [f"-Djavax.net.ssl.trustStore={keys / 'trust.p12'}"]
            command = ["java", *trusted, "-Djavax.net.ssl.trustStorePassword=secret", *command[1:]]
        options = ["--target", "mock", "--engine", "mock", "--trials", "64", "--out", str(self.out)]
        self._process = subprocess.Popen(
            [*command, str(home / "model.yaml"), *options, "--timeout", "30"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Exit code, what it said, and what it complained about."""
        try:
            said, complained = self._process.communicate(timeout=20)
        finally:
            self._process.kill()
        return self._process.returncode, said, complained


def test_a_client_survives_a_lost_connection_and_a_lost_event(
    command: list[str], mesh: Mesh, road: Road, node: Broker, keys: Path, tmp_path: Path
) -> None:
    client = Client(command, road, node, keys, tmp_path)
    request, properties = mesh.take(Request)
    assert client.store.get(request.model) == MODEL
    assert (properties.delivery_mode, properties.correlation_id) == (2, request.job)
    job = request.job
    mesh.tell(JobEvent(job=job, kind="accepted", at=1.0, progress=progress(job, "importing")))

    road.cut()
    mesh.tell(JobEvent(job=job, kind="done", at=2.0))  # nobody hears it
    road.mend()
    query = mesh.take_query(request)
    # A network file system shows a file late, and what lies there until then is not taken for it.
    tuned = Blob(hashlib.sha256(TUNED).hexdigest(), len(TUNED))
    place = tmp_path / "store" / tuned.sha256[:2] / tuned.sha256
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(TUNED[::-1])
    done = AssembleDone(tuned=tuned, untuned=tuned, signature=tuned, files={}, records=tuned)
    snapshot = Snapshot(strategy="fair", jobs=[progress(job, "done")], resources=[], assembled=done)
    mesh.answer(snapshot, query)
    time.sleep(0.3)
    place.write_bytes(TUNED)

    code, said, complained = client.end()
    assert code == 0, said + complained
    assert client.out.read_bytes() == TUNED
    lines = said.splitlines()
    assert lines[0] == f"{job}: published"
    assert lines[-1] == f"{job}: wrote {client.out} ({len(TUNED)} bytes)"
    assert f"{job}: done; done, 3 of 64 trials; ?[2J nothing moves" in lines
    assert "connection lost" in complained
    assert "\x1b" not in said + complained


def test_ctrl_c_cancels_the_job(
    command: list[str], mesh: Mesh, road: Road, node: Broker, keys: Path, tmp_path: Path
) -> None:
    client = Client(command, road, node, keys, tmp_path)
    request, _ = mesh.take(Request)
    client.interrupt()
    cancel, properties = mesh.take(Cancel)
    assert (cancel, properties.delivery_mode) == (Cancel(job=request.job), 2)
    mesh.tell(JobEvent(job=request.job, kind="cancelled", at=1.0, text="cancelled by client"))
    code, _, complained = client.end()
    last = f"error: job {request.job} cancelled: cancelled by client"
    assert (code, complained.splitlines()[-1]) == (130, last)


def test_a_client_hears_that_its_request_was_rejected_while_it_was_away(
    command: list[str], mesh: Mesh, road: Road, node: Broker, keys: Path, tmp_path: Path
) -> None:
    client = Client(command, road, node, keys, tmp_path)
    request, _ = mesh.take(Request)
    road.cut()
    road.mend()
    query = mesh.take_query(request)
    mesh.answer(Snapshot(strategy="fair", jobs=[], resources=[], rejected="too dear"), query)
    code, _, complained = client.end()
    assert (code, complained.splitlines()[-1]) == (1, f"error: job {request.job} rejected: too dear")


def test_a_broker_with_an_unknown_certificate_is_refused(
    command: list[str], road: Road, node: Broker, keys: Path, tmp_path: Path
) -> None:
    code, said, complained = Client(command, road, node, keys, tmp_path, trusts=False).end()
    assert (code, said) == (2, "")
    assert complained.startswith("error: cannot use the broker: ")
    assert len(complained.splitlines()) == 1


def test_a_request_that_finds_no_queue_is_an_error(
    command: list[str], road: Road, node: Broker, keys: Path, tmp_path: Path
) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.url("admin"))) as admin:
        channel = admin.channel()
        channel.queue_unbind(REQUESTS, NEWCOMERS, routing_key="")
        try:
            code, said, complained = Client(command, road, node, keys, tmp_path).end()
        finally:
            channel.queue_bind(REQUESTS, NEWCOMERS, routing_key="")
    assert (code, said) == (2, "")
    assert complained == ("error: this broker is not set up for Tunemesh: no queue takes the message\n")
