"""``tunemesh compare``, and what ``tunemesh tune --compare`` does after the jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tunemesh import model_files, options, tuning
from tunemesh.comparing import peers
from tunemesh.comparing.peers import Peer
from tunemesh.job_options import make_settings
from tunemesh.model_files import ModelFile
from tunemesh.report import Compared, read_report
from tunemesh.report_page import writing
from tunemesh.shared import files
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers.devices.devices import Device
from tunemesh.tables import print_compared
from tunemesh.terminal import print_json


@dataclass(frozen=True, slots=True)
class Comparison:
    """Who results are compared with, and where."""

    peers: list[Peer]
    device: Device

    def of(
        self, model: ModelFile, settings: Settings, folder: Path, note: Callable[[str], None]
    ) -> list[Compared]:
        """Compare one result; see :func:`~tunemesh.comparing.comparison.compare`."""
        from tunemesh.comparing import comparison

        found = comparison.compare(model, settings, folder, self.device, self.peers, note)
        if (folder / writing.PAGE).exists():
            writing.write_beside(folder)
        return found


def prepare(device: str | None, names: Sequence[str] | None, note: Callable[[str], None]) -> Comparison:
    """What can be checked before anything is tuned.

    Args:
        device: of the mesh; by default the last core.
        names: of the peers; by default all that are installed.

    Raises:
        BadInput: a peer is not known or not installed, or the device is no CPU of this machine.
    """
    from tunemesh.comparing import comparison

    if names is None:
        chosen, missing = peers.usual()
        for each in missing:
            note(each)
    else:
        chosen = peers.named(names)
    return Comparison(chosen, comparison.device_of(device or f"cpu:{max(os.sched_getaffinity(0))}"))


def after(
    jobs: Sequence[tuple[ModelFile, Path]],
    plan: tuning.Plan,
    compared: Comparison,
    note: Callable[[str], None],
) -> None:
    """Compare the results of jobs that are done. One that cannot be compared is told of; the others go on."""
    for model, folder in jobs:
        try:
            compared.of(model, tuning.settings_of(model, plan.settings), folder, note)
        except TunemeshError as error:
            note(f"{folder.name} is not compared: {error}")


def compare(
    model: Annotated[Path, typer.Argument(help="The ONNX file that was tuned.")],
    result: Annotated[Path, typer.Argument(help="The folder of its result, with model.so.")],
    device: options.Device = None,
    peer: options.Peers = None,
    range_: Annotated[
        list[str] | None,
        typer.Option(
            "--range", help="NAME=LEAST,ABOVE: valid values of an input; by default what its uses allow."
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(help="An npz file with an array for each input.", show_default="random values"),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Let a result and what else runs the model here take turns on one device, and write down in its report
    who is faster. Keep everything else off the device's cores meanwhile."""
    console = Console(stderr=True)

    def note(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    chosen = prepare(device, peer, note)
    read_report(result)  # before anything is read at length
    samples = None
    if inputs is not None:
        samples = files.read(inputs, "the inputs")
    read = model_files.read(model, note)
    given = ModelFile(name=read.name, data=read.data, files=read.files, samples=samples or read.samples)
    found = chosen.of(given, make_settings({"ranges": range_}), result, note)
    if as_json:
        print_json(found)
    else:
        print_compared(Console(), result.name, found)
