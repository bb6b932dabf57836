"""The Python interface: from a trained model to a tuned one in one chain.

>>> import tunemesh
>>> tuned = tunemesh.model("m.onnx").on("native").trials(256).tune()  # doctest: +SKIP
>>> tuned.speedup, tuned.run({"x": array})  # doctest: +SKIP

Every step returns a new value, so a prefix can be kept and used several times.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tunemesh import checks, mesh_address, model_files, tuning
from tunemesh.model_files import Given
from tunemesh.report import Report
from tunemesh.shared.errors import BadInput, JobFailed
from tunemesh.shared.messages import Settings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tunemesh.stage_workers.graph.execution import Program


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned model and how it was found."""

    folder: Path
    """Holds ``model.so``, the tuning database and ``report.json``."""
    report: Report
    _loaded: list[Program] = field(default_factory=list, init=False, repr=False, compare=False)
    """The model, once it has run."""

    @property
    def latency_ms(self) -> float:
        """Measured end-to-end latency in milliseconds."""
        return self.report.latency_after_s * 1e3

    @property
    def speedup(self) -> float:
        """Untuned latency over tuned latency."""
        return self.report.speedup

    @property
    def records(self) -> list[dict[str, Any]]:
        """The measured schedules, as MetaSchedule's ``JSONDatabase`` stores them."""
        path = self.folder / "database_tuning_record.json"
        if not path.exists():
            return []
        return [msgspec.json.decode(line) for line in path.read_bytes().splitlines() if line]

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        """Run the model on this machine. ``inputs`` by name; returns the outputs in the model's order.

        The first call loads the model, and TVM with it (0.4 s for a small network). Every call costs some
        25 us more than the model itself (Zen 5, 12 KB of inputs): they are checked and copied.

        Raises:
            BadInput: an input is missing, unknown, or has the wrong shape or dtype; the model cannot be read.
        """
        if not self._loaded:
            from tunemesh.stage_workers.graph.execution import Program

            self._loaded.append(Program(self.folder / "model.so", self.folder / "signature.json"))
        return self._loaded[0].run(inputs)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Copy ``model.so`` to ``path``, and the rest beside it when ``path`` is a folder."""
        destination = Path(path)
        try:
            if destination.is_dir():
                shutil.copytree(self.folder, destination, dirs_exist_ok=True)
            else:
                shutil.copyfile(self.folder / "model.so", destination)
        except OSError as error:
            raise BadInput(f"cannot write {destination}: {error.strerror or error}") from None
        return destination


@dataclass(frozen=True, slots=True)
class Model:
    """What to tune and how; change it with the methods, then :meth:`tune`."""

    given: Given
    plan: tuning.Plan

    def on(self, target: str, device: str | None = None) -> Model:
        """For this target; ``device`` is ``cpu:<cores>`` or ``cuda:<n>``, by default the last core."""
        return replace(self, plan=replace(self.plan, target=target, device=device))

    def trials(self, count: int) -> Model:
        """Try ``count`` candidates."""
        return replace(self, plan=replace(self.plan, trials=count))

    def engines(self, *names: str) -> Model:
        """Let these tune: a task goes to the first of them that takes it.

        Raises:
            BadInput: none is given, or one cannot be the name of an engine.
        """
        return replace(self, plan=replace(self.plan, engines=tuple(map(checks.check_engine_name, names))))

    def options(self, component: str, **options: bool | int | float | str) -> Model:
        """Tell an engine of the job, or ``graph``, something: ``options("metaschedule", population=4)``. What
        was said to it before stays, unless it is said anew."""
        told = {**self.plan.options.get(component, {}), **options}
        return replace(self, plan=replace(self.plan, options={**self.plan.options, component: told}))

    def seed(self, seed: int) -> Model:
        """Make the proposals repeatable."""
        return replace(self, plan=replace(self.plan, seed=seed))

    def shape(self, name: str, *sizes: int) -> Model:
        """Fix the shape of an input. Called again for the same input, the model is tuned for each of its
        shapes, in one job and one module."""
        shapes = self.plan.settings.shapes
        return self.settings(shapes={**shapes, name: [*shapes.get(name, []), list(sizes)]})

    def dim(self, name: str, *sizes: int) -> Model:
        """Fix a symbolic dimension, in whichever inputs it stands. With several sizes the model is tuned for
        each of them, in one job and one module."""
        return self.settings(dims={**self.plan.settings.dims, name: list(sizes)})

    def range(self, name: str, least: float, above: float) -> Model:
        """The values of an input that the model is compared and measured with: from ``least`` up to but not
        including ``above``. By default they are what its uses allow."""
        return self.settings(ranges={**self.plan.settings.ranges, name: (least, above)})

    def inputs(self, arrays: Mapping[str, NDArray[Any]]) -> Model:
        """Compare and measure the model with these instead of random ones: an array for each input."""
        import numpy as np

        file = io.BytesIO()
        np.savez(file, **dict[str, Any](arrays))
        return replace(self, plan=replace(self.plan, samples=file.getvalue()))

    def settings(self, **changes: Any) -> Model:
        """Change fields of :class:`~shared.messages.Settings` by name.

        Raises:
            BadInput: there is no such setting, or the value is out of range.
        """
        fields = {**msgspec.structs.asdict(self.plan.settings), **changes}
        try:
            changed = msgspec.convert(fields, Settings)
        except msgspec.ValidationError as error:
            raise BadInput(f"bad setting: {error}") from None
        if unknown := set(changes) - set(Settings.__struct_fields__):
            raise BadInput(
                f"there is no setting {sorted(unknown)[0]!r}; known: {', '.join(Settings.__struct_fields__)}"
            )
        return replace(self, plan=replace(self.plan, settings=changed))

    def through(self, broker: str, artifacts: str) -> Model:
        """Use a running mesh instead of one of our own."""
        address = mesh_address.MeshAddress(broker=broker, artifacts=artifacts)
        return replace(self, plan=replace(self.plan, address=address))

    def tune(self, out: str | os.PathLike[str] | None = None) -> Tuned:
        """Tune, and wait for the result.

        Args:
            out: folder for the results; by default a new one in the folder for temporary files.

        Raises:
            BadInput: something cannot be used; nothing was started.
            JobFailed: the job ended without a tuned model.
        """
        folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="tunemesh-tuned-"))
        ending = tuning.tune([self.given], replace(self.plan, out=folder), tuning.Watcher())[0]
        if ending.report is None:
            raise JobFailed(f"job {ending.job} failed: {ending.error}")
        return Tuned(folder / ending.job, ending.report)


def model(
    source: str | os.PathLike[str] | torch.nn.Module | torch.export.ExportedProgram,
    example_inputs: Any = None,
    *,
    dynamic_shapes: Any = None,
) -> Model:
    """Begin with a model.

    Args:
        source: a file (ONNX, TFLite, ``torch.export.save``'s, or Relax or TIR as JSON), or a module of
            PyTorch, which is exported and converted in this process.
        example_inputs: of a module, a tensor or a tuple of them. What PyTorch computes for them is sent
            along, so that the mesh can compare with it.
        dynamic_shapes: dimensions of a module that stay open, as ``torch.export.export`` takes them; say with
            :meth:`Model.shape` what they are to be.

    Raises:
        BadInput: there is no such file; the module cannot be converted; PyTorch is missing.
    """
    plan = tuning.Plan(target="native", trials=256, out=Path())
    if not isinstance(source, str | os.PathLike):
        return Model(model_files.from_module(source, example_inputs, dynamic_shapes), plan)
    found = Path(source)
    if not found.exists():
        raise BadInput(f"there is no model {found}")
    return Model(found, plan)
