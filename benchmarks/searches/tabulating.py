"""Measure all kernels of a part of a space, once, and keep them as a table: first all are compiled, by as
many processes as there are parts; then one process measures them, in a random order, and the fastest again.
What is there already is not done again, so that each step may be cut short and called once more."""

from __future__ import annotations

import datetime
import math
import random
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from msgspec import Struct

from benchmarks import lines, machine
from benchmarks.searches import operators, table
from benchmarks.searches.running import SETTINGS, Bench
from tunemesh.stage_workers import engines
from tunemesh.stage_workers.engines import compilers
from tunemesh.stage_workers.engines.protocol import BuildCall
from tunemesh.stage_workers.engines.template import schedules, tuning
from tunemesh.stage_workers.engines.template.space import Genome, Knob, Space
from tunemesh.stage_workers.platforms.protocol import WAITED, ProfileCall

AGAIN, TIMES = 256, 4
"""So many of the fastest are measured so often in all: the fastest of many is else the luckiest."""
DISTURBED = 3
"""Tries where something else had the core meanwhile."""
_BLOCKS: Mapping[str, Sequence[int]] = {
    "lanes": (8, 16),
    "unroll": (1, 4),
    "rows": (2, 4, 6, 8, 10, 12, 14, 20, 28),
    "columns_block": (0, 1, 4),
    "rows_block": (0, 1, 4),
}
PARTS: Mapping[str, Mapping[str, Sequence[int]]] = {
    operators.WOODPECKER: {**_BLOCKS, "depth": (0, 32)},
    "conv3x3s2-64x56x56-128": _BLOCKS,
}
"""Values of knobs that a table has; all values of those that are not named."""


class Measured(Struct, frozen=True, array_like=True):
    """One measurement: the rank of the genome, and seconds; ``None`` where it failed."""

    rank: int
    latency: float | None


class Tabulation:
    """The table of an operator in the making.

    Attributes:
        space: that part of the template's that is tabulated.
    """

    def __init__(self, operator: str, folder: Path) -> None:
        self.operator = operator
        self.bench = Bench.of_operator(operator)
        self.engine = engines.load("template")
        self.taken = tuning.taken(self.bench.task.workload, self.bench.target)
        self.space = part(self.taken.space, PARTS[operator])
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.genomes = list(self.space.all())
        random.Random(operator).shuffle(self.genomes)

    def compile(self, number: int, parts: int, seconds: float) -> int:
        """Compile one part of all kernels; how many of it are left."""
        until, left = time.monotonic() + seconds, 0
        for genome in self.genomes[number::parts]:
            path = self._kernel(genome)
            if path.exists():
                continue
            if time.monotonic() > until:
                left += 1
                continue
            _, schedule = schedules.packed(self.taken.template.name, self.space, genome)
            call = BuildCall(workload=self.bench.task.workload, target=self.bench.target, schedule=schedule)
            unfinished = path.with_suffix(".tmp")
            # An empty file is one that could not be built.
            unfinished.write_bytes(self.engine.build(call).artifact or b"")
            unfinished.rename(path)
        return left

    def measure(self, seconds: float) -> int:
        """Measure all kernels that were not, and the fastest again; how many measurements are left."""
        until = time.monotonic() + seconds
        known = self._known()
        wanted = [genome for genome in self.genomes if genome not in known]
        if not wanted:
            fastest = sorted(known, key=lambda genome: known[genome][0])[:AGAIN]
            # In turns, so that no kernel has a bad moment for itself.
            counts = range(1, TIMES)
            wanted = [genome for count in counts for genome in fastest if len(known[genome]) <= count]
        for done, genome in enumerate(wanted):
            if time.monotonic() > until:
                return len(wanted) - done
            lines.add(self._log, [Measured(self.space.rank(genome), self._latency(genome))])
        return 0

    def save(self, path: Path) -> table.Table:
        """Write the table; a kernel's latency is the median of its measurements."""
        latencies = {genome: statistics.median(each) for genome, each in self._known().items()}
        about = table.About(
            operator=self.operator,
            template=self.taken.template.name,
            knobs=[(knob.name, list(knob.values)) for knob in self.space.knobs],
            revision=str(machine.facts()["git_commit"]),
            cpu=machine.cpu_model(),
            compiler=_compiler(self.taken.machine.architecture),
            measured=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )
        table.save(path, about, self.space, latencies)
        return table.load(path)

    @property
    def _log(self) -> Path:
        return self.folder / "measured.jsonl"

    def _kernel(self, genome: Genome) -> Path:
        return self.folder / f"{self.space.rank(genome)}.so"

    def _known(self) -> dict[Genome, list[float]]:
        known: dict[Genome, list[float]] = defaultdict(list)
        for entry in lines.read(self._log, Measured):
            known[self.space.genome(entry.rank)].append(math.inf if entry.latency is None else entry.latency)
        return known

    def _latency(self, genome: Genome) -> float | None:
        artifact = self._kernel(genome).read_bytes()
        if not artifact:
            return None
        task = self.bench.task
        call = ProfileCall(
            workload=task.workload,
            target=self.bench.target,
            artifact=artifact,
            untuned=task.untuned,
            device="cpu",
            settings=SETTINGS,
        )
        for _ in range(DISTURBED):
            done = self.bench.platform.profile(call)
            if done.waited <= WAITED:
                break
        return statistics.median(done.latencies) if done.latencies else None


def part(space: Space, values: Mapping[str, Sequence[int]]) -> Space:
    """A space with these values of some knobs only, as far as there are such: templates change.

    Raises:
        ValueError: none of a knob's is left.
    """
    knobs = []
    for knob in space.knobs:
        wanted = values.get(knob.name, knob.values)
        kept = tuple(value for value in knob.values if value in wanted)
        if not kept:
            raise ValueError(f"the knob {knob.name} has none of {list(wanted)}")
        knobs.append(Knob(knob.name, kept))
    return replace(space, knobs=tuple(knobs))


def _compiler(architecture: str) -> str:
    """What the compiler says it is."""
    command = [compilers.compiler(architecture) or "cc", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.partition("\n")[0]
