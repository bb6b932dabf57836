"""Hostile models against the frontends, in the cage of this machine: what they could do, and what was said.

    python -m benchmarks.hostile                      # in the cage
    TUNEMESH_CAGE=bare python -m benchmarks.hostile   # what the frontends alone hold off

Each is imported as a worker does it. Counted are commands that ran, reads of a file that nobody is to read,
and calls that came in from the network.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import markdown
from benchmarks.hostile_models import KINDS, Goals, Hostile, models
from tunemesh.shared.errors import TunemeshError
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.platforms.protocol import ImportCall, Platform, Target, TargetCall
from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox

LIMIT = 30.0
"""Seconds for one import."""
MEMORY = 2 * 2**30


@dataclass(slots=True)
class Watch:
    """What hostile models go for, and whether they got there."""

    goals: Goals
    sign: Path
    secret: Path
    listener: socket.socket

    def reached(self) -> list[str]:
        """What was reached since the last look."""
        found = []
        if self.sign.exists():
            found.append("command")
            self.sign.unlink()
        if self.secret.stat().st_atime_ns:
            found.append("file")
            self._forget()
        with contextlib.suppress(BlockingIOError):
            self.listener.accept()[0].close()
            found.append("network")
        return found

    def _forget(self) -> None:
        # The kernel writes down the next reading of a file whose last one is older than its content.
        os.utime(self.secret, ns=(0, 10**18))


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Something to go for."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        os.chmod(folder, 0o777)
        listener.setblocking(False)
        secret, sign = Path(folder, "secret"), Path(folder, "sign")
        secret.write_bytes(bytes(16))
        secret.chmod(0o644)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        watch = Watch(Goals(f"touch {sign}", str(secret), address), sign, secret, listener)
        watch._forget()
        yield watch


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one."""

    model: Hostile
    end: str
    """``imported``, ``refused``, or the kind of failure."""
    text: str
    reached: Sequence[str]
    seconds: float
    alive: bool
    """Whether the worker's sandbox answers after it."""

    @property
    def clear(self) -> bool:
        """Whether a person is told in one line."""
        return self.end == "imported" or (bool(self.text) and "\n" not in self.text)


def read(each: Hostile, sandbox: Sandbox, target: str, watch: Watch) -> Seen:
    """Import one model."""
    began, end, text = time.perf_counter(), "imported", ""
    try:
        answer = sandbox.call(
            platforms.TVM,
            Platform.import_model,
            ImportCall(model=each.model, target=target, inputs=each.inputs),
            LIMIT,
        )
        if isinstance(answer, CallFailure):
            end, text = answer.kind, answer.text
    except TunemeshError as error:
        end, text = "refused", str(error)
    seconds = time.perf_counter() - began
    reached = watch.reached()
    return Seen(each, end, text, reached, seconds, sandbox.ready(LIMIT))


@contextlib.contextmanager
def worker() -> Iterator[tuple[Sandbox, str]]:
    """A worker's sandbox, and the target of this machine."""
    with Sandbox(platforms=(platforms.TVM,), memory=MEMORY) as sandbox:
        while not sandbox.ready(1.0):
            pass
        target = sandbox.call(platforms.TVM, Platform.resolve_target, TargetCall(target="native"), LIMIT)
        assert isinstance(target, Target), target
        yield sandbox, target.canonical


def table(seen: Sequence[Seen]) -> list[str]:
    """A row for each kind."""
    rows = []
    groups: dict[str, list[Seen]] = defaultdict(list)
    for each in seen:
        groups[each.model.kind].append(each)
    for kind, those in [*groups.items(), ("all", list(seen))]:
        ends = Counter(each.end for each in those)
        reached = Counter(what for each in those for what in each.reached)
        limits = ends["timed-out"] + ends["out-of-memory"]
        figures = [
            len(those), ends["refused"], limits, ends["imported"], ends["crashed"] + ends["raised"],
            *(reached[what] for what in ("command", "file", "network")),
            sum(not each.clear for each in those), sum(not each.alive for each in those),
        ]  # fmt: skip
        rows.append([kind, *map(str, figures), f"{max(each.seconds for each in those):.1f}"])
    names = "models refused limit imported failed commands files network unclear dead"
    return markdown.table(["kind", *names.split(), "longest, s"], rows)


def main() -> None:
    """Parse the command line, import, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, help="only these")
    parser.add_argument("--lines", action="store_true", help="what was said of each")
    arguments = parser.parse_args()
    with watched() as watch, worker() as (sandbox, target):
        print(f"cage: {sandbox.cage}\n")
        seen = []
        for each in models(watch.goals, arguments.seed):
            if arguments.kind in (None, each.kind):
                seen.append(read(each, sandbox, target, watch))
                if arguments.lines:
                    last = seen[-1]
                    print(
                        f"{each.kind}, {each.name}: {last.end} in {last.seconds:.1f} s: {last.text}",
                        flush=True,
                    )
    print("\n".join(table(seen)))


if __name__ == "__main__":
    main()
