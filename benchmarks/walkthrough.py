"""Renew the output of all commands on a page of the documentation: ``python -m benchmarks.walkthrough``.

Every block of ``docs/service.md`` that begins with ``console`` holds commands, after ``$``, and their output.
All are given to one shell, in a folder with the models of ``examples/make_models.py``; what they print
takes the place of what was there. Takes some four minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "service.md"
MODELS = "tiny_cnn", "tiny_separable", "tiny_mlp_mixer", "tiny_residual"
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
DONE = "walkthrough-command-has-ended"
UP = "mesh is up"
LIMIT = 90.0
"""Seconds that a mesh may take to start."""
WIDTH = 140
SECRETS = (
    (re.compile(r"(?<=amqp://client:)[^@]+"), "…"),
    (re.compile(r"(?<=monitor )[\w-]{20,}|(?<=password )\S+"), "…"),
    (re.compile(r"(?<=127\.0\.0\.1:)\d+"), "…"),
    (re.compile(r"^\d{4}-\d\d-\d\d .*\n", re.MULTILINE), ""),
)
"""What is different every time, and lines of logs."""


class Shell:
    """One bash for all commands.

    Args:
        folder: where it works; it is its home, too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: os.environ[name] for name in ("LANG", "OMP_NUM_THREADS") if name in os.environ}
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**kept, "PATH": programs, "HOME": str(folder), "COLUMNS": str(WIDTH), "TIMEFORMAT": "%0R s"},
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """What a command prints; of one that goes on until its mesh is up."""
        if not command.endswith(" &"):
            return self._printed(command)
        log = self._folder / "log"
        log.touch()  # the shell opens it in a process of its own
        self._printed(f"{command.removesuffix(' &')} > {log} 2>&1 &")
        deadline = time.monotonic() + LIMIT
        while UP not in log.read_text() or not log.read_text().endswith("nothing\n"):
            if time.monotonic() > deadline:
                raise SystemExit(f"no mesh after {LIMIT:g} s: {log.read_text()}")
            time.sleep(0.2)
        return log.read_text()

    def _printed(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho {DONE}\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.endswith(f"{DONE}\n"):
                return "".join([*lines, line.removesuffix(f"{DONE}\n")])
            lines.append(line)
        raise SystemExit(f"the shell has ended: {command}")

    def stop(self) -> None:
        """End it and all that it has started."""
        self._printed("kill $(jobs -p) 2> /dev/null; wait")
        self._process.communicate("exit\n", timeout=LIMIT)


def renewed(page: str, run: Callable[[str], str], keep: Callable[[str], object] = lambda _: None) -> str:
    """A page with what its commands print now.

    Args:
        keep: is given the page after every block.
    """
    for number in range(len(BLOCK.findall(page))):
        found = list(BLOCK.finditer(page))[number]
        commands = [line.removeprefix("$ ") for line in found.group().splitlines() if line.startswith("$ ")]
        text = "".join(f"$ {command}\n{run(command)}" for command in commands)
        page = page[: found.start()] + text + page[found.end() :]
        keep(page)
    return page


def cleaned(printed: str, home: str) -> str:
    """What was printed, without what nobody should read or is another each time."""
    for pattern, instead in SECRETS:
        printed = pattern.sub(instead, printed)
    lines = [line.rstrip() for line in printed.replace(home, "~").splitlines()]
    # A job tells every second what it has: what it does next is enough here.
    told = [line for line in lines if " left" not in line or "quote" in line or not line.startswith("tiny")]
    return "".join(f"{line}\n" for line in told if line)


def main() -> None:
    """Renew the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE)
    page = parser.parse_args().page
    with tempfile.TemporaryDirectory(prefix="tunemesh-walkthrough-") as name:
        folder = Path(name)
        made = [sys.executable, str(ROOT / "examples" / "make_models.py"), name, *MODELS]
        subprocess.run(made, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        (folder / "examples").symlink_to(ROOT / "examples")
        shell = Shell(folder)

        def run(command: str) -> str:
            print(f"$ {command}", flush=True)
            printed = cleaned(shell.run(command), name)
            print(printed, flush=True)
            return printed

        try:
            renewed(page.read_text(), run, page.write_text)
        finally:
            shell.stop()


if __name__ == "__main__":
    main()
