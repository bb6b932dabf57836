"""Work in a process of its own: what it gives, and every way in which it may come to no end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tunemesh.stage_workers.graph import apart


def test_the_answer_comes_back_whole() -> None:
    assert apart.run(lambda: b"x" * 1_000_000, 10.0) == b"x" * 1_000_000
    assert apart.run(lambda: b"", 10.0) == b""


def test_it_is_a_copy_whose_changes_stay_its_own() -> None:
    seen: list[int] = []

    def work() -> bytes:
        seen.append(1)
        return str(os.getpid()).encode()

    assert int(apart.run(work, 10.0)) != os.getpid()
    assert seen == []


def crash() -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b"never"


def fail() -> bytes:
    raise ValueError("no such layout\nstack of TVM")


def leave() -> bytes:
    os._exit(0)


def hang() -> bytes:
    time.sleep(60)
    return b"never"


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (crash, "TVM crashed (SIGSEGV)"),
        (fail, "no such layout"),
        (leave, "TVM ended the process"),
        (hang, "took more than 0 s"),
    ],
)
def test_what_comes_to_no_end_says_why_in_one_line(work: Callable[[], bytes], why: str) -> None:
    began = time.monotonic()
    with pytest.raises(apart.Died) as caught:
        apart.run(work, 0.3 if work is hang else 10.0)
    assert str(caught.value) == why
    assert time.monotonic() - began < 5
