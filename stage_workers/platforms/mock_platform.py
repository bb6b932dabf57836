"""Models and devices that are not there: what :mod:`stage_workers.engines.mock` tunes. Every string that
starts with ``mock`` is a target and is its own canonical form."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Struct

from tunemesh.shared.messages import OutputCheck
from tunemesh.stage_workers import options as given
from tunemesh.stage_workers.engines.mock import NoOptions, landscape
from tunemesh.stage_workers.engines.mock.landscape import PROFILE_TROUBLES, MockModel, MockTask, Workload
from tunemesh.stage_workers.platforms import MOCK
from tunemesh.stage_workers.platforms.protocol import (
    AssembleCall,
    Assembled,
    CompileCall,
    Compiled,
    ConfirmCall,
    ConfirmOutcome,
    ExtractedTask,
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

WRONG = OutputCheck(
    name="0", dtype="float32", elements=1, compared=1, units=1e5, difference=1.0, tolerance=1e-5
)
"""The output of a model that is said not to be equal."""


class MockProgram(Struct, frozen=True, kw_only=True):
    """An assembled model: nothing but its latency in seconds."""

    latency: float
    model: MockModel


class MockPlatform:
    """Implements :class:`~stage_workers.platforms.protocol.Platform`."""

    name = MOCK

    def preload(self) -> None:
        """Nothing is slow to import."""

    def resolve_target(self, call: TargetCall) -> Target:
        """The target itself."""
        landscape.broken(call.target)
        return Target(canonical=call.target)

    def import_model(self, call: ImportCall) -> Imported:
        """One task per entry of ``tasks``."""
        given.read(given.GRAPH, call.options, NoOptions)
        parsed = landscape.parse(call.model)
        landscape.suffer(parsed.stages.get("import"))
        landscape.spend(parsed.durations, "import", parsed.seed)
        tasks = [_extract(parsed, task, call.target) for task in parsed.tasks]
        return Imported(model=msgspec.msgpack.encode(parsed), tasks=tasks)

    def compile(self, call: CompileCall) -> Compiled:
        """The workload itself, as it is imported."""
        return Compiled(artifact=call.workload)

    def reference(self, call: ReferenceCall) -> ReferenceOutcome:
        """A device that is always the same, where it works."""
        landscape.need_device(call.target)
        return ReferenceOutcome(latencies=[1e-3] * 5)

    def profile(self, call: ProfileCall) -> ProfileOutcome:
        """Sleeps; the latency is that of the landscape."""
        landscape.need_device(call.target)
        work, chosen = landscape.read_candidate(call.workload, call.artifact)
        landscape.spend(work.task.durations, "profile", chosen.point)
        landscape.suffer(landscape.trouble_of(work, chosen, PROFILE_TROUBLES))
        if landscape.fails(work, chosen, "profile-error"):
            error = f"mock device: cannot run candidate {chosen.index}"
            return ProfileOutcome(outcome="run-failed", error=error)
        if landscape.fails(work, chosen, "wrong-result"):
            return ProfileOutcome(outcome="wrong-result", error="output 0 differs by 1.0, allowed is 1e-05")
        took = landscape.latency(work, chosen.point)
        limit = call.settings.cut_short
        slow = call.best is not None and limit is not None and took >= limit * call.best
        repeats = 1 if slow else call.settings.repeats
        return ProfileOutcome(outcome="measured", latencies=[took] * repeats, cut_short=slow)

    def profile_untuned(self, call: UntunedCall) -> ProfileOutcome:
        """The latency that the model states."""
        landscape.need_device(call.target)
        work = msgspec.msgpack.decode(call.workload, type=Workload)
        landscape.spend(work.task.durations, "profile", -1)
        return ProfileOutcome(outcome="measured", latencies=[work.task.untuned] * call.settings.repeats)

    def confirm(self, call: ConfirmCall) -> ConfirmOutcome:
        """As if each was profiled alone."""
        alone = [
            ProfileCall(
                workload=call.workload,
                target=call.target,
                artifact=artifact,
                untuned=call.untuned,
                device=call.device,
                settings=call.settings,
            )
            for artifact in call.artifacts
        ]
        return ConfirmOutcome(outcomes=list(map(self.profile, alone)))

    def assemble(self, call: AssembleCall) -> Assembled:
        """Latencies are weighted sums over the tasks."""
        parsed = msgspec.msgpack.decode(call.model, type=MockModel)
        landscape.suffer(parsed.stages.get("assemble"))
        landscape.spend(parsed.durations, "assemble", parsed.seed)
        before = sum(task.weight * task.untuned for task in parsed.tasks)
        after = before
        for tuned in call.tasks:
            task = msgspec.msgpack.decode(tuned.workload, type=Workload).task
            after -= task.weight * (task.untuned - tuned.latency)
        return Assembled(
            tuned=msgspec.msgpack.encode(MockProgram(latency=after, model=parsed)),
            untuned=msgspec.msgpack.encode(MockProgram(latency=before, model=parsed)),
            signature=msgspec.json.encode({"variants": [{"inputs": [], "outputs": [], "function": "main"}]}),
        )

    def validate(self, call: ValidateCall) -> Validated:
        """What :meth:`assemble` computed."""
        landscape.need_device(call.target)
        after = msgspec.msgpack.decode(call.tuned, type=MockProgram)
        before = msgspec.msgpack.decode(call.untuned, type=MockProgram)
        landscape.suffer(after.model.stages.get("validate"))
        landscape.spend(after.model.durations, "validate", after.model.seed)
        return Validated(
            before=[before.latency],
            after=[after.latency],
            outputs=[] if after.model.equal else [WRONG],
            wrong="" if after.model.equal else "output 0 differs by 1",
        )


def _extract(model: MockModel, task: MockTask, target: str) -> ExtractedTask:
    merged = msgspec.structs.replace(
        task, durations={**model.durations, **task.durations}, failures={**model.failures, **task.failures}
    )
    workload = msgspec.msgpack.encode(
        Workload(seed=model.seed, task=merged, update=model.stages.get("model-update"))
    )
    return ExtractedTask(
        name=task.name,
        key=hashlib.sha256(workload + target.encode()).hexdigest(),
        weight=task.weight,
        workload=workload,
        untuned=b"untuned " + task.name.encode(),
    )
