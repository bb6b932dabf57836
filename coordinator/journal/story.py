"""The story of one job, told from a journal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator

from tunemesh.coordinator.events import (
    Arrived,
    Connected,
    Dispatch,
    DispatchFailed,
    Event,
    Instruction,
    Log,
    PutAside,
    Save,
    SaveFailed,
)
from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.coordinator.journal.records import Entry, Start
from tunemesh.shared.messages import (
    BuildDone,
    Cancel,
    Failure,
    ImportDone,
    ProfileDone,
    Request,
    StepResult,
    UpdateDone,
    ValidateDone,
)
from tunemesh.shared.text import clip, one_line


def tell(records: Iterable[Start | Entry], job: str) -> Iterator[str]:
    """One line for everything that happened to ``job``, with the time of day where the coordinator ran."""
    offset = 0.0
    known: Ledger | None = None
    for record in records:
        if isinstance(record, Start):
            continue
        if isinstance(record.event, Connected):
            offset = record.event.wall - record.now
            if known is not None:
                yield f"{_clock(offset + record.now)} the coordinator starts afresh"
        at = _clock(offset + record.now)
        lines = list(_event(record.event, job))
        for instruction in record.instructions:
            if isinstance(instruction, Save) and instruction.ledger.request.job == job:
                lines += _revision(known, instruction.ledger)
                known = instruction.ledger
            else:
                lines += _instruction(instruction, job, record.event)
        yield from (f"{at} {one_line(line)}" for line in lines)


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds % 1 * 1000):03}"


def _event(event: Event, job: str) -> Iterator[str]:
    match event:
        case Arrived(message=Request(job=named) as request) if named == job:
            tuned = f"{request.budget} for {request.target}, by {', '.join(request.engines)}"
            yield f"requested: {request.name or job}, {tuned}"
        case Arrived(message=Cancel(job=named, keep=keep)) if named == job:
            yield "asked to stop and keep what was found" if keep else "asked to cancel"
        case Arrived(message=StepResult(job=named) as result) if named == job:
            seconds = result.timing.finished - result.timing.started
            yield f"{result.timing.step} by {result.timing.worker} in {seconds:.2f} s: {_outcome(result)}"
        case DispatchFailed(step, cause) if step.startswith(f"{job}/"):
            yield f"{step} could not be sent: {cause or 'its queue is not there'}"
        case SaveFailed(named, cause) if named == job:
            yield f"its ledger could not be kept: {cause}"


def _outcome(result: StepResult) -> str:
    match result.result:
        case ImportDone(tasks=tasks):
            return f"{len(tasks)} tasks"
        case UpdateDone(candidates=candidates, exhausted=exhausted):
            return f"{len(candidates)} candidates" + (", nothing more to propose" if exhausted else "")
        case BuildDone(built=built):
            return _counted(each.outcome or "built" for each in built)
        case ProfileDone(profiled=profiled):
            best = min((min(each.latencies) for each in profiled if each.latencies), default=None)
            return _counted(each.outcome for each in profiled) + (f", best {best:.3g} s" if best else "")
        case ValidateDone(latency_before=before, latency_after=after, equal=equal):
            agree = "outputs agree" if equal else "outputs differ"
            return f"{before * 1e3:.3f} ms untuned, {after * 1e3:.3f} ms tuned, {agree}"
        case Failure(error=error):
            return f"failed: {clip(error, 300)}"
    return "done"


def _counted(outcomes: Iterable[str]) -> str:
    counts = Counter(outcomes)
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "nothing to do"


def _instruction(instruction: Instruction, job: str, event: Event) -> Iterator[str]:
    match instruction:
        case Dispatch(queue, step) if step.job == job:
            again = f", attempt {step.attempt + 1}" if step.attempt else ""
            yield f"{step.id} sent to {queue}{again}"
        case PutAside(_, reason) if isinstance(event, Arrived) and getattr(event.message, "job", "") == job:
            yield f"put aside: {reason}"
        case Log(level, text, job=named) if named == job:
            yield f"[{level}] {text}"


def _revision(before: Ledger | None, after: Ledger) -> Iterator[str]:
    """What was decided."""
    if before is None or after.phase != before.phase:
        yield f"revision {after.revision}: {after.phase}" + (f": {after.error}" if after.error else "")
    known = {task.spec.id: task for task in before.tasks} if before is not None else {}
    for task in after.tasks:
        one = known.get(task.spec.id)
        if one is None:
            continue
        if task.closed and not one.closed:
            best = f"best {task.best:.3g} s" if task.best is not None else "nothing measured"
            yield f"revision {after.revision}: {task.spec.id} ({task.spec.name}) is closed, {best}"
        elif task.round > one.round:
            granted = f"{task.want} trials" if task.want else "to be closed"
            yield f"revision {after.revision}: {task.spec.id} round {task.round}, {granted}"
