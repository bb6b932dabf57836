"""Optimise the graph of a model, down to the functions of TIR that can be tuned."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.graph import (
    attention,
    composites,
    constants,
    convolutions,
    dot_legalizers,
    fast_math,
    fusing,
    integers,
    layouts,
    legalising,
    models,
    narrowing,
    padding,
    precision,
    products,
    reshapes,
    targets,
    truth,
    turning,
    variants,
    winograd_tasks,
)
from tunemesh.stage_workers.graph.changes import Changes
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.graph.signatures import Signature


class Optimised(Struct, frozen=True):
    """A model that is optimised.

    Attributes:
        module: whose functions are what can be tuned.
        groups: of its functions, those that were fused around a product or a reduction.
    """

    module: Any
    groups: list[fusing.Group]


def optimise(module: Any, target: str, changes: Changes, simple: Any = None) -> Optimised:
    """Fold constants, choose the layout, lower operators to TIR and fuse what can be fused.

    The same arguments give the same functions, in every process.

    Args:
        module: as it was read.
        target: canonical.
        changes: to be made.
        simple: what :func:`simplified` gives, where that is known.

    Raises:
        BadModel: when TVM fails at it.
    """
    import tvm
    from tvm.relax import transform

    annotate = [transform.AnnotateTIROpPattern(), transform.FoldConstant()]
    fuse = [transform.FuseTIR(), transform.DeadCodeElimination()]
    try:
        with targets.load(target), tvm.transform.PassContext(opt_level=3):
            simple = simplified(module, target) if simple is None else simple
            if changes.composed:
                simple = padding.into_convolutions(composites.put_together(simple))
            if changes.attention:
                simple = attention.put_together(simple, target, narrow=changes.narrow)
            if changes.channels_last:
                simple = layouts.channels_last(simple)
            if changes.integers:
                simple = integers.multiplied(simple, target)
            if changes.narrow:
                simple = narrowing.narrowed(simple)
            own = [each.legalizers(changes) for each in (convolutions, composites, products, truth, turning)]
            rules = legalising.legalizers(simple, dict(ChainMap(*own)))
            if changes.dots:
                rules = dot_legalizers.before(rules, target)
            lowered = tvm.transform.Sequential([transform.LegalizeOps(rules), *annotate])(simple)
            _require_lowered(lowered)
            grouped = transform.FuseOps()(fusing.mark(lowered, set(changes.apart)))
            fused = tvm.transform.Sequential(fuse)(grouped)
            if not targets.is_gpu(target):
                fused = fusing.without_tasks_for_reshapes(fused)
            if changes.fast_math:
                fused = fast_math.mark(fused, target)
            if changes.winograd:
                fused = winograd_tasks.mark(fused, target, changes.winograd)
            return Optimised(fused, fusing.groups(grouped))
    except BadModel:
        raise
    except Exception as error:  # passes raise whatever their operators raise
        raise _cannot_lower(error) from None


def simplified(module: Any, target: str) -> Any:
    """``module`` with constants folded, and without what is only needed for training.

    Raises:
        BadModel: when TVM fails at it.
    """
    import tvm
    from tvm.relax import transform

    try:
        with targets.load(target), tvm.transform.PassContext(opt_level=3):
            simple = precision.sum_in_single(transform.DecomposeOpsForInference()(module), target)
            folded = transform.CanonicalizeBindings()(transform.FoldConstant()(constants.fold(simple)))
            return reshapes.joined(folded)
    except BadModel:
        raise
    except Exception as error:  # passes raise whatever their operators raise
        raise _cannot_lower(error) from None


class Simplified:
    """A model as it was read, and what :func:`simplified` makes of it. A large one takes
    seconds, and no change has a say in it.

    Args:
        module: ``main`` takes the inputs.
        signature: of ``main``.
        target: canonical.
    """

    def __init__(self, module: Any, signature: Signature, target: str) -> None:
        self.module = module
        self.signature = signature
        self.target = target
        self._made: dict[str, Any] = {}

    def for_target(self, target: str) -> Any:
        """The simplified module, made when it is asked for.

        Raises:
            BadModel: when TVM fails at it.
        """
        described = str(targets.load(target))  # one target may be written in several ways
        if described not in self._made:
            self._made[described] = simplified(self.module, target)
        return self._made[described]


def _cannot_lower(error: Exception) -> BadModel:
    reraise_memory_error(error)
    return BadModel(f"TVM cannot lower the model: {first_line(error)}")


def optimise_all(modules: Sequence[Any], target: str, changes: Sequence[Changes]) -> Any:
    """The variants of a model, each with its changes, optimised and joined."""
    pairs = zip(modules, changes, strict=True)
    return variants.join([optimise(module, target, each).module for module, each in pairs])


def _require_lowered(module: Any) -> None:
    """Raise where an operator is still one that has code of its own.

    Raises:
        BadModel: with the names of those.
    """
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    ops = [call.op for call in calls if isinstance(call.op, tvm.ir.Op)]
    left = sorted({str(op.name).removeprefix("relax.") for op in ops if op.get_attr("FLegalize") is not None})
    if left:
        raise BadModel(f"TVM has no code for {', '.join(left)} with these shapes and attributes")
