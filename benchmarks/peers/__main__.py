"""Tuned models beside ONNX Runtime, OpenVINO and PyTorch's inductor, on seven usual kinds of networks.

    python -m benchmarks.peers                                    # all, 600 trials or 6 minutes each
    python -m benchmarks.peers --networks bert,vit --trials 64
    python -m benchmarks.peers --variant exact="--math exact"     # what leaving something out costs

Each network is written, tuned by `tunemesh tune`, and then takes turns with the peers that are installed,
every one in a process of its own with as many threads as the device has cores. What is tuned already, in
`OUT/tuned/VERSION/NETWORK`, is not tuned again: a second call measures once more. Writes `OUT/NETWORK.json`
and prints tables of all networks that are in OUT. All peers: pip install -e '.[peers]'. Nothing else may
compute meanwhile.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.peers import shares, tables
from benchmarks.peers.networks import NETWORKS, RANGES
from benchmarks.peers.results import Result, Version
from tunemesh.comparing import comparison, limits, peers
from tunemesh.comparing.comparison import Raced
from tunemesh.comparing.racing import TURNS
from tunemesh.comparing.work import TUNED
from tunemesh.model_files import ModelFile
from tunemesh.report import read_report
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import Settings

GRACE = 300.0
"""Seconds that a job may take after it was asked to stop: what is under way ends, and the model is built."""


def main() -> None:
    """Parse the command line; write, tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names with commas between them")
    parser.add_argument("--trials", type=int, default=600, help="for each network")
    parser.add_argument("--minutes", type=float, default=6.0, help="after which tuning of one is stopped")
    parser.add_argument("--peers", help=f"of {', '.join(peers.NAMES)}; by default all that are installed")
    parser.add_argument("--device", help="cpu:CORES; by default the last core")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar='NAME="OPTIONS"',
        help="tune once more with these options of tunemesh tune, and compare; may be given again",
    )
    parser.add_argument("--out", type=Path, default=Path("build/peers"))
    parser.add_argument("--tuned", type=Path, help="folder of what is tuned already; by default OUT/tuned")
    parser.add_argument("--render-only", action="store_true", help="print what is in OUT, measure nothing")
    given = parser.parse_args()
    wanted = [name for name in given.networks.split(",") if name]
    if unknown := next((name for name in wanted if name not in NETWORKS), None):
        parser.error(f"there is no network {unknown!r}; known: {', '.join(NETWORKS)}")
    try:
        if not given.render_only:
            variants = {TUNED: "", **dict(map(_variant, given.variant))}
            _measure(wanted, variants, given)
        _print(given.out)
    except TunemeshError as error:
        raise SystemExit(str(error)) from None
    except ValueError as error:
        parser.error(str(error))


def _variant(text: str) -> tuple[str, str]:
    name, found, options = text.partition("=")
    if not found or not name.isidentifier() or name == TUNED:
        raise ValueError(f'--variant {text!r} should look like exact="--math exact"')
    return name, options


def _measure(wanted: Sequence[str], variants: Mapping[str, str], given: argparse.Namespace) -> None:
    chosen = peers.named([given.peers]) if given.peers else [each for each in peers.PEERS if each.installed]
    device = comparison.device_of(given.device or f"cpu:{max(machine.cores_of(None))}")
    facts = machine.facts()
    core = limits.of_core(min(device.cores or ()))
    tuned: Path = given.tuned or given.out / "tuned"
    for network in wanted:
        path = write(network, given.out / "models")
        folders = {name: tuned / name / network for name in variants}
        for name, options in variants.items():
            if not (folders[name] / "report.json").exists():
                tune(
                    path, folders[name].parent, device.name, given.trials, given.minutes, shlex.split(options)
                )
        model = ModelFile(name=path.name, data=path.read_bytes())
        signature = comparison.signatures_of(folders[TUNED]).variants[0]
        settings = Settings(ranges=RANGES.get(network, {}))
        raced = comparison.race_of(model, settings, folders, signature, device, chosen, _tell, given.turns)
        versions = [_version(name, options, folders[name], raced) for name, options in variants.items()]
        result = Result(
            network=network,
            machine=facts,
            limits=core,
            tuned=versions[0],
            variants=versions[1:],
            compared=[comparison.entry(peer, signature.shapes, raced) for peer in chosen],
            shares=shares.of_result(folders[TUNED]),
        )
        text = msgspec.json.format(msgspec.json.encode(result))
        (given.out / f"{network}.json").write_bytes(text)


def write(network: str, folder: Path) -> Path:
    """The ONNX file of a network, made where it is not there."""
    path = folder / f"{network}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(NETWORKS[network]().SerializeToString())
    return path


def tune(model: Path, out: Path, device: str, trials: int, minutes: float, options: Sequence[str]) -> None:
    """Tune a model on a mesh of its own, as a person does.

    Raises:
        TunemeshError: it failed, or did not end.
    """
    command = [sys.executable, "-m", "tunemesh", "tune", str(model), "--out", str(out), "--device", device]
    # Every run is to find its own: what an earlier one found would be a head start.
    command += ["--trials", str(trials), "--known", "never", "--overwrite"]
    for name, (least, above) in RANGES.get(model.stem, {}).items():
        command += ["--range", f"{name}={least:g},{above:g}"]
    _tell(shlex.join([*command, *options]))
    with subprocess.Popen([*command, *options]) as process:
        try:
            code = process.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it keeps what was found
            try:
                code = process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise TunemeshError(f"tuning {model.stem} did not end {GRACE:.0f} s after Ctrl-C") from None
            if code == -signal.SIGINT and (out / model.stem / "report.json").exists():
                code = 0  # it was over, and about to leave
    if code:
        raise TunemeshError(f"tuning {model.stem} failed: tunemesh tune ended with status {code}")


def _version(name: str, options: str, folder: Path, raced: Raced) -> Version:
    report = read_report(folder)
    turns = raced.race.turns
    return Version(
        name=name,
        options=shlex.split(options),
        latency_s=statistics.median(turn[name] for turn in turns),
        untuned_s=report.latency_before_s,
        ratio=statistics.median(turn[name] / turn[TUNED] for turn in turns),
        difference=comparison.difference(raced.outputs[TUNED], raced.outputs[name]),
        trials=report.trials,
        wall_s=report.wall_s,
        rejected=report.rejected_s is not None,
    )


def _print(out: Path) -> None:
    paths = [out / f"{network}.json" for network in NETWORKS]
    results = [msgspec.json.decode(path.read_bytes(), type=Result) for path in paths if path.exists()]
    if not results:
        raise TunemeshError(f"there are no results in {out}")
    print("\n".join(tables.document(results)))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
