"""From a Debian with nothing on it to the report of a model of one's own, as README.md says."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples import make_models
from tests.containers.conftest import ROOT, run

LIMIT = 300.0
"""Seconds for all of it, with what is downloaded: five minutes."""
STARTING = 300.0
"""Seconds for what a test needs before the clock starts."""
GIVEN = "git make"
"""Debian packages that whoever clones a repository has."""
SERVED = "rabbitmq-server python3-venv gcc libc6-dev"
"""What the machine of an ordinary user has beside them, who may install nothing."""


@dataclass(frozen=True)
class Machine:
    """A container that stands for one."""

    id: str

    def __call__(self, command: str, user: str = "root", limit: float = LIMIT) -> str:
        """What a command prints, in the home of a user."""
        return run(
            "docker", "exec", "--user", user, self.id, "bash", "-lc", f"cd && {command}", timeout=limit
        )


@pytest.fixture
def machine(engine: None, tmp_path: Path) -> Iterator[Machine]:
    """A fresh one, with the repository and a model in ``/given``; its network is that of the host."""
    base = re.search(r"^ARG BASE=(\S+)$", (ROOT / "docker" / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert base is not None
    subprocess.run(
        ["git", "clone", "--quiet", "--bare", str(ROOT), str(tmp_path / "tunemesh.git")], check=True
    )
    (tmp_path / "model.onnx").write_bytes(make_models.tiny_residual().SerializeToString())
    command = ("docker", "run", "--detach", "--rm", "--init", "--network", "host", base[1], "sleep", "3600")
    made = Machine(run(*command).strip())
    try:
        run("docker", "cp", f"{tmp_path}/.", f"{made.id}:/given")
        made("chmod -R a+rX /given")
        yield made
    finally:
        run("docker", "kill", made.id)


@pytest.mark.parametrize("user", ["root", "ann"])
def test_two_commands_and_five_minutes_from_nothing_to_the_report_of_a_model(
    machine: Machine, user: str
) -> None:
    install = "export DEBIAN_FRONTEND=noninteractive; apt-get install -y -qq --no-install-recommends"
    packages = GIVEN if user == "root" else f"{GIVEN} {SERVED}"
    machine(f"apt-get update -qq && {install} {packages}", limit=STARTING)
    if user != "root":
        machine(f"useradd --create-home --shell /bin/bash {user} && chown --recursive {user} /given")
    machine("git clone --quiet /given/tunemesh.git", user)
    began = time.monotonic()
    machine("cd tunemesh && make setup", user)
    ready = time.monotonic()
    printed = machine("cd tunemesh && .venv/bin/tunemesh tune /given/model.onnx", user)
    ended = time.monotonic()
    print(f"{user}: make setup {ready - began:.0f} s, tunemesh tune {ended - ready:.0f} s")
    assert "report" in printed
    report = json.loads(machine("cat tunemesh/tuned/model/report.json", user))
    assert set(report["terms"]["engines"]) == {"metaschedule", "template"}
    assert "<html" in machine("cat tunemesh/tuned/model/report.html", user)
    assert ended - began <= LIMIT
