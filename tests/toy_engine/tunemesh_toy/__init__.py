"""A small engine: products of two matrices by a loop nest in C, tiled along the sum, compiled by gcc."""

from __future__ import annotations

import subprocess
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import tvm_ffi.libinfo
from msgspec import Struct

from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Options
from tunemesh.stage_workers import options, platforms
from tunemesh.stage_workers.engines.protocol import (
    BuildCall,
    BuildOutcome,
    ExportCall,
    Exported,
    LearnCall,
    Learned,
    ObjectPart,
    PartCall,
    Placed,
    PlacedCall,
    Proposal,
    RankCall,
    Ranking,
    ReadCall,
    ReadRecords,
    Source,
    TaskRef,
    UpdateCall,
)
from tunemesh.stage_workers.engines.template import searches
from tunemesh.stage_workers.engines.template.space import Knob, Space
from tunemesh.stage_workers.graph import workloads

TILES = (4, 8, 16, 32, 64)


class ToyOptions(Struct):
    """Attributes:
    largest: tile that is tried.
    search: how tiles are searched, by the name of a search.
    """

    largest: int = 64
    search: str = "random"


class ToyEngine:
    name, format = "toy", 1

    def preload(self) -> None:
        platforms.load(platforms.TVM).preload()

    def objection(self, task: TaskRef) -> str:
        taken = task.name == "matmul" and all(len(shape) == 2 for shape in _shapes(task.workload))
        return "" if taken else "toy tunes products of two matrices only"

    def check_options(self, given: Options) -> None:
        searches.check(options.read(self.name, given, ToyOptions).search)

    def update(self, call: UpdateCall) -> Proposal:
        asked = options.read(self.name, call.options, ToyOptions)
        tiles = [tile for tile in TILES if tile <= asked.largest]
        space = Space((Knob("tile", tuple(tiles)),), lambda _: True)
        results = [((tiles.index(trial.candidate.schedule[0]),), trial.estimate) for trial in call.trials]
        # That earlier jobs have tried them is all that is known of these.
        results += [
            ((index,), searches.WAITING) for index, tile in enumerate(tiles) if _hash(tile) in call.seen
        ]
        state, genomes = searches.propose(asked.search, space, call.search, results, call.want, call.seed)
        new = [tiles[index] for (index,) in genomes]
        return Proposal(search=state, schedules=[(_hash(tile), bytes([tile])) for tile in new])

    def regions(self, task: TaskRef) -> int:
        return 1

    def placed(self, call: PlacedCall) -> Placed:
        return Placed(numbers=[0] * len(call.schedules))

    def rank(self, call: RankCall) -> Ranking:
        return Ranking(scores=[None] * len(call.schedules))

    def learn(self, call: LearnCall) -> Learned:
        raise BadInput("toy learns nothing")

    def build(self, call: BuildCall) -> BuildOutcome:
        try:
            return BuildOutcome(artifact=_compiled(call, "main", "-shared"))
        except subprocess.CalledProcessError as error:
            return BuildOutcome(outcome="build-failed", error=error.stderr)

    def source(self, call: BuildCall) -> Source:
        return Source(text=f"/* -DTILE={call.schedule[0]} */\n{_program()}", language="C")

    def part(self, call: PartCall) -> ObjectPart:
        return ObjectPart(code=_compiled(call, call.symbol, "-c"))

    def export(self, call: ExportCall) -> Exported:
        return Exported()

    def read(self, call: ReadCall) -> ReadRecords:
        raise BadInput("the toy engine reads no records of others")


def _hash(tile: int) -> str:
    return f"tile-{tile}"


def _shapes(workload: bytes) -> list[tuple[int, ...]]:
    return [argument.shape for argument in workloads.arguments(workloads.load(workload)["main"])]


def _compiled(call: BuildCall | PartCall, symbol: str, how: str) -> bytes:
    (rows, depth), (_, columns), _ = _shapes(call.workload)
    sizes = {"ROWS": rows, "DEPTH": depth, "COLUMNS": columns, "TILE": call.schedule[0], "SYMBOL": symbol}
    with TemporaryDirectory() as folder:
        output = Path(folder, "product.o")
        command = [
            "gcc",
            "-O3",
            "-march=native",
            "-ffast-math",
            "-fPIC",
            how,
            "-x",
            "c",
            "-",
            "-o",
            str(output),
        ]
        command += [f"-I{tvm_ffi.libinfo.find_include_path()}", *(f"-D{n}={v}" for n, v in sizes.items())]
        subprocess.run(command, input=_program(), capture_output=True, text=True, check=True)
        return output.read_bytes()


def _program() -> str:
    return resources.files(__package__).joinpath("product.c").read_text()
