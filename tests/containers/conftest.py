"""The image and the compose file, in the Docker engine that ``scripts/test_containers.sh`` has started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunemesh.broker_config.definitions import definitions_json
from tunemesh.shared.accounts import ROLES

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("client", "worker", "builder", "cuda")
"""Targets of the Dockerfile; an image is called after its own."""
SECRET = "planted-in-the-checkout"
"""Stands in files of the checkout that must not get into the image."""
BUILD_LIMIT = 1200.0
START_LIMIT = 120.0


def run(*command: object, cwd: Path = ROOT, timeout: float = 120.0) -> str:
    """What a command printed; fails the test if it ends with anything but 0."""
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout[-3000:]} {ended.stderr[-3000:]}"
    return ended.stdout


@dataclass(frozen=True)
class Compose:
    """The mesh of the compose file, up."""

    folder: Path

    def __call__(self, *arguments: object, timeout: float = 120.0) -> str:
        return run("docker-compose", *arguments, cwd=self.folder, timeout=timeout)

    def containers(self) -> dict[str, str]:
        """Id of one container of every service."""
        ids = self("ps", "--quiet").split()
        label = "com.docker.compose.service"
        return {json.loads(run("docker", "inspect", i))[0]["Config"]["Labels"][label]: i for i in ids}


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine of the script's own, with the base images."""
    if "DOCKER_HOST" not in os.environ:
        pytest.skip("run it with make test-containers")


@pytest.fixture(scope="session")
def images(engine: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The images by target, built from a checkout as it looks beside a mesh that runs: with passwords and
    history."""
    checkout = tmp_path_factory.mktemp("checkout")
    unwanted = shutil.ignore_patterns("__pycache__", ".git", ".venv", "build", "*.egg-info", ".*_cache")
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=unwanted, dirs_exist_ok=True)
    (checkout / ".git").mkdir()
    for name in ("docker/.env", "docker/definitions.json", "docker/secrets/worker", ".env", ".git/config"):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(SECRET)
    names = {target: f"tunemesh-{target}:latest" for target in IMAGES}
    command = ("docker", "build", "--network", "host", "--file", "docker/Dockerfile")
    for target, name in names.items():
        run(*command, "--target", target, "--tag", name, ".", cwd=checkout, timeout=BUILD_LIMIT)
    return names


@pytest.fixture(scope="module")
def compose(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """Up, with the broker's health check passed. Gone afterwards, volumes included."""
    folder = tmp_path_factory.mktemp("mesh") / "docker"
    shutil.copytree(
        ROOT / "docker", folder, ignore=shutil.ignore_patterns(".env", "definitions.json", "secrets")
    )
    shutil.copy(folder / ".env.example", folder / ".env")
    passwords = {role: f"{role}-of-a-test" for role in ROLES}
    (folder / "secrets").mkdir(mode=0o700)
    for role, password in passwords.items():
        (folder / "secrets" / role).write_text(password)
        (folder / "secrets" / role).chmod(0o644)
    (folder / "definitions.json").write_text(definitions_json(passwords))
    mesh = Compose(folder)
    try:
        mesh("up", "--detach", timeout=START_LIMIT)
        yield mesh
    finally:
        print(mesh("logs", "--no-color", "--tail", 30))
        mesh("down", "--volumes", "--timeout", 10)


def wait_for_status(compose: Compose, text: str) -> str:
    """``tunemesh status`` of the mesh, once it names ``text``."""
    deadline = time.monotonic() + START_LIMIT
    status = ""
    while time.monotonic() < deadline:
        status = compose("run", "--rm", "client", "status")
        if text in status:
            return status
        time.sleep(1)
    raise AssertionError(f"no {text!r} in {status}")
