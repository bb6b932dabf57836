"""The environment that child processes are started with: by an allow-list, so that no secret gets in.

A child of the same user could still read its parent's in ``/proc``; :func:`keep_private` is against that.
It does not hold off a child that runs as root.
"""

from __future__ import annotations

import ctypes
import os
import site
from collections.abc import Mapping

ALLOWED = frozenset(
    {
        "PATH",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "VIRTUAL_ENV",
        "NO_COLOR",
        # Compilers and linkers.
        "CC",
        "CXX",
        "CPATH",
        "C_INCLUDE_PATH",
        "CPLUS_INCLUDE_PATH",
        "LIBRARY_PATH",
        "COMPILER_PATH",
        "NVCC_PREPEND_FLAGS",
        "NVCC_APPEND_FLAGS",
        "NVCC_CCBIN",
    }
)
"""Variables that children get as they are."""

ALLOWED_PREFIXES = (
    "LC_",
    # GPUs, thread pools and compilers.
    "CUDA",
    "NVIDIA_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "TVM_",
    # Of Python, what changes how it runs, and not what it runs.
    "PYTHONHASHSEED",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "PYTHONUTF8",
    "PYTHONWARNINGS",
    "PYTHONFAULTHANDLER",
    "PYTHONTRACEMALLOC",
    "COVERAGE",
)

PASS = "TUNEMESH_PASS_ENV"
"""Names of further variables, with commas between them: a person lets them through, whatever they are."""

_NO_SECRET_ENDS_IN = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIALS")


PR_SET_DUMPABLE = 4


def keep_private() -> None:
    """Hide this process's environment and memory from other processes of the same user, children included."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def for_child(additions: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment as far as it is allowed to a child, and ``additions``.

    Folders of ``PYTHONPATH`` are kept where they are absolute: any other one means another folder in a child,
    and an empty one means the folder that it runs in.
    """
    chosen = {name: value for name, value in os.environ.items() if _allowed(name)}
    folders = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(each)]
    if folders:
        chosen["PYTHONPATH"] = os.pathsep.join(folders)
    if site.ENABLE_USER_SITE:
        # Python looks for a person's own packages below HOME, which children do not have.
        chosen["PYTHONUSERBASE"] = site.getuserbase()
    return chosen | dict(additions or {})


def _allowed(name: str) -> bool:
    if name == PASS or name in _passed():
        return True
    if name.upper().endswith(_NO_SECRET_ENDS_IN):
        return False
    return name in ALLOWED or name.startswith(ALLOWED_PREFIXES)


def _passed() -> set[str]:
    return {name.strip() for name in os.environ.get(PASS, "").split(",")}
