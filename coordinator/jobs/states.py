"""The phases of a job and the states of a search: every move that there is, in two tables.

A job has one phase at a time, a task of it one search. Both stand in the job's ledger, and a ledger changes
only from one revision to the next. :func:`check_move` compares two revisions: a move that is in no table
raises, and nothing is changed. ``python -m tunemesh.coordinator.jobs.states`` draws both tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from tunemesh.coordinator.jobs.ledger import Ledger, TaskLedger
from tunemesh.shared.messages import Phase

SearchState = Literal["fresh", "running", "closing", "closed"]

PHASES: Mapping[Phase, Mapping[Phase, str]] = {
    "importing": {
        "tuning": "the model is cut into tasks",
        "failed": "it cannot be imported, or no device serves its target",
        "cancelled": "on request",
    },
    "tuning": {
        "assembling": "every search is closed",
        "failed": "a step fails as a whole, or nothing could be measured",
        "cancelled": "on request",
    },
    "assembling": {"validating": "the model is compiled", "failed": "", "cancelled": ""},
    "validating": {
        "done": "tuned and untuned model agree",
        "failed": "they do not, or cannot be run",
        "cancelled": "",
    },
    "done": {},
    "failed": {},
    "cancelled": {},
}
"""From each phase: those that can follow, and when. The last three are final."""

SEARCHES: Mapping[SearchState, Mapping[SearchState, str]] = {
    "fresh": {
        "running": "its first trials are granted",
        "closing": "another job has tried enough of it",
        "closed": "no engine takes it, no trials are left, or another job has tuned it",
    },
    "running": {"running": "the next round is granted", "closing": "nothing is left to grant"},
    "closing": {"closed": "the best few are confirmed, or no time is left for it"},
    "closed": {},
}
"""The same for the search of a task."""

_Table = Mapping[Phase, Mapping[Phase, str]] | Mapping[SearchState, Mapping[SearchState, str]]

FINAL: frozenset[Phase] = frozenset(phase for phase, after in PHASES.items() if not after)


class IllegalMove(Exception):
    """A revision of a ledger that does not follow from the one before. This is a defect, never bad input."""


def search_state(task: TaskLedger) -> SearchState:
    """Where the search of a task stands."""
    if task.closed:
        return "closed"
    if task.round < 0:
        return "fresh"
    return "running" if task.want else "closing"


def is_ending(task: TaskLedger) -> bool:
    """Whether nothing more is to be tried in a search."""
    return search_state(task) in ("closing", "closed")


def check_move(before: Ledger, after: Ledger) -> None:
    """Whether ``after`` may be the next revision.

    Raises:
        IllegalMove: with what is wrong, in one line.
    """
    job = before.request.job
    if after.revision != before.revision + 1:
        raise IllegalMove(f"{job}: revision {after.revision} after {before.revision}")
    if after.phase == before.phase:
        if before.phase in FINAL:
            raise IllegalMove(f"{job}: a revision after {before.phase}")
    elif after.phase not in PHASES[before.phase]:
        raise IllegalMove(f"{job}: {after.phase} after {before.phase}")
    if before.phase == "importing" or (after.phase in FINAL and not after.tasks):
        return  # tasks come with the import; what is too large for a message ends without them
    if [task.spec.id for task in before.tasks] != [task.spec.id for task in after.tasks]:
        raise IllegalMove(f"{job}: its tasks are others than before")
    for one, other in zip(before.tasks, after.tasks, strict=True):
        _check_search(job, one, other)
    if after.phase not in ("importing", "tuning") and after.phase not in FINAL:
        open_tasks = [task.spec.id for task in after.tasks if not task.closed]
        if open_tasks:
            raise IllegalMove(f"{job}: {after.phase} while {open_tasks[0]} is not closed")


def _check_search(job: str, before: TaskLedger, after: TaskLedger) -> None:
    one, other = search_state(before), search_state(after)
    name = f"{job}/{before.spec.id}"
    if other != one and other not in SEARCHES[one]:
        raise IllegalMove(f"{name}: {other} after {one}")
    if after.round not in (before.round, before.round + 1):
        raise IllegalMove(f"{name}: round {after.round} after {before.round}")
    if after.round > before.round and "running" not in SEARCHES[one] and other != "closing":
        raise IllegalMove(f"{name}: another round while {one}")
    if after.folded < before.folded or after.trials < before.trials:
        raise IllegalMove(f"{name}: {after.trials} trials after {before.trials}")


def diagram() -> str:
    """Both tables as Mermaid state diagrams, for the documentation."""
    return "\n\n".join(f"```mermaid\n{_drawn(table)}\n```" for table in (PHASES, SEARCHES))


def _drawn(
    table: Mapping[Phase, Mapping[Phase, str]] | Mapping[SearchState, Mapping[SearchState, str]],
) -> str:
    lines = ["stateDiagram-v2", f"    [*] --> {next(iter(table))}"]
    for state, moves in table.items():
        lines += [f"    {state} --> {after}" + (f": {when}" if when else "") for after, when in moves.items()]
        if not moves:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())
