"""An experiment: what is compared, and under which conditions, from a YAML file (``docs/benchmarks.md``)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from tunemesh.coordinator.scheduling.strategies import by_name
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import EngineName, Options, Settings

Kind = Literal["mesh", "simulation"]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0, lt=2**31)]
Trials = Annotated[int, Meta(ge=1, le=1_000_000)]
Limit = Annotated[float, Meta(gt=0)]

Tuner = Literal["tunemesh", "metaschedule", "metaschedule-warm"]
"""Who tunes: a mesh, MetaSchedule as it comes, or MetaSchedule with the start of its worker processes taken
out (``benchmarks/metaschedule_run.py``)."""

Values = list[Any]
"""Of one axis."""

AXES: dict[Kind, dict[str, Any]] = {
    "mesh": {
        "strategy": str,
        "seed": Seed,
        "models": list[str],
        "trials": Trials,
        "tuner": Tuner,
        "cores": Positive,
    },
    "simulation": {"strategy": str, "seed": Seed, "scenario": str},
}
"""What the matrix may vary besides ``settings.<name>`` (mesh) or ``overrides.<name>`` (simulation)."""
FAMILIES: dict[Kind, str] = {"mesh": "settings.", "simulation": "overrides."}

CheckStrategy = Callable[[str], object]


class Experiment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file says. What the matrix does not vary is the same in all runs."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
    kind: Kind
    description: str = ""
    matrix: dict[str, Values] = {}
    """Axis to values: every combination is a run. The others are compared with the first."""
    repeats: Positive = 1
    limit_s: Limit = 900.0
    """Seconds that one run may take, re-measuring included; then it is stopped and counts as failed."""
    strategy: str = "interleaved"
    seed: Seed = 0

    tuner: Tuner = "tunemesh"
    cores: Positive | None = None
    """Of this machine, the last ones, that all of a run may use; by default all. On one core the steps of a
    mesh take turns."""
    models: list[str] = []
    """Of a mesh: files (beside the experiment), or names that ``examples/make_models.py`` knows."""
    engine: EngineName = "metaschedule"
    target: str = "native"
    device: str | None = None
    builders: Positive | None = None
    trials: Trials = 64
    """Per model."""
    settings: dict[str, Any] = {}
    options: dict[str, Options] = {}
    """Of engines and of the graph, as a request has them."""
    fidelity: Count | None = 20
    """Candidates per run, besides the winners, that are measured again alone; ``null`` to measure none."""
    remeasure: Count = 5
    """Rounds in which the tuned models of all runs take turns at the end; 0 for none."""

    scenario: str | None = None
    """Of a simulation: what :func:`coordinator.simulation.load_scenario` takes."""
    overrides: dict[str, Any] = {}
    """Fields of the scenario by name."""

    @property
    def hash(self) -> str:
        """Of everything that affects results: the same hash, the same experiment."""
        return digest(self)

    def axis(self, name: str) -> Values:
        """The values of one axis, also where the matrix does not vary it."""
        return self.matrix[name] if name in self.matrix else [getattr(self, name)]


def digest(experiment: Experiment) -> str:
    """The first 12 hex digits of the SHA-256 of the experiment without description and time limit."""
    plain = msgspec.structs.replace(experiment, description="", limit_s=1.0)
    return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()[:12]


def load(path: Path, check_strategy: CheckStrategy = by_name) -> Experiment:
    """Read and check an experiment.

    Args:
        check_strategy: raises ``BadInput`` for an unknown strategy; the coordinator's own list by default.

    Raises:
        BadInput: something is wrong with it; one line that names the file and what to do.
    """
    try:
        experiment = msgspec.yaml.decode(path.read_bytes(), type=Experiment)
        _check(experiment, check_strategy)
    except OSError as error:
        raise BadInput(f"cannot read experiment {path}: {error.strerror or error}") from None
    except (msgspec.ValidationError, BadInput) as error:
        raise BadInput(f"experiment {path}: {error}; see docs/benchmarks.md") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"experiment {path} is no YAML: {' '.join(str(error).split())[:200]}") from None
    return experiment


def settings_of(fields: dict[str, Any]) -> Settings:
    """Settings by name.

    Raises:
        BadInput: there is no such setting, or a value is out of range.
    """
    if unknown := sorted(set(fields) - set(Settings.__struct_fields__)):
        known = ", ".join(Settings.__struct_fields__)
        raise BadInput(f"there is no setting {unknown[0]!r}; known: {known}")
    try:
        return msgspec.convert(fields, Settings)
    except msgspec.ValidationError as error:
        raise BadInput(f"bad setting: {error}") from None


def _check(experiment: Experiment, check_strategy: CheckStrategy) -> None:
    for axis, values in experiment.matrix.items():
        _check_axis(experiment.kind, axis, values)
    for strategy in experiment.axis("strategy"):
        check_strategy(strategy)
    if experiment.kind == "simulation":
        if experiment.axis("scenario") == [None]:
            raise BadInput("give a scenario, or several in the matrix")
        return
    if experiment.engine != "metaschedule" and experiment.axis("tuner") != ["tunemesh"]:
        raise BadInput("to compare with MetaSchedule the engine must be metaschedule")
    if not all(experiment.axis("models")):
        raise BadInput("give at least one model: a file, or a name that examples/make_models.py knows")
    varied = {name for name in experiment.matrix if name.startswith("settings.")}
    settings_of(experiment.settings)
    for name in varied:
        for value in experiment.matrix[name]:
            settings_of({name.removeprefix("settings."): value})


def _check_axis(kind: Kind, axis: str, values: Values) -> None:
    family = FAMILIES[kind]
    of_family = axis.startswith(family) and len(axis) > len(family)
    if axis not in AXES[kind] and not of_family:
        known = ", ".join([*AXES[kind], f"{family}<name>"])
        raise BadInput(f"the matrix of kind {kind} cannot vary {axis!r}; it can vary: {known}")
    if not values:
        raise BadInput(f"matrix: {axis} is empty; give at least one value or leave it out")
    if any(value in values[:index] for index, value in enumerate(values)):
        raise BadInput(f"matrix: {axis} has a value twice; for more runs of the same say repeats")
    for value in [] if of_family else values:
        try:
            msgspec.convert(value, AXES[kind][axis])
        except msgspec.ValidationError as error:
            known = f"; known: {', '.join(get_args(Tuner))}" if axis == "tuner" else ""
            raise BadInput(f"matrix: {axis}: {error}{known}") from None
