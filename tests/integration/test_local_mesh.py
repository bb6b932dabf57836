"""A mesh of one's own on this machine, when things happen to it. The mock engine only."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pika
import psutil
import pytest

from tests.integration import clients
from tunemesh import topology_watch
from tunemesh.broker_config.node import installed
from tunemesh.broker_config.topology import BUILD_CPU, COORDINATOR, LEDGER, LEDGER_KEY, QUEUES
from tunemesh.layout import plan
from tunemesh.mesh import LocalMesh
from tunemesh.shared.errors import Unavailable

pytestmark = pytest.mark.skipif(
    not installed() and not os.environ.get("CI"), reason="needs rabbitmq-server on this machine"
)


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes_end_at_once: None) -> Iterator[LocalMesh]:
    monkeypatch.setattr(topology_watch, "INTERVAL", 0.5)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("TUNEMESH_BROKER_URL", "amqp://admin:canary@host/tunemesh")
    with LocalMesh(plan(None), "mock", ["mock"], folder=tmp_path / "mesh", memory=2.5) as running:
        yield running


def until(mesh: LocalMesh, condition: Callable[[], bool], seconds: float = 40.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        mesh.supervise()
        time.sleep(0.1)
    return True


def said(mesh: LocalMesh, name: str, words: str) -> bool:
    return words in (mesh.folder / "logs" / f"{name}.log").read_text()


def at_work(mesh: LocalMesh) -> bool:
    return all(said(mesh, name, "waiting for steps") for name in mesh.pids if name != "coordinator")


def test_what_happens_to_a_mesh(mesh: LocalMesh) -> None:
    """One test, because a node takes ten seconds to start."""
    assert until(mesh, lambda: at_work(mesh))

    # No secret but its own reaches a child, or what it starts.
    for pid in mesh.pids.values():
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            assert b"canary" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    # What a sandbox may take is what was said.
    for name in ("build-0", "model-update-0"):
        arguments = psutil.Process(mesh.pids[name]).cmdline()
        assert arguments[arguments.index("--memory") + 1] == "2.5"
    builder = psutil.Process(mesh.pids["build-0"])
    for process in builder.children(recursive=True):
        assert b"TUNEMESH_BROKER_URL" not in Path(f"/proc/{process.pid}/environ").read_bytes()

    # Whoever starts another one beside it is told what to do.
    with pytest.raises(
        Unavailable, match=r"a mesh is running here already \(process \d+\); use it .*--device"
    ):
        LocalMesh(plan(None), "mock", ["mock"]).__enter__()

    # An operator deletes the queues that always exist: they come back, with what is bound to them.
    with pika.BlockingConnection(pika.URLParameters(mesh.node.url("admin"))) as admin:
        admin.channel().queue_delete(COORDINATOR)
        admin.channel().queue_delete(BUILD_CPU)
    assert until(mesh, lambda: said(mesh, "coordinator", "somebody has deleted queue coordinator"), 5.0)

    def complete() -> bool:
        with pika.BlockingConnection(pika.URLParameters(mesh.node.url("admin"))) as admin:
            try:
                for queue in QUEUES:
                    admin.channel().queue_declare(queue.name, passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                return False
        return True

    assert until(mesh, complete, 15.0)
    with pika.BlockingConnection(pika.URLParameters(mesh.node.url("coordinator"))) as link:
        channel = link.channel()
        channel.confirm_delivery()
        channel.basic_publish(LEDGER, LEDGER_KEY, b"?", mandatory=True)

    # Clients in other languages follow their jobs meanwhile.
    followers = [
        (subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT), log)
        for command, log in commands_and_logs(mesh)
    ]
    assert until(mesh, lambda: all(": accepted;" in Path(log.name).read_text() for _, log in followers), 15.0)

    # A node that somebody kills, however often, comes back.
    for _ in range(6):
        assert until(mesh, lambda: mesh.node.pid is not None, 10.0)
        assert mesh.node.pid is not None
        os.kill(mesh.node.pid, signal.SIGKILL)
        time.sleep(0.2)
    assert until(mesh, lambda: mesh.node.pid is not None, 10.0)
    mesh.node.wait_ready()
    before = (mesh.folder / "logs" / "build-0.log").read_text().count("waiting for steps")
    assert until(
        mesh,
        lambda: (mesh.folder / "logs" / "build-0.log").read_text().count("waiting for steps") > before,
    )

    assert until(mesh, lambda: all(process.poll() is not None for process, _ in followers))
    for process, log in followers:
        log.close()
        told = Path(log.name).read_text()
        assert process.returncode == 0, told
        assert "connection lost" in told
        assert Path(log.name).with_suffix(".so").read_bytes()


def commands_and_logs(mesh: LocalMesh) -> Iterator[tuple[list[str], IO[str]]]:
    """One for each client in another language that can run here, for a job that takes some seconds."""
    model = mesh.folder / "model.yaml"
    model.write_text("tasks: [{name: conv1, durations: {profile: 0.05}}]")
    classes = mesh.folder / "classes"
    classes.mkdir()
    for name, command in (("node", clients.javascript()), ("java", clients.java(classes))):
        if command is not None:
            place = ["--broker", mesh.url, "--artifacts", mesh.artifacts, "--out", f"{mesh.folder / name}.so"]
            limits = ["--target", "mock", "--engine", "mock", "--trials", "64", "--timeout", "60"]
            yield [*command, str(model), *place, *limits], (mesh.folder / f"{name}.log").open("w")


def test_a_node_that_is_killed_while_it_starts_is_started_again(tmp_path: Path) -> None:
    mesh = LocalMesh(plan(None), "mock", ["mock"], folder=tmp_path / "mesh")

    def kill() -> None:
        for pause in (0.3, 2.0):
            while mesh.node.pid is None:
                time.sleep(0.01)
            time.sleep(pause)
            os.kill(mesh.node.pid, signal.SIGKILL)
            time.sleep(0.2)

    thread = threading.Thread(target=kill)
    thread.start()
    with mesh:
        thread.join()
        assert until(mesh, lambda: at_work(mesh))


def test_a_mesh_whose_children_are_killed_from_the_first_second_on_comes_up(mesh: LocalMesh) -> None:
    rng = random.Random(3)
    kills = 0
    deadline = time.monotonic() + 12
    while time.monotonic() < deadline:
        family = [psutil.Process(pid) for pid in mesh.pids.values()]
        for each in list(family):
            with contextlib.suppress(psutil.NoSuchProcess):
                family += each.children(recursive=True)
        if family:
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(family).kill()
                kills += 1
        mesh.supervise()
        time.sleep(rng.uniform(0.05, 0.4))
    assert kills > 20
    texts = {name: (mesh.folder / "logs" / f"{name}.log") for name in mesh.pids}
    before = {name: path.read_text().count("waiting for steps") for name, path in texts.items()}
    for pid in mesh.pids.values():
        os.kill(pid, signal.SIGKILL)
    assert until(
        mesh,
        lambda: all(
            path.read_text().count("waiting for steps") > before[name]
            for name, path in texts.items()
            if name != "coordinator"
        ),
    )


def test_a_mesh_that_is_told_to_stop_has_done_what_it_was_asked(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tunemesh", "up", "--engine", "mock", "--target", "mock"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as up:
        try:
            assert up.stdout is not None
            for line in up.stdout:
                if line.startswith(b"noted in"):
                    break
            family = psutil.Process(up.pid).children(recursive=True)
            up.terminate()
            assert up.wait(40) == 0
            assert not [each for each in family if each.is_running() and each.status() != "zombie"]
        finally:
            up.kill()


@pytest.mark.parametrize("command", [["worker", "build-cpu", "--engine", "mock"], ["coordinator"]])
def test_a_service_without_a_broker_says_so_soon_and_waits(tmp_path: Path, command: list[str]) -> None:
    environment = {
        **os.environ,
        "XDG_DATA_HOME": str(tmp_path),
        "TUNEMESH_BROKER_URL": "amqp://x:secret@127.0.0.1:9/tunemesh",
        "TUNEMESH_ARTIFACTS": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tunemesh", *command], env=environment, stderr=subprocess.PIPE
    ) as service:
        try:
            assert service.stderr is not None
            began = time.monotonic()
            for line in service.stderr:
                if b"cannot reach the broker" in line:
                    break
            assert time.monotonic() - began < 4  # an interpreter's start included
            assert b"connection refused; trying again" in line
            assert b"secret" not in line
            time.sleep(1.0)
            assert service.poll() is None
            service.terminate()
            assert service.wait(10) == 0
        finally:
            service.kill()
