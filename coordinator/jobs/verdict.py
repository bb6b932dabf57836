"""How a job ends, and in which words. Pure functions over what its last steps gave."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.shared.messages import AssembleDone, ValidateDone

SLOWER = 1.05
"""Times the latency of the untuned model from which the tuned one is rejected: less may be noise."""


class Verdict(Struct, frozen=True):
    """The end of a job whose model was run."""

    phase: Literal["done", "failed"]
    text: str
    validated: ValidateDone
    assembled: AssembleDone | None
    """What is handed out."""


def of(made: AssembleDone | None, validated: ValidateDone) -> Verdict:
    """What follows from running the tuned model beside the untuned one. One that tuning made slower is not
    handed out: few trials may not make up for what the graph optimisation changed for their sake."""
    before, after = validated.latency_before, validated.latency_after
    if not validated.equal:
        difference = f"largest difference {validated.largest_difference:.3g}"
        text = f"the tuned model does not compute what it should: {validated.wrong or difference}"
        return Verdict("failed", text, validated, made)
    if after <= SLOWER * before or made is None:
        text = f"{before * 1e3:.3f} ms -> {after * 1e3:.3f} ms ({before / after:.1f}x)"
        return Verdict("done", text, validated, made)
    return Verdict(
        "done",
        f"{before * 1e3:.3f} ms, untuned: tuned it would take {after * 1e3:.3f} ms",
        msgspec.structs.replace(validated, latency_after=before, rejected=after),
        msgspec.structs.replace(made, tuned=made.untuned),
    )


def nothing_measured(ledger: Ledger) -> str:
    """Why assembling makes no sense, or nothing."""
    tried = sum(task.trials for task in ledger.tasks)
    if not tried or any(task.best is not None for task in ledger.tasks):
        return ""
    errors = [task.last_error for task in ledger.tasks if task.last_error]
    last = errors[-1] if errors else "none reported"
    return f"none of {tried} trials could be measured; the last error: {last}"
