"""Child processes of a mesh: which endings are final, and which are not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunemesh import children as module
from tunemesh.children import Child, Children
from tunemesh.shared.errors import BadInput


@pytest.fixture
def family() -> Iterator[Children]:
    made = Children()
    yield made
    made.stop()


def interpreter(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What children run in place of Python."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(path))


def supervise(family: Children, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        family.supervise()
        time.sleep(0.02)


@pytest.mark.parametrize("ending", ["exit 75", "exit 1", "kill -9 $$", "exit 0"])
def test_what_may_pass_is_started_again(
    family: Children,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    interpreter(tmp_path, f"echo once >> {tmp_path}/starts; {ending}", monkeypatch)
    family.start(Child("build-0", ["worker"], {}, log=tmp_path / "log"))
    supervise(family, 1.5)
    assert len((tmp_path / "starts").read_text().splitlines()) >= 2
    assert any("build-0 has ended" in record.getMessage() for record in caplog.records)


def test_what_cannot_pass_ends_the_mesh_in_the_childs_own_words(
    family: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, "echo 'error: there is no engine' >&2; exit 2", monkeypatch)
    family.start(Child("build-0", ["worker"], {}, log=tmp_path / "log"))
    with pytest.raises(BadInput, match="build-0: there is no engine"):
        supervise(family, 5.0)


def test_a_machine_without_room_for_a_process_is_tried_again(
    family: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, f"echo once >> {tmp_path}/starts; exit 1", monkeypatch)
    family.start(Child("build-0", ["worker"], {}, log=tmp_path / "log"))
    real, refused = Child.start, [0]

    def full(child: Child) -> None:
        refused[0] += 1
        if refused[0] == 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        real(child)

    monkeypatch.setattr(Child, "start", full)
    supervise(family, 2.0)
    assert refused[0] >= 2
    assert len((tmp_path / "starts").read_text().splitlines()) >= 2


def test_a_child_gets_its_own_secret_and_no_other(
    family: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEMESH_BROKER_URL", "amqp://admin:canary@host")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    interpreter(tmp_path, f"env > {tmp_path}/env; echo $* > {tmp_path}/arguments; sleep 60", monkeypatch)
    family.start(Child("build-0", ["worker"], {"TUNEMESH_BROKER_URL": "amqp://worker:own@host"}))
    deadline = time.monotonic() + 5
    while not (tmp_path / "arguments").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    text = (tmp_path / "env").read_text()
    assert "canary" not in text
    assert "TUNEMESH_BROKER_URL=amqp://worker:own@host" in text
    assert (tmp_path / "arguments").read_text() == "-P -m tunemesh worker\n"


def test_children_log_as_their_mesh_does(
    family: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.logs, "for_children", lambda: {"TUNEMESH_LOG_FORMAT": "json"})
    command = ["worker", "build-cpu", "--engine", "mock", "--broker", "amqp://x:y@127.0.0.1:9/z"]
    family.start(Child("build-0", [*command, "--artifacts", str(tmp_path)], {}, log=tmp_path / "log"))
    deadline = time.monotonic() + 20
    while not (lines := (tmp_path / "log").read_text().splitlines()) and time.monotonic() < deadline:
        time.sleep(0.05)
    first = json.loads(lines[0])
    assert (first["process"], first["level"]) == ("worker build-cpu", "info")
    assert "connecting to the broker" in first["message"]


def test_the_command_line_is_not_misled_by_the_folder_that_it_is_started_in(tmp_path: Path) -> None:
    for name in ("queue", "random", "logging", "typer"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    command = [sys.executable, "-m", "tunemesh", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_modules_of_the_working_folder_shadow_nothing_in_a_child(
    family: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("queue", "random", "logging", "typer"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    family.start(Child("help", ["--help"], {}, log=tmp_path / "log"))
    child = family.children[0]
    assert child.process is not None
    assert child.process.wait(60) == 0
    assert "Usage:" in (tmp_path / "log").read_text()
