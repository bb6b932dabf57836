"""Contestants that take turns on the same cores, each in a process of its own."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import msgspec
from msgspec import Struct

from tunemesh.comparing.work import Answer, Failed, Ready, Turn, Work
from tunemesh.shared import environment

TURNS = 20
READY_LIMIT = 180.0
"""Seconds for a contestant to load its model, to compile it and to run it for the first times."""
TURN_LIMIT = 60.0
"""Seconds for one turn of one contestant."""
RACE_LIMIT = 120.0
"""Seconds after which no further round of turns is begun, once there are :data:`LEAST_TURNS`."""
LEAST_TURNS = 5
WORD_LIMIT = 300
"""Characters of what went wrong."""


class Race(Struct, frozen=True, kw_only=True):
    """What came of a race.

    Attributes:
        versions: of what ran the models, for those that could.
        errors: why the others could not, in one line each.
        turns: seconds of one run, for every one that could; in each round all had their turn.
    """

    versions: dict[str, str]
    errors: dict[str, str]
    turns: list[dict[str, float]]


def race(
    contestants: Mapping[str, Work],
    cores: Iterable[int],
    note: Callable[[str], None],
    turns: int = TURNS,
) -> Race:
    """Let contestants take turns on ``cores``, one at a time. One that fails leaves; the others go on.

    Args:
        note: is told who is being prepared.
    """
    with ExitStack() as stack:
        # A compiler that a contestant has left behind may still write there.
        made = tempfile.TemporaryDirectory(prefix="tunemesh-race-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(made))
        versions: dict[str, str] = {}
        errors: dict[str, str] = {}
        running: dict[str, Contestant] = {}
        for number, (name, work) in enumerate(contestants.items()):
            note(f"preparing {name}")
            each = stack.enter_context(Contestant(work, sorted(cores), folder / str(number)))
            answer = each.answer(READY_LIMIT)
            if isinstance(answer, Ready):
                versions[name], running[name] = answer.version, each
            else:
                errors[name] = answer.error if isinstance(answer, Failed) else "it answered out of turn"
        rounds: list[dict[str, float]] = []
        began = time.monotonic()
        while running and len(rounds) < turns:
            if len(rounds) >= LEAST_TURNS and time.monotonic() - began > RACE_LIMIT:
                break
            # Each is the first one in turn: who comes before somebody leaves caches and clocks to him.
            names = list(running)
            begin = len(rounds) % len(names)
            found: dict[str, float] = {}
            for name in names[begin:] + names[:begin]:
                answer = running[name].turn()
                if isinstance(answer, Turn):
                    found[name] = answer.seconds
                else:
                    errors[name] = answer.error if isinstance(answer, Failed) else "it answered out of turn"
                    del running[name]
            rounds.append(found)
    whole = [{name: found[name] for name in running} for found in rounds]
    return Race(versions={name: versions[name] for name in running}, errors=errors, turns=whole)


class Contestant:
    """A process that runs one model on demand. A context manager.

    Args:
        cores: it may use these, and nothing else.
        folder: for what it is given and for what it says.
    """

    def __init__(self, work: Work, cores: Sequence[int], folder: Path) -> None:
        folder.mkdir()
        given = folder / "work.json"
        given.write_bytes(msgspec.json.encode(work))
        self._words = folder / "stderr"
        self._rest = b""
        # What is set for TVM here may be for workers: a person runs a model without.
        mine = {name: value for name, value in environment.for_child().items() if not name.startswith("TVM_")}
        chosen = mine | _environment(work.threads, folder)
        command = ["setpriv", "--pdeathsig", "KILL", "--"]
        command += ["taskset", "--cpu-list", ",".join(map(str, cores))]
        command += [sys.executable, "-P", "-m", "tunemesh.comparing.child", str(given)]
        with self._words.open("wb") as words:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, env=chosen, cwd=folder
            )

    def __enter__(self) -> Contestant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate(timeout=TURN_LIMIT)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def turn(self) -> Answer:
        """Let it run."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        except OSError:
            return Failed(error=self._ending())
        return self.answer(TURN_LIMIT)

    def answer(self, seconds: float) -> Answer:
        """What it answers next; a failure where it takes longer than ``seconds``, or ends."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self._process.kill()
                return Failed(error=f"it took more than {seconds:g} s")
            if not (data := os.read(descriptor, 65536)):
                return Failed(error=self._ending())
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer: Answer = msgspec.json.decode(line, type=Answer)
        except msgspec.DecodeError:
            return Failed(error="it answered something else than JSON")
        if isinstance(answer, Failed):
            return Failed(error=answer.error[:WORD_LIMIT])
        return answer

    def _ending(self) -> str:
        code = self._process.wait(TURN_LIMIT)
        lines = self._words.read_text(errors="replace").strip().splitlines()
        words = f": {lines[-1]}" if lines else ""
        return f"its process ended with status {code}{words}"[:WORD_LIMIT]


def _environment(threads: int, folder: Path) -> dict[str, str]:
    """For libraries that ask it how many threads there are, and where they may write."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    # As docs/deploy.md says of several cores; a model for one has no parallel loops.
    tvm = {"TVM_BIND_THREADS": "0"} if threads > 1 else {}
    return {
        **tvm,
        **dict.fromkeys(names, str(threads)),
        "HOME": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }
