"""The process that sandbox children are forked from, and what such a child does.

The fork server imports an engine once (25 s for TVM) and then forks a child whenever the sandbox asks for
one, in milliseconds. It has one child at a time and no threads. All of it dies with its worker: worker, fork
server and child are tied by ``PR_SET_PDEATHSIG``, which the kernel delivers whatever the code is doing. The
fork server uses its last moment to kill the child's group, and with it what the child has started.

On the control socket the sandbox sends the child's socket (as a file descriptor); the fork server answers
with the child's process id and a descriptor of the child, for the id may mean nothing outside of its
namespace; and with its wait status once it has ended. Before all that it sends what it imports: 0 for the
first engine, -1 for the second, and minus their number when it has imported them all.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import shutil
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Collection, Mapping
from types import FrameType
from typing import Any, NamedTuple

import msgspec

from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.text import clip
from tunemesh.stage_workers import engines, platforms
from tunemesh.stage_workers.engines.protocol import Engine
from tunemesh.stage_workers.graph.errors import is_memory_error
from tunemesh.stage_workers.platforms.protocol import Platform
from tunemesh.stage_workers.sandbox import allocator, confinement, frames
from tunemesh.stage_workers.sandbox.confinement import Confinement, Settled
from tunemesh.stage_workers.sandbox.withholding import withhold

PR_SET_PDEATHSIG = 1
NUMBER = struct.Struct("<q")
TEMPORARY = "tmp"
"""Of the working folder, where temporary files go."""
_child: list[int] = []
"""Process id of the present child, for the signal handler."""
_scratch: list[str] = []
"""The folder that nobody needs once the worker is gone, for the same."""
_alone: list[bool] = []
"""Whether whatever can be killed is ours, for the same."""


class ForkserverSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a fork server is told on its command line."""

    parent: int | None
    """Process id of the worker; ``None`` where it is not seen from here."""
    control: int
    """File descriptor of the control socket."""
    preload: list[str]
    """Engines to import before the first fork."""
    platforms: list[str]
    """Platforms, likewise."""
    folder: str
    """The sandbox's folder, which nobody needs once the worker is gone."""
    scratch: str
    """The working folder: empty, and theirs alone."""
    confinement: Confinement
    """What they give up."""
    alone: bool
    """Whether all that this process can signal is its own: in a namespace, or of a user of their own."""
    memory: int
    """Bytes of data that a child may allocate."""
    cpus: list[int] | None
    """Cores for the fork server and its children; all that the worker has when ``None``."""


def main(argument: str) -> None:
    """Run a fork server until its worker goes away."""
    settings = msgspec.json.decode(argument, type=ForkserverSettings)
    allocator.not_for_children()
    _scratch.append(settings.folder)
    _alone.append(settings.alone)
    signal.signal(signal.SIGTERM, _orphaned)
    # A change of the user would undo what is asked of the kernel before it.
    settled = confinement.settle(settings.confinement)
    if settings.parent is not None:
        _die_with(settings.parent, signal.SIGTERM)
    if settings.cpus is not None:
        os.sched_setaffinity(0, settings.cpus)
    # Thread pools in the libraries (OpenMP, TVM) would count the machine's cores, not ours.
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    # TVM imports PyTorch where it is installed, for tensors that nobody has here: 0.3 GB and seconds for each
    # process. An engine that needs it has it provided again when it is imported.
    withhold("torch")
    with socket.socket(fileno=settings.control) as control:
        for index, name in enumerate(settings.preload):
            control.sendall(NUMBER.pack(-index))
            _prepare(engines.load, name)
        control.sendall(NUMBER.pack(-len(settings.preload)))
        for name in settings.platforms:
            _prepare(platforms.load, name)
        gc.collect()
        gc.freeze()
        # Where children can write besides, there may be ways to what they read.
        writable = [each for each in settings.confinement.writable if each != settings.scratch]
        ways = {each: frozenset(os.listdir(each)) for each in writable}
        while _fork_child(control, settings, settled, ways):
            pass


def _prepare(load: Callable[[str], Engine | Platform], name: str) -> None:
    try:
        load(name).preload()
    except BaseException:  # sys.exit() too; the first call will say it to the person who asked for it
        traceback.print_exc()


def _fork_child(
    control: socket.socket,
    settings: ForkserverSettings,
    settled: Settled,
    ways: Mapping[str, Collection[str]],
) -> bool:
    """Fork one child and wait for its end. ``False`` when the worker is gone.

    Args:
        ways: folders that children can write to beside the working folder, with what is in them for good.
    """
    request, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    if not request:
        return False
    forkserver = os.getpid()
    _child.clear()
    _tidy(settings.scratch)
    os.mkdir(os.path.join(settings.scratch, TEMPORARY))
    for folder, kept in ways.items():
        _tidy(folder, kept)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        status = 1
        try:
            control.close()
            with socket.socket(fileno=descriptors[0]) as worker:
                _limit_child(forkserver, settings, settled)
                _serve(worker, settings.memory)
            status = 0
        except BaseException:  # a defect of ours: the sandbox passes on what was printed
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(descriptors[0])
    os.setpgid(pid, pid)
    _child.append(pid)
    itself = os.pidfd_open(pid)
    try:
        socket.send_fds(control, [NUMBER.pack(pid)], [itself])
    finally:
        os.close(itself)
    # The child's group ends with it, before its id can belong to somebody else: a linker, for example.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _kill_strays()
    _child.clear()
    _, status = os.waitpid(pid, 0)
    control.sendall(NUMBER.pack(status))
    return True


def _tidy(folder: str, kept: Collection[str] = ()) -> None:
    """Remove what a child has left: temporary files of one that was killed, or things meant for the next one.

    Raises:
        OSError: it cannot be removed, so that this fork server must not be used again.
    """
    for entry in os.scandir(folder):
        if entry.name in kept:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, onerror=_open_up)
        else:
            os.unlink(entry.path)


def _open_up(remove: Callable[..., object], path: str, _error: object) -> None:
    """A folder that its owner has locked itself out of."""
    os.chmod(os.path.dirname(path), 0o700)
    os.chmod(path, 0o700)
    if remove in (os.rmdir, os.unlink):
        remove(path)
    else:
        shutil.rmtree(path)


def _kill_strays() -> None:
    """End what has left the child's group."""
    if any(_alone):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(-1, signal.SIGKILL)


def _limit_child(forkserver: int, settings: ForkserverSettings, settled: Settled) -> None:
    """What sets a child apart: its death signal, its group, its limits, and what it gives up."""
    _die_with(forkserver, signal.SIGKILL)
    os.setpgid(0, 0)
    # RLIMIT_DATA, not RLIMIT_AS: CUDA reserves address space by the terabyte and never writes to it.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    memory = settings.memory if hard == resource.RLIM_INFINITY else min(settings.memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # If the machine runs out of memory after all, this one goes first; not every container lets us say so.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("900")
    confinement.enter(settled)


def _serve(worker: socket.socket, memory: int) -> None:
    while True:
        try:
            call = _next(worker, memory)
            if call is None:
                return
            reply = msgspec.msgpack.encode(call if isinstance(call, frames.Reply) else _answer(call))
        except MemoryError:  # the argument or the answer alone is too much
            reply = msgspec.msgpack.encode(frames.Reply("out-of-memory"))
        call = None  # its memory, before the next one
        frames.send(worker, reply)


class _Called(NamedTuple):
    """A call whose argument is decoded, so that the frame is no longer needed: both hold a model's bytes."""

    protocol: frames.ProtocolName
    callee: str
    method: str
    record: Any


def _next(worker: socket.socket, memory: int) -> _Called | frames.Reply | None:
    """The next call; the answer to one that cannot be understood; ``None`` when the worker is gone."""
    frame = frames.receive(worker, memory)
    if frame is None:
        return None
    try:
        call = msgspec.msgpack.decode(frame, type=frames.Call)
        record = msgspec.msgpack.decode(call.record, type=frames.record_type(call.protocol, call.method))
    except MemoryError:
        raise
    except Exception as error:
        return _raised(error)
    return _Called(call.protocol, call.callee, call.method, record)


def _answer(call: _Called) -> frames.Reply:
    try:
        load = engines.load if call.protocol == "Engine" else platforms.load
        value = getattr(load(call.callee), call.method)(call.record)
        return frames.Reply("value", value=msgspec.Raw(msgspec.msgpack.encode(value)))
    except TunemeshError as error:
        return frames.Reply("refused", error=type(error).__name__, text=clip(str(error)))
    except BaseException as error:  # SystemExit and the like are no way out of here
        return frames.Reply("out-of-memory") if is_memory_error(error) else _raised(error)


def _raised(error: BaseException) -> frames.Reply:
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f" ({os.path.basename(place.filename)}:{place.lineno})"
    return frames.Reply("raised", text=clip(f"{type(error).__name__}: {error}") + where)


def _orphaned(_number: int, _frame: FrameType | None) -> None:
    for pid in _child:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _kill_strays()
    for folder in _scratch:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _die_with(parent: int, number: signal.Signals) -> None:
    """Ask the kernel for signal ``number`` when ``parent`` dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)
