"""What can be checked of the containers without a Docker engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunemesh.broker_config.definitions import Listener, rabbitmq_conf
from tunemesh.broker_config.topology import stage_queue
from tunemesh.shared.accounts import ROLES

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


@pytest.fixture(scope="module")
def stages(dockerfile: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage, those of the stage that it begins from first; without ``FROM``."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, rest in dockerfile:
        if name == "FROM":
            base, _, stage = rest.split()
            current = found[stage] = list(found.get(base, ()))
        elif found:
            current.append((name, rest))
    return found


IMAGES = {"client", "worker", "builder", "cuda"}


def test_the_base_image_has_a_version_and_can_be_given_as_a_digest(dockerfile: list[tuple[str, str]]) -> None:
    base, _ = arguments(dockerfile, "ARG")
    assert re.fullmatch(r"BASE=debian:\w+-slim", base)
    first, *rest = arguments(dockerfile, "FROM")
    assert first == "${BASE} AS base"
    made: set[str] = set()
    for line in [first, *rest]:
        begins, _, stage = line.split()
        assert begins in {"${BASE}", *made}, line
        made.add(stage)
    assert made >= IMAGES


@pytest.mark.parametrize("image", sorted(IMAGES))
def test_an_image_is_not_root_and_has_no_tool_that_installs(
    stages: dict[str, list[tuple[str, str]]], image: str
) -> None:
    *_, user = arguments(stages[image], "USER")
    assert user == "tunemesh"
    after = stages[image][max(n for n, each in enumerate(stages[image]) if each == ("USER", user)) :]
    assert not arguments(after, "RUN")
    assert not [run for run in arguments(stages[image], "RUN") if "python3-pip" in run or "$PIP" in run]


def test_packages_are_constrained_and_leave_no_cache(
    dockerfile: list[tuple[str, str]], stages: dict[str, list[tuple[str, str]]]
) -> None:
    debian = [run for run in arguments(dockerfile, "RUN") if "apt-get install" in run]
    assert debian
    assert all("--no-install-recommends" in run for run in debian)
    for image in IMAGES:
        for run in arguments(stages[image], "RUN"):
            assert "apt-get install" not in run or "rm -rf /var/lib/apt/lists" in run
    assert any("--no-cache-dir" in rest for rest in arguments(dockerfile, "ENV"))
    python = [run for run in arguments(dockerfile, "RUN") if "$PIP install" in run]
    assert python
    assert all("-c constraints.txt" in run or "--no-deps" in run for run in python)


def test_a_change_of_the_code_installs_no_dependency_again(
    stages: dict[str, list[tuple[str, str]]],
) -> None:
    """Dependencies are made where the code is not, and lie in layers below it."""
    for name, instructions in stages.items():
        if name.endswith("packages"):
            assert ("COPY", ". .") not in instructions
    assert ("COPY", ". .") in stages["code"]
    for image in ("client", "worker"):
        packages, code = arguments(stages[image], "COPY")
        assert re.fullmatch(r"--from=\w+-packages /opt/venv /opt/venv", packages)
        assert re.fullmatch(r"--from=(client-)?code /code /", code)


def test_only_what_the_package_consists_of_enters_the_build_context() -> None:
    """The classic builder reads no other file than the one in the root."""
    assert [path.relative_to(ROOT) for path in DOCKER.glob("*.dockerignore")] == []
    first, *rest = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert first == "*"
    parts = {link.name for link in (ROOT / "tunemesh").iterdir() if link.is_symlink()}
    files = {"pyproject.toml", "constraints.txt", "README.md", "docker/slim.sh"}
    assert {line for line in rest if line.startswith("!")} == {
        f"!{name}" for name in {"tunemesh"} | parts | files
    }


def test_passwords_are_in_files_and_each_service_has_its_own_alone(services: dict[str, Any]) -> None:
    composed = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert "PASSWORD:" not in (DOCKER / "compose.yaml").read_text()
    for url in re.findall(r"amqps?://\S+", (DOCKER / "compose.yaml").read_text()):
        assert re.match(r"amqps?://[a-z]+@", url)
    secrets = {name: Path(secret["file"]) for name, secret in composed["secrets"].items()}
    assert all(path.parent == Path("secrets") and name in ROLES for name, path in secrets.items())
    for name, service in services.items():
        if name == "rabbitmq":
            continue
        (secret,) = service["secrets"]
        assert service["environment"]["TUNEMESH_BROKER_PASSWORD_FILE"] == f"/run/secrets/{secret['target']}"
        assert f"amqp://{secret['source']}@" in service["environment"]["TUNEMESH_BROKER_URL"]
    assert "PASSWORD" not in (DOCKER / ".env.example").read_text()
    assert {".env", "secrets/"} <= set((DOCKER / ".gitignore").read_text().splitlines())


def test_services_are_held_in(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name
        if name != "rabbitmq":
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["pids_limit"], name
            if "profiles" not in service:
                assert "/tmp/alive" in service["healthcheck"]["test"], name


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
    assert {key for key in composed if not key.startswith("x-")} == {"secrets", "services", "volumes"}
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
        assert service["environment"]["TUNEMESH_BROKER_URL"].startswith(f"amqp://{role}@"), name
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
