"""One file per stage: a function from a step to its result, to be run by any worker."""

from __future__ import annotations

from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import (
    AssembleWork,
    BuildWork,
    Failure,
    ImportWork,
    LearnWork,
    ProfileWork,
    Result,
    Step,
    UpdateWork,
    ValidateWork,
)
from tunemesh.shared.text import clip
from tunemesh.stage_workers.stages.assembling import assemble
from tunemesh.stage_workers.stages.building import build
from tunemesh.stage_workers.stages.context import Context, DeviceFault
from tunemesh.stage_workers.stages.importing import import_model
from tunemesh.stage_workers.stages.learning import learn
from tunemesh.stage_workers.stages.model_update import update_model
from tunemesh.stage_workers.stages.profiling import profile
from tunemesh.stage_workers.stages.validating import validate


def run_stage(step: Step, context: Context) -> Result:
    """Do ``step``. Whatever is wrong with it, or with one of its candidates, is in the result.

    Raises:
        Abandoned: the sandbox was aborted; the step should be handed back.
        DeviceFault: the device does not work; likewise.
    """
    try:
        match step.work:
            case ImportWork():
                return import_model(step, step.work, context)
            case UpdateWork():
                return update_model(step, step.work, context)
            case BuildWork():
                return build(step, step.work, context)
            case ProfileWork():
                return profile(step, step.work, context)
            case AssembleWork():
                return assemble(step, step.work, context)
            case LearnWork():
                return learn(step, step.work, context)
            case ValidateWork():
                return validate(step, step.work, context)
    except TunemeshError as error:
        return Failure(error=clip(" ".join(str(error).split())))


__all__ = ["Context", "DeviceFault", "run_stage"]
