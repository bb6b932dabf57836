"""The sandbox with real crashes, hangs and floods of memory.

Over 400 lines: all of them need the calls and helpers below.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tunemesh.shared.errors import BadInput, BadModel
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers import engines, platforms
from tunemesh.stage_workers.engines.protocol import BuildCall, BuildOutcome, Engine, UpdateCall
from tunemesh.stage_workers.platforms.protocol import (
    ImportCall,
    Platform,
    ProfileCall,
    ProfileOutcome,
    Target,
    TargetCall,
)
from tunemesh.stage_workers.sandbox import allocator, frames, processes
from tunemesh.stage_workers.sandbox import sandbox as sandbox_module
from tunemesh.stage_workers.sandbox.sandbox import Abandoned, CallFailure, Sandbox

MEMORY = 512 * 2**20
ROOT = Path(__file__).resolve().parents[2]
FAILURES = "{build-crash: {indices: [0]}, build-hang: {indices: [1]}, build-memory: {indices: [2]}}"
CRASH, HANG, MEMORY_HOG, GOOD = range(4)
TASK = (
    platforms.load("mock")
    .import_model(ImportCall(model=f"tasks: [{{name: a, failures: {FAILURES}}}]".encode(), target="mock"))
    .tasks[0]
)
SCHEDULES = [
    each
    for _, each in engines.load("mock")
    .update(UpdateCall(workload=TASK.workload, target="mock", want=8, seed=0))
    .schedules
]

WORKER = """
import sys
from tunemesh.stage_workers.sandbox.sandbox import Sandbox
from tunemesh.stage_workers.engines.protocol import BuildCall, Engine
with Sandbox(["mock"], memory=8 * 2**30) as sandbox:
    assert sandbox.ready(20)
    print("ready", flush=True)
    workload, schedule = (bytes.fromhex(each) for each in sys.argv[1:3])
    sandbox.call("mock", Engine.build, BuildCall(workload=workload, target="mock", schedule=schedule), 60)
"""


pytestmark = pytest.mark.waiting


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(["mock"], memory=MEMORY) as sandbox:
        assert sandbox.ready(20)
        yield sandbox


def build(
    sandbox: Sandbox, index: int, timeout: float = 10.0, cpu_limit: float | None = None
) -> BuildOutcome | CallFailure:
    call = BuildCall(workload=TASK.workload, target="mock", schedule=SCHEDULES[index])
    return sandbox.call("mock", Engine.build, call, timeout, cpu_limit)


def failure(answer: object) -> CallFailure:
    assert isinstance(answer, CallFailure), answer
    return answer


def forkserver_of(sandbox: Sandbox) -> psutil.Process:
    forkserver = psutil.Process(sandbox.child_pid).parent()
    assert forkserver is not None
    assert os.getpid() in [each.pid for each in forkserver.parents()]
    return forkserver


def inside(sandbox: Sandbox, path: str) -> Path:
    """A path that a child has, as it is seen from here."""
    return Path(f"/proc/{sandbox.child_pid}/root", path.lstrip("/"))


def fork_servers() -> list[psutil.Process]:
    """Those of this process, each the last of those that it was started by. It has other children as well: a
    broker for other tests, say."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.name() not in ("bwrap", "sh") and "sandbox.forkserver" in " ".join(each.cmdline()):
                found.append(each)
    # A child has its fork server's command line.
    return [each for each in found if each.ppid() not in [other.pid for other in found]]


def wait_until_gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that are still there, and no zombies, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while left := [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return left


def test_a_call_gives_what_the_engine_gives(sandbox: Sandbox) -> None:
    assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])
    call = ProfileCall(
        workload=TASK.workload,
        target="mock",
        artifact=SCHEDULES[GOOD],
        untuned=TASK.untuned,
        device="cpu",
        settings=Settings(repeats=2),
    )
    profiled = sandbox.call("mock", Platform.profile, call, 10)
    assert isinstance(profiled, ProfileOutcome)
    assert len(profiled.latencies) == 2


@pytest.mark.alone
def test_a_warm_call_costs_little(sandbox: Sandbox) -> None:
    build(sandbox, GOOD)
    started = time.monotonic()
    for _ in range(100):
        build(sandbox, GOOD)
    assert (time.monotonic() - started) / 100 < 0.01


def test_large_arguments_and_results_pass(sandbox: Sandbox) -> None:
    # The target is its own canonical form, so it comes back.
    target = "mock" + "x" * 50_000_000
    answer = sandbox.call("mock", Platform.resolve_target, TargetCall(target=target), 20)
    assert answer == Target(canonical=target)


@pytest.mark.parametrize("share", [0.7, 0.95, 1.5])
def test_an_argument_without_room_is_a_want_of_memory(share: float) -> None:
    """In whatever place it comes to light; the child goes on, or the next one does."""
    memory = 200 * 2**20
    with Sandbox(["mock"], memory=memory) as sandbox:
        assert sandbox.ready(20)
        large = TargetCall(target="mock" + "x" * int(share * memory))
        answer = failure(sandbox.call("mock", Platform.resolve_target, large, 20))
        assert (answer.kind, answer.text) == ("out-of-memory", "exceeded 0.195 GiB of memory")
        assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])


def test_a_refusal_is_raised_with_its_own_type(sandbox: Sandbox) -> None:
    with pytest.raises(BadModel, match="YAML"):
        sandbox.call("mock", Platform.import_model, ImportCall(model=b"tasks: [", target="mock"), 10)
    with pytest.raises(BadInput, match="mock has no option 'speed'"):
        sandbox.call("mock", Engine.check_options, {"speed": 3}, 10)


def test_an_engine_that_is_not_there_is_a_refusal(sandbox: Sandbox) -> None:
    with pytest.raises(BadInput, match=r"there is no engine 'abacus'; installed: .*metaschedule, mock"):
        sandbox.call("abacus", Engine.check_options, {}, 10)


def test_what_is_no_method_of_the_protocols_is_not_called(sandbox: Sandbox) -> None:
    with pytest.raises(TypeError, match="no method of an engine or a platform"):
        sandbox.call("mock", len, b"", 10)


def test_an_unexpected_error_names_type_and_place(sandbox: Sandbox) -> None:
    pid = sandbox.child_pid
    nonsense = BuildCall(workload=b"nonsense", target="mock", schedule=b"")
    answer = failure(sandbox.call("mock", Engine.build, nonsense, 10))
    assert answer.kind == "raised"
    assert "Error: " in answer.text
    assert "landscape.py:" in answer.text
    assert sandbox.child_pid == pid


@pytest.mark.alone
@pytest.mark.parametrize(
    ("index", "timeout", "kind", "text"),
    [
        (CRASH, 10.0, "crashed", "killed by SIGSEGV"),
        (HANG, 0.5, "timed-out", "exceeded 0.5 s"),
        (MEMORY_HOG, 20.0, "out-of-memory", "exceeded 0.5 GiB of memory"),
    ],
)
def test_a_failure_costs_one_call_and_a_fresh_child_is_there_at_once(
    sandbox: Sandbox, index: int, timeout: float, kind: str, text: str
) -> None:
    forkserver = forkserver_of(sandbox)
    before = sandbox.child_pid
    answer = failure(build(sandbox, index, timeout))
    assert (answer.kind, answer.text) == (kind, text)
    failed = time.monotonic()
    assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])
    assert time.monotonic() - failed < 1
    assert sandbox.child_pid != before
    assert forkserver_of(sandbox) == forkserver


def test_an_answer_that_stalls_is_told_from_one_that_never_began(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stall(*_: object) -> None:
        raise TimeoutError("timed out")

    with monkeypatch.context() as patch:
        patch.setattr(sandbox_module.frames, "receive", stall)
        answer = failure(build(sandbox, GOOD))
    assert (answer.kind, answer.text) == ("timed-out", "began to answer and did not finish within 10 s")


@pytest.mark.alone
def test_a_limit_of_cpu_time_ends_who_works_and_not_who_waits(sandbox: Sandbox) -> None:
    began = time.monotonic()
    work = "\n".join(["tasks:", *(f"  - {{name: t{n}}}" for n in range(30_000))]).encode()
    call = ImportCall(model=work, target="mock")
    answer = failure(sandbox.call("mock", Platform.import_model, call, 60.0, 0.2))
    assert (answer.kind, answer.text) == ("timed-out", "exceeded 0.2 s of CPU time")
    assert time.monotonic() - began < 5
    answer = failure(build(sandbox, HANG, 1.0, 0.2))
    assert (answer.kind, answer.text) == ("timed-out", "exceeded 1 s")
    assert isinstance(build(sandbox, GOOD, 1.0, 0.2), BuildOutcome)


def test_an_engine_may_set_its_process_a_limit(sandbox: Sandbox) -> None:
    threading.Timer(0.3, lambda: os.kill(sandbox.child_pid or 0, signal.SIGPROF)).start()
    answer = failure(build(sandbox, HANG, 20.0))
    assert (answer.kind, answer.text) == ("timed-out", "exceeded the CPU time that its engine gave it")


def test_the_time_limit_ends_what_the_child_has_started(sandbox: Sandbox) -> None:
    found: list[psutil.Process] = []
    assert sandbox.child_pid is not None
    child = psutil.Process(sandbox.child_pid)
    threading.Timer(0.5, lambda: found.extend(child.children(recursive=True))).start()
    assert failure(build(sandbox, HANG, 1.0)).kind == "timed-out"
    assert [each.pid for each in found]
    assert not wait_until_gone(found, 1.0)


def test_what_the_child_wrote_is_in_the_error(sandbox: Sandbox) -> None:
    assert sandbox.child_pid is not None
    output = Path(f"/proc/{sandbox.child_pid}/fd/2")

    def complain() -> None:
        with output.open("a") as file:
            file.write("ld: cannot find -lm\n")
        os.kill(sandbox.child_pid or 0, signal.SIGABRT)

    threading.Timer(0.3, complain).start()
    assert failure(build(sandbox, HANG)).text == "killed by SIGABRT: ld: cannot find -lm"


def test_a_child_that_dies_while_it_is_written_to_costs_that_call(sandbox: Sandbox) -> None:
    """And not the worker, whose process has imported the command line."""
    importlib.import_module("tunemesh.cli")
    assert sandbox.child_pid is not None
    child = psutil.Process(sandbox.child_pid)
    child.suspend()  # so that the socket fills up
    threading.Timer(1.5, child.kill).start()  # by then it is written to, on a busy machine too
    large = TargetCall(target="mock" + "x" * 50_000_000)
    answer = failure(sandbox.call("mock", Platform.resolve_target, large, 20))
    assert (answer.kind, answer.text) == ("crashed", "killed by SIGKILL")
    assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])


@pytest.mark.parametrize("victim", ["child", "forkserver"])
def test_a_process_that_dies_while_idle_is_replaced(sandbox: Sandbox, victim: str) -> None:
    forkserver = forkserver_of(sandbox)
    forkserver.kill() if victim == "forkserver" else os.kill(sandbox.child_pid or 0, signal.SIGKILL)
    time.sleep(0.2)
    for _ in range(2):
        assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])


def test_a_call_whose_fork_server_is_killed_is_made_again(sandbox: Sandbox) -> None:
    forkserver = forkserver_of(sandbox)
    threading.Timer(0.3, forkserver.kill).start()
    began = time.monotonic()
    # It hangs as before, and has its full time again.
    assert failure(build(sandbox, HANG, 1.5)) == CallFailure("timed-out", "exceeded 1.5 s")
    assert time.monotonic() - began > 1.7
    assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])


def test_a_call_whose_fork_server_is_killed_every_time_fails_in_the_end(sandbox: Sandbox) -> None:
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.2):
            for each in fork_servers():
                if each.children():  # it has forked, so that a call runs
                    each.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        answer = failure(build(sandbox, HANG, 30.0))
    finally:
        ended.set()
        thread.join()
    assert (answer.kind, answer.text) == ("crashed", "the sandbox's processes were killed")
    assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.1, 0.3])
def test_a_fork_server_that_is_killed_while_it_starts_is_nobodys_failure(moment: float) -> None:
    """As often as somebody likes: at once, while it imports, while it forks."""
    with Sandbox(["mock"], memory=MEMORY) as sandbox:
        killed = 0
        deadline = time.monotonic() + 15
        while killed < 5 and time.monotonic() < deadline:
            time.sleep(moment)
            for each in fork_servers():
                each.kill()
                killed += 1
            sandbox.ready(0.2)
        assert killed >= 5
        assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])


def test_a_call_waits_for_a_fork_server_that_keeps_being_killed() -> None:
    with Sandbox(["mock"], memory=MEMORY) as sandbox:
        ended = threading.Event()

        def kill() -> None:
            for _ in range(6):
                for each in fork_servers():
                    each.kill()
                time.sleep(0.1)
            ended.set()

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])
            assert ended.is_set() or sandbox.child_pid is not None
        finally:
            thread.join()


@pytest.mark.parametrize(
    "line", ["sys.exit('no')", "os.abort()", "os.kill(os.getpid(), signal.SIGILL)", "os._exit(3)"]
)
def test_an_engine_that_ends_whoever_imports_it_disturbs_no_other(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ending.py").write_text(f"import os, signal, sys\n{line}\n")
    described = tmp_path / "ending-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: ending\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[tunemesh.engines]\nending = ending:Engine\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    with Sandbox(["ending", "mock"], memory=MEMORY) as sandbox:
        deadline = time.monotonic() + 20
        while not sandbox.ready(0.5):
            assert time.monotonic() < deadline
        assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])
        failure(sandbox.call("ending", Engine.check_options, {}, 10))
        assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])


def test_an_abort_ends_the_wait_for_a_fork_server_that_cannot_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Sandbox(["mock"], memory=MEMORY) as sandbox:
        threading.Timer(1.0, sandbox.abort).start()
        with pytest.raises(Abandoned):
            build(sandbox, GOOD)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["the fork server has ended (exited with status 1); trying again"]


def test_a_fork_server_that_hangs_is_started_again_and_an_old_one_is_not(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "PRELOAD_LIMIT", 2.0)
    monkeypatch.setattr(processes, "GONE_LIMIT", 1.0)
    time.sleep(2.2)
    forkserver = forkserver_of(sandbox)
    assert failure(build(sandbox, CRASH)).kind == "crashed"
    sandbox.ready(0.0)  # the next child is not there yet
    assert sandbox.ready(2.0)
    assert forkserver_of(sandbox) == forkserver
    forkserver.suspend()
    os.kill(sandbox.child_pid or 0, signal.SIGKILL)
    assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])
    assert forkserver_of(sandbox) != forkserver


def test_a_machine_without_room_for_a_process_is_nobodys_failure(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    real, refusals = subprocess.Popen, [0]

    def full(*args: Any, **options: Any) -> Any:
        refusals[0] += 1
        if refusals[0] < 3:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", full)
    forkserver_of(sandbox).kill()
    time.sleep(0.1)
    assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])
    assert refusals[0] == 3


def test_a_child_that_announces_too_much_is_killed_and_reported(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says is not collected: the worker would need the memory."""
    child, real = psutil.Process(sandbox.child_pid), frames.receive
    with monkeypatch.context() as patch:
        # An honest child cannot reach its own limit.
        patch.setattr(frames, "receive", lambda peer, _limit, deadline: real(peer, 10_000, deadline))
        large = TargetCall(target="mock" * 5_000)
        answer = failure(sandbox.call("mock", Platform.resolve_target, large, 20))
    assert answer.kind == "crashed"
    assert answer.text == "announced 20,023 bytes; it may allocate 536,870,912"
    assert not wait_until_gone([child], 1.0)
    assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])


def test_secrets_and_the_working_folder_of_the_worker_do_not_reach_the_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("queue", "random", "struct", "msgspec", "yaml", "tunemesh"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNEMESH_BROKER_URL", "amqp://worker:canary-1@host/tunemesh")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-2")
    monkeypatch.setenv("TVM_TOKEN", "canary-3")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", str(ROOT)]))
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    with Sandbox(["mock"], memory=MEMORY) as sandbox:
        assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])
        for process in (psutil.Process(sandbox.child_pid), forkserver_of(sandbox)):
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            assert b"canary" not in environment
            assert b"OMP_PROC_BIND=false" in environment
            folder = Path(process.cwd())
            assert folder != tmp_path
            assert os.listdir(f"/proc/{process.pid}/root/{folder}") == ["tmp"]
            assert process.environ()["TMPDIR"] == str(folder / "tmp")
            assert process.environ()["HOME"] == str(folder)
    assert not folder.parent.exists()


def test_an_abort_ends_the_call_and_the_sandbox(sandbox: Sandbox) -> None:
    threading.Timer(0.3, sandbox.abort).start()
    started = time.monotonic()
    with pytest.raises(Abandoned):
        build(sandbox, HANG)
    assert time.monotonic() - started < 2
    with pytest.raises(Abandoned):
        build(sandbox, GOOD)


def test_temporary_files_of_a_killed_child_are_removed(sandbox: Sandbox) -> None:
    temporary = psutil.Process(sandbox.child_pid).environ()["TMPDIR"]
    (inside(sandbox, temporary) / "tunemesh-link-1").mkdir()
    locked = inside(sandbox, temporary) / "locked"
    (locked / "deeper").mkdir(parents=True)
    os.chown(locked, os.stat(inside(sandbox, temporary)).st_uid, -1)
    locked.chmod(0)
    assert failure(build(sandbox, HANG, 0.3)).kind == "timed-out"
    assert sandbox.ready(5)
    assert list(inside(sandbox, temporary).iterdir()) == []


def test_folders_of_dead_workers_are_swept_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes.tempfile, "tempdir", str(tmp_path))
    dead, strange = tmp_path / f"{processes.PREFIX}dead", tmp_path / "tunemesh-other"
    dead.mkdir()
    strange.mkdir()
    with Sandbox(["mock"], memory=MEMORY):
        (living,) = set(tmp_path.glob(f"{processes.PREFIX}*")) - {dead}
        assert dead.exists()  # its worker may be about to lock it
        monkeypatch.setattr(processes, "UNLOCKED_LIMIT", -1.0)
        processes.sweep(tmp_path)
        assert (dead.exists(), strange.exists(), living.exists()) == (False, True, True)
    assert not living.exists()


def test_nothing_is_left_after_stop() -> None:
    sandbox = Sandbox(["mock"], memory=MEMORY)
    sandbox.start()
    assert sandbox.ready(20)
    forkserver = forkserver_of(sandbox)
    family = [forkserver, *forkserver.children(recursive=True)]
    sandbox.stop()
    assert not wait_until_gone(family, 1.0)
    sandbox.stop()


def test_children_have_their_own_cores_limits_and_group() -> None:
    core = min(os.sched_getaffinity(0))
    with Sandbox(["mock"], memory=MEMORY, cpus=[core], environment={"TUNEMESH_TEST": "x"}) as sandbox:
        assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])
        child = psutil.Process(sandbox.child_pid)
        assert child.cpu_affinity() == [core]
        limits = Path(f"/proc/{child.pid}/limits").read_text()
        assert re.search(rf"Max data size +{MEMORY} +{MEMORY} ", limits)
        assert child.environ()["TUNEMESH_TEST"] == "x"
        assert os.getpgid(child.pid) == child.pid


@pytest.mark.skipif(not allocator.environment(), reason="jemalloc is not installed, or not to be used")
def test_children_have_the_allocator_that_they_are_started_with() -> None:
    with Sandbox(["mock"], memory=MEMORY, environment=allocator.environment()) as sandbox:
        assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])
        assert "jemalloc" in Path(f"/proc/{sandbox.child_pid}/maps").read_text()
        assert failure(build(sandbox, MEMORY_HOG)).kind == "out-of-memory"
        assert build(sandbox, GOOD) == BuildOutcome(artifact=SCHEDULES[GOOD])


def test_the_allocator_is_not_for_what_the_children_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(allocator.PRELOAD, raising=False)
    chosen = allocator.environment()
    monkeypatch.setenv(allocator.PRELOAD, "libother.so")
    assert allocator.environment() == {}
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    allocator.not_for_children()
    assert allocator.PRELOAD not in os.environ


@pytest.mark.parametrize("index", [HANG, MEMORY_HOG], ids=["waiting", "busy"])
def test_a_killed_worker_takes_everything_with_it(index: int) -> None:
    command = [sys.executable, "-c", WORKER, TASK.workload.hex(), SCHEDULES[index].hex()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        time.sleep(0.4)
        family = psutil.Process(worker.pid).children(recursive=True)
        children = [each for each in family if each.name() != "bwrap"]
        assert len(children) == (3 if index == HANG else 2)
        worker.kill()
        left = wait_until_gone(family, 1.0)
        for each in left:
            each.kill()
        assert not left
