"""Which files a child may see: what Python, engines and compilers are made of, and nothing of a person's."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import tunemesh
from tunemesh.stage_workers import engines

READ = "TUNEMESH_CAGE_READ"
"""Further files and folders, with colons between them: a person lets children read them."""

SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store",
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/OpenCL", "/sys",
)  # fmt: skip
"""Of the system what is the same for everybody: programs and libraries, what the machine is. Not ``/etc`` as
a whole, no ``/home``, ``/root``, ``/run``, ``/tmp``, ``/var``."""
_FOLDERS_OF = (
    "LD_LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH",
    "CUDA_HOME", "CUDA_PATH", "PYTHONPATH", "PYTHONUSERBASE", "VIRTUAL_ENV",
)  # fmt: skip
"""Variables of a child that hold folders which it reads."""
_PROGRAMS_OF = ("CC", "CXX", "NVCC_CCBIN")
"""Variables that name a compiler. What it is made of lies beside its folder."""
_PROGRAMS = ("cc", "gcc", "g++", "clang", "ld", "nvcc")
PLAIN_DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))


def readable(environment: Mapping[str, str]) -> list[str]:
    """Absolute paths that are there, none inside of another.

    Args:
        environment: that of the children.
    """
    found: set[str] = set()
    for path in _candidates(environment):
        # Both names: what a link is called, and where it leads.
        found |= {os.path.abspath(path), os.path.realpath(path)}
    kept = sorted(each for each in found if os.path.exists(each) and not _too_much(each))
    return [each for each in kept if not any(_inside(each, other) for other in kept if other != each)]


def _candidates(environment: Mapping[str, str]) -> Iterator[str]:
    yield from SYSTEM
    yield from (sys.prefix, sys.base_prefix, sys.exec_prefix)
    # The first is where a person works, or where the program lies, and is not on a child's path.
    yield from (each for each in sys.path[1:] if os.path.isabs(each) and each != os.getcwd())
    package = Path(tunemesh.__file__).resolve().parent
    yield str(package)
    yield from (str(each.resolve()) for each in package.iterdir() if each.is_symlink())
    yield from _engines()
    for name in _FOLDERS_OF:
        yield from (each for each in environment.get(name, "").split(os.pathsep) if os.path.isabs(each))
    for name in (*_PROGRAMS, *(environment.get(each, "") for each in _PROGRAMS_OF)):
        program = shutil.which(name, path=environment.get("PATH"))
        if program is not None:
            yield str(Path(program).resolve().parents[1])
    yield from (each for each in os.environ.get(READ, "").split(os.pathsep) if os.path.isabs(each))


def _engines() -> Iterator[str]:
    """Packages of engines, wherever they are installed; they are found and not imported."""
    for point in importlib.metadata.entry_points(group=engines.GROUP):
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(point.module.partition(".")[0])
            if spec is not None:
                yield from spec.submodule_search_locations or ()
                if spec.origin is not None and not spec.submodule_search_locations:
                    yield spec.origin


def _too_much(path: str) -> bool:
    """Whether it holds this person's home, or everything."""
    return path == "/" or _inside(os.path.realpath(os.path.expanduser("~")), path)


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def gpus() -> list[str]:
    """Device files of NVIDIA's driver."""
    if not os.path.exists("/dev/nvidiactl"):
        return []
    if not os.path.exists("/dev/nvidia-uvm") and (helper := shutil.which("nvidia-modprobe")):
        # Who is caged cannot have it made: the program needs its owner's rights.
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([helper, "-c=0", "-u"], capture_output=True, timeout=20.0, check=False)
    return sorted(str(each) for each in Path("/dev").glob("nvidia*"))


def readable_by_others(paths: list[str]) -> bool:
    """Whether another user may read them, and so work with them. Folders are entered as far as to their
    entries: packages are installed with the same rights throughout."""
    return all(_open_to_others(path) for path in paths if path not in SYSTEM)


def _open_to_others(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
        if os.path.isdir(path):
            entries = [each for each in os.scandir(path) if each.name != "__pycache__"]
            return mode & 0o5 == 0o5 and all(_mode(each) & 0o4 for each in entries)
        return bool(mode & 0o4)
    except OSError:
        return False


def _mode(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_mode
    except OSError:  # a link that leads nowhere
        return 0o4


def passable(paths: list[str]) -> bool:
    """Whether another user may go to them, where they are not mounted anew."""
    return all(os.stat(each).st_mode & 0o1 for path in paths for each in Path(path).parents)
