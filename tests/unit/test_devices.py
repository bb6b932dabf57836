"""Devices: what a name stands for, and that a device has one owner."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunemesh.shared.errors import BadInput, Unavailable
from tunemesh.stage_workers.devices import devices
from tunemesh.stage_workers.devices.devices import (
    last_level_cache,
    lock_device,
    owner_of,
    parse_cores,
    parse_device,
)

CORES = sorted(os.sched_getaffinity(0))
FIRST = CORES[0]

HOLDER = """
import os, sys, time
from pathlib import Path
from tunemesh.stage_workers.devices.devices import lock_device, parse_device
lock = lock_device(parse_device(sys.argv[1]), Path(sys.argv[2]))
if len(sys.argv) > 3 and os.fork() == 0:
    time.sleep(float(sys.argv[3]))
    os._exit(0)
print("locked", flush=True)
time.sleep(60)
"""


@contextmanager
def holder(folder: Path, *child_lives: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the first core; with a child that holds on for so many seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, f"cpu:{FIRST}", str(folder), *child_lives],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def gpus(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    monkeypatch.setattr(devices, "_gpus", lambda: {0: "GPU-aaaa-1", 1: "GPU-bbbb-2"})
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_cores_are_read_as_taskset_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert parse_cores("0,2-4") == {0, 2, 3, 4}
    device = parse_device("cpu:3,1")
    assert device.inside == "cpu"
    assert device.cores == {1, 3}
    assert device.locks == ("core-1", "core-3")


def test_the_last_core_is_the_last_that_this_process_may_use() -> None:
    assert parse_device("cpu:last").cores == {CORES[-1]}
    assert parse_device("cpu:last").locks == (f"core-{CORES[-1]}",)


@pytest.mark.parametrize(
    "text", ["cpu:", "cpu:x", "cpu:3-1", "cpu:-1", "cpu:0,,1", "gpu:0", "cuda:", "cuda:-1", "cuda", ""]
)
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"expected|range"):
        parse_device(text)


def test_a_core_that_is_not_there_is_named() -> None:
    with pytest.raises(BadInput, match="core 9999 is not on this machine"):
        parse_device(f"cpu:{FIRST},9999")


def test_a_gpu_is_the_real_one_and_the_only_one_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, None)
    device = parse_device("cuda:1")
    assert device.inside == "cuda:0"
    assert device.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert device.locks == ("gpu-GPU-bbbb-2",)


@pytest.mark.parametrize("visible", ["1", "0,1", "GPU-bbbb"])
def test_a_visible_gpu_keeps_its_real_number(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    gpus(monkeypatch, visible)
    assert parse_device("cuda:1").environment["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize("visible", ["0", "", "GPU-aaaa"])
def test_a_hidden_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    gpus(monkeypatch, visible)
    with pytest.raises(BadInput, match="CUDA_VISIBLE_DEVICES"):
        parse_device("cuda:1")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, None)
    with pytest.raises(BadInput, match=r"no GPU 7 .* 0-1"):
        parse_device("cuda:7")


def test_a_second_owner_is_refused_at_once_and_told_the_first(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        started = time.monotonic()
        with pytest.raises(Unavailable, match=f"in use by process {process.pid} "):
            lock_device(parse_device(f"cpu:{FIRST}"), tmp_path)
        assert time.monotonic() - started < 1


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_overlapping_cores_are_refused_and_nothing_stays_locked(tmp_path: Path) -> None:
    with holder(tmp_path):
        with pytest.raises(Unavailable, match="in use"):
            lock_device(parse_device(f"cpu:{FIRST},{CORES[1]}"), tmp_path)
        lock_device(parse_device(f"cpu:{CORES[1]}"), tmp_path).release()


def test_a_released_device_is_free(tmp_path: Path) -> None:
    device = parse_device(f"cpu:{FIRST}")
    lock_device(device, tmp_path).release()
    lock_device(device, tmp_path).release()


def test_a_dead_owner_with_a_living_child_is_waited_for(tmp_path: Path) -> None:
    with holder(tmp_path, "0.8"):
        pass
    started = time.monotonic()
    lock_device(parse_device(f"cpu:{FIRST}"), tmp_path).release()
    assert 0.2 < time.monotonic() - started < 5


def test_a_dead_owner_is_waited_for_as_long_as_it_takes_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with holder(tmp_path, "2") as process:
        process.kill()
    lock_device(parse_device(f"cpu:{FIRST}"), tmp_path).release()
    (waiting,) = [record.getMessage() for record in caplog.records if "is not free" in record.getMessage()]
    assert f"device cpu:{FIRST} is not free: its last owner, process {process.pid}, is dead" in waiting


def test_an_owner_whose_number_another_process_has_now_is_dead(tmp_path: Path) -> None:
    """After a restart of a container the numbers are the same again; here it is our own."""
    with holder(tmp_path, "0.5"):
        pass
    (tmp_path / f"core-{FIRST}.lock").write_text(f"{os.getpid()} 17\n")
    lock_device(parse_device(f"cpu:{FIRST}"), tmp_path).release()


def test_who_has_a_device_can_be_asked_without_taking_it(tmp_path: Path) -> None:
    device = parse_device(f"cpu:{FIRST}")
    assert owner_of(device, tmp_path) is None
    with holder(tmp_path) as process:
        assert owner_of(device, tmp_path) == process.pid
        process.kill()
        process.wait()
    assert owner_of(device, tmp_path) is None


@pytest.mark.parametrize(
    "error", [subprocess.CalledProcessError(9, "nvidia-smi", "no devices"), subprocess.TimeoutExpired("x", 1)]
)
def test_a_driver_that_does_not_answer_now_is_not_a_machine_without_gpus(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(Unavailable, match="nvidia-smi does not name the GPUs"):
        parse_device("cuda:0")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, Unavailable), (errno.EACCES, BadInput)])
def test_a_full_disk_under_the_locks_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(devices, "_open", refuse)
        with pytest.raises(kind, match="cannot lock device"):
            lock_device(parse_device(f"cpu:{FIRST}"), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(kind, match="for device locks"):
            devices.lock_folder()


def test_locks_are_for_all_users() -> None:
    folder = devices.lock_folder()
    assert folder.stat().st_mode & 0o7777 == 0o1777


# -- Caches ------------------------------------------------------------------------------------------------


def test_the_last_level_cache_is_the_largest_that_the_kernel_names(tmp_path: Path) -> None:
    for index, size in enumerate(["32K", "32K", "1024K", "32768K"]):
        folder = tmp_path / "cpu3/cache" / f"index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    assert last_level_cache(3, tmp_path) == 32 * 2**20
    (tmp_path / "cpu3/cache/index3/size").write_text("?\n")
    assert last_level_cache(3, tmp_path) == 2**20
    assert last_level_cache(4, tmp_path) == 0
