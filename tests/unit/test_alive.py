"""What is said of a process outside of the mesh."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tunemesh.shared import alive
from tunemesh.shared.alive import ALIVE, Alive


def test_the_file_is_touched_again_and_not_at_every_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "alive"
    monkeypatch.setenv(ALIVE, str(file))
    now = [100.0]
    monkeypatch.setattr(alive.time, "monotonic", lambda: now[0])
    told = Alive()
    told.beat()
    os.utime(file, (1, 1))
    told.beat()
    assert file.stat().st_mtime == 1
    now[0] += alive.EVERY
    told.beat()
    assert file.stat().st_mtime > 1


def test_without_the_variable_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALIVE, raising=False)
    monkeypatch.chdir(tmp_path)
    Alive().beat()
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ALIVE, str(tmp_path / "no" / "alive"))
    monkeypatch.setattr(alive, "EVERY", 0.0)
    told = Alive()
    with caplog.at_level(logging.WARNING):
        told.beat()
        told.beat()
    assert len(caplog.messages) == 1
    assert ALIVE in caplog.messages[0]
