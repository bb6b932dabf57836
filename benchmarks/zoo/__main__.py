"""Import many models of strangers and compare each with its own framework; tune some, on demand.

python -m benchmarks.zoo                                   # models out of packages
python -m benchmarks.zoo --blocks                          # networks as PyTorch's exporters write them
python -m benchmarks.zoo --models magika,mtcnn-onet --trials 200
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.zoo import coverage, fetching, racing
from benchmarks.zoo.coverage import Row
from benchmarks.zoo.importing import Found, Work, in_process
from tunemesh import zoo
from tunemesh.shared.errors import BadInput

LIST = Path(__file__).with_name("zoo.yaml")


def main() -> None:
    """Parse the command line, import one after the other, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--list", type=Path, default=LIST, help="of the models, in YAML")
    parser.add_argument("--blocks", action="store_true", help="PyTorch's blocks in place of the list")
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), help="folder of what is downloaded")
    parser.add_argument("--models", default="", help="names of some, with commas between them")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that one import may take")
    parser.add_argument("--json", type=Path, help="a file for the results")
    parser.add_argument("--trials", type=int, default=0, help="tune them, and race ONNX Runtime")
    arguments = parser.parse_args()

    wanted = {name for name in arguments.models.split(",") if name}
    given = (
        _blocks(arguments.cache, wanted)
        if arguments.blocks
        else _listed(arguments.list, arguments.cache, wanted)
    )
    works, rows = {}, []
    for name, work in given:
        if isinstance(work, str):
            found = Found(verdict="refused", error=work)
        else:
            works[name] = work
            found = in_process(work, arguments.limit)
        rows.append(Row(name=name, found=found))
        print(f"{name}: {found.verdict} {found.seconds:.1f} s {found.error}", file=sys.stderr, flush=True)
    if arguments.json is not None:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
    print("\n".join(coverage.table(rows)))
    right = {row.name: works[row.name] for row in rows if row.found.verdict == "right"}
    if arguments.trials and right:
        print()
        print("\n".join(racing.race(right, arguments.trials, arguments.cache / "tuned")))


def _listed(path: Path, cache: Path, wanted: set[str]) -> Iterator[tuple[str, Work | str]]:
    entries = zoo.entries(path)
    if entries is None:
        raise SystemExit(f"{path} is no list of models")
    for entry in entries:
        if wanted and entry.name not in wanted:
            continue
        try:
            yield entry.name, Work(path=str(fetching.fetch(entry, cache)), settings=entry.settings)
        except BadInput as error:
            yield entry.name, str(error)


def _blocks(cache: Path, wanted: set[str]) -> Iterator[tuple[str, Work | str]]:
    try:
        from benchmarks.zoo import blocks
    except ImportError as error:
        raise SystemExit(f"blocks need PyTorch: pip install -e '.[dev-torch]' ({error})") from None
    yield from blocks.export(cache / "blocks", wanted)


if __name__ == "__main__":
    main()
