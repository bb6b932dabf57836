"""The engine that tunes with TVM's MetaSchedule. TVM is imported here and nowhere else in Tunemesh, and only
when a function needs it, so that naming the engine costs nothing."""

from __future__ import annotations

from shared.engine import (
    Assembled,
    BuildOutcome,
    Imported,
    ProfileOutcome,
    Proposal,
    TaskTrials,
    Validated,
)
from shared.messages import Settings, Trial


class MetaScheduleEngine:
    """Implements :class:`shared.engine.Engine`; what the functions promise is written there."""

    def preload(self) -> None:
        from . import preloading

        preloading.preload()

    def resolve_target(self, target: str) -> str:
        from . import targets

        return targets.resolve(target)

    def import_model(self, model: bytes, target: str, settings: Settings) -> Imported:
        from . import importing

        return importing.import_model(model, target, settings)

    def update(
        self,
        workload: bytes,
        target: str,
        search: bytes | None,
        trials: list[Trial],
        want: int,
        seed: int,
        settings: Settings,
    ) -> Proposal:
        from . import updating

        return updating.update(workload, target, search, trials, want, seed, settings)

    def build(self, workload: bytes, target: str, schedule: bytes) -> BuildOutcome:
        from . import building

        return building.build(workload, target, schedule)

    def profile(
        self,
        workload: bytes,
        target: str,
        artifact: bytes,
        untuned: bytes,
        device: str,
        settings: Settings,
        best: float | None,
    ) -> ProfileOutcome:
        from . import profiling

        return profiling.profile(workload, target, artifact, untuned, device, settings, best)

    def profile_untuned(
        self, workload: bytes, target: str, untuned: bytes, device: str, settings: Settings
    ) -> ProfileOutcome:
        from . import profiling

        return profiling.profile_untuned(workload, target, untuned, device, settings)

    def confirm(
        self,
        workload: bytes,
        target: str,
        artifacts: list[bytes],
        untuned: bytes,
        device: str,
        settings: Settings,
    ) -> list[ProfileOutcome]:
        from . import profiling

        return profiling.confirm(workload, target, artifacts, untuned, device, settings)

    def reference(self, target: str, device: str) -> list[float]:
        from . import reference

        return reference.measure(target, device)

    def assemble(self, model: bytes, target: str, tasks: list[TaskTrials], settings: Settings) -> Assembled:
        from . import assembling

        return assembling.assemble(model, target, tasks, settings)

    def validate(
        self,
        tuned: bytes,
        untuned: bytes,
        signature: bytes,
        target: str,
        device: str,
        seed: int,
        settings: Settings,
    ) -> Validated:
        from . import validating

        return validating.validate(tuned, untuned, signature, target, device, seed, settings)
