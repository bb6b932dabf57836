"""Machine code of single functions, by content: compiled once, and linked wherever it is needed.

One function is the untuned kernel of a task, a part of the model that the judge compares, and a part of the
model before and after tuning. A process remembers the objects that it has made or was given; what it does not
know, it compiles again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cachetools import LRUCache

from tunemesh.stage_workers.graph import fast_math, half_conversions, loops, targets, workloads

KEPT_BYTES = 64 * 2**20
"""Of the objects that a process remembers. One has 5 to 100 KB."""

NOALIAS = "tirx.noalias"
PLAIN = frozenset(
    {
        "global_symbol",
        NOALIAS,
        "op_pattern",
        "layout_free_buffers",
        "s_tir",
        workloads.SCHEDULED,
        workloads.WINOGRAD,
        fast_math.MARK,
    }
)
"""Attributes of functions that can be compiled alone: nothing around them matters to their code."""
CODE = ("s_tir",)
"""Those that say how the code is made."""

_collectors: list[tuple[str, dict[str, bytes]]] = []
_known: LRUCache[str, bytes] = LRUCache(KEPT_BYTES, getsizeof=len)


def is_plain(function: Any, target: str) -> bool:
    """Whether a function of TIR can be compiled alone: on a CPU, where it calls no other one."""
    attributes = set(map(str, function.attrs.keys())) if function.attrs else set()
    return (
        not targets.is_gpu(target)
        and attributes <= PLAIN
        and NOALIAS in attributes
        and bool(function.attrs[NOALIAS])
        and not workloads.called_by(function)
    )


def compiled(
    function: Any, target: str, left_out: Iterable[str] = (), *, optimised: bool = True
) -> tuple[str, bytes]:
    """The symbol that tells a function's content, and the relocatable object that exports it.

    Checks of arguments are left out, which are half of a small kernel's code: whoever calls it knows what it
    takes.

    Args:
        left_out: names of TVM's passes that do not run, because the function has a schedule.
        optimised: whether LLVM is to make it fast.
    """
    import tvm

    left_out = list(left_out)
    module = fast_math.with_operators(tvm.IRModule({"main": function}), target)
    module = loops.for_cores_of(tvm.IRModule({"main": _bare(module["main"])}), target)
    described = _description(target)
    if not optimised:
        target = _unoptimised(target)
    elif left_out:
        target = targets.for_schedules(target)
    elif workloads.is_of_small_image(module["main"]):
        target = targets.for_small_images(target)
    parts = [workloads.structural_hash(module), _description(target), *left_out]
    symbol = f"tunemesh_{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"
    code = _known.get(symbol)
    if code is None:
        named = module["main"].with_attr("global_symbol", symbol)
        marked = half_conversions.marked(named)
        code = _made(marked, target, left_out)
        if half_conversions.is_marked(marked):
            code = half_conversions.hidden(code, symbol) or _made(named, target, left_out)
        _remember(symbol, code)
    for wanted, found in _collectors:
        if wanted == described:
            found[symbol] = code
    return symbol, code


def pack(objects: Mapping[str, bytes]) -> bytes:
    """The bytes of objects by symbol."""
    return msgspec.msgpack.encode(dict(objects))


def unpack(data: bytes) -> dict[str, bytes]:
    """What :func:`pack` was given."""
    return msgspec.msgpack.decode(data, type=dict[str, bytes])


def remember(objects: Mapping[str, bytes]) -> None:
    """Take these for what :func:`compiled` would give."""
    for symbol, code in objects.items():
        _remember(symbol, code)


@contextlib.contextmanager
def collected(target: str) -> Iterator[dict[str, bytes]]:
    """Every object for ``target`` that :func:`compiled` gives meanwhile, by symbol."""
    found: dict[str, bytes] = {}
    collector = (_description(target), found)
    _collectors.append(collector)
    try:
        yield found
    finally:
        _collectors.remove(collector)


def _made(function: Any, target: str, left_out: Sequence[str]) -> bytes:
    """The relocatable object of a function that has a global symbol."""
    import tvm

    named = tvm.IRModule({str(function.attrs["global_symbol"]): function})
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}, disabled_pass=list(left_out)):
        return _written(tvm.tirx.build(named, target=targets.load(target), pipeline=fast_math.pipeline()))


def _remember(symbol: str, code: bytes) -> None:
    if len(code) <= KEPT_BYTES:
        _known[symbol] = code


def _bare(function: Any) -> Any:
    """A function with the attributes that its code depends on."""
    bare = function
    for name in list(function.attrs.keys()) if function.attrs else []:
        if str(name) not in CODE:
            bare = bare.without_attr(name)
    return bare.with_attr(NOALIAS, True)


def _unoptimised(target: str) -> str:
    """A canonical target of a CPU for which LLVM takes no time to make code fast."""
    return json.dumps({**json.loads(target), "opt-level": 0}, sort_keys=True)


@functools.lru_cache(maxsize=64)
def _description(target: str) -> str:
    """The same for all ways to write a target."""
    return str(targets.load(target))


def _written(library: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tunemesh-object-") as folder:
        path = Path(folder, "kernel.o")
        library.write_to_file(str(path), "o")
        return path.read_bytes()
