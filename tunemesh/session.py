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
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import msgspec

from tunemesh import checks, exporting, following, mesh_address, model_files, tuning
from tunemesh.model_files import Given
from tunemesh.report import Report, read_report
from tunemesh.shared.errors import BadInput, JobFailed
from tunemesh.shared.messages import Level, Settings, Visibility

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from tunemesh.exports.tuned_model import Bound, TunedModel


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned model and how it was found."""

    folder: Path
    """Holds ``model.so``, the tuning database and ``report.json``."""
    report: Report
    _loaded: list[TunedModel] = field(default_factory=list, init=False, repr=False, compare=False)
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

    def run(self, inputs: Mapping[str, Any]) -> list[NDArray[Any]]:
        """Run the model on this machine's CPU. ``inputs`` by name: arrays of numpy, or what speaks DLPack.
        Returns the outputs in the model's order.

        The first call loads the model. Every call costs some 5 us more than the model itself; an input that
        does not begin at a multiple of 64 bytes is copied besides.

        Raises:
            BadInput: an input is missing, unknown, or has the wrong shape or dtype; the model cannot be read,
                or is for a GPU.
        """
        try:
            return self._model().run(inputs)
        except ValueError as error:
            raise BadInput(str(error)) from None

    def bind(self, inputs: Mapping[str, Any] | None = None, variant: int = 0) -> Bound:
        """The model with inputs that it reads in place, without any copy: change their content and call
        ``run()`` of what is returned. Without ``inputs`` it makes them, in the shapes of the ``variant``, of
        which most models have one: fill ``bound.inputs[name]``.

        Raises:
            BadInput: as for :meth:`run`; or an array cannot be used in place, for the reason that is named.
        """
        try:
            loaded = self._model()
            return loaded.bind(loaded.buffers(variant) if inputs is None else inputs)
        except ValueError as error:
            raise BadInput(str(error)) from None

    def _model(self) -> TunedModel:
        if not self._loaded:
            from tunemesh.exports.tuned_model import TunedModel

            exporting.check_target(self.report.target)
            try:
                loaded = TunedModel(self.folder, exporting.runtime_folder())
            except OSError as error:
                raise BadInput(f"cannot read the tuned model: {error}") from None
            self._loaded.append(loaded)
        return self._loaded[0]

    def export(self, kind: exporting.Kind, to: str | os.PathLike[str]) -> Path:
        """Write the model to the folder ``to`` as something that runs without Tunemesh: in ``python``, in
        ``cpp``, in ``torch``, or in ``onnx`` Runtime. See ``docs/deploy.md`` for what each needs.

        Raises:
            BadInput: there is no such kind; the model is for a GPU; the folder cannot be written.
            TunemeshError: ``onnx`` needs a C++ compiler, which is missing or fails.
        """
        return exporting.export(self.folder, self.report.target, kind, Path(to))

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

    def trials(self, count: int | None) -> Model:
        """Try ``count`` candidates; ``None``: as many as pay, which is the default."""
        return self.level(trials=tuning.trials_of(count))

    def level(self, **changes: Any) -> Model:
        """Change fields of :class:`~shared.messages.Level` by name: what is to be reached, and what it may
        take. The class is called ``class_``.

        Raises:
            BadInput: there is no such field, or the value is out of range.
        """
        return replace(self, plan=replace(self.plan, level=_changed(self.plan.level, changes, "level")))

    def visibility(self, who: Visibility) -> Model:
        """Who may use what is measured later: the job's ``tenant`` alone, or ``all``. Jobs of this interface
        have no tenant unless :meth:`tenant` says so, and what they measure is for all.

        Raises:
            BadInput: it is neither.
        """
        if who not in get_args(Visibility):
            raise BadInput(f"what is measured is for {' or '.join(get_args(Visibility))}, not {who!r}")
        return replace(self, plan=replace(self.plan, visibility=who))

    def tenant(self, name: str) -> Model:
        """On whose account, where several share a mesh.

        Raises:
            BadInput: it cannot be the name of a tenant.
        """
        return replace(self, plan=replace(self.plan, tenant=name))

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
        changed = _changed(self.plan.settings, changes, "setting")
        return replace(self, plan=replace(self.plan, settings=changed))

    def memory(self, gibibytes: float) -> Model:
        """What reading the model, building or measuring may take, in each worker of a mesh of our own."""
        return replace(self, plan=replace(self.plan, memory=gibibytes))

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
        records = mesh_address.records_in(mesh_address.data_folder()) if self.plan.address is None else ""
        imports = mesh_address.imports() if self.plan.address is None else ""
        plan = replace(self.plan, out=folder, records=records, imports=imports)
        ending = tuning.tune([self.given], plan, following.Watcher())[0]
        if ending.report is None:
            raise JobFailed(f"job {ending.job} failed: {ending.story}")
        return Tuned(folder / ending.job, ending.report)


_Changed = TypeVar("_Changed", Settings, Level)


def _changed(before: _Changed, changes: Mapping[str, Any], what: str) -> _Changed:
    """Raises:
    BadInput: there is no such field, or the value is out of range.
    """
    known = before.__struct_fields__
    if unknown := set(changes) - set(known):
        raise BadInput(f"there is no {what} {sorted(unknown)[0]!r}; known: {', '.join(known)}")
    fields = {**msgspec.structs.asdict(before), **changes}
    encoded = dict(zip(before.__struct_encode_fields__, (fields[name] for name in known), strict=True))
    try:
        return msgspec.convert(encoded, type(before))
    except msgspec.ValidationError as error:
        raise BadInput(f"bad {what}: {error}") from None


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
    plan = tuning.Plan(target="native", out=Path())
    if not isinstance(source, str | os.PathLike):
        return Model(model_files.from_module(source, example_inputs, dynamic_shapes), plan)
    found = Path(source)
    if not found.exists():
        raise BadInput(f"there is no model {found}")
    return Model(found, plan)


def load(folder: str | os.PathLike[str]) -> Tuned:
    """The result that ``tunemesh tune`` or ``tunemesh fetch`` has written to a folder.

    Raises:
        BadInput: there is none.
    """
    return Tuned(Path(folder), read_report(Path(folder)))
