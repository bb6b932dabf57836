"""The engine that tunes with TVM's MetaSchedule. TVM is imported here and nowhere else in Tunemesh, and only
when a function needs it, so that naming the engine costs nothing."""

from __future__ import annotations

from tunemesh.shared.messages import Settings, Trial
from tunemesh.stage_workers.engines.protocol import (
    Assembled,
    BuildOutcome,
    Imported,
    ProfileOutcome,
    Proposal,
    TaskTrials,
    Validated,
)


class MetaScheduleEngine:
    """Implements :class:`~stage_workers.engines.protocol.Engine`; what the functions promise is there."""

    def preload(self) -> None:
        from tunemesh.stage_workers.graph import preloading

        preloading.preload()

    def resolve_target(self, target: str) -> str:
        from tunemesh.stage_workers.graph import targets

        return targets.resolve(target)

    def import_model(self, model: bytes, target: str, settings: Settings) -> Imported:
        from tunemesh.stage_workers.graph import tasks as model_tasks

        return model_tasks.import_model(model, target, settings)

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
        from tunemesh.stage_workers.engines.metaschedule import updating

        return updating.update(workload, target, search, trials, want, seed, settings)

    def build(self, workload: bytes, target: str, schedule: bytes) -> BuildOutcome:
        from tunemesh.stage_workers.engines.metaschedule import building

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
        from tunemesh.stage_workers.measuring import kernels

        return kernels.profile(workload, target, artifact, untuned, device, settings, best)

    def profile_untuned(
        self, workload: bytes, target: str, untuned: bytes, device: str, settings: Settings
    ) -> ProfileOutcome:
        from tunemesh.stage_workers.measuring import kernels

        return kernels.profile_untuned(workload, target, untuned, device, settings)

    def confirm(
        self,
        workload: bytes,
        target: str,
        artifacts: list[bytes],
        untuned: bytes,
        device: str,
        settings: Settings,
    ) -> list[ProfileOutcome]:
        from tunemesh.stage_workers.measuring import kernels

        return kernels.confirm(workload, target, artifacts, untuned, device, settings)

    def reference(self, target: str, device: str) -> list[float]:
        from tunemesh.stage_workers.measuring import reference

        return reference.measure(target, device)

    def assemble(self, model: bytes, target: str, tasks: list[TaskTrials], settings: Settings) -> Assembled:
        from tunemesh.stage_workers.graph import assembly

        return assembly.assemble(model, target, tasks, settings)

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
        from tunemesh.stage_workers.graph import validation

        return validation.validate(tuned, untuned, signature, target, device, seed, settings)
