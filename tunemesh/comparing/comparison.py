"""A result beside peers: what they take, and who wins."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from tunemesh import checks
from tunemesh.comparing import limits
from tunemesh.comparing.peers import Peer
from tunemesh.comparing.racing import TURNS, Race, race
from tunemesh.comparing.work import TUNED, Work
from tunemesh.model_files import ModelFile
from tunemesh.report import Compared, read_report, write_file
from tunemesh.shared.errors import BadInput, TunemeshError
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers.devices.devices import Device, lock_device, parse_device
from tunemesh.stage_workers.graph import targets
from tunemesh.stage_workers.graph.signatures import Signature, Signatures, unpack_signatures
from tunemesh.stage_workers.measuring import inputs
from tunemesh.stage_workers.measuring.comparison import is_float

Array = npt.NDArray[Any]

SEED = 0
"""Of the inputs that all get."""


def check_target(target: str) -> None:
    """Raises:
    BadInput: models for this target cannot run on the CPU of this machine.
    BadTarget: there is no such target.
    """
    wanted, own = (json.loads(targets.resolve(each)) for each in (target, "native"))
    if wanted["kind"] != own["kind"]:
        raise BadInput(f"only models for CPUs are compared with others, not those for {wanted['kind']}")
    if wanted.get("mcpu") != own["mcpu"]:
        raise BadInput(
            f"a model for {wanted.get('mcpu', 'any CPU')} is not compared on this machine, a {own['mcpu']}"
        )


def device_of(name: str) -> Device:
    """The cores on which a result is compared.

    Raises:
        BadInput: there is no such device, or it is no CPU.
    """
    found = parse_device(name)
    if not found.cores:
        raise BadInput(f"only models for CPUs are compared with others, not on {name}")
    return found


def compare(
    model: ModelFile,
    settings: Settings,
    folder: Path,
    device: Device,
    peers: Sequence[Peer],
    note: Callable[[str], None],
    turns: int = TURNS,
) -> list[Compared]:
    """Let the result in ``folder`` and ``peers`` take turns on ``device``, for each set of shapes, and write
    down in its report what came of it.

    Args:
        model: as it was handed in.
        settings: of its job.
        note: is told what goes on.

    Raises:
        BadInput: the folder holds no result, or the model is no ONNX file, or the result is not for this
            machine.
        Unavailable: somebody else has the device.
        TunemeshError: the result itself cannot be run.
    """
    report = read_report(folder)
    check_target(report.target)
    found = []
    for signature in signatures_of(folder).variants:
        raced = race_of(model, settings, {TUNED: folder}, signature, device, peers, note, turns)
        found += [entry(peer, signature.shapes, raced) for peer in peers]
    report = msgspec.structs.replace(report, compared=found, device_flops=_flops(device, note))
    write_file(folder / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=2))
    return found


def _flops(device: Device, note: Callable[[str], None]) -> float | None:
    """Operations on floats per second that the device can do at most; ``None`` where that cannot be
    measured."""
    cores = sorted(device.cores or ())
    try:
        lock = lock_device(device)
        try:
            return len(cores) * limits.flops_of_core(cores[0])
        finally:
            lock.release()
    except TunemeshError as error:
        note(f"how near the result comes to what the device can do is not known: {error}")
        return None


def signatures_of(folder: Path) -> Signatures:
    """What the model of a result takes and gives.

    Raises:
        BadInput: the folder holds no result.
    """
    try:
        return unpack_signatures((folder / "signature.json").read_bytes())
    except OSError as error:
        raise BadInput(f"{folder} holds no result: {error.strerror or error}") from None


class Raced(Struct, frozen=True, kw_only=True):
    """A race and what everybody in it computed.

    Attributes:
        race: by the name of each result and of each peer.
        outputs: of those that could run, by the same names.
    """

    race: Race
    outputs: dict[str, list[Array]]


def race_of(
    model: ModelFile,
    settings: Settings,
    results: Mapping[str, Path],
    signature: Signature,
    device: Device,
    peers: Sequence[Peer],
    note: Callable[[str], None],
    turns: int = TURNS,
) -> Raced:
    """Let results of the same model and ``peers`` take turns, for one set of shapes.

    Args:
        results: folders by name.

    Raises:
        BadInput: the model is no ONNX file.
        Unavailable: somebody else has the device.
        TunemeshError: a result cannot be run.
    """
    if not model.data.startswith(checks.ONNX_FIRST_BYTE):
        raise BadInput(f"{model.name} is no ONNX file: there is nothing here to compare it with")
    lock = lock_device(device)
    try:
        with tempfile.TemporaryDirectory(prefix="tunemesh-compare-") as made:
            place = Path(made)
            path = lay_out(model, place)
            save_inputs(model, settings, signature, place / "inputs.npz")
            who = {name: (TUNED, folder.resolve()) for name, folder in results.items()}
            who |= {peer.name: (peer.name, path) for peer in peers}
            contestants = works(who, signature, place, len(device.cores or ()))
            ended = race(contestants, device.cores or (), note, turns)
            outputs = {name: read_outputs(contestants[name]) for name in ended.versions}
    finally:
        lock.release()
    for name in results:
        if name in ended.errors:
            raise TunemeshError(f"the result in {results[name]} cannot be run: {ended.errors[name]}")
    return Raced(race=ended, outputs=outputs)


def entry(peer: Peer, shapes: Mapping[str, tuple[int, ...]], raced: Raced) -> Compared:
    """What came of one peer beside the result called :data:`TUNED`."""
    turns = raced.race.turns
    tuned = statistics.median(turn[TUNED] for turn in turns)
    if peer.name in raced.race.errors:
        error = raced.race.errors[peer.name]
        return Compared(peer=peer.name, title=peer.title, shapes=dict(shapes), tuned_s=tuned, error=error)
    theirs = raced.outputs[peer.name]
    return Compared(
        peer=peer.name,
        title=peer.title,
        version=raced.race.versions[peer.name],
        shapes=dict(shapes),
        tuned_s=tuned,
        latency_s=statistics.median(turn[peer.name] for turn in turns),
        ratio=statistics.median(turn[TUNED] / turn[peer.name] for turn in turns),
        difference=difference(raced.outputs[TUNED], theirs),
        largest=max((_largest(each) for each in theirs), default=0.0),
    )


def lay_out(model: ModelFile, folder: Path) -> Path:
    """Write a model and the files that belong to it. Returns its path."""
    path = folder / "model.onnx"
    path.write_bytes(model.data)
    for name, file in model.files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:  # another file system
            shutil.copyfile(file, place)
    return path


def works(
    who: Mapping[str, tuple[str, Path]], signature: Signature, place: Path, threads: int
) -> dict[str, Work]:
    """What contestants are to do: all of them on the inputs of :func:`save_inputs`.

    Args:
        who: by name: who runs it, and what.
        place: the folder with ``inputs.npz``, where outputs are written to.
        threads: of each.
    """
    return {
        name: Work(
            runner=runner,
            model=str(where),
            function=signature.function,
            inputs=str(place / "inputs.npz"),
            outputs=str(place / f"output-{number}.npz"),
            names=[each.name for each in signature.inputs],
            threads=threads,
        )
        for number, (name, (runner, where)) in enumerate(who.items())
    }


def save_inputs(model: ModelFile, settings: Settings, signature: Signature, path: Path) -> None:
    """Write the arrays that all contestants get: those that came with the model where they have these shapes,
    else random ones in the ranges of the job."""
    tensors = [(each.name, each.shape, each.dtype) for each in signature.inputs]
    arrays = None
    if model.samples is not None:
        read = inputs.read(model.samples)
        for given in list(inputs.sets(read).values()) or [read]:
            if all(name in given and given[name].shape == shape for name, shape, _ in tensors):
                arrays = inputs.fitting(given, tensors)
    if arrays is None:
        arrays = inputs.random(tensors, SEED, settings.ranges)
    named = {name: array for (name, _, _), array in zip(tensors, arrays, strict=True)}
    path.write_bytes(inputs.write(named))


def read_outputs(work: Work) -> list[Array]:
    """What a contestant has computed."""
    with np.load(work.outputs, allow_pickle=False) as arrays:
        return [arrays[str(number)] for number in range(len(arrays.files))]


def difference(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    """The largest absolute difference between outputs; infinite where their shapes differ, or where one has
    NaN and the other has not."""
    if [each.shape for each in ours] != [each.shape for each in theirs]:
        return float("inf")
    found = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if one.size == 0:
            continue
        if not is_float(str(one.dtype)):
            found = max(found, float((one != other).any()))
            continue
        left, right = one.astype(np.float64), other.astype(np.float64)
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        gap = np.abs(np.subtract(left, right, out=np.zeros_like(left), where=~same))
        found = max(found, float(np.where(np.isnan(gap), np.inf, gap).max()))
    return found


def _largest(array: Array) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) if is_float(str(array.dtype)) else 0.0
