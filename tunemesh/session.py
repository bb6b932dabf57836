"""The Python interface: from a trained model to a tuned one in one chain.

>>> import tunemesh
>>> tuned = tunemesh.model("m.onnx").on("native").trials(256).tune()  # doctest: +SKIP
>>> tuned.speedup, tuned.run({"x": array})  # doctest: +SKIP

Every step returns a new value, so a prefix can be kept and used several times.
"""

from __future__ import annotations

import math
import operator
import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import msgspec

from tunemesh import checks, mesh_address, model_files, tuning
from tunemesh.early_stop import EarlyStop
from tunemesh.model_files import Given
from tunemesh.option_names import wrong
from tunemesh.progress_bar import Callback, ProgressBar
from tunemesh.report import read_report
from tunemesh.shared.errors import BadInput, JobFailed
from tunemesh.shared.messages import Level, Settings, Visibility
from tunemesh.shared.text import nearest
from tunemesh.tuned import Tuned

if TYPE_CHECKING:
    import onnx
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Model:
    """What to tune and how; change it with the methods, then :meth:`tune`."""

    given: Given
    plan: tuning.Plan

    def on(self, target: str, device: str | None = None) -> Model:
        """For this target; ``device`` is ``cpu:<cores>`` or ``cuda:<n>``, by default the last core."""
        check_texts("a target", target)
        check_texts("a device", *([device] if device is not None else []))
        return replace(self, plan=replace(self.plan, target=target, device=device))

    def trials(self, count: int | None) -> Model:
        """Try ``count`` candidates; ``None``: as many as pay, which is the default."""
        return self.level(
            trials=tuning.trials_of(None if count is None else _whole("a number of trials", count))
        )

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
        check_texts("a tenant", name)
        return replace(self, plan=replace(self.plan, tenant=name))

    def engines(self, *names: str) -> Model:
        """Let these tune: each searches the tasks that it takes, and the fastest kernel of a task wins.
        Without names all do that are served, which is the default.

        Raises:
            BadInput: one cannot be the name of an engine.
        """
        check_texts("an engine", *names)
        return replace(self, plan=replace(self.plan, engines=tuple(map(checks.check_engine_name, names))))

    def options(self, component: str, **options: bool | int | float | str) -> Model:
        """Tell an engine of the job, or ``graph``, something: ``options("metaschedule", population=4)``. What
        was said to it before stays, unless it is said anew."""
        told = {**self.plan.options.get(component, {}), **options}
        return replace(self, plan=replace(self.plan, options={**self.plan.options, component: told}))

    def seed(self, seed: int) -> Model:
        """Make the proposals repeatable."""
        return replace(self, plan=replace(self.plan, seed=_whole("a seed", seed)))

    def shape(self, name: str, *sizes: int) -> Model:
        """Fix the shape of an input. Called again for the same input, the model is tuned for each of its
        shapes, in one job and one module."""
        shape = [_whole(f"a size of {name}", size) for size in sizes]
        shapes = self.plan.settings.shapes
        return self.settings(shapes={**shapes, name: [*shapes.get(name, []), shape]})

    def dim(self, name: str, *sizes: int) -> Model:
        """Fix a symbolic dimension, in whichever inputs it stands. With several sizes the model is tuned for
        each of them, in one job and one module."""
        given = [_whole(f"a size of {name}", size) for size in sizes]
        return self.settings(dims={**self.plan.settings.dims, name: given})

    def range(self, name: str, least: float, above: float) -> Model:
        """The values of an input that the model is compared and measured with: from ``least`` up to but not
        including ``above``. By default they are what its uses allow."""
        return self.settings(ranges={**self.plan.settings.ranges, name: (least, above)})

    def inputs(self, arrays: Mapping[str, NDArray[Any]]) -> Model:
        """Compare and measure the model with these instead of random ones: an array for each input."""
        if not isinstance(arrays, Mapping):
            raise BadInput(f"inputs are arrays by name, not {arrays!r}")
        from tunemesh.stage_workers.measuring import inputs

        return replace(self, plan=replace(self.plan, samples=inputs.write(arrays)))

    def settings(self, **changes: Any) -> Model:
        """Change fields of :class:`~shared.messages.Settings` by name.

        Raises:
            BadInput: there is no such setting, or the value is out of range.
        """
        changed = _changed(self.plan.settings, changes, "setting")
        return replace(self, plan=replace(self.plan, settings=changed))

    def memory(self, gibibytes: float) -> Model:
        """What reading the model, building or measuring may take, in each worker of a mesh of our own."""
        number = isinstance(gibibytes, int | float) and not isinstance(gibibytes, bool)
        if not number or not 0 < gibibytes < math.inf:
            raise BadInput(f"memory is a number of GiB above 0, not {gibibytes!r}")
        return replace(self, plan=replace(self.plan, memory=gibibytes))

    def through(self, broker: str, artifacts: str) -> Model:
        """Use a running mesh instead of one of our own."""
        check_texts("a broker and an artifact store", broker, artifacts)
        address = mesh_address.MeshAddress(broker=broker, artifacts=artifacts)
        return replace(self, plan=replace(self.plan, address=address))

    def tune(
        self,
        out: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        progress: bool | None = None,
        callback: Callback | None = None,
    ) -> Tuned:
        """Tune, and wait for the result. Ctrl-C (in a notebook: interrupt) stops early and keeps the best
        that was found; a second one leaves at once.

        Args:
            out: folder for the results; by default a new one in the folder for temporary files.
            overwrite: whether a result that is there already may be replaced.
            progress: whether a bar shows how far it is; by default in terminals and notebooks.
            callback: told of the job's :class:`~shared.messages.JobProgress` whenever something has happened.

        Raises:
            BadInput: something cannot be used; nothing was started.
            JobFailed: the job ended without a tuned model.
        """
        folder = folder_of(out) if out is not None else Path(tempfile.mkdtemp(prefix="tunemesh-tuned-"))
        records = mesh_address.records_in(mesh_address.data_folder()) if self.plan.address is None else ""
        imports = mesh_address.imports() if self.plan.address is None else ""
        target = checks.usual_target(self.plan.target, self.plan.engines)
        plan = replace(self.plan, target=target, out=folder, records=records, imports=imports)
        plan = replace(plan, overwrite=overwrite)
        # Signals are for the main thread.
        stop = EarlyStop() if threading.current_thread() is threading.main_thread() else None
        with ProgressBar(progress, callback) as bar:
            ending = tuning.tune([self.given], plan, bar, stop)[0]
        if ending.report is None:
            raise JobFailed(f"job {ending.job} failed: {ending.story}")
        return Tuned(folder / ending.job, ending.report)


def check_texts(what: str, *given: object) -> None:
    """Raises:
    BadInput: one of them is no text.
    """
    for each in given:
        if not isinstance(each, str):
            raise BadInput(f"{what} must be text, not {each!r}")


def _whole(what: str, given: Any) -> int:
    """Raises:
    BadInput: it is no whole number.
    """
    try:
        return operator.index(given)
    except TypeError:
        raise BadInput(f"{what} must be a whole number, not {given!r}") from None


_Changed = TypeVar("_Changed", Settings, Level)


def _changed(before: _Changed, changes: Mapping[str, Any], what: str) -> _Changed:
    """Raises:
    BadInput: there is no such field, or the value is out of range.
    """
    known = before.__struct_fields__
    if unknown := set(changes) - set(known):
        first = sorted(unknown)[0]
        raise BadInput(f"there is no {what} {first!r}; known: {', '.join(known)}{nearest(first, known)}")
    if why := wrong(type(before), changes, called=str):
        raise BadInput(why)
    fields = {**msgspec.structs.asdict(before), **changes}
    encoded = dict(zip(before.__struct_encode_fields__, (fields[name] for name in known), strict=True))
    try:
        return msgspec.convert(encoded, type(before))
    except msgspec.ValidationError as error:
        raise BadInput(f"bad {what}: {error}") from None


def model(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | torch.nn.Module | torch.export.ExportedProgram,
    example_inputs: Any = None,
    *,
    dynamic_shapes: Any = None,
) -> Model:
    """Begin with a model.

    Args:
        source: a file (ONNX, TFLite, ``torch.export.save``'s, or Relax or TIR as JSON), the bytes of one, a
            model of the package ``onnx``, or a module of PyTorch, which is exported and converted in this
            process.
        example_inputs: of a module, a tensor or a tuple of them. What PyTorch computes for them is sent
            along, so that the mesh can compare with it.
        dynamic_shapes: dimensions of a module that stay open, as ``torch.export.export`` takes them; say with
            :meth:`Model.shape` what they are to be.

    Raises:
        BadInput: there is no such file; the module cannot be converted; it is nothing of all this.
    """
    plan = tuning.Plan(target="native", out=Path())
    if isinstance(source, bytes | bytearray):
        return Model(model_files.from_bytes(Path("model"), bytes(source), _say_nothing), plan)
    if _is_of("onnx", source, "ModelProto"):
        return Model(model_files.from_onnx(source), plan)
    if _is_of("torch", source, "nn.Module", "export.ExportedProgram"):
        return Model(model_files.from_module(source, example_inputs, dynamic_shapes), plan)
    if not isinstance(source, str | os.PathLike):
        raise BadInput(
            "a model is a path, bytes, a model of onnx or a module of PyTorch, not"
            f" {type(source).__module__}.{type(source).__name__}"
        )
    found = Path(source)
    if not found.exists():
        raise BadInput(f"there is no model {found}")
    return Model(found, plan)


def _is_of(package: str, given: object, *names: str) -> bool:
    """Whether something is of a class of a package, which is not imported for that: who has one has it."""
    module = sys.modules.get(package)
    return module is not None and any(isinstance(given, operator.attrgetter(name)(module)) for name in names)


def _say_nothing(text: str) -> None:
    """What there is to say of a file is for the command line."""


def load(folder: str | os.PathLike[str]) -> Tuned:
    """The result that ``tunemesh tune`` or ``tunemesh fetch`` has written to a folder.

    Raises:
        BadInput: there is none.
    """
    found = folder_of(folder)
    return Tuned(found, read_report(found))


def folder_of(given: str | os.PathLike[str]) -> Path:
    """Raises:
    BadInput: it is no path.
    """
    try:
        return Path(given)
    except TypeError:
        raise BadInput(f"a folder is a path, not {given!r}") from None
