"""A tuned model and how it was found, for the Python interface."""

from __future__ import annotations

import html
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tunemesh import exporting
from tunemesh.report import Report, TaskReport, won
from tunemesh.report_page import curves, facts, writing
from tunemesh.shared.errors import BadInput
from tunemesh.shared.text import clip, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from tunemesh.exports.tuned_model import Bound, TunedModel


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned model and how it was found. A notebook shows it as a table."""

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
    def winners(self) -> dict[str, list[TaskReport]]:
        """The tasks by the engine whose kernel the model has; by ``untuned`` those that no engine made
        faster. ``ahead`` of each says how many times as long the next engine's kernel takes."""
        return won(self.report)

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

    def history(self) -> list[dict[str, Any]]:
        """Every trial, in the order in which they were known, as rows of a table:
        ``pandas.DataFrame(tuned.history())``.

        Each has ``trial`` (from 1), ``seconds`` (since the job was accepted), ``task`` and ``name``,
        ``outcome``, ``latency_s`` (``None`` where it was not measured), ``best_s`` (of its task so far),
        ``drift`` and ``error``.
        """
        names = {task.id: task.name for task in self.report.tasks}
        best: dict[str, float] = {}
        rows = []
        for number, each in enumerate(self.report.tried, 1):
            if each.latency_s is not None:
                best[each.task] = min(each.latency_s, best.get(each.task, each.latency_s))
            rows.append(
                {
                    "trial": number,
                    "seconds": each.at - self.report.accepted,
                    "task": each.task,
                    "name": names.get(each.task, ""),
                    "outcome": each.outcome,
                    "latency_s": each.latency_s,
                    "best_s": best.get(each.task),
                    "drift": each.drift,
                    "error": each.error,
                }
            )
        return rows

    def plot(self, axes: Axes | None = None, over: str = "trials") -> Axes:
        """How the latency of the model went down, as far as its tasks tell.

        Args:
            axes: of matplotlib, to draw into; by default new ones.
            over: ``trials`` or ``seconds``.

        Raises:
            BadInput: nothing was tried, so that there is nothing to draw.
        """
        if over not in ("trials", "seconds"):
            raise BadInput(f"a plot is over trials or seconds, not {over!r}")
        curve = curves.improvement(self.report)
        if curve is None:
            raise BadInput(f"job {self.report.job} has tried nothing: there is nothing to plot")
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.subplots()[1]
        along = curve.trials if over == "trials" else curve.seconds
        axes.step(along, [seconds * 1e3 for seconds in curve.latency], where="post", label=self.report.job)
        axes.set_xlabel(over)
        axes.set_ylabel("sum of the tasks, ms")
        axes.set_yscale("log")
        return axes

    def _repr_html_(self) -> str:
        """What a notebook shows: what came out in short, and where the whole page is."""
        report = self.report
        rows = [("result", facts.headline(report)), *facts.came_out(report)]
        rows += [("beside others", text) for text, _ in facts.comparisons(report)]
        rows += [(task.task.id, f"{task.best} ({task.speedup})") for task in facts.tasks(report)[:SHOWN]]
        rows.append(("page", str(self.folder / writing.PAGE)))
        cells = "".join(f"<tr><th>{_escaped(name)}</th><td>{_escaped(text)}</td></tr>" for name, text in rows)
        return f"<table><caption>{_escaped(report.name or report.job)}</caption>{cells}</table>"


SHOWN = 8
"""Tasks in a notebook, those first that take the most time."""


def _escaped(text: str) -> str:
    return html.escape(clip(printable(text), 300))
