"""Models and kernels of TVM's targets: CPUs by LLVM, NVIDIA GPUs. TVM is imported when a method needs it, so
that naming the platform costs nothing."""

from __future__ import annotations

from tunemesh.stage_workers.platforms import TVM
from tunemesh.stage_workers.platforms.protocol import (
    AssembleCall,
    Assembled,
    CompileCall,
    Compiled,
    ConfirmCall,
    ConfirmOutcome,
    ImportCall,
    Imported,
    ProfileCall,
    ProfileOutcome,
    ReferenceCall,
    ReferenceOutcome,
    Target,
    TargetCall,
    UntunedCall,
    ValidateCall,
    Validated,
)


class TvmPlatform:
    """Implements :class:`~stage_workers.platforms.protocol.Platform`; what the methods promise is there."""

    name = TVM

    def preload(self) -> None:
        from tunemesh.stage_workers.graph import preloading

        preloading.preload()

    def resolve_target(self, call: TargetCall) -> Target:
        from tunemesh.stage_workers.graph import targets

        return Target(canonical=targets.resolve(call.target, call.cores))

    def import_model(self, call: ImportCall) -> Imported:
        from tunemesh.stage_workers.graph import importing

        return importing.import_model(call)

    def compile(self, call: CompileCall) -> Compiled:
        from tunemesh.stage_workers.graph import compilation, workloads

        return Compiled(artifact=compilation.build_untuned(workloads.load(call.workload), call.target))

    def reference(self, call: ReferenceCall) -> ReferenceOutcome:
        from tunemesh.stage_workers.measuring import reference

        return ReferenceOutcome(latencies=reference.measure(call.target, call.device))

    def profile(self, call: ProfileCall) -> ProfileOutcome:
        from tunemesh.stage_workers.measuring import kernels

        return kernels.profile(call)

    def profile_untuned(self, call: UntunedCall) -> ProfileOutcome:
        from tunemesh.stage_workers.measuring import kernels

        return kernels.profile_untuned(call)

    def confirm(self, call: ConfirmCall) -> ConfirmOutcome:
        from tunemesh.stage_workers.measuring import kernels

        return ConfirmOutcome(outcomes=kernels.confirm(call))

    def assemble(self, call: AssembleCall) -> Assembled:
        from tunemesh.stage_workers.graph import assembly

        return assembly.assemble(call)

    def validate(self, call: ValidateCall) -> Validated:
        from tunemesh.stage_workers.graph import validation

        return validation.validate(call)
