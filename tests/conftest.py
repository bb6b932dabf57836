"""One RabbitMQ node for all tests of a session that need one, and which tests may run beside others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, Protocol

import pika
import pytest

from tunemesh.broker_config.definitions import Listener, definitions_json, rabbitmq_conf
from tunemesh.broker_config.node import PrivateNode, installed
from tunemesh.broker_config.topology import REQUESTS, VHOST
from tunemesh.shared.accounts import ROLES, Role

# What comes with Tunemesh would change what tests of meshes count.
os.environ.setdefault("TUNEMESH_SHIPPED_RECORDS", "none")

HERE = Path(__file__).parent
BROKER = "node"
"""Who uses this fixture talks to a node, and waits for it most of the time."""
WAITING = ("tests/integration", "tests/acceptance/test_bad_usage.py")
"""Where those are that do little but wait. What is elsewhere need not be imported for them."""
MESHES = {"tunemesh", "mesh"}
"""Fixtures of whole meshes, which need all cores."""

Run = Literal["parallel", "waiting", "alone"]
"""One of the runs of ``make test``."""


class Broker(Protocol):
    """What tests need to know of a node."""

    @property
    def management_url(self) -> str: ...

    def url(self, role: Role) -> str: ...

    def password(self, role: Role) -> str: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rabbitmq-4", action="store_true", help="RabbitMQ 4 in a container, not the installed one"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its run."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        found = run_of(item.path, getattr(item, "fixturenames", ()), marks)
        if found not in marks:
            item.add_marker(found)


def run_of(path: Path, fixtures: Collection[str], marks: Collection[str]) -> Run:
    """In which run of ``make test`` a test is.

    ``parallel`` computes in this process, and runs on all cores beside others of its kind. ``waiting`` does
    little but wait, as a rule for a broker: several of these run at once, and each process has a node of its
    own. ``alone``, one by one, is what measures time, or starts whole meshes."""
    if "alone" in marks:
        return "alone"
    if path.is_relative_to(HERE / "unit"):
        return "parallel"
    if "waiting" in marks or BROKER in fixtures:
        return "waiting" if any(path.is_relative_to(HERE.parent / place) for place in WAITING) else "alone"
    beside = path.is_relative_to(HERE / "acceptance")
    return "parallel" if beside and MESHES.isdisjoint(fixtures) else "alone"


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_recorded() -> None:
    """Tests leave nothing in the records of the person who runs them; those of records have their own."""
    os.environ["TUNEMESH_RECORDS"] = "none"


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A private node; a container where RabbitMQ is not installed; else skip (in CI: fail)."""
    if request.config.getoption("--rabbitmq-4"):
        yield from _container(tmp_path_factory.mktemp("rabbitmq"))
    elif installed():
        with PrivateNode() as private:
            yield private
            private.kill()  # an orderly stop takes 6 s
    elif _docker_answers():
        yield from _container(tmp_path_factory.mktemp("rabbitmq"))
    elif os.environ.get("CI"):
        pytest.fail("CI needs rabbitmq-server or a Docker engine")
    else:
        pytest.skip("needs rabbitmq-server or a Docker engine")


@pytest.fixture(autouse=True)
def _nothing_is_left_to_answer(request: pytest.FixtureRequest) -> None:
    """What clients of earlier tests asked on the node, and nobody has read, is gone."""
    if BROKER in request.fixturenames:
        broker: Broker = request.getfixturevalue(BROKER)
        with pika.BlockingConnection(pika.URLParameters(broker.url("admin"))) as link:
            link.channel().queue_purge(REQUESTS)


@pytest.fixture
def nodes_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Private nodes of this process are killed where they would be stopped, which takes 6 s."""
    monkeypatch.setattr(PrivateNode, "stop", PrivateNode.kill)


def _docker_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _container(folder: Path) -> Iterator[Broker]:
    """RabbitMQ 4 with our definitions, through testcontainers."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    folder.chmod(0o755)
    (folder / "definitions.json").write_text(definitions_json({role: role for role in ROLES}))
    (folder / "rabbitmq.conf").write_text(
        rabbitmq_conf("/tunemesh/definitions.json", Listener("0.0.0.0", 5672), Listener("0.0.0.0", 15672))
    )
    container = (
        DockerContainer("rabbitmq:4.1-management")
        .with_volume_mapping(str(folder), "/tunemesh")
        .with_env("RABBITMQ_CONFIG_FILE", "/tunemesh/rabbitmq.conf")
        .with_exposed_ports(5672, 15672)
        .waiting_for(LogMessageWaitStrategy("Server startup complete").with_startup_timeout(120))
    )
    with container:
        host = container.get_container_host_ip()
        yield _Container(
            f"{host}:{container.get_exposed_port(5672)}", f"{host}:{container.get_exposed_port(15672)}"
        )


class _Container:
    def __init__(self, amqp: str, management: str) -> None:
        self._amqp = amqp
        self.management_url = f"http://{management}"

    def url(self, role: Role) -> str:
        return f"amqp://{role}:{role}@{self._amqp}/{VHOST}"

    def password(self, role: Role) -> str:
        return role
