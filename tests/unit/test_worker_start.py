"""How a worker starts, without a broker and without processes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tunemesh.stage_workers import worker as module
from tunemesh.stage_workers.worker import WorkerConfig, run_worker


class FullMachine:
    """A sandbox on a machine that has no free descriptor at first, and no room for a process then."""

    refusals = 0

    def __init__(self, *_: object, **__: object) -> None:
        if FullMachine.refusals < 2:
            FullMachine.refusals += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/scratch")

    def start(self) -> None:
        if FullMachine.refusals < 4:
            FullMachine.refusals += 1
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def abort(self) -> None: ...

    def stop(self) -> None: ...


def test_a_machine_without_room_for_the_sandbox_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worked: list[object] = []
    FullMachine.refusals = 0
    monkeypatch.setattr(module, "Sandbox", FullMachine)
    monkeypatch.setattr(module, "_work", lambda *parts: worked.append(parts))
    config = WorkerConfig(broker="amqp://x", queue="build-cpu", artifacts=str(tmp_path), engines=("mock",))
    assert run_worker(config) == 0
    assert (FullMachine.refusals, len(worked)) == (4, 1)
    assert "Too many open files" in caplog.text
