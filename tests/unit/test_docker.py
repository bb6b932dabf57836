"""What can be checked of the containers without a Docker engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunemesh.broker_config.definitions import Listener, rabbitmq_conf
from tunemesh.broker_config.roles import ROLES
from tunemesh.broker_config.topology import stage_queue

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
SUBCOMMANDS = {"coordinator", "worker"}
"""Those of the ``tunemesh`` command line that run for ever."""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    composed: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    return composed


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, continuation lines joined, comments dropped."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def arguments(dockerfile: list[tuple[str, str]], instruction: str) -> list[str]:
    return [rest for name, rest in dockerfile if name == instruction]


def test_the_base_image_has_a_version(dockerfile: list[tuple[str, str]]) -> None:
    (base,) = arguments(dockerfile, "FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)


def test_the_image_does_not_run_as_root(dockerfile: list[tuple[str, str]]) -> None:
    *_, user = arguments(dockerfile, "USER")
    assert user not in ("root", "0")
    after = dockerfile[dockerfile.index(("USER", user)) :]
    assert not arguments(after, "RUN")


def test_packages_are_constrained_and_leave_no_cache(dockerfile: list[tuple[str, str]]) -> None:
    runs = arguments(dockerfile, "RUN")
    (debian,) = [run for run in runs if "apt-get install" in run]
    assert "--no-install-recommends" in debian
    assert "rm -rf /var/lib/apt/lists" in debian
    (python,) = [run for run in runs if "pip install" in run]
    assert "--no-cache-dir" in python
    assert "-c constraints.txt" in python


def test_only_what_the_package_consists_of_enters_the_build_context() -> None:
    """The classic builder reads no other file than the one in the root."""
    assert [path.relative_to(ROOT) for path in DOCKER.glob("*.dockerignore")] == []
    first, *rest = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert first == "*"
    parts = {link.name for link in (ROOT / "tunemesh").iterdir() if link.is_symlink()}
    files = {"pyproject.toml", "constraints.txt", "README.md"}
    assert {line for line in rest if line.startswith("!")} == {
        f"!{name}" for name in {"tunemesh"} | parts | files
    }


def test_no_secret_is_written_down() -> None:
    compose = (DOCKER / "compose.yaml").read_text()
    for url in re.findall(r"amqps?://\S+", compose):
        assert re.match(r"amqps?://[a-z]+:\$\{TUNEMESH_[A-Z]+_PASSWORD:\?", url)
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), flags=re.MULTILINE))
    assert {name for name in example if not example[name]} == {
        f"TUNEMESH_{role.upper()}_PASSWORD" for role in ROLES
    }
    assert not [name for name in example if example[name] and "PASSWORD" in name]
    assert ".env" in (DOCKER / ".gitignore").read_text().splitlines()


def test_the_broker_has_a_health_check_and_all_others_wait_for_it(services: dict[str, Any]) -> None:
    broker = services["rabbitmq"]
    assert broker["healthcheck"]["test"] == "rabbitmq-diagnostics -q check_port_connectivity"
    assert re.fullmatch(r"rabbitmq:4\.\d+-management", broker["image"])
    for name, service in services.items():
        if name != "rabbitmq":
            assert service["depends_on"] == {"rabbitmq": {"condition": "service_healthy"}}, name


def test_nothing_but_the_measurements_runs_on_the_core_of_the_device(services: dict[str, Any]) -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), flags=re.MULTILINE))

    def resolved(text: str) -> str:
        """With the defaults, which are those of the example."""
        for name, default in re.findall(r"\$\{(\w+):-(\w+)\}", text):
            assert example[name] == default
            text = text.replace(f"${{{name}:-{default}}}", default)
        return text

    (device,) = [name for name, service in services.items() if "--device" in service.get("command", ())]
    core = resolved(services[device]["command"][-1]).removeprefix("cpu:")
    for name, service in services.items():
        cores = resolved(service["cpuset"]).split(",")
        # The worker of the device keeps itself off it, which takes another core.
        assert (core in cores) == (name == device), name
        assert set(cores) - {core}, name


def test_debians_docker_compose_reads_the_file() -> None:
    """Version 1.29 knows no `name`, and of `deploy` nothing without an option."""
    composed = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert {key for key in composed if not key.startswith("x-")} == {"services", "volumes"}
    assert not [name for name, service in composed["services"].items() if "deploy" in service]


def test_ports_are_open_on_this_machine_only(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_command_is_one_of_ours_with_the_user_of_its_role(services: dict[str, Any]) -> None:
    seen = set()
    for name, service in services.items():
        if name == "rabbitmq":
            continue
        subcommand, *rest = service["command"]
        by_hand = "profiles" in service  # people give the command
        role = "client" if by_hand else subcommand
        if not by_hand:
            seen.add(subcommand)
        assert service["environment"]["TUNEMESH_BROKER_URL"].startswith(f"amqp://{role}:"), name
        assert service["environment"]["TUNEMESH_ARTIFACTS"], name
        if subcommand == "worker":
            assert stage_queue(rest[0]).name == name
    assert seen == SUBCOMMANDS


def test_named_volumes_exist(services: dict[str, Any]) -> None:
    composed = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    used = {volume.partition(":")[0] for service in services.values() for volume in service["volumes"]}
    assert {name for name in used if not name.startswith(".")} == set(composed["volumes"])


def test_rabbitmq_conf_is_what_the_code_writes() -> None:
    written = rabbitmq_conf(
        "/etc/rabbitmq/definitions.json", Listener("0.0.0.0", 5672), Listener("0.0.0.0", 15672)
    )
    assert (DOCKER / "rabbitmq.conf").read_text() == written
