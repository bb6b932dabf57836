"""What children get of an environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tunemesh import cli, service_commands
from tunemesh.shared.environment import for_child


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "name",
    [
        "TUNEMESH_BROKER_URL",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
        "HOME",
        "PGPASSWORD",
        "GITHUB_TOKEN",
        "TVM_API_KEY",
        "PYTHONSTARTUP",
        "PYTHONHOME",
        "PYTHONINSPECT",
        "BASH_ENV",
        "SSH_AUTH_SOCK",
    ],
)
def test_what_may_be_a_secret_or_run_something_stays_here(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "canary")
    assert "canary" not in for_child().values()


@pytest.mark.parametrize(
    "name", ["PATH", "LC_ALL", "TZ", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "CC", "CPATH", "NVCC_CCBIN"]
)
def test_what_a_program_needs_is_passed_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert for_child()[name] == "x"


def test_what_is_meant_for_the_child_wins() -> None:
    assert for_child({"HOME": "/scratch", "TUNEMESH_BROKER_URL": "amqp://"}).items() >= {
        ("HOME", "/scratch"),
        ("TUNEMESH_BROKER_URL", "amqp://"),
    }


def test_folders_that_mean_another_one_in_a_child_are_no_part_of_its_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "/one", ".", "two", "/three"]))
    assert for_child()["PYTHONPATH"] == "/one:/three"
    monkeypatch.setenv("PYTHONPATH", ".")
    assert "PYTHONPATH" not in for_child()


def test_a_person_may_let_further_variables_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOY_HOME", "TOY_KEY", "TOY_OTHER"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("TUNEMESH_PASS_ENV", "TOY_HOME, TOY_KEY,ABSENT")
    chosen = for_child()
    assert {name for name in chosen if name.startswith("TOY")} == {"TOY_HOME", "TOY_KEY"}
    # A mesh's worker has to let them through as well.
    assert chosen["TUNEMESH_PASS_ENV"] == "TOY_HOME, TOY_KEY,ABSENT"


def test_what_a_private_process_knows_is_not_readable_to_others_of_its_user() -> None:
    """``/proc`` gives the files of such a process to root; who is root may read them still."""
    script = """
import ctypes
from tunemesh.shared.environment import keep_private
keep_private()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "0\n"


@pytest.mark.parametrize("command", ["worker", "coordinator"])
def test_services_are_private(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Private(Exception):
        pass

    def private() -> None:
        raise Private

    monkeypatch.setattr(service_commands, "keep_private", private)
    with pytest.raises(Private):
        CliRunner().invoke(cli.app, [command, *["build-cpu"] * (command == "worker")], catch_exceptions=False)
