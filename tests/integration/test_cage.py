"""What engines, models and kernels try, and cannot do: each attempt works where there is no cage."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.test_sandbox import ROOT
from tunemesh import doctor
from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.devices.devices import Device
from tunemesh.stage_workers.engines.protocol import Engine
from tunemesh.stage_workers.sandbox import cage, landlock
from tunemesh.stage_workers.sandbox.confinement import Mode
from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox

pytestmark = pytest.mark.waiting

MEMORY = 200 * 2**20
LARGE = 110 * 2**20
"""Bytes: more than the half of that, which temporary files may have."""
MOST = 60
"""Processes that a sandbox may have here."""
DONE = "done"

ENGINE = '''
from tunemesh import doctor
from tunemesh.shared.errors import BadInput

class Hostile:
    """Runs what it is told, and says what came of it."""
    name, format = "hostile", 1

    def preload(self): pass

    def check_options(self, options):
        names = dict(options)
        try:
            exec(names.pop("code"), names)
        except BaseException as error:
            raise BadInput(f"{type(error).__name__}: {error}")
        raise BadInput(str(names.get("result", "done")))
'''

HELD = {
    "read the secret in the environment of its worker": "open(f'/proc/{victim}/environ').read()",
    "read the memory of its worker": "open(f'/proc/{victim}/mem', 'rb')",
    "trace its worker": """
import ctypes
if ctypes.CDLL(None, use_errno=True).ptrace(16, int(victim), 0, 0): raise OSError(ctypes.get_errno(), '')
""",
    "stop its worker": "import os, signal; os.kill(int(victim), signal.SIGCONT)",
    "read a file of the person": "open(home + '/.ssh').read()",
    "list what others have in the folder for temporary files": "import os; os.listdir(home)",
    "write a file": "open(home + '/written', 'w')",
    "connect to the broker": "import socket; socket.create_connection(('127.0.0.1', int(port)), 2)",
    "send a datagram": """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', int(port)))
""",
    "connect to a service of the machine": """
import socket
socket.socket(socket.AF_UNIX).connect(home + '/service')
""",
    "write a file that is too large": """
import os
with open(os.environ['HOME'] + '/large', 'wb') as file:
    file.seek(int(large)); file.write(b'x'); file.flush()
""",
    "start processes without end": """
import os, signal, time
started = []
try:
    for _ in range(2 * int(most)):
        pid = os.fork()
        if pid == 0:
            time.sleep(60); os._exit(0)
        started.append(pid)
finally:
    for pid in started: os.kill(pid, signal.SIGKILL)
    for pid in started: os.waitpid(pid, 0)
""",
    "have keys of the kernel": """
import ctypes
if ctypes.CDLL(None, use_errno=True).syscall(250, 0, -3, 0) < 0: raise OSError(ctypes.get_errno(), 'keyctl')
""",
}  # fmt: skip
"""Attempts, by what they are for. All of them work where there is no cage."""

HELD_FOR_ALL = {
    "have more processes than it was given": """
import resource; resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))
""",
    "leave a core file": "import resource; resource.setrlimit(resource.RLIMIT_CORE, (1, 1))",
    "mount something": """
import ctypes
failed = ctypes.CDLL(None, use_errno=True).mount(b'none', b'/tmp', b'tmpfs', 0, None)
if failed: raise OSError(ctypes.get_errno(), '')
""",
    "make namespaces of its own": """
import ctypes
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000): raise OSError(ctypes.get_errno(), '')
""",
    "change a setting of the kernel": "open('/proc/sys/kernel/core_pattern', 'w')",
    "read a disk": "import glob; [open(each, 'rb').read(1) for each in glob.glob('/dev/[vs]da')] + [1 / 0]",
}
"""Attempts that root alone can make, or that would harm the machine: nobody makes them without a cage."""


def available() -> list[Mode]:
    found: list[Mode] = ["bare"]
    for mode in cage.MODES:
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(BadInput):
            patch.setenv(cage.WANTED, mode)
            if mode != "bare":
                cage.choose({}, gpu=False, memory=2**28, size=2**27).groups.remove()
                found.append(mode)
    return found


AVAILABLE = available()


class Hostile:
    """A sandbox with an engine that runs any code, and what it goes for."""

    def __init__(self, sandbox: Sandbox, mode: Mode, names: dict[str, str]) -> None:
        self.sandbox = sandbox
        self.mode = mode
        self._names = names

    def attempt(self, code: str) -> str:
        """What came of it: ``done``, or the error."""
        options: dict[str, float | int | str] = {"code": code, **self._names}
        try:
            answer = self.sandbox.call("hostile", Engine.check_options, options, 20)
        except BadInput as said:
            return str(said)
        assert isinstance(answer, CallFailure), answer
        return answer.text


@pytest.fixture(scope="module", params=cage.MODES)
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    mode = request.param
    if mode not in AVAILABLE:
        pytest.skip(f"a cage of {mode} does not work here")
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "engine").mkdir()
    (folder / "engine" / "hostile.py").write_text(ENGINE)
    described = folder / "engine" / "hostile-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[tunemesh.engines]\nhostile = hostile:Hostile\n")
    home = folder / "home"
    home.mkdir()
    (home / ".ssh").write_text("secret")
    for each in (*folder.parents, folder, home):
        if each.stat().st_uid == os.getuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o755)  # another user could read it, but for the cage
    home.chmod(0o777)
    with (
        pytest.MonkeyPatch.context() as patch,
        socket.create_server(("127.0.0.1", 0)) as broker,
        socket.socket(socket.AF_UNIX) as service,
        subprocess.Popen(["sleep", "600"], env={"SECRET": "amqp://worker:password@host"}) as victim,
    ):
        service.bind(str(home / "service"))
        service.listen()
        (home / "service").chmod(0o777)
        patch.setenv("HOME", str(home))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "engine"), str(ROOT)]))
        patch.setenv(cage.WANTED, mode)
        patch.setattr(cage, "PROCESSES", MOST)
        patch.setattr(os, "cpu_count", lambda: 0)
        patch.setattr(cage, "_tasks", lambda: MOST - 4 * cage._processes() + len(psutil.pids()))
        names = {
            "victim": str(victim.pid), "home": str(home), "port": str(broker.getsockname()[1]),
            "large": str(LARGE), "most": str(MOST),
        }  # fmt: skip
        with Sandbox(["hostile"], memory=MEMORY) as sandbox:
            assert sandbox.cage.startswith(mode)
            assert sandbox.ready(20)
            yield Hostile(sandbox, mode, names)
        victim.kill()


@pytest.mark.parametrize("attempt", HELD)
def test_what_works_without_a_cage_does_not_work_in_one(hostile: Hostile, attempt: str) -> None:
    found = hostile.attempt(HELD[attempt])
    if hostile.mode == "bare":
        assert found == DONE
    else:
        assert re.match(r"\w*Error: ", found), found
    assert hostile.attempt("") == DONE


@pytest.mark.parametrize("attempt", HELD_FOR_ALL)
def test_what_nobody_may_try_does_not_work_in_a_cage(hostile: Hostile, attempt: str) -> None:
    if hostile.mode == "bare":
        pytest.skip("not to be tried without one")
    found = hostile.attempt(HELD_FOR_ALL[attempt])
    assert re.match(r"\w*Error: ", found), found


def test_a_child_names_its_threads_as_the_driver_of_a_gpu_does(hostile: Hostile) -> None:
    name = """
import threading
started = threading.Event()
thread = threading.Thread(target=started.wait)
thread.start()
own = f'/proc/self/task/{thread.native_id}/comm'
try: open(own, 'w').write('named')
finally: started.set()
thread.join()
"""
    assert hostile.attempt(name) == DONE


def test_who_leaves_its_session_ends_with_the_call_all_the_same(hostile: Hostile) -> None:
    unique = f"{600 + time.monotonic():.6f}"
    hostile.attempt(
        f"""
import os
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork() == 0: os.execvp('sleep', ['sleep', '{unique}'])
    os._exit(0)
os.wait()
"""
    )

    def there() -> list[psutil.Process]:
        found = []
        for each in psutil.process_iter(["cmdline"]):
            if unique in (each.info["cmdline"] or ()):
                found.append(each)
        return found

    deadline = time.monotonic() + 5
    while not there() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert there()
    hostile.sandbox.renew()
    assert hostile.attempt("") == DONE
    left = there()
    for each in left:
        each.kill()
    assert bool(left) == (hostile.mode == "bare")


def test_a_child_finds_nothing_that_the_one_before_it_has_left(hostile: Hostile) -> None:
    leave = "import os; os.mkdir('left'); open('left/file', 'w'); os.chmod('left', 0)"
    assert hostile.attempt(leave) == DONE
    hostile.sandbox.renew()
    assert hostile.attempt("import os; result = sorted(os.listdir('.'))") == "['tmp']"


def test_the_folder_for_temporary_files_of_a_cage_is_empty_again_too(hostile: Hostile) -> None:
    if hostile.mode != "namespaces":
        pytest.skip("it is everybody's")
    # Some compilers make temporary files in /tmp, whatever they are told.
    leave = "import os, tempfile; os.chmod(tempfile.mkdtemp('left', dir='/tmp'), 0)"
    assert hostile.attempt(leave) == DONE
    hostile.sandbox.renew()
    assert hostile.attempt("import os; result = [n for n in os.listdir('/tmp') if 'left' in n]") == "[]"


def test_a_child_cannot_end_the_process_that_the_next_one_comes_from(hostile: Hostile) -> None:
    if hostile.mode == "bare" or landlock.version() < 6:
        pytest.skip("needs Landlock 6")
    found = hostile.attempt("import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    assert found.startswith("PermissionError")


def test_temporary_files_together_have_a_limit_in_a_namespace(hostile: Hostile) -> None:
    if hostile.mode != "namespaces":
        pytest.skip("they lie on the disk")
    fill = (
        "import os; [os.posix_fallocate(os.open(str(n), os.O_CREAT | os.O_RDWR), 0, 2**25) for n in range(4)]"
    )
    assert hostile.attempt(fill).startswith("OSError: [Errno 28]")
    hostile.sandbox.renew()


def test_all_processes_of_a_call_together_have_a_limit_of_memory(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cage, "OVERHEAD", 0)
    take = f"""
import os, time
started = []
for _ in range(3):
    started.append(os.fork())
    if started[-1] == 0:
        taken = b'x' * {MEMORY // 2}
        time.sleep(1.5)
        os._exit(0)
result = [os.waitpid(pid, 0)[1] for pid in started]
"""
    with Sandbox(["hostile"], memory=MEMORY) as sandbox:
        limited = "memory" in sandbox.cage
        if not limited and hostile.mode != "bare":
            pytest.skip("no control groups may be made here")
        assert sandbox.ready(20)
        assert (Hostile(sandbox, hostile.mode, {}).attempt(take) == "[0, 0, 0]") == (not limited)


def test_the_worker_says_which_cage_it_has(hostile: Hostile) -> None:
    said = hostile.sandbox.cage
    if hostile.mode == "bare":
        assert said == "bare"
    else:
        assert "seccomp" in said
        assert landlock.version() == 0 or f"landlock {landlock.version()}" in said


def test_a_cage_that_is_not_there_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cage.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(cage.landlock, "version", lambda: 0)
    monkeypatch.delenv(cage.WANTED, raising=False)
    with pytest.raises(BadInput, match=r"bubblewrap is missing.*no Landlock.*TUNEMESH_CAGE=bare") as refused:
        Sandbox(["mock"], memory=MEMORY)
    assert "\n" not in str(refused.value)
    monkeypatch.setenv(cage.WANTED, "iron")
    with pytest.raises(BadInput, match="TUNEMESH_CAGE is 'iron'; known: auto, namespaces, landlock, bare"):
        Sandbox(["mock"], memory=MEMORY)


@pytest.mark.parametrize("broken", [False, True])
def test_the_doctor_says_whether_a_device_works_in_its_cage(broken: bool) -> None:
    device = Device("cpu:0", "cpu", ("doctor-of-the-tests",))
    target = "mock broken=0-9999999999" if broken else "mock"
    finding = doctor.device_works(device, target)
    assert (finding.what, finding.ok) == ("device cpu:0", not broken)
    if broken:
        assert "mock device: error 304" in finding.found
        assert "TUNEMESH_CAGE=bare" in finding.advice
    else:
        assert finding.found == "works: its reference kernel takes 1000 us"
